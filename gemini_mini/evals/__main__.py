"""Evaluate a trained run: python -m gemini_mini.evals RUN

    python -m gemini_mini.evals runs/demo                      every task and split, a table
    python -m gemini_mini.evals runs/demo --tasks draw,name --limit 50
    python -m gemini_mini.evals runs/demo --valid-only         while tuning: no test split is looked at

Writes RUN/evals.json (task -> split -> value), RUN/evals_detail.json (everything, with every
answer) and RUN/evals/examples.safetensors (their pictures and sounds).
Next: suite.py, ../report.py.
"""

import argparse
import dataclasses
import os
import time
from pathlib import Path

import rich.box
import rich.console
import rich.table

from data_prep import documents, worlds
from gemini_mini import errors, files, memory
from gemini_mini import run as run_lib
from gemini_mini.decode import engine, grammar, reading, sampling
from gemini_mini.evals import album as album_lib
from gemini_mini.evals import answerer, suite


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder that train.py finished")
    parser.add_argument("--world", type=Path, help="default: the folder `world` beside the rows it was trained on")
    parser.add_argument("--tasks", default="", help=f"some of {','.join(suite.NAMES)}; default: all")
    parser.add_argument("--limit", type=int, default=200, help="most questions of a split (default: %(default)s)")
    parser.add_argument("--valid-only", action="store_true", help="leave the test splits alone")
    parser.add_argument("--temperature", type=float, default=0.0, help="of image codes (default: %(default)s, greedy)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tasks = tuple(name for name in args.tasks.split(",") if name)
    if unknown := set(tasks) - set(suite.NAMES):
        raise errors.InputError(f"--tasks: must be some of {', '.join(suite.NAMES)}, got {', '.join(sorted(unknown))}")
    if args.limit < 1:
        raise errors.InputError(f"--limit: must be at least 1, got {args.limit}")
    evaluate(args.run, args.world, suite.Settings(args.limit, tasks, args.valid_only, args.seed), args.temperature)


def evaluate(run_folder: Path, world_folder: Path | None, settings: suite.Settings, temperature: float) -> dict:
    """Evaluate a run, print the table and save everything in the run's folder."""
    begin = time.perf_counter()
    run = run_lib.load(run_folder)
    world_folder = world_folder or Path(run.settings["task"]["rows"]).parent / "world"
    world = worlds.embedded(world_folder)
    key = files.hash_json([files.hash_bytes((run_folder / "model.safetensors").read_bytes()), run.tokenizers.vocab.fingerprint,
                           world.fingerprint, dataclasses.asdict(settings), temperature, files.code_hash(suite, documents, engine, grammar, reading, sampling)])
    done = run_folder / "evals_detail.json"
    if done.is_file() and (saved := files.read_json(done)).get("key") == key:
        print(f"reused {done} (same model, world and questions)")
        print_table(saved["tasks"])
        return saved["tasks"]
    tasks, album = suite.run(world, answerer.RunAnswerer(run, temperature, settings.seed), settings)
    if not tasks:
        raise errors.InputError(f"{world_folder}: has no examples of {', '.join(settings.tasks)}; choose other tasks")
    seconds = time.perf_counter() - begin
    save(run_folder, tasks, album, {
        "key": key,
        "world": str(world_folder), "world_content": world.fingerprint, "pictures": len(world.items),
        "vocabulary": run.tokenizers.vocab.fingerprint, "num_params": run.model.config.num_params,
        "limit": settings.limit, "seed": settings.seed, "is_valid_only": settings.is_valid_only,
        "text_temperature": 0.0, "image_temperature": temperature,
        "cpus": os.cpu_count(), "seconds": round(seconds, 1)})
    print_table(tasks)
    print(f"{seconds:.0f} s; saved {run_folder}/evals.json and {run_folder}/evals_detail.json")
    return tasks


def save(run_folder: Path, tasks: dict, album: album_lib.Album, about: dict) -> None:
    """Write what `suite.run` found. The arrays go first: a detail never names one that is not there."""
    album_lib.save(album, run_folder / "evals" / "examples.safetensors")
    files.write_json(run_folder / "evals_detail.json", {**about, "tasks": tasks})
    files.write_json(run_folder / "evals.json", suite.summary(tasks))


def print_table(tasks: dict) -> None:
    """Every figure beside chance and a baseline."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
                             caption="↓ less is better", caption_justify="left")
    for name in ("task", "split", "n", "value", "95 %", "chance", "baseline"):
        table.add_column(name, justify="left" if name in ("task", "split") else "right", no_wrap=True)
    for name, task in tasks.items():
        show = suite.formatter(task["unit"])
        for place, (split, found) in enumerate(task["splits"].items()):
            interval = "" if found["low"] is None else f"{show(found['low'])}–{show(found['high'])}"
            title = f"{name}{' ↓' if task['is_error'] else ''}" if place == 0 else ""
            table.add_row(title, split, str(found["n"]), f"[bold]{show(found['value'])}[/]", interval,
                          show(found["chance"]), show(found["baseline"]), end_section=place == len(task["splits"]) - 1)
    rich.console.Console().print(table)


if __name__ == "__main__":
    memory.keep()
    errors.run(main)
