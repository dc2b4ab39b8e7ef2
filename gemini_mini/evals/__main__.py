"""Evaluate a trained run: python -m gemini_mini.evals RUN

    python -m gemini_mini.evals --list                         suites and their tasks
    python -m gemini_mini.evals runs/demo                      what the report shows: every split, a table
    python -m gemini_mini.evals runs/demo --suite image,audio  whole suites, or --suite all
    python -m gemini_mini.evals runs/demo --tasks draw,name --limit 50
    python -m gemini_mini.evals runs/demo --valid-only         while tuning: no test split is looked at
    python -m gemini_mini.evals runs/demo --release            the assurance half of every test split, once a model is final
    python -m gemini_mini.evals runs/nano1 --mesh 0,8,1,1      a model too large for one device, cut over eight
    python -m gemini_mini.evals released/laptop.safetensors --world data/laptop/world --out evals/laptop

A test split has two halves, and only --release opens the second: what was looked at while working is no
longer a test. RUN/release/opened.json then says when and with which weights; the figures stand beside it. That of a
released file stands beside the file, wherever the figures go: released/laptop.opened.json.
Writes RUN/evals.json (task -> split -> value), RUN/evals_detail.json (everything, with every
answer) and RUN/evals/examples.safetensors (their pictures and sounds). With --tasks only those are replaced, and the
others stay as they were, if they are of the same weights and code; each task says in "about" how it was asked. A suite writes RUN/evals/NAME.json,
NAME.png, NAME_failures.png and NAME.safetensors in their place.
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

from data_prep import emoji_world, worlds
from gemini_mini import errors, files, memory, parallel
from gemini_mini import run as run_lib
from gemini_mini.evals import album as album_lib
from gemini_mini.evals import answerer, chart, classifier, failures, suite, task

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("data_prep", *(f"gemini_mini/{name}" for name in ("data", "decode", "evals", "model", "tokenizers")))
MODULES = "matmul", "nn", "parallel", "quant", "run", "stream", "vocab"
CODE = (*(file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))), *(ROOT / f"gemini_mini/{name}.py" for name in MODULES))

SAME = ("model", "vocabulary", "half", "world_content", "code")  # of figures that stand in one file
PROTOCOL = ("limit", "seed", "is_valid_only", "text_temperature", "image_temperature", "guidance")  # these may differ between its tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="a run folder that train.py finished, or a released file")
    parser.add_argument("--out", type=Path, help="where to write the figures of a released file, which needs --world too; those of a run stand in its folder")
    parser.add_argument("--world", type=Path, help="default: the folder `world` beside the rows it was trained on")
    parser.add_argument("--suite", default="", help=f"some of {','.join(suite.SUITES)}, or all")
    parser.add_argument("--tasks", default="", help=f"some of {','.join(suite.TASKS)}; default: what the report shows")
    parser.add_argument("--list", action="store_true", help="name suites and tasks, and end")
    parser.add_argument("--limit", type=int, default=200, help="most questions of a split (default: %(default)s)")
    parser.add_argument("--valid-only", action="store_true", help="leave the test splits alone")
    parser.add_argument("--release", action="store_true", help="ask the assurance half, and record that it was opened")
    parser.add_argument("--temperature", type=float, default=0.0, help="of image codes (default: %(default)s, greedy)")
    parser.add_argument("--guidance", type=float, default=1.0, help="of image codes, for a run trained with "
                        "task.hide_prompts (default: %(default)s, none)")
    parser.add_argument("--classifier", type=Path, help="to judge drawings by; default: WORLD-classifier/classifier.safetensors beside RUN")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mesh", metavar=",".join(parallel.MESH_AXES).upper(), help="cut the model over all devices there are, "
                        "so many along each axis; 0 for DATA takes what is left (default: one device)")
    args = parser.parse_args()
    if args.list:
        print_suites()
        return
    if args.run is None:
        parser.error("name a run folder, or --list")
    suites, tasks = _names("--suite", ",".join(suite.SUITES) if args.suite == "all" else args.suite, suite.SUITES), _names("--tasks", args.tasks, suite.TASKS)
    if suites and tasks:
        raise errors.InputError("--suite and --tasks: must not stand together, for a suite is all its tasks; leave one out")
    if suites:
        chart.require()
    if args.limit < 1:
        raise errors.InputError(f"--limit: must be at least 1, got {args.limit}")
    if args.release and args.valid_only:
        raise errors.InputError("--release and --valid-only: must not stand together, for a release is of test splits; leave one out")
    if args.run.is_file() and not (args.out and args.world):
        raise errors.InputError(f"{args.run}: is a released file, and says neither what to ask nor where figures go; give --world and --out")
    if args.out and not args.run.is_file():  # what was opened of a run must stand in its folder
        raise errors.InputError(f"--out: is for a released file, and {args.run} is none; its figures stand in the run folder")
    if args.classifier:
        classifier.load(args.classifier)  # a mistyped one is told of before anything is asked
    run, out = run_lib.load(args.run, parallel.read_mesh(args.mesh) if args.mesh else None), args.out or args.run
    run_lib.check_guidance(run, args.guidance)
    world = worlds.embedded(args.world or Path(run.settings["task"]["rows"]).parent / "world")
    judge = args.classifier or args.run.parent / f"{world.config.name}-classifier" / "classifier.safetensors"
    settings = task.Settings(args.limit, tasks, args.valid_only, args.seed, args.temperature, args.guidance, str(judge))
    if args.release:
        open_assurance(ledger(args.run), run_lib.weights_hash(args.run), [*suites, *tasks])
    for name in suites or ("",):
        evaluate(run, world.only("assurance" if args.release else "dev"), settings, name, out)


def ledger(run: Path) -> Path:
    """Where it is written when the assurance half was opened for a run folder or a released file."""
    return run.with_suffix(".opened.json") if run.is_file() else run / "release" / "opened.json"


def open_assurance(path: Path, weights: str, asked: list[str]) -> None:
    """Record in `path`, before anything is asked, that the assurance half is opened; what was recorded stays."""
    opened = files.read_json(path) if path.is_file() else []
    if others := {each["model"] for each in opened} - {weights}:
        print(f"warning: the assurance half was opened for {len(others)} other model(s), by {path}: "
              "choices made since then may have seen it")
    files.write_json(path, [*opened, {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "model": weights,
                                      "asked": asked or ["what the report shows"]}])


def evaluate(run: run_lib.Run, world: emoji_world.World, settings: task.Settings, name: str, out: Path) -> dict:
    """Evaluate a run, print the table and save everything in `out`; `name` is a suite's or "".

    `world` shows one half of its test splits; what the assurance half says goes into the folder `release`.
    """
    begin = time.perf_counter()
    if name:
        settings = dataclasses.replace(settings, tasks=tuple(found.name for found in suite.SUITES[name].tasks))
    weights, code = run_lib.weights_hash(run.folder), files.hash_bytes(*(file.read_bytes() for file in CODE))
    key = files.hash_json([suite.outside(), weights, run.tokenizers.vocab.fingerprint, world.fingerprint, world.half, dataclasses.asdict(settings), code,
                           files.hash_bytes(*(judge.read_bytes() for judge in [Path(settings.classifier)] if judge.is_file()))])
    folder = out / "release" if world.half == "assurance" else out
    done = folder / (f"evals/{name}.json" if name else "evals_detail.json")
    if done.is_file() and (saved := files.read_json(done)).get("key") == key:
        print(f"reused {done} (same model, world and questions)")
        print_table(saved["tasks"])
        return saved["tasks"]
    tasks, album = suite.run(world, answerer.RunAnswerer(run, settings.temperature, settings.seed, settings.guidance), settings)
    if not tasks:
        raise errors.InputError(f"nothing of {', '.join(settings.tasks)} can be asked here, as said above; choose other tasks")
    seconds = time.perf_counter() - begin
    about = {
        "key": key, "model": weights, "half": world.half,
        "world": world.config.name, "world_content": world.fingerprint, "pictures": len(world.items),
        "vocabulary": run.tokenizers.vocab.fingerprint, "code": code, "num_params": run.model.config.num_params,
        "limit": settings.limit, "seed": settings.seed, "is_valid_only": settings.is_valid_only,
        "text_temperature": 0.0, "image_temperature": settings.temperature, "guidance": settings.guidance,
        "cpus": os.cpu_count(), "seconds": round(seconds, 1)}
    tasks = {each: found | {"about": {key: about[key] for key in PROTOCOL}} for each, found in tasks.items()}
    kept = others(folder, tasks, album, about) if settings.tasks and not name else {}
    save(folder, kept | tasks, album, about, name)
    print_table(tasks)
    print(f"{seconds:.0f} s; saved {done}")
    return tasks


def others(folder: Path, tasks: dict, album: album_lib.Album, about: dict) -> dict:
    """What the folder says of the tasks not asked now; what they show goes into the album. {} of other weights, another world or other code."""
    path = folder / "evals_detail.json"
    saved = files.read_json(path) if path.is_file() else {"tasks": {}}
    if {key: saved.get(key) for key in SAME} != {key: about[key] for key in SAME}:
        return {}
    known, kept = album_lib.load(folder / "evals" / "examples.safetensors"), {}
    for name in saved["tasks"].keys() - tasks.keys():
        kept[name] = {"about": {key: saved[key] for key in PROTOCOL}} | saved["tasks"][name]
        for example in (example for cell in kept[name]["splits"].values() for example in cell["examples"]):
            for part in ("prompt", "truth", "answer"):
                album.add(known.document(example[part]))
    return {name: kept[name] for name in saved["tasks"] if name in kept}


def save(folder: Path, tasks: dict, album: album_lib.Album, about: dict, name: str = "") -> None:
    """Write what `suite.run` found. The arrays go first: a detail never names one that is not there."""
    album_lib.save(album, folder / "evals" / f"{name or 'examples'}.safetensors")
    if name:
        files.write_bytes(folder / "evals" / f"{name}.png", chart.png(chart.draw(tasks)))
        if failed := failures.sheet(tasks, album):
            files.write_bytes(folder / "evals" / f"{name}_failures.png", failed)
        files.write_json(folder / "evals" / f"{name}.json", {**about, "tasks": tasks})
    else:
        files.write_json(folder / "evals_detail.json", {**about, "tasks": tasks})
        files.write_json(folder / "evals.json", suite.summary(tasks))


def print_table(tasks: dict) -> None:
    """Every figure beside chance and a baseline."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
                             caption="↓ less is better", caption_justify="left")
    has_more = any(cell["also"] for found in tasks.values() for cell in found["splits"].values())
    for name in ("task", "split", "n", "value", "95 %", "chance", "majority", "baseline", *["also"] * has_more):
        table.add_column(name, justify="left" if name in ("task", "split") else "right", no_wrap=name != "also")
    for name, found in tasks.items():
        show = task.formatter(found["unit"])
        for place, (split, cell) in enumerate(found["splits"].items()):
            interval = "" if cell["low"] is None else f"{show(cell['low'])}–{show(cell['high'])}"
            title = f"{name}{' ↓' if found['is_error'] else ''}" if place == 0 else ""
            table.add_row(title, split, str(cell["n"]), f"[bold]{show(cell['value'])}[/]", interval,
                          show(cell["chance"]), "" if cell["majority"] is None else show(cell["majority"]), show(cell["baseline"]),
                          *[", ".join(f"{key} {value:.2f}" for key, value in cell["also"].items())] * has_more, end_section=place == len(found["splits"]) - 1)
    rich.console.Console().print(table)


def print_suites() -> None:
    """Each suite and each of its tasks, in one line."""
    for name, found in suite.SUITES.items():
        print(f"{name}: {found.title}")
        for each in found.tasks:
            print(f"  {each.name:14} {each.title}")


def _names(option: str, text: str, known: dict) -> tuple[str, ...]:
    """The names of a list with commas. Raises: InputError on one that is not known."""
    names = tuple(name for name in text.split(",") if name)
    if unknown := set(names) - set(known):
        raise errors.InputError(f"{option}: must be some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    memory.keep()
    errors.run(main)
