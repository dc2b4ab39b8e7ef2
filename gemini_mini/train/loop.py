"""The one loop: every stage of the work is a task, and this trains it.

    for step: state, metrics = step_fn(state, batch(step))

Metrics of step n - 1 are read after step n is dispatched, so the device never waits. Every
batch is a function of (config, step) and every key of (seed, step): a run that is killed, or told to
stop, and started again ends in the same bits. The run folder holds all that is needed afterwards.
Next: step.py (what a step does), checkpoint.py (how state is kept), trace.py (what each step did), recovery.py.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx

from gemini_mini import errors, files, matmul, nn, progress
from gemini_mini.train import (checkpoint, faults, folder as folder_lib, hosts, machine, metrics as metrics_lib, optim, peers,
                               preemption, recorder, recovery, setup, step as step_lib, trace)


@runtime_checkable
class Task(Protocol):
    """What the loop trains: a frozen dataclass of settings with these methods."""

    def inputs(self) -> dict:
        """Hashes of everything read, so that a run is never continued on other data."""

    def init(self, rngs: nnx.Rngs) -> nnx.Module: ...

    def batches(self, steps: int, seed: int) -> Callable[[int], Any]:
        """The batch of each step of a run of `steps` steps, as arrays whose first axis is rows; after a roll-back more are asked for.

        A batch function with a second parameter `parts` makes, on several processes, only those parallel.Parts of the rows.
        """

    def loss(self, module: nnx.Module, batch, key) -> tuple[jax.Array, dict[str, jax.Array]]: ...

    def evals(self, module: nnx.Module) -> dict[str, Any]:
        """Figures and pictures of the module as it is now, on validation data; every process asks, and its weights are spread."""

    def export(self, module: nnx.Module, folder: Path) -> None:
        """Write what later stages and the sampler read."""

    def reads(self, n: int, steps: int, seed: int) -> dict[str, float]:
        """What batch n of such a run is part of, for the log: nothing where that never changes."""

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
    keep: int = 2  # checkpoints: the newest so many
    keep_every: int = 0  # and those of every so many steps
    keep_best: str = ""  # and the one where this figure of `evals` is lowest, or highest after a minus: -valid/psnr
    max_bad: int = 10  # skipped steps in a row before the run rolls back
    flip: tuple[int, str, int] = (0, "", 0)  # flip a bit, to test replay.py: (after step, leaf of trace.json, bit of it)
    products: matmul.Library = "xla"  # bfloat16: rounded to it on a CPU that multiplies such numbers
    mesh: tuple[int, int, int, int] = (0, 1, 1, 1)  # data, fsdp, tensor, context; a data of 0 takes what is left

    def __post_init__(self):
        for name in ("steps", "log_every", "save_every", "keep", "max_bad"):
            if getattr(self, name) < 1:
                raise errors.InputError(f"run.{name}: must be at least 1, got {getattr(self, name)}")
        if self.keep_best and not self.eval_every:
            raise errors.InputError("run.keep_best: needs evaluations to choose by; set run.eval_every")


def run(task: Task, optim_config: optim.OptimConfig, config: RunConfig, settings: dict,
        copies: peers.Copies | None = None) -> None:
    """Train `task` from where its run folder stands; `settings` is the resolved config as JSON.

    With `copies` the state is also kept in the memory of two hosts, and found there first. Every process of a job
    calls alike.
    Raises: InputError when the folder holds a run of other settings or other data, or when training diverges.
    """
    folder = Path(config.folder)
    inputs = task.inputs()
    started = folder_lib.started(folder, settings, inputs)
    if started and (folder / "done.json").is_file():
        print(f"reused {folder} (trained, {started['steps']} steps)")
        return
    with folder_lib.alone(folder) if hosts.is_first() else contextlib.nullcontext():
        _run(task, optim_config, config, settings, copies, folder, inputs, started)


def _run(task: Task, optim_config: optim.OptimConfig, config: RunConfig, settings: dict, copies: peers.Copies | None,
         folder: Path, inputs: dict, started: dict | None) -> None:
    print(f"{folder}: compiling the training step (5 to 30 s)")
    built = None
    if not started:
        begun, steps = time.time(), max(1, round(config.steps * config.budget))
        if config.max_minutes:
            built = setup.build(task, optim_config, config, steps)
            steps = machine.affordable_steps(built, steps, config.max_minutes, str(folder))
        started = {"steps": steps, "begun": begun, "inputs": inputs}
    if hosts.is_first():
        files.write_json(folder / "run.json", started | {"settings": settings})
    hosts.meet("started")
    started = files.read_json(folder / "run.json")
    steps = started["steps"]
    built = setup.build(task, optim_config, config, steps, built)
    rollbacks = recovery.Rollbacks(folder)
    while True:
        start, state = _resume(folder, built, copies)
        if start:
            print(f"continuing {folder} at step {start} of {steps}")
        try:
            state = _train(task, config, started, built, rollbacks, copies, start, state)
            break
        except recovery.Diverged as diverged:
            hosts.meet("diverged")
            if copies:
                copies.forget()
            # Where that one is damaged a step before it is restored: the steps up to it come out the same again.
            to = max(checkpoint.steps(folder / "checkpoints"), default=0)
            trace.cut(hosts.notes(folder), to)  # first: nobody may hold these steps against their new batches
            rollbacks.add(diverged, to)
    whole = hosts.whole(state.weights)
    if hosts.is_first():
        task.export(nn.with_weights(built.module, whole), folder)  # before the figures: they need more memory
    del whole
    figures = task.evals(nn.with_weights(built.module, state.weights))
    if not hosts.is_first():
        return
    if not metrics_lib.has(folder, steps, figures):  # else it was killed just after this line
        with contextlib.closing(metrics_lib.Writer(folder, steps)) as writer:
            writer.write(steps, figures)
    files.write_json(folder / "done.json", {k: float(v) for k, v in figures.items() if np.ndim(v) == 0})


def _resume(folder: Path, built: setup.Built, copies: peers.Copies | None) -> tuple[int, step_lib.TrainState]:
    """The latest state there is: a copy in memory, unless storage has a later one."""
    fresh, place = built.fresh(), folder / "checkpoints"
    found = copies.restore(fresh) if copies else None
    if found and found[0] >= hosts.least(max(checkpoint.steps(place), default=0)):
        return found
    try:
        stored = checkpoint.restore(place, fresh)
    except errors.InputError:  # none is intact
        if not found:
            raise
        stored = None
    if hosts.is_first():
        checkpoint.set_aside(place, stored[0] if stored else 0)
    return max(filter(None, (found, stored)), key=lambda each: each[0], default=(0, fresh))


def _train(task: Task, config: RunConfig, started: dict, built: setup.Built, rollbacks: recovery.Rollbacks,
           copies: peers.Copies | None, start: int, state: step_lib.TrainState) -> step_lib.TrainState:
    """The state after the last step. Raises: Diverged; SystemExit when told to stop, once all is saved."""
    folder, steps, done, stop = Path(config.folder), started["steps"], start, None
    keep = checkpoint.Keep(config.keep, config.keep_every, bool(config.keep_best))
    if config.flip[0]:
        faults.check(state, *config.flip[1:])
    with (preemption.Notice() as notice, checkpoint.Saver(folder / "checkpoints", keep) as saver,
          progress.bar(folder.name, steps, "steps", done=start) as bar,
          recorder.Recorder(hosts.notes(folder), start, steps, started["begun"], config.log_every, config.max_bad, bar,
                            built.how) as record):
        is_due = lambda done: bool(config.eval_every) and 0 < done < steps and done % config.eval_every == 0
        evaluate = lambda: notice.unless_told(lambda: task.evals(nn.with_weights(built.module, state.weights)))
        if is_due(start) and not hosts.least(record.has_figures(start)):  # told to stop there, it saved and did no more
            figures, stop = evaluate(), notice.signal
            if figures is not None:
                saver.grade(start, _score(figures, config.keep_best))
                record.figures(start, figures)
        for n in range(start, steps):
            if stop:
                break
            number = rollbacks.batch_of(n)
            batch = built.batch(number)
            state, metrics = built.step(state, batch)
            done = n + 1
            if done == config.flip[0]:
                state = faults.flip(state, *config.flip[1:])
            record.dispatched(done, trace.Step(batch, metrics, state), task.reads(number, steps, config.seed), task.batch_tokens(), task.batch_flops())
            stop = notice.at(n)
            is_save = done % config.save_every == 0 or done == steps or (is_due(done) and config.keep_best)
            is_copy = copies and done % copies.every == 0
            if is_due(done) or is_save or is_copy or stop:
                is_good, figures = record.settle(), None
                if is_due(done) and not stop:
                    figures, stop = evaluate(), notice.signal
                    if figures is not None:
                        record.figures(done, figures)
                if (is_save or stop) and is_good:  # a roll-back must lead out of the bad steps
                    saver.save(done, state, _score(figures, config.keep_best))
                if is_copy and is_good:
                    copies.save(done, state)
                record.paused()
    if stop:
        saved = max(checkpoint.steps(folder / "checkpoints"), default=0)
        print(f"{folder}: stopped after step {done} of {steps} and saved step {saved}; run the same command again to continue",
              file=sys.stderr)
        raise SystemExit(128 + stop)
    return state


def _score(figures: dict | None, name: str) -> float | None:
    """The figure to choose the best checkpoint by; low is good. None without figures. Raises: InputError when they lack it."""
    if not name or not figures:
        return None
    numbers = sorted(key for key, value in figures.items() if np.ndim(value) == 0)
    if name.removeprefix("-") not in numbers:
        raise errors.InputError(f"run.keep_best: must be one of {', '.join(numbers)}, got {name!r}")
    return -float(figures[name[1:]]) if name.startswith("-") else float(figures[name])
