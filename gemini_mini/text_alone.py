"""Does all the rest help or hurt text? A second run that reads a run's text and nothing else.

    python -m gemini_mini.text_alone runs/demo       trains runs/demo-text, then compares: runs/demo-text/text_alone.json

It reads the very rows of text alone (prose, code, names, ...) that the mixture dealt to the run, each as often and
in the same order, so both have read the same ids of text documents; the run has read words beside pictures and sounds as
well. Model, batch and optimizer are the run's; the schedule is as long as its rows last.
Facts: whether other modalities help text is claimed and not shown in the reports; here it is measured either way.
Next: evals/suites/text.py, which measures both: python -m gemini_mini.evals runs/demo-text --suite text
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gemini_mini import config, errors, files, memory, vocab as vocabulary
from gemini_mini.data import mixture, packing
from gemini_mini.tasks import pretrain
from gemini_mini.train import loop


@dataclasses.dataclass(frozen=True)
class TextAlone(pretrain.Pretrain):
    """What a run of `whole_steps` steps and this mixture reads of sources that hold text alone."""

    whole_steps: int = 1

    @functools.cached_property
    def text_sources(self) -> tuple[str, ...]:
        """The sources without a code of a picture or sound."""
        known = self.vocab.modality_of(np.arange(self.vocab.size))
        return tuple(name for name, stored in self.train_rows.sources.items()
                     if len(stored) and not np.isin(known[stored], (vocabulary.IMAGE, vocabulary.AUDIO)).any())

    def dealt(self, seed: int) -> list[tuple[str, int]]:
        """(source, row) of all text that the whole run reads, in its order."""
        sizes = {name: len(stored) for name, stored in self.train_rows.sources.items()}
        total = self.whole_steps * self.batch_rows
        whole = mixture.Mixture(self.stages, sizes, total, seed, self.most_passes)
        return [row for row in map(whole.row, range(total)) if row[0] in self.text_sources]

    def batches(self, steps: int, seed: int) -> Callable[[int], packing.Batch]:
        dealt, sources = self.dealt(seed), self.train_rows.sources

        def batch(step: int) -> packing.Batch:
            picked = dealt[step * self.batch_rows : (step + 1) * self.batch_rows]
            return packing.batch_of(np.stack([sources[source][row] for source, row in picked]))

        return batch


def of_run(run_folder: Path) -> config.Experiment:
    """The text-only experiment beside a run that has begun. Raises: InputError where it reads no text alone."""
    started = files.read_json(run_folder / "run.json")
    path, *overrides = started["settings"]["source"]
    whole = config.load(path, overrides)
    if not isinstance(whole.task, pretrain.Pretrain):
        raise errors.InputError(f"{run_folder}: must be a decoder's run, which alone reads text; got one of {type(whole.task).__name__}")
    if config.to_json(whole) != started["settings"]:
        raise errors.InputError(f"{run_folder}: {path} has changed since, or this version has other settings, so the two could not be "
                                "compared; bring back what it was, or train it again")
    values = {field.name: getattr(whole.task, field.name) for field in dataclasses.fields(whole.task)}
    task = TextAlone(**values, whole_steps=started["steps"])
    steps = len(task.dealt(whole.run.seed)) // task.batch_rows
    if not steps:
        raise errors.InputError(f"{run_folder}: its mixture reads no batch of text alone; give prose or code a weight")
    run = dataclasses.replace(whole.run, folder=f"{whole.run.folder}-text", steps=steps, budget=1.0, max_minutes=0.0)
    return dataclasses.replace(whole, task=task, run=run)


def compare(run_folder: Path, alone: config.Experiment) -> list[tuple[str, float, float]]:
    """(source, loss of the run, loss of text alone) on valid, in nats per piece of text."""
    both, text = (files.read_json(Path(folder) / "done.json") for folder in (run_folder, alone.run.folder))
    names = [name for name in alone.task.text_sources if f"valid/{name}/loss/text" in both]
    return [(name, both[f"valid/{name}/loss/text"], text[f"valid/{name}/loss/text"]) for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder that train.py finished")
    args = parser.parse_args()
    alone = of_run(args.run)
    print(f"{alone.run.folder}: {alone.run.steps} steps over {', '.join(alone.task.text_sources)}")
    loop.run(alone.task, alone.optim, alone.run, config.to_json(alone))
    found = compare(args.run, alone)
    files.write_json(Path(alone.run.folder) / "text_alone.json", {name: {"all modalities": both, "text alone": text} for name, both, text in found})
    for name, with_rest, without in found:
        print(f"valid {name}: {with_rest:.3f} nats per piece with all modalities, {without:.3f} with text alone")


if __name__ == "__main__":
    memory.keep()
    errors.run(main)
