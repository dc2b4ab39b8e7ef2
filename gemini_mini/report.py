"""The page a person looks at: python -m gemini_mini.report RUN

    python -m gemini_mini.report runs/demo     writes runs/demo/report.html

One file that loads nothing from elsewhere: curves, figures beside chance and baselines, and what the
model drew, named, heard and saw. The examples shown are the first of the evaluation's own order,
never chosen by hand; wrong ones are marked and have a section of their own.
Next: evals/task.py (where the figures come from), decode/page.py (the HTML).
"""

import argparse
import base64
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from gemini_mini import errors, files, stream
from gemini_mini import vocab as vocabulary
from gemini_mini.decode import page
from gemini_mini.evals import album as album_lib
from gemini_mini.evals import task as task_lib
from gemini_mini.train import metrics as metrics_lib

NUM_SHOWN = {"draw": 24, "name": 16, "listen": 10, "speech_draw": 8, "motion": 8, "one_shot": 4, "interleaved": 4, "chat": 4,
             "translate": 12, "digits": 12, "pictures": 12}
GALLERIES = (
    ("draw", "Drawings"), ("name", "Naming pictures"), ("listen", "Listening"),
    ("speech_draw", "Drawing what it hears"), ("motion", "Watching"), ("one_shot", "One example, two new ideas"),
    ("interleaved", "Text and pictures in turn"), ("chat", "A second question"), ("translate", "Translating names"),
    ("digits", "Handwritten digits"), ("pictures", "What the image codes keep"),
)
NUM_FAILURES = 12  # of each task
PICTURE_WIDTH, SMALL_WIDTH = 84, 64
FRAME_MS = 350

SPLIT_TITLES = {
    "seen": "Seen in training", "valid": "New things (used for tuning)",
    "valid_compose": "New combinations (used for tuning)", "valid_speaker_language": "A voice in a new language (used for tuning)",
    "valid_motion": "Things in a new motion (used for tuning)", "test_concept": "Things never seen",
    "test_compose": "New combinations of known parts", "test_lang": "Known things, names never seen in this language",
    "test_speaker_language": "A known voice in a language it never spoke",
    "test_motion": "Known things in a motion never seen of them",
    "test": "Held out",
}
STYLE = """<style>
body { max-width: 70rem; }
h1 { font-size: 2rem; letter-spacing: -.02em; margin-bottom: .2rem; }
h2 { font-size: 1.35rem; border-top: 1px solid var(--line); padding-top: 1.6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
nav { font-size: .9rem; margin: 1rem 0; }
nav a { color: var(--strong); text-decoration: none; margin-right: 1rem; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1.2rem 0; }
.facts div { background: var(--soft); border-radius: 10px; padding: .5rem .9rem; }
.facts b { display: block; font-size: 1.2rem; } .facts span { font-size: .8rem; opacity: .75; }
.cards { display: flex; flex-wrap: wrap; gap: .7rem; align-items: stretch; }
.card { border: 2px solid var(--line); border-radius: 10px; padding: .45rem; font-size: .85rem;
  max-width: 100%; box-sizing: border-box; }
.card.wrong { border-color: #d64545; }
.card .ask, .card .said { margin: .2rem; overflow-wrap: anywhere; max-width: 12rem; }
.card .ask { opacity: .75; } .card .wide { max-width: none; opacity: 1; }
.card figure { margin: 0; } .card audio { height: 2rem; width: 15rem; }
.mark { font-weight: 700; } .wrong .mark { color: #d64545; } .right .mark { color: #2f9e5b; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
.chart { width: 100%; max-width: 33rem; height: auto; }
svg text { fill: currentColor; font: 11px system-ui, sans-serif; } .grid { stroke: var(--line); }
.train { stroke: var(--strong); fill: none; stroke-width: 1.6; } .valid { fill: #e8833a; stroke: none; }
.scroll { overflow-x: auto; } td[rowspan] { max-width: 16rem; } tr.first td { border-top: 2px solid var(--line); }
.number { text-align: right !important; white-space: nowrap; }
.meter { vertical-align: middle; } .key { display: inline-block; width: .8em; height: .8em; border-radius: 50%; }
</style>"""

INTRO = """<p>One decoder reads and writes text, pictures, sound and video as one stream of integers. It and its three
tokenizers were trained from scratch on this machine. Examples are the first of a fixed random order, not
chosen; a <b style="color:#d64545">red</b> border marks a wrong answer.</p>"""

CREDITS = """<p>Pictures: <a href="https://openmoji.org">OpenMoji</a>, the open-source emoji and icon project, CC BY-SA 4.0;
the model's drawings are made from them. Names: Unicode CLDR (Unicode License v3). Speech: synthesised by eSpeak NG.
Digits: the UCI handwritten digits, through scikit-learn. Prose and code: the Python documentation and standard library
(PSF License).</p>"""

Example = dict  # of evals_detail.json: prompt, truth, answer (parts), score, weight, is_right, lang


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder with evals_detail.json")
    args = parser.parse_args()
    path = write(args.run)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser")


def write(run_folder: Path) -> Path:
    """Write RUN/report.html. Raises: InputError when the run was not evaluated."""
    run_folder = Path(run_folder)
    if not (run_folder / "evals_detail.json").is_file():
        raise errors.InputError(f"{run_folder}: was not evaluated yet; run: python -m gemini_mini.evals {run_folder}")
    detail = files.read_json(run_folder / "evals_detail.json")
    started = files.read_json(run_folder / "run.json")
    records = metrics_lib.read(run_folder)
    show = Shown(album_lib.load(run_folder / "evals" / "examples.safetensors"))
    tasks = detail["tasks"]
    sections = [("made", "How it was made", _made(detail, started, records)),
                ("results", "Results", _results(detail)), ("learning", "Learning", _curves(records))]
    sections += [(name, title, _gallery(show, name, tasks[name])) for name, title in GALLERIES if name in tasks]
    sections += [("failures", "Failures", _failures(show, tasks)), ("credits", "Credits", CREDITS)]
    links = "".join(f'<a href="#{key}">{page.escape(title)}</a>' for key, title, _ in sections)
    body = "".join(f'<h2 id="{key}">{page.escape(title)}</h2>{content}' for key, title, content in sections)
    path = run_folder / "report.html"
    page.write(path, "gemini_mini: what the model learned", f"{STYLE}{INTRO}<nav>{links}</nav>{body}")
    return path


# How it was made, and the figures


def _made(detail: dict, started: dict, records: Sequence[dict]) -> str:
    task = started["settings"].get("task", {})
    facts = [(f"{detail['num_params'] / 1e6:.1f} M", "parameters"), (f"{started['steps']:,}", "steps")]
    row_tokens = _row_tokens(task)
    speeds = [(r["step"], r["tokens_per_s"]) for r in records if r.get("tokens_per_s")]
    if row_tokens:
        step_tokens = task["batch_rows"] * row_tokens
        facts.append((f"{started['steps'] * step_tokens / 1e6:.1f} M", "tokens read"))
        before = [0, *(step for step, _ in speeds)]
        seconds = sum((step - last) * step_tokens / speed for (step, speed), last in zip(speeds, before))
        facts.append((f"{seconds / 60:.1f} min", "to train the decoder"))
    if speeds:
        facts.append((f"{np.median([speed for _, speed in speeds]):,.0f}", "tokens per second"))
    facts += [(str(detail["cpus"]), "CPU cores"), (str(detail["pictures"]), "pictures in its world"),
              (f"{sum(found['seconds'] for found in detail['tasks'].values()):.0f} s", "to evaluate")]
    tiles = "".join(f"<div><b>{page.escape(value)}</b><span>{page.escape(name)}</span></div>" for value, name in facts)
    how = " ".join(task_lib.protocols(detail))
    return f'<div class="facts">{tiles}</div><p class="note">{page.escape(how)}</p>'


def _row_tokens(task: dict) -> int:
    """Row length of the packed rows; 0 when they are gone."""
    path = Path(task.get("rows", "")) / "train" / "rows.json"
    return files.read_json(path)["row_tokens"] if path.is_file() else 0


def _results(detail: dict) -> str:
    rows = []
    for task in detail["tasks"].values():
        show, spans = task_lib.formatter(task["unit"]), f" rowspan={len(task['splits'])}"
        notes = f"{task['unit']}{', less is better' if task['is_error'] else ''}"
        what = (f"<td{spans}><b>{page.escape(task['title'])}</b><br><span class='note'>{page.escape(notes)}<br>"
                f"baseline: {page.escape(task['baseline_title'])}</span></td>")
        for place, (split, found) in enumerate(task["splits"].items()):
            interval = "" if found["low"] is None else f"{show(found['low'])} – {show(found['high'])}"
            cells = "".join(f"<td class=number>{cell}</td>" for cell in (
                found["n"], f"<b>{show(found['value'])}</b>", interval, show(found["chance"]),
                "" if found["majority"] is None else show(found["majority"]), show(found["baseline"])))
            meter = _meter(found) if task["unit"] in task_lib.SHARES else ""
            first = (" class=first", what) if place == 0 else ("", "")
            title = f"<td title='{page.escape(_split_title(split))}'>{page.escape(split)}</td>"
            rows.append(f"<tr{first[0]}>{first[1]}{title}{cells}<td>{meter}</td></tr>")
    header = "".join(f"<th{' class=number' if name in _NUMBERS else ''}>{name}</th>"
                     for name in ("task", "split", *_NUMBERS, ""))
    meaning = "".join(f"<li><b>{split}</b>: {page.escape(title)}" for split, title in SPLIT_TITLES.items())
    key = ('<p class="note">Bars: <span class="key" style="background:var(--strong)"></span> value, line: 95 % interval, '
           '<span class="key" style="background:#e8833a"></span> baseline. Chance is a blind guess, majority the most frequent answer; an interval takes questions about one thing as one.</p>')
    return (f'{key}<div class="scroll"><table><tr>{header}</tr>{"".join(rows)}</table></div>'
            f"<details><summary>What the splits hold out</summary><ul>{meaning}</ul></details>")


_NUMBERS = ("n", "value", "95 %", "chance", "majority", "baseline")


def _meter(found: dict, width: int = 120) -> str:
    """A share as a bar, its 95 % interval as a line, the baseline as a tick."""
    value, low, high, baseline = (width * min(1.0, max(0.0, found[k])) for k in ("value", "low", "high", "baseline"))
    return (f'<svg class="meter" width="{width}" height="16" role="img" aria-label="{found["value"]:.2f}">'
            f'<rect width="{width}" height="10" y="3" rx="3" fill="var(--soft)"/>'
            f'<rect width="{value:.1f}" height="10" y="3" rx="3" fill="var(--strong)" opacity=".75"/>'
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="8" y2="8" stroke="currentColor"/>'
            f'<line x1="{baseline:.1f}" x2="{baseline:.1f}" y1="0" y2="16" stroke="#e8833a" stroke-width="2"/></svg>')


def _split_title(split: str) -> str:
    if split in SPLIT_TITLES:
        return SPLIT_TITLES[split]
    return f"Seen in training, {split.removeprefix('seen_')}" if split.startswith("seen_") else split


# Curves


def _curves(records: Sequence[dict]) -> str:
    """Loss of each modality, in nats per token, in training and on the validation rows."""
    charts = []
    for modality in vocabulary.MODALITIES:
        name = f"loss/{modality}"
        # A batch or a source without this modality counts no token of it and says 0.
        train = [(float(r["step"]), r[name]) for r in records if r.get(name, 0.0) > 0]
        valid = []
        for record in records:
            found = [v for k, v in record.items() if k.startswith("valid/") and k.endswith(f"/{name}") and v > 0]
            valid += [(float(record["step"]), float(np.mean(found)))] if found else []
        if train or valid:
            charts.append(curve(modality, train, valid))
    if not charts:
        return "<p class='note'>This run holds no metrics.</p>"
    key = ('<p class="note"><span class="key" style="background:var(--strong)"></span> training '
           '<span class="key" style="background:#e8833a"></span> validation: questions held out for tuning, mean over their sources '
           "· nats per token</p>")
    return f'{key}<div class="charts">{"".join(charts)}</div>'


def curve(title: str, line: Sequence[tuple[float, float]], dots: Sequence[tuple[float, float]]) -> str:
    """An SVG of a line and some dots over steps; not finite values are left out."""
    line, dots = ([(x, y) for x, y in points if math.isfinite(y)] for points in (line, dots))
    points = [*line, *dots]
    if not points:
        return ""
    width, height, left, bottom, top = 360, 200, 36, 22, 24
    last = max(x for x, _ in points) or 1.0
    ticks = _ticks(max(y for _, y in points))
    high = max(ticks[-1], max(y for _, y in points))

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (width - left - 16) * x / last, height - bottom - (height - bottom - top) * y / high

    parts = []
    for tick in ticks:
        y = place(0.0, tick)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 8}" y1="{y:.1f}" y2="{y:.1f}"/>'
                     f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(last):
        parts.append(f'<text x="{place(tick, 0.0)[0]:.1f}" y="{height - 6}" text-anchor="middle">{tick:g}</text>')
    path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in line)
    parts.append(f'<polyline class="train" points="{path}"/>')
    for x, y in dots:
        at = place(x, y)
        parts.append(f'<circle class="valid" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3.5">'
                     f"<title>step {x:g}: {y:.3f}</title></circle>")
    end = f" · {line[-1][1]:.2f}" if line else ""
    return (f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="loss of {page.escape(title)}">'
            f'<text x="{left}" y="14" style="font-weight:600">{page.escape(title + end)}</text>{"".join(parts)}</svg>')


def _ticks(high: float, most: int = 5) -> list[float]:
    """Round numbers from 0 to at most `high`."""
    span = max(high, 1e-9)
    base = 10.0 ** math.floor(math.log10(span / most))
    step = next(base * m for m in (1, 2, 5, 10) if span / (base * m) <= most)
    return [step * i for i in range(int(span / step + 1e-9) + 1)]


# Examples


class Shown:
    """Examples of the evaluation as HTML."""

    def __init__(self, album: album_lib.Album):
        self.album = album

    def card(self, task: str, example: Example) -> str:
        """One question, what the model said, and the truth where it differs."""
        prompt, truth, answer = (self.album.document(example[name]) for name in ("prompt", "truth", "answer"))
        return _card(_CONTENT.get(task, _plain)(prompt, truth, answer, example), example["is_right"])


def _card(content: str, is_right: bool) -> str:
    return f'<div class="card {"right" if is_right else "wrong"}">{content}</div>'


def _gallery(show: Shown, name: str, task: dict) -> str:
    parts = []
    for split, found in task["splits"].items():
        value = task_lib.formatter(task["unit"])(found["value"])
        shown = found["examples"][: max(4, NUM_SHOWN[name] // (4 if split.startswith("seen_") else 1))]
        parts.append(f"<h3>{page.escape(_split_title(split))}</h3><p class='note'>{page.escape(task['unit'])} {value} "
                     f"over {found['n']}; the first {len(shown)} are</p>")
        parts.append(f'<div class="cards">{"".join(show.card(name, example) for example in shown)}</div>')
    return "".join(parts)


def _failures(show: Shown, tasks: dict) -> str:
    parts = ["<p>The first wrong answers of each task over all splits.</p>"]
    for name, task in tasks.items():
        wrong = [e for found in task["splits"].values() for e in found["examples"] if not e["is_right"]]
        asked = sum(len(found["examples"]) for found in task["splits"].values())
        if wrong:
            cards = "".join(show.card(name, example) for example in _spread(task, NUM_FAILURES))
            parts.append(f"<h3>{page.escape(task['title'])}: {len(wrong)} of {asked} wrong</h3>"
                         f"<div class='cards'>{cards}</div>")
    return "".join(parts)


def _spread(task: dict, most: int) -> list[Example]:
    """The first wrong examples, the splits taking turns."""
    return [example for _, example in task_lib.wrong(task)[:most]]


def _asked(prompt: stream.Document) -> str:
    words = " ".join(part.text for part in prompt if isinstance(part, stream.Text))
    return f'<p class="ask" dir="auto">{page.escape(words)}</p>'


def _said(answer: stream.Document, truth: stream.Document, is_right: bool) -> str:
    said = page.escape(task_lib.words(answer)) or "<i>nothing</i>"
    mark = '<span class="mark">✓</span>' if is_right else '<span class="mark">✗</span>'
    correct = "" if is_right else f'<br><span class="note">truth: {page.escape(task_lib.words(truth))}</span>'
    correct = correct if task_lib.words(truth) else ""  # where a picture was asked for
    return f'<p class="said" dir="auto">{mark} {said}{correct}</p>'


def _image(pixels: np.ndarray, caption: str, width: int = PICTURE_WIDTH) -> str:
    return page.figure(page.picture(pixels, caption, width), caption)


def _drawing(prompt, truth, answer, example) -> str:
    """Drawn beside real."""
    drawn = "".join(_image(pixels, "drawn") for pixels in task_lib.images(answer)[:3])
    real = "".join(_image(pixels, "real") for pixels in task_lib.images(truth))
    sounds = "".join(page.sound(part.samples) + "<br>" for part in prompt if isinstance(part, stream.Audio))
    said = _said(answer, truth, example["is_right"]) if task_lib.words(answer) or not drawn else ""
    return f"{_asked(prompt)}{sounds}{said}{drawn}{real}"


def _picture_named(prompt, truth, answer, example) -> str:
    shown = "".join(page.picture(pixels, "asked about", SMALL_WIDTH) for pixels in task_lib.images(prompt))
    return shown + _said(answer, truth, example["is_right"])


def _heard(prompt, truth, answer, example) -> str:
    sounds = "".join(page.sound(part.samples) for part in prompt if isinstance(part, stream.Audio))
    return sounds + _said(answer, truth, example["is_right"])


def _watched(prompt, truth, answer, example) -> str:
    clips = "".join(animation(part.frames) for part in prompt if isinstance(part, stream.Video))
    return clips + _said(answer, truth, example["is_right"])


def _conversation(prompt, truth, answer, example) -> str:
    """Prompt, answer and truth, each with its parts in their order."""
    lines = []
    for name, document in (("asked", prompt), ("answer", answer), ("real", truth)):
        parts = [f'<span dir="auto">{page.escape(part.text)}</span> ' if isinstance(part, stream.Text)
                 else page.picture(part.pixels, name, SMALL_WIDTH) for part in document
                 if isinstance(part, stream.Text | stream.Image)]
        lines.append(f'<p class="ask wide"><span class="note">{name}</span> {"".join(parts) or "<i>nothing</i>"}</p>')
    return "".join(lines)


def _kept(prompt, truth, answer, example) -> str:
    before, after = task_lib.images(truth)[0], task_lib.images(answer)[0]
    return _image(before, "real", SMALL_WIDTH) + _image(after, f"{example['score']:.1f} dB", SMALL_WIDTH)


def _plain(prompt, truth, answer, example) -> str:
    return _asked(prompt) + _said(answer, truth, example["is_right"])


_CONTENT: dict[str, Callable[[stream.Document, stream.Document, stream.Document, Example], str]] = {
    "draw": _drawing, "draw_chosen": _drawing, "speech_draw": _drawing, "name": _picture_named, "name_word": _picture_named, "digits": _picture_named, "listen": _heard,
    "motion": _watched, "one_shot": _conversation, "interleaved": _conversation, "chat": _conversation, "pictures": _kept,
}


def animation(frames: np.ndarray, width: int = PICTURE_WIDTH) -> str:
    """Frames [frames, height, width, 3] as an animated PNG."""
    images = [PIL.Image.fromarray(frame) for frame in frames]
    png = io.BytesIO()
    images[0].save(png, "PNG", save_all=True, append_images=images[1:], duration=FRAME_MS, loop=0)
    uri = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    height = width * frames.shape[1] // frames.shape[2]
    return f'<img class="pixels" width="{width}" height="{height}" alt="clip" src="{uri}">'


if __name__ == "__main__":
    errors.run(main)
