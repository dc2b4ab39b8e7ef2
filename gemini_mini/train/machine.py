"""What this machine can do: steps in a given time, and FLOP/s at its best."""

import time

import jax
import jax.numpy as jnp

from gemini_mini import nn
from gemini_mini.train import setup


def affordable_steps(built: setup.Built, steps: int, max_minutes: float, where: str) -> int:
    """How many steps fit in `max_minutes` here, from the fastest of a few: what else runs now may soon be over."""
    state = built.fresh()
    times = []
    for n in range(7):
        begin = time.perf_counter()
        state, metrics = built.step(state, built.batch(n))
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - begin)
    step_s = min(times[2:])
    fit = max(1, int(max_minutes * 60 / step_s))
    if fit < steps:
        print(f"{where}: {step_s:.2f} s a step here, so {fit} of {steps} steps fit in "
              f"{max_minutes:g} minutes (run.max_minutes=0 runs them all)")
    return min(fit, steps)


def peak_flops() -> float:
    """FLOP/s of a large matrix product on this machine, as training makes them: the yardstick of MFU."""
    x = jnp.ones((1024, 1024), jnp.float32)
    product = jax.jit(lambda a: nn.product(a, a))
    product(x).block_until_ready()
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        product(x).block_until_ready()
        times.append(time.perf_counter() - begin)
    return 2 * 1024**3 / min(times) * jax.device_count()
