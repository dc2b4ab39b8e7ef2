"""What this machine can do: steps in a given time, and FLOP/s at its best."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from gemini_mini import nn
from gemini_mini.train import setup

# Of one chip, in bfloat16, by what JAX calls it: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e.
PEAK_FLOPS = {"TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5": 459e12, "TPU v6 lite": 918e12}


def affordable_steps(built: setup.Built, steps: int, max_minutes: float, where: str) -> int:
    """How many steps fit in about `max_minutes` here, by the middle one of a few; a schedule is never cut short later."""
    state = built.fresh()
    times = []
    for n in range(7):
        begin = time.perf_counter()
        state, metrics = built.step(state, built.batch(n))
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - begin)
    step_s = float(np.median(times[2:]))
    fit = max(1, int(max_minutes * 60 / step_s))
    if fit < steps:
        print(f"{where}: {step_s:.2f} s a step here, so {fit} of {steps} steps fit in "
              f"{max_minutes:g} minutes (run.max_minutes=0 runs them all)")
    return min(fit, steps)


def peak_flops() -> float:
    """FLOP/s of all devices at their best, the yardstick of MFU: as published, or of a large matrix product here.

    On a CPU that is a product as training makes them; on a chip that is not in PEAK_FLOPS one in bfloat16.
    """
    devices = jax.devices()
    if devices[0].device_kind in PEAK_FLOPS:
        return PEAK_FLOPS[devices[0].device_kind] * len(devices)
    size, dtype = (1024, jnp.float32) if devices[0].platform == "cpu" else (8192, jnp.bfloat16)
    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: nn.product(a, a))
    product(x).block_until_ready()
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        product(x).block_until_ready()
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / min(times) * len(devices)
