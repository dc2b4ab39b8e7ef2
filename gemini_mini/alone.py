"""Does all the rest help or hurt? A second run that reads some sources of a run, and nothing else.

    python -m gemini_mini.alone runs/demo                    its text: trains runs/demo-text, then compares in runs/demo-text/alone.json
    python -m gemini_mini.alone runs/demo --sources listen   one task: runs/demo-listen
    python -m gemini_mini.evals runs/demo-listen --tasks listen

It reads the very rows of these sources that the mixture dealt to the run, each as often and in the same order, so both
have read the same of them; the run has read the rest as well. Without `--sources` they are those of text alone (prose,
code, names, ...). Model, batch and optimizer are the run's; the schedule is as long as its rows last. Fewer rows in as large
batches are fewer updates, which alone may be worse: `--batch-rows 1` has about as many as the run, where these sources are one
row in each of its batches. Words of pictures and sounds are read by the run alone, so prose and code compare best.
Facts: whether other modalities help text is claimed and not shown in the reports; here it is measured either way.
Next: evals/, which measures both.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gemini_mini import config, errors, files, memory, vocab as vocabulary
from gemini_mini.data import mixture, packing
from gemini_mini.tasks import pretrain
from gemini_mini.train import loop


@dataclasses.dataclass(frozen=True)
class Alone(pretrain.Pretrain):
    """What a run of `whole_rows` rows and this mixture reads of some sources; of those of text where none is named."""

    whole_rows: int = 1
    only: tuple[str, ...] = ()

    @functools.cached_property
    def sources(self) -> tuple[str, ...]:
        """Those named, or the sources without a code of a picture or sound."""
        if unknown := set(self.only) - set(self.train_rows.sources):
            raise errors.InputError(f"--sources: must be some of {', '.join(self.train_rows.sources)}, got {', '.join(sorted(unknown))}")
        known = self.vocab.modality_of(np.arange(self.vocab.size))
        return self.only or tuple(name for name, stored in self.train_rows.sources.items()
                                  if len(stored) and not np.isin(known[stored], (vocabulary.IMAGE, vocabulary.AUDIO)).any())

    def dealt(self, seed: int) -> list[tuple[str, int]]:
        """(source, row) of all that the whole run reads of them, in its order."""
        sizes = {name: len(stored) for name, stored in self.train_rows.sources.items()}
        whole = mixture.Mixture(self.stages, sizes, self.whole_rows, seed, self.most_passes)
        return [row for row in map(whole.row, range(self.whole_rows)) if row[0] in self.sources]

    def batches(self, steps: int, seed: int) -> Callable[[int], packing.Batch]:
        dealt, sources = self.dealt(seed), self.train_rows.sources

        def batch(step: int) -> packing.Batch:
            picked = [dealt[n % len(dealt)] for n in range(step * self.batch_rows, (step + 1) * self.batch_rows)]
            return packing.batch_of(np.stack([sources[source][row] for source, row in picked]))

        return batch

    def reads(self, n: int, steps: int, seed: int) -> dict[str, float]:
        return {}  # what the whole run does, without the rest


def of_run(run_folder: Path, only: Sequence[str] = (), batch_rows: int = 0) -> config.Experiment:
    """The experiment beside a run that has begun, with its batches or smaller ones. Raises: InputError where the run reads nothing of these sources."""
    started = files.read_json(run_folder / "run.json")
    whole = config.again(started["settings"], run_folder)
    if not isinstance(whole.task, pretrain.Pretrain):
        raise errors.InputError(f"{run_folder}: must be a decoder's run; got one of {type(whole.task).__name__}")
    values = {field.name: getattr(whole.task, field.name) for field in dataclasses.fields(whole.task)}
    if whole.task.start_from:
        raise errors.InputError(f"{run_folder}: goes on from the weights of {whole.task.start_from}, which have read more; ask for a run that began with none")
    task = Alone(**values | {"batch_rows": batch_rows or whole.task.batch_rows}, whole_rows=started["steps"] * whole.task.batch_rows, only=tuple(only))
    steps = len(task.dealt(whole.run.seed)) // task.batch_rows
    if not steps:
        raise errors.InputError(f"{run_folder}: its mixture reads no batch of {', '.join(only) or 'text alone; give prose or code a weight'}")
    name = "-".join([*(only or ["text"]), *([f"{batch_rows}-rows"] if batch_rows else [])])
    run = dataclasses.replace(whole.run, folder=f"{whole.run.folder}-{name}", steps=steps, budget=1.0, max_minutes=0.0)
    return dataclasses.replace(whole, task=task, run=run, source=())


def compare(run_folder: Path, alone: config.Experiment) -> list[tuple[str, float, float]]:
    """(what is held out of these sources, loss of the run, loss of the other), in nats an id."""
    both, apart = (files.read_json(Path(folder) / "done.json") for folder in (run_folder, alone.run.folder))
    splits = [key.split("/")[1] for key in both if key.startswith("valid/") and key.count("/") == 2 and key.endswith("/loss")]
    return [(split, both[f"valid/{split}/loss"], apart[f"valid/{split}/loss"]) for split in splits
            if any(split == name or split.startswith(f"{name}_") for name in alone.task.sources)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder that train.py finished")
    parser.add_argument("--sources", nargs="+", default=(), metavar="NAME", help="what it reads (default: the sources of text alone)")
    parser.add_argument("--batch-rows", type=int, default=0, metavar="N", help="of a step (default: the run's)")
    args = parser.parse_args()
    if args.batch_rows < 0:
        raise errors.InputError(f"--batch-rows: must be at least 1, got {args.batch_rows}")
    alone = of_run(args.run, args.sources, args.batch_rows)
    if not (args.run / "done.json").is_file():
        raise errors.InputError(f"{args.run}: has not finished, so nothing can be compared; run its training command again first")
    print(f"{alone.run.folder}: {alone.run.steps} steps over {', '.join(alone.task.sources)}")
    loop.run(alone.task, alone.optim, alone.run, config.to_json(alone))
    found = compare(args.run, alone)
    files.write_json(Path(alone.run.folder) / "alone.json", {name: {"all": both, "alone": apart} for name, both, apart in found})
    for name, both, apart in found:
        print(f"valid {name}: {both:.3f} nats an id after reading all, {apart:.3f} alone")


if __name__ == "__main__":
    memory.keep()
    errors.run(main)
