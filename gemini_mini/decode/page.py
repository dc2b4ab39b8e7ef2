"""Self-contained HTML: pictures, sounds and text in one file that opens anywhere.

Everything is inside the file (data URIs, one style sheet, no script), so a page can be mailed or
kept. The helpers return strings of HTML; `write` puts them into the shell. The evaluation's report
is made of the same helpers.
Next: ../../sample.py.
"""

import base64
import html
import io
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import soundfile
from jaxtyping import Float32, UInt8

from gemini_mini import errors, files, stream

PICTURE_WIDTH = 160  # pixels on the page of a picture, blown up without smoothing
COLOURS = "--line: #8884; --soft: #8881; --strong: #2a6fdb;"
PARTS_STYLE = """
img.pixels { image-rendering: pixelated; border-radius: 4px; vertical-align: top; margin: .25rem; }
.turn { border: 1px solid var(--line); border-radius: 12px; padding: .6rem 1rem; margin: .8rem 0; }
.turn.user { background: var(--soft); margin-right: 4rem; } .turn.model { margin-left: 4rem; }
.turn > small { color: var(--strong); font-weight: 600; display: block; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
figure { display: inline-block; margin: .2rem; text-align: center; vertical-align: top; }
figcaption, .note { font-size: .85rem; opacity: .75; }
audio { vertical-align: middle; }
"""
STYLE = """
:root { color-scheme: light dark; """ + COLOURS + """ }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 60rem; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .8rem; text-align: left; vertical-align: top; }
""" + PARTS_STYLE


def escape(text: object) -> str:
    """Any value as text that is safe inside HTML and its attributes."""
    return html.escape(str(text))


def text(string: str) -> str:
    """Running text; spaces and line ends are kept."""
    return f'<span class="text">{escape(string)}</span>'


def picture(pixels: UInt8[np.ndarray, "height width 3"], alt: str = "", width: int = PICTURE_WIDTH) -> str:
    """A picture blown up to `width` pixels, every source pixel a sharp square."""
    height = max(1, round(width * pixels.shape[0] / pixels.shape[1]))
    png = io.BytesIO()
    PIL.Image.fromarray(pixels).save(png, "PNG")
    return (f'<img class="pixels" width="{width}" height="{height}" alt="{escape(alt)}" '
            f'src="{_data_uri("image/png", png.getvalue())}">')


def sound(samples: Float32[np.ndarray, "samples"], rate_hz: int = stream.SAMPLE_RATE_HZ) -> str:
    """A sound with controls to play it."""
    wav = io.BytesIO()
    soundfile.write(wav, np.clip(samples, -1, 1), rate_hz, format="WAV", subtype="PCM_16")
    return f'<audio controls src="{_data_uri("audio/wav", wav.getvalue())}"></audio>'


def figure(content: str, caption: object) -> str:
    """Something with a caption below."""
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """A table of HTML cells; numbers and names go through `escape` first."""
    head = "<tr>" + "".join(f"<th>{cell}</th>" for cell in header) + "</tr>" if header else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{head}{body}</table>"


def within(content: str) -> str:
    """HTML for somebody else's page, such as a notebook: its style holds for itself alone."""
    return f'<div class="gemini-mini"><style>.gemini-mini {{ {COLOURS} {PARTS_STYLE} }}</style>{content}</div>'


def part(content: stream.Part) -> str:
    """One part of a document."""
    match content:
        case stream.Text(string):
            return text(string)
        case stream.Image(pixels):
            return picture(pixels, "picture")
        case stream.Audio(samples):
            return sound(samples)
        case stream.Video(frames, seconds):
            return "".join(figure(picture(frame, "frame", PICTURE_WIDTH // 2), f"{at:.1f} s")
                           for frame, at in zip(frames, seconds))
    raise TypeError(f"page: cannot show a {type(content).__name__}")


def conversation(document: stream.Document) -> str:
    """A document as turns: what stands before the first role belongs to the user."""
    turns: list[tuple[str, list[str]]] = [("user", [])]
    for content in document:
        if isinstance(content, stream.Role):
            turns.append((content.name, []))
        else:
            turns[-1][1].append(part(content))
    return "".join(turn(name, "".join(parts)) for name, parts in turns if parts or name == "model")


def turn(name: str, content: str) -> str:
    """One speaker's turn."""
    shown = content or '<span class="note">(no answer)</span>'
    return f'<div class="turn {escape(name)}"><small>{escape(name)}</small>{shown}</div>'


def write(path: str | Path, title: str, body: str) -> None:
    """Write a page, whole or not at all."""
    name = escape(title)
    files.write_bytes(path, (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{name}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style>\n'
        f"<h1>{name}</h1>\n{body}\n</html>\n").encode(errors="replace"))


def check_folder(folder: str | Path | None) -> None:
    """Raise InputError when the folder asked for holds something already, or is a file."""
    if folder is not None and Path(folder).exists() and (Path(folder).is_file() or any(Path(folder).iterdir())):
        raise errors.InputError(f"{folder}: must be new or empty, so that nothing is overwritten; choose another --out")


def fresh_folder(folder: str | Path | None, name: str) -> Path:
    """Make `folder`, or when there is none asked for the first out/<name>-<n> that does not exist."""
    check_folder(folder)
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return Path(folder)
    for number in itertools.count(1):
        path = Path("out", f"{name}-{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
