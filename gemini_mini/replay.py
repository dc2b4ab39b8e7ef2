"""Was every step computed right? Steps of a run again, held against its trace leaf by leaf.

    python -m gemini_mini.replay runs/demo --step 340    from the checkpoint before step 340 up to it
    python -m gemini_mini.replay runs/demo --scan        random past steps at the lowest priority, until the run is done
    python -m gemini_mini.replay runs/demo --scan 20     twenty of them

Training is exact to the bit, so on the same kind of machine a difference is a fault of the hardware: silent data
corruption, which the Gemini report (section 3) expects every week or two and finds in this way. Exit code 1 and
the step and the leaves when there is one. run.flip makes one, to see that it is found. The devices must be as
many as the run's; a chip that one process takes for itself needs the scanner on another machine.
"""

import argparse
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemini_mini import config, errors, files
from gemini_mini.train import checkpoint, recovery, setup, trace


class Difference(NamedTuple):
    """The first step that came out otherwise, and the leaves that did."""

    step: int
    leaves: list[str]


class Replay:
    """The steps of one run. Raises: InputError when the folder is no run, or was made from another config or other data."""

    def __init__(self, folder: Path, experiment: config.Experiment):
        self.folder = folder
        started = files.read_json(folder / "run.json")
        if started["inputs"] != experiment.task.inputs():
            raise errors.InputError(f"{folder}: the data it was trained on has changed since; nothing can be replayed")
        self.built = setup.build(experiment.task, experiment.optim, experiment.run, started["steps"])
        self.fresh = self.built.fresh()

    def check(self, step: int) -> tuple[int, Difference | None]:
        """(step of the checkpoint it began at, first difference) of recomputing up to `step`.

        Raises: InputError when the trace does not know the step.
        """
        leaves, rows = trace.read(self.folder) or ([], np.zeros((0, 1), np.uint32))
        if not 1 <= step <= len(rows):
            raise errors.InputError(f"{self.folder}: --step must be from 1 to {len(rows)}, the steps recorded so far, got {step}")
        rollbacks = recovery.Rollbacks(self.folder)
        start, state = checkpoint.restore(self.folder / "checkpoints", self.fresh, step - 1) or (0, self.built.fresh())
        for n in range(start, step):
            batch = self.built.batch(rollbacks.batch_of(n))
            state, metrics = self.built.step(state, batch)
            done = trace.Step(batch, metrics, state)
            if done.names() != leaves:
                raise errors.InputError(f"{self.folder}: the trace is of another version, its leaves differ; nothing can be replayed")
            row = trace.row(done.sums())
            if rows[n].any() and (row != rows[n]).any():  # a row of zeros was lost with a machine
                return start, Difference(n + 1, [leaves[i] for i in np.flatnonzero(row != rows[n])])
        return start, None

    def report(self, step: int) -> bool:
        """Check one step and say what was found; whether all was equal."""
        start, difference = self.check(step)
        if difference is None:
            print(f"steps {start + 1} to {step}: every leaf is as recorded", flush=True)
            return True
        shown = ", ".join(difference.leaves[:8]) + (f" and {len(difference.leaves) - 8} more" if len(difference.leaves) > 8 else "")
        print(f"step {difference.step}: differs from the run in {shown}; computed again from the checkpoint of step {start}, "
              "so the machine that trained it, or this one, computes wrongly", flush=True)
        return False

    def scan(self, times: int) -> bool:
        """Report on random steps that follow a checkpoint, at most so many (0: until the run is done); stop at a difference."""
        rng = np.random.default_rng(int(time.time()))
        done = 0
        while (done < times) if times else not (self.folder / "done.json").is_file():
            recorded = len((trace.read(self.folder) or (0, []))[1])
            if not recorded:
                time.sleep(1.0)
                continue
            starts = [s for s in checkpoint.steps(self.folder / "checkpoints") if s < recorded] or [0]
            start = int(rng.choice(starts))
            end = min([s for s in starts if s > start], default=recorded)
            if not self.report(int(rng.integers(start + 1, end + 1))):
                return False
            done += 1
        return True


def load(folder: Path) -> Replay:
    """The run's own config, loaded again. Raises: InputError when it has changed since."""
    if not (folder / "run.json").is_file():
        raise errors.InputError(f"{folder}: is no run folder (it has no run.json); give one that train.py made")
    settings = files.read_json(folder / "run.json")["settings"]
    path, *overrides = settings["source"]
    experiment = config.load(path, overrides)
    if config.to_json(experiment) != settings:
        raise errors.InputError(f"{folder}: {path} has changed since; bring back the file as it was")
    return Replay(folder, experiment)


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
    is_right = replay.report(arguments.step) if arguments.scan is None else replay.scan(arguments.scan)
    raise SystemExit(0 if is_right else 1)


if __name__ == "__main__":
    errors.run(main)
