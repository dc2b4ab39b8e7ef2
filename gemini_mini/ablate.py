"""Which mixture, which settings? Small runs that differ in one thing: python -m gemini_mini.ablate CONFIG

    python -m gemini_mini.ablate configs/laptop.py --steps 200 --size depth=2,aspect=64
    python -m gemini_mini.ablate configs/demo.py --sources draw,name,listen --set optim.lr=2e-3 --set task.user_share=0.3

One base run, one for each source with its weight doubled in every stage, and one for each --set. All read the same number
of ids, in fewer steps where a step reads more. What counts is the loss on valid, summed over sources by their part in the
base mixture, and test splits are never read. From n doublings comes a gradient, and one step along it, in logarithms, is the
recommended table:

    g_s  = log L(s doubled) - log L(base)            what more of s does to the loss of everything
    w_s <- w_s * 2^(-g_s / max |g|)                  the most useful source is doubled, the most harmful halved

Within the noise of seeds nothing is recommended, nor without knowing it: --seeds 8 repeats the base run, and what a doubling
changes must lie outside of where 95 of 100 whole tables without any effect would stay (Student's t, Bonferroni over the sources).
A source that nothing is held out of stays as it is: its own gain would not be seen.
A run that is done is not repeated, and a killed one continues. Small models over few ids prefer what is learned early.
Facts: mixtures are found by ablations on small models (Gemini report, section 4). Paper: data mixing laws, arXiv 2403.16952, find
that log losses are smooth in the weights; one step needs no more than their slope.
"""

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import special

from gemini_mini import config as config_lib
from gemini_mini import errors, files, memory
from gemini_mini import run as run_lib
from gemini_mini.data import mixture
from gemini_mini.tasks import pretrain
from gemini_mini.train import loop


CHANCE = 0.05  # that a table in which nothing matters is changed at all


class Try(NamedTuple):
    """One run: its name, and what differs from the config."""

    name: str
    overrides: tuple[str, ...] = ()
    doubled: str = ""
    seed: int = 0


class Result(NamedTuple):
    """What a run ended with: the loss of each valid source, and all of them together."""

    name: str
    losses: dict[str, float]
    total: float


def tries(sources: Sequence[str], settings: Sequence[str], seeds: int) -> list[Try]:
    """The base run first, and again for each further seed; then one for each source and each setting."""
    base = [Try("base" if seed == 0 else f"base-seed{seed}", seed=seed) for seed in range(seeds)]
    doubled = [Try(f"{source}-x2", doubled=source) for source in sources]
    return base + doubled + [Try(re.sub(r"[^\w.=+-]", "_", setting), (setting,)) for setting in settings]


def doubled(stages: tuple[mixture.Stage, ...], source: str) -> tuple[mixture.Stage, ...]:
    """The stages with twice the weight of one source; weights are relative, so the others give way in proportion."""
    return scaled(stages, {source: 2.0})


def scaled(stages: tuple[mixture.Stage, ...], factors: Mapping[str, float]) -> tuple[mixture.Stage, ...]:
    """The stages with weights multiplied, each stage's sum made 1."""
    found = []
    for stage in stages:
        weights = {name: weight * factors.get(name, 1.0) for name, weight in stage.weights.items()}
        total = sum(weights.values())
        found.append(mixture.Stage(stage.name, stage.until, {name: weight / total for name, weight in weights.items()}))
    return tuple(found)


def total_loss(losses: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """The losses of valid sources, each weighed by its training source's part of the base mixture.

    Several valid sources of one training source ("draw", "draw_compose") share its part.
    """
    source_of = {name: max((s for s in shares if name == s or name.startswith(f"{s}_")), key=len, default=None) for name in losses}
    known = {name: source for name, source in source_of.items() if source}
    weights = {name: shares[source] / list(known.values()).count(source) for name, source in known.items()}
    if not sum(weights.values()):
        raise errors.InputError(f"valid: must hold a source of the mixture ({', '.join(shares)}), got {', '.join(losses)}")
    return sum(weights[name] * losses[name] for name in weights) / sum(weights.values())


def factors(base: float, of_doubled: Mapping[str, float], noise: float = 0.0) -> dict[str, float]:
    """By how much to multiply each source's weight; 1 for all where no difference is larger than the noise."""
    gradient = {source: np.log(loss / base) for source, loss in of_doubled.items()}
    gradient = {source: g if abs(g) > noise else 0.0 for source, g in gradient.items()}
    largest = max(map(abs, gradient.values()), default=0.0)
    return {source: float(2 ** (-g / largest)) if largest else 1.0 for source, g in gradient.items()}


def recommended(results: Sequence[Result], sources: Sequence[str], seeds: int) -> tuple[dict[str, float], str]:
    """The factors of `factors`, and why: 1 for all where the noise between base runs is not known, or no change exceeds it."""
    logs, of = np.log([each.total for each in results[:seeds]]), {each.name: each.total for each in results}
    if seeds < 2:
        return dict.fromkeys(sources, 1.0), "noise not measured, so the table stays as it is: --seeds 8"
    judged = [s for s in sources if any(name == s or name.startswith(f"{s}_") for name in results[0].losses)]
    noise = float(special.stdtrit(seeds - 1, 1 - CHANCE / 2 / max(1, len(judged))) * logs.std(ddof=1) * np.sqrt(1 + 1 / seeds))
    found = dict.fromkeys(sources, 1.0) | factors(np.exp(logs.mean()), {source: of[f"{source}-x2"] for source in judged}, noise)
    is_changed = any(factor != 1 for factor in found.values())
    return found, f"by chance alone a doubling changes the loss by up to {noise:.2%}" + ("" if is_changed else ", and no source changes the loss by more: the table stays as it is")


def run(experiment: config_lib.Experiment, planned: Sequence[Try], steps: int, out: Path) -> list[Result]:
    """Train what is planned, one after another, each in a folder of its own under `out`."""
    shares, results = mixture.shares(experiment.task.stages), []
    for each in planned:
        changed = config_lib.override(experiment, each.overrides)
        same = round(steps * experiment.task.batch_tokens() / changed.task.batch_tokens())  # as many ids
        stages = doubled(changed.task.stages, each.doubled) if each.doubled else changed.task.stages
        changed = dataclasses.replace(
            changed, source=(), task=dataclasses.replace(changed.task, stages=stages),
            run=dataclasses.replace(changed.run, folder=str(out / each.name), seed=each.seed, steps=same, budget=1.0, max_minutes=0.0,
                                    eval_every=0, keep=1))
        loop.run(changed.task, changed.optim, changed.run, config_lib.to_json(changed))
        figures = files.read_json(out / each.name / "done.json")
        if each.overrides:  # other weights of the loss must not look like a better model
            judge = dataclasses.replace(experiment.task, model=changed.task.model)
            figures = judge.valid_losses(run_lib.load(out / each.name).model)
        losses = {name.split("/")[1]: value for name, value in figures.items() if name.count("/") == 2 and name.endswith("/loss")}
        results.append(Result(each.name, losses, total_loss(losses, shares)))
    return results


def as_source(stages: tuple[mixture.Stage, ...]) -> str:
    """The table as a config takes it."""
    lines = ["STAGES = ("]
    for stage in stages:
        weights = ", ".join(f'"{name}": {weight:.4f}' for name, weight in stage.weights.items())
        lines.append(f'    mixture.Stage("{stage.name}", {stage.until}, {{{weights}}}),')
    return "\n".join([*lines, ")"])


def table(results: Sequence[Result], base: Result) -> str:
    """Every run's figures as Markdown: the total, and the change of each valid source against the base run."""
    names = list(base.losses)
    lines = ["| run | total | change | " + " | ".join(names) + " |", "| --- |" + " --- |" * (len(names) + 2)]
    for each in results:
        change = "" if each is base else f"{each.total / base.total - 1:+.1%}"
        cells = [f"{base.losses[n]:.3f}" if each is base else f"{each.losses[n] / base.losses[n] - 1:+.1%}" for n in names]
        lines.append(f"| {each.name} | {each.total:.4f} | {change} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG", help="of a decoder, such as configs/laptop.py")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="of all runs, such as task.batch_rows=6")
    parser.add_argument("--steps", type=int, default=200, help="of each run (default %(default)s)")
    parser.add_argument("--size", default="depth=2,aspect=64", help="of the small models, as settings of task.model (default %(default)s)")
    parser.add_argument("--sources", default="", help="whose weight is doubled (default: all of the mixture)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting to try, such as optim.lr=2e-3")
    parser.add_argument("--seeds", type=int, default=1, help="base runs, to see the noise (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/ablate"))
    args = parser.parse_intermixed_args()
    if min(args.steps, args.seeds) < 1:
        raise errors.InputError(f"--steps and --seeds: must be at least 1, got {args.steps} and {args.seeds}")
    size = [f"task.model.{pair}" for pair in args.size.split(",") if pair]
    experiment = config_lib.load(args.config, [*size, *args.overrides])
    if not isinstance(experiment.task, pretrain.Pretrain):
        raise errors.InputError(f"{args.config}: must train a decoder, which alone has a mixture; got {type(experiment.task).__name__}")
    known = sorted(mixture.shares(experiment.task.stages))
    sources = [name for name in args.sources.split(",") if name] or known
    if unknown := set(sources) - set(known):
        raise errors.InputError(f"--sources: must be among {', '.join(known)}, got {', '.join(sorted(unknown))}")
    for setting in args.set:
        config_lib.override(experiment, (setting,))
        if setting.startswith("run.") and not setting.startswith("run.products="):
            raise errors.InputError(f"--set: must be what a run may differ in, of task, optim or run.products, got {setting}; see --steps and --seeds")
    planned = tries(sources, args.set, args.seeds)
    ids = args.steps * experiment.task.batch_tokens()
    print(f"{len(planned)} runs of {args.steps} steps, {ids:,} ids each")
    run_lib.keep_compiled()  # most runs are one program
    results = run(experiment, planned, args.steps, args.out)
    found, why = recommended(results, sources, args.seeds)
    text, stages = table(results, results[0]), as_source(scaled(experiment.task.stages, found))
    files.write_json(args.out / "ablation.json", {
        "config": args.config, "overrides": [*size, *args.overrides], "steps": args.steps, "ids": ids, "seeds": args.seeds, "why": why, "factors": found,
        "runs": [each._asdict() for each in results]})
    files.write_bytes(args.out / "ablation.md", f"{text}\n\n{why}\n\n```python\n{stages}\n```\n".encode())
    print(f"{text}\n\n{stages}\n\n{why}")
    print(f"saved {args.out}/ablation.json and ablation.md")


if __name__ == "__main__":
    memory.keep()
    errors.run(main)
