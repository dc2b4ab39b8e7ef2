"""The one loop: every stage of the work is a task, and this trains it.

    for step: state, metrics = step_fn(state, batch(step))

Metrics of step n - 1 are read after step n is dispatched, so the device never waits. Every
batch is a function of (config, step) and every key of (seed, step): a run that is killed, or told to
stop, and started again ends in the same bits. The run folder holds all that is needed afterwards.
Next: step.py (what a step does), checkpoint.py (how state is kept).
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx

from gemini_mini import errors, files, nn, parallel, progress
from gemini_mini.train import checkpoint, metrics as metrics_lib, optim, preemption, step as step_lib


@runtime_checkable
class Task(Protocol):
    """What the loop trains: a frozen dataclass of settings with these methods."""

    def inputs(self) -> dict:
        """Hashes of everything read, so that a run is never continued on other data."""

    def init(self, rngs: nnx.Rngs) -> nnx.Module: ...

    def batches(self, steps: int, seed: int) -> Callable[[int], Any]:
        """The batch of each step of a run of `steps` steps, as arrays whose first axis is rows."""

    def loss(self, module: nnx.Module, batch, key) -> tuple[jax.Array, dict[str, jax.Array]]: ...

    def evals(self, module: nnx.Module) -> dict[str, Any]:
        """Figures and pictures of the module as it is now, on validation data."""

    def export(self, module: nnx.Module, folder: Path) -> None:
        """Write what later stages and the sampler read."""

    def batch_tokens(self) -> int: ...

    def batch_flops(self) -> int: ...


@dataclass(frozen=True)
class RunConfig:
    """How long, where to, how often."""

    folder: str
    steps: int
    budget: float = 1.0  # run this fraction of the steps, schedule and all
    seed: int = 0
    max_minutes: float = 0.0  # above 0: a slow machine runs fewer steps, decided before the first
    log_every: int = 10
    eval_every: int = 0  # 0: only at the end
    save_every: int = 100
    keep: int = 2
    mesh: tuple[int, int, int] = (0, 1, 1)  # data, fsdp, tensor; a data of 0 takes all devices

    def __post_init__(self):
        for name in ("steps", "log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise errors.InputError(f"run.{name}: must be at least 1, got {getattr(self, name)}")


def run(task: Task, optim_config: optim.OptimConfig, config: RunConfig, settings: dict) -> None:
    """Train `task` from where its run folder stands; `settings` is the resolved config as JSON.

    Raises: InputError when the folder holds a run of other settings or other data.
    """
    folder = Path(config.folder)
    inputs = task.inputs()
    started = _started(folder, settings, inputs)
    if started and (folder / "done.json").is_file():
        print(f"reused {folder} (trained, {started['steps']} steps)")
        return
    devices = parallel.mesh(config.mesh)
    module = task.init(nnx.Rngs(config.seed))
    axes = nn.axes(module)

    def build(steps: int):
        optimizer = optim.make(optim_config, axes, steps)
        state = step_lib.init(module, optimizer)
        places = parallel.shardings(state, axes, devices)
        step_fn = jax.jit(step_lib.make(module, task.loss, optimizer, config.seed), donate_argnums=0,
                          out_shardings=(places, None))
        batches = task.batches(steps, config.seed)
        return jax.device_put(state, places), step_fn, lambda n: parallel.shard_rows(batches(n), devices)

    print(f"{folder}: compiling the training step (5 to 30 s)")
    if not started:
        steps = max(1, round(config.steps * config.budget))
        if config.max_minutes:
            steps = _affordable_steps(build(steps), steps, config)
        started = {"steps": steps, "settings": settings, "inputs": inputs}
        files.write_json(folder / "run.json", started)
    steps = started["steps"]
    state, step_fn, batch = build(steps)
    found = checkpoint.restore(folder / "checkpoints", state)
    start, state = found or (0, state)
    if found:
        print(f"continuing {folder} at step {start} of {steps}")
    writer = metrics_lib.Writer(folder, start)
    peak = _peak_flops()
    pending, since, last_log = None, time.perf_counter(), start

    def flush(n: int) -> None:
        nonlocal pending, since, last_log
        values = {name: float(x) for name, x in pending.items()}
        now = time.perf_counter()
        rate = (n - last_log) / (now - since)
        since, last_log = now, n
        speed = {"tokens_per_s": rate * task.batch_tokens(), "mfu": rate * task.batch_flops() / peak}
        writer.write(n, {**values, **speed})
        bar.info.update(loss=values["loss"], **{"tok/s": f"{speed['tokens_per_s']:,.0f}", "mfu": f"{speed['mfu']:.0%}"})

    done = start
    with preemption.Notice() as notice, progress.bar(folder.name, steps, "steps", done=start) as bar:
        for n in range(start, steps):
            state, metrics = step_fn(state, batch(n))
            if pending is not None:
                flush(n)
                pending = None
            done = n + 1
            if done % config.log_every == 0 or done == steps:
                pending = metrics
            bar.advance()
            stop = notice.signal
            if (done % config.save_every == 0 or stop) and done < steps:
                checkpoint.save(folder / "checkpoints", done, state, config.keep)
            if config.eval_every and done % config.eval_every == 0 and done < steps:
                writer.write(done, task.evals(nn.with_weights(module, state.weights)))
            if stop:
                break
        if pending is not None:
            flush(done)
    if done < steps:
        writer.close()
        print(f"{folder}: stopped and saved after step {done} of {steps}; run the same command again to continue", file=sys.stderr)
        raise SystemExit(128 + stop)
    trained = nn.with_weights(module, state.weights)
    if start < steps:
        checkpoint.save(folder / "checkpoints", steps, state, config.keep)
    figures = task.evals(trained)
    writer.write(steps, figures)
    writer.close()
    task.export(trained, folder)
    files.write_json(folder / "done.json", {k: float(v) for k, v in figures.items() if jnp.ndim(v) == 0})


def _started(folder: Path, settings: dict, inputs: dict) -> dict | None:
    """What run.json says, after checking that it is this run."""
    if not (folder / "run.json").is_file():
        return None
    started = files.read_json(folder / "run.json")
    for what, now in (("settings", settings), ("inputs", inputs)):
        if started[what] != now:
            raise errors.InputError(f"{folder}: holds a run with other {what} ({_difference(started[what], now)}); "
                                    "set run.folder=... to start another, or remove it to start again")
    return started


def _difference(old, new, where: str = "") -> str:
    """The first place where two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
    return f"{where}: {old} there, {new} now"


def _affordable_steps(built, steps: int, config: RunConfig) -> int:
    """How many steps fit in `max_minutes` on this machine, from the fastest of a few: what else runs now may soon be over."""
    state, step_fn, batch = built
    times = []
    for n in range(7):
        begin = time.perf_counter()
        state, metrics = step_fn(state, batch(n))
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - begin)
    step_s = min(times[2:])
    fit = max(1, int(config.max_minutes * 60 / step_s))
    if fit < steps:
        print(f"{config.folder}: {step_s:.2f} s a step here, so {fit} of {steps} steps fit in "
              f"{config.max_minutes:g} minutes (run.max_minutes=0 runs them all)")
    return min(fit, steps)


def _peak_flops() -> float:
    """FLOP/s of a large matrix product on this machine, the yardstick of MFU."""
    x = jnp.ones((1024, 1024), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(x).block_until_ready()
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        product(x).block_until_ready()
        times.append(time.perf_counter() - begin)
    return 2 * 1024**3 / min(times) * jax.device_count()
