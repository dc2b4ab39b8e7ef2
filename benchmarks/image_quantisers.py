"""The quantisers of the image tokenizer, each trained alike: same pictures, same steps, same seed.

    python -m benchmarks.image_quantisers data/laptop/world --steps 600

The levels of fsq are those its paper recommends for so many codes (arXiv 2309.15505, table 1).
Each is an ordinary run of train.py under runs/quantisers, reused when it is there. Figures are of the
validation split and of the tokenizer in training, before unused codes are dropped. "bits after left"
counts pairs of neighbours in 1,024 pictures: with thousands of codes that is far too few of them, so
it flatters large codebooks.
"""

import argparse
from pathlib import Path

from gemini_mini import config, errors, files
from gemini_mini.train import loop

MANY, CONTEXT = "task.model.num_codes=4096", "task.model.encoder_shifted=8"
FSQ = ("task.model.quantiser=fsq",)
VARIANTS = {
    "pulled-512-alone": (),
    "pulled-4096": (MANY, CONTEXT),
    "rotation-4096": (MANY, CONTEXT, "task.model.quantiser=rotation"),
    "simvq-4096": (MANY, CONTEXT, "task.model.quantiser=simvq"),
    "fsq-4375-alone": (*FSQ, "task.model.levels=(7,5,5,5,5)", "task.model.num_codes=4375"),
    "fsq-4375": (*FSQ, "task.model.levels=(7,5,5,5,5)", "task.model.num_codes=4375", CONTEXT),
    "fsq-15360": (*FSQ, "task.model.levels=(8,8,8,6,5)", "task.model.num_codes=15360", CONTEXT),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare quantisers of the image tokenizer under an equal budget.")
    parser.add_argument("world", help="a built world, e.g. data/laptop/world")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=sorted(VARIANTS), default=list(VARIANTS))
    args = parser.parse_args()
    lines = []
    for name in args.only:
        folder = Path("runs/quantisers") / f"{name}-{args.seed}"
        common = [f"task.world={args.world}", f"run.folder={folder}", f"run.steps={args.steps}", f"run.seed={args.seed}", "run.max_minutes=0"]
        experiment = config.load("configs/image_tokenizer.py", [*common, *VARIANTS[name]])
        loop.run(experiment.task, experiment.optim, experiment.run, config.to_json(experiment))
        figures = files.read_json(folder / "done.json")
        lines.append(f"| {name} | {figures['valid/psnr']:.2f} | {figures['train/psnr']:.2f} | "
                     f"{figures['codes/used']:.0%} | {figures['codes/perplexity']:.0f} | {figures['codes/bits']:.1f} | "
                     f"{figures['codes/bits_after_left']:.1f} | {figures['codes/bits_after_above']:.1f} |")
    print("| quantiser | valid dB | train dB | used | perplexity | bits | after left | after above |")
    print("| --- " * 8 + "|", *lines, sep="\n")


if __name__ == "__main__":
    errors.run(main)
