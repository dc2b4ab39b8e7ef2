"""Was every step computed right? Steps of a run again, held against its trace leaf by leaf.

    python -m gemini_mini.replay runs/demo --step 340    from the checkpoint before step 340 up to it
    python -m gemini_mini.replay runs/demo --scan        random past steps at the lowest priority, until the run is done
    python -m gemini_mini.replay runs/demo --scan 20     twenty of them

Training is exact to the bit, so on the same kind of machine a difference is a fault of the hardware: silent data
corruption, which the Gemini report (section 3) expects every week or two and finds in this way. Exit code 1 and
the step and the leaves when there is one. run.flip makes one, to see that it is found. The devices must be as
many as the run's; a chip that one process takes for itself needs the scanner on another machine.
Another mesh, another number of processes, other products, another model of CPU or number of them and other XLA_FLAGS round
otherwise: steps that were computed so are not compared, and exit code 3 says it.
"""

import argparse
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemini_mini import config, errors, files
from gemini_mini.train import checkpoint, recovery, setup, step as step_lib, trace


SAME, DIFFERENT, ELSEWHERE = 0, 1, 3  # exit codes; 2 is bad input


class Difference(NamedTuple):
    """The first step that came out otherwise, the leaves that did, and what the run does not say of how it was computed."""

    step: int
    leaves: list[str]
    unknown: list[str]


class Elsewhere(NamedTuple):
    """A step that was computed on something else than this replay, so that its bits say nothing."""

    step: int
    then: dict
    now: dict


class Unrecorded(NamedTuple):
    """Of no step between is anything recorded: their rows were lost with a machine or a file."""


class Replay:
    """The steps of one run. Raises: InputError when the folder is no run, or was made from another config or other data."""

    def __init__(self, folder: Path, experiment: config.Experiment):
        self.folder = folder
        started = files.read_json(folder / "run.json")
        if started["inputs"] != experiment.task.inputs():
            raise errors.InputError(f"{folder}: the data it was trained on has changed since; nothing can be replayed")
        self.built = setup.build(experiment.task, experiment.optim, experiment.run, started["steps"])
        self.fresh = self.built.fresh()

    def check(self, step: int) -> tuple[int, Difference | Elsewhere | Unrecorded | None]:
        """(step of the checkpoint it began at, why it is not the same) of recomputing up to `step`.

        Raises: InputError when the trace does not know the step.
        """
        return self._check_from(step, *self._before(step))

    def report(self, step: int) -> int:
        """Check one step and say what was found: SAME, DIFFERENT or ELSEWHERE."""
        return _report(step, *self.check(step))

    def scan(self, times: int) -> int:
        """Report on random steps that follow a checkpoint, at most so many (0: until the run is done); stop at a difference.

        ELSEWHERE when none of them was computed as here, or recorded.
        """
        rng = np.random.default_rng(int(time.time()))
        tries = done = 0
        while (tries < times) if times else not (self.folder / "done.json").is_file():
            recorded = len((trace.read(self.folder) or (0, []))[1])
            starts = [s for s in checkpoint.steps(self.folder / "checkpoints") if s < recorded] or [0]
            ends = dict(zip(starts, [*starts[1:], recorded]))
            here = [s for s in starts if recorded and not self._elsewhere(s, ends[s])]
            if times and recorded and not here:
                return self.report(recorded)
            if not here:
                time.sleep(1.0)
                continue
            start = int(rng.choice(here))
            step = int(rng.integers(start + 1, ends[start] + 1))
            past = self._past(step)
            at, state = self._before(step)
            if at < start:  # the run has deleted that checkpoint since
                continue
            try:
                found = self._check_from(step, at, state)
            except errors.InputError:
                if past == self._past(step):
                    raise
                continue
            if past != self._past(step):  # it went back meanwhile, and its steps are others now
                continue
            outcome = _report(step, *found)
            if outcome == DIFFERENT:
                return DIFFERENT
            tries, done = tries + 1, done + (outcome == SAME)
        if not done:
            print(f"{self.folder}: ended, and none of its steps was computed as here and followed a checkpoint; nothing was compared", flush=True)
        return SAME if done else ELSEWHERE

    def _past(self, step: int) -> tuple[list[dict], bytes]:
        """What the run says of its steps up to this one: other than before when it has gone back since."""
        return recovery.Rollbacks(self.folder).all, (trace.read(self.folder) or ([], np.zeros((0, 1), np.uint32)))[1][:step].tobytes()

    def _before(self, step: int) -> tuple[int, step_lib.TrainState]:
        """The newest checkpoint before a step, and its state; the start without one."""
        return checkpoint.restore(self.folder / "checkpoints", self.fresh, step - 1) or (0, self.built.fresh())

    def _check_from(self, step: int, start: int, state: step_lib.TrainState) -> tuple[int, Difference | Elsewhere | Unrecorded | None]:
        leaves, rows = trace.read(self.folder) or ([], np.zeros((0, 1), np.uint32))
        if not 1 <= step <= len(rows):
            raise errors.InputError(f"{self.folder}: --step must be from 1 to {len(rows)}, the steps recorded so far, got {step}")
        if elsewhere := self._elsewhere(start, step):
            return start, elsewhere
        if not rows[start:step].any():
            return start, Unrecorded()
        rollbacks = recovery.Rollbacks(self.folder)
        for n in range(start, step):
            batch = self.built.batch(rollbacks.batch_of(n))
            state, metrics = self.built.step(state, batch)
            done = trace.Step(batch, metrics, state)
            if done.names() != leaves:
                raise errors.InputError(f"{self.folder}: the trace is of another version, its leaves differ; nothing can be replayed")
            row = trace.row(done.sums())
            if rows[n].any() and (row != rows[n]).any():  # a row of zeros was lost with a machine
                how = next((each["how"] for each in reversed(trace.stretches(self.folder)) if each["from"] <= n), None) or {}
                unknown = [name for name in self.built.how if name not in how]
                return start, Difference(n + 1, [leaves[i] for i in np.flatnonzero(row != rows[n])], unknown)
        return start, None

    def _elsewhere(self, start: int, stop: int) -> Elsewhere | None:
        """The first of the steps after `start`, up to `stop`, that is known to have been computed on something else."""
        stretches = trace.stretches(self.folder)
        for each, end in zip(stretches, [*(later["from"] for later in stretches[1:]), stop]):
            first = max(each["from"], start) + 1
            if first <= min(end, stop) and _otherwise(each["how"], self.built.how):
                return Elsewhere(first, each["how"], self.built.how)
        return None


def _otherwise(then: dict | None, now: dict) -> list[str]:
    """What is known to have been otherwise then; an older run says less, or nothing."""
    return [name for name in now if then and name in then and then[name] != now[name]]


def _report(step: int, start: int, found: Difference | Elsewhere | Unrecorded | None) -> int:
    match found:
        case None:
            print(f"steps {start + 1} to {step}: every leaf is as recorded", flush=True)
            return SAME
        case Unrecorded():
            print(f"steps {start + 1} to {step}: nothing is recorded of them, so nothing was compared; try others", flush=True)
            return ELSEWHERE
        case Elsewhere(first, then, now):
            other = ", ".join(f"{name} {then[name]} then, {now[name]} now" for name in _otherwise(then, now))
            print(f"step {first}: was computed otherwise than here ({other}), so its bits cannot be compared, and nothing is said "
                  f"of steps {start + 1} to {step}; replay where those are the same, or a step after a later checkpoint", flush=True)
            return ELSEWHERE
    shown = ", ".join(found.leaves[:8]) + (f" and {len(found.leaves) - 8} more" if len(found.leaves) > 8 else "")
    unless = f", unless {' or '.join(found.unknown)} changed, of which the run says nothing" if found.unknown else ""
    print(f"step {found.step}: differs from the run in {shown}; computed again from the checkpoint of step {start}, "
          f"so the machine that trained it, or this one, computes wrongly{unless}", flush=True)
    return DIFFERENT


def load(folder: Path) -> Replay:
    """The run's own config, loaded again. Raises: InputError when it has changed since."""
    if not (folder / "run.json").is_file():
        raise errors.InputError(f"{folder}: is no run folder (it has no run.json); give one that train.py made")
    return Replay(folder, config.again(files.read_json(folder / "run.json")["settings"], folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--step", type=int, help="recompute up to this step")
    what.add_argument("--scan", type=int, nargs="?", const=0, metavar="TIMES", help="recompute random past steps")
    arguments = parser.parse_args()
    if arguments.scan is not None:
        os.nice(19)
    replay = load(arguments.run)
    raise SystemExit(replay.report(arguments.step) if arguments.scan is None else replay.scan(arguments.scan))


if __name__ == "__main__":
    errors.run(main)
