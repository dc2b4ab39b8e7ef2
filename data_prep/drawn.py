"""Writing and charts in pictures: numbers and words to read, bars and tables to look up.

The same problem is shown at 4 x 4, 8 x 8 or 16 x 16 codes: drawn once at 64 pixels and averaged down, as a
camera would, so what is lost is lost in the picture. Its split is that of what is written, or of the whole chart, whatever
is asked about it; fonts and places vary within.
Sources: fonts that come with matplotlib (DejaVu, Bitstream Vera licence; STIX, SIL OFL) and charts drawn by it.
Facts: fine reading and charts are two of the four kinds of image understanding (Gemini report, section 5.2.1).
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from data_prep import pictures, questions
from data_prep.emoji_world import World
from gemini_mini.stream import Document, Image as Picture, Text

try:
    import matplotlib
    import matplotlib.backends.backend_agg
    import matplotlib.figure
except ImportError:
    matplotlib = None

SIDE = 64                # pixels of a picture before it is averaged down
PIXELS_PER_CODE = 4
CODES = (4, 8, 16)       # a side
FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono-Bold", "STIXGeneral")
FONT_PIXELS = (18, 21)   # least and most: three of the widest letters fit
MOST_DIGITS = MOST_LETTERS = 3
BAR_COLOURS = {"red": "#d22f27", "green": "#5c9e31", "blue": "#1e50a0", "orange": "#e27022"}
NUM_BARS, MOST_HEIGHT = 3, 9
READ, BAR, TABLE = "Read it.", "How high is {colour}?", "What is in {colour} {column}?"


class Writing(NamedTuple):
    """What is written and how. Its `repr`, which says the split, is what is written alone."""

    text: str
    font: int
    pixels: int
    left: float  # 0 to 1, of the free space
    top: float

    def __repr__(self) -> str:
        return self.text


class Bars(NamedTuple):
    """Heights in the order of the colours, and the number of the asked one."""

    colours: tuple[str, ...]
    heights: tuple[int, ...]
    asked: int


class Table(NamedTuple):
    """Digits in rows that have a colour; the asked row and column."""

    colours: tuple[str, ...]
    cells: tuple[tuple[int, ...], ...]
    row: int
    column: int


def number(world: World, rng: np.random.Generator) -> Writing:
    """A number of up to MOST_DIGITS digits, each length as likely."""
    digits = rng.integers(10, size=rng.integers(1, MOST_DIGITS + 1))
    return _style("".join(map(str, digits)), rng)


def word(world: World, rng: np.random.Generator) -> Writing:
    """Up to MOST_LETTERS letters that are no word: nothing but the picture says them."""
    letters = rng.integers(26, size=rng.integers(1, MOST_LETTERS + 1))
    return _style("".join(chr(ord("A") + letter) for letter in letters), rng)


def bars(world: World, rng: np.random.Generator) -> Bars:
    heights = tuple(int(h) for h in rng.integers(1, MOST_HEIGHT + 1, NUM_BARS))
    return Bars(_colours(rng, NUM_BARS), heights, int(rng.integers(NUM_BARS)))


def table(world: World, rng: np.random.Generator) -> Table:
    cells = tuple(tuple(int(d) for d in row) for row in rng.integers(10, size=(2, 2)))
    return Table(_colours(rng, 2), cells, *(int(i) for i in rng.integers(2, size=2)))


def show_writing(codes: int, world: World, problem: Writing) -> list[tuple[Document, Document]]:
    """The question at `codes` a side."""
    return [([Picture(shrink(write(problem), codes)), Text(READ)], [Text(problem.text)])]


def show_bars(codes: int, world: World, problem: Bars) -> list[tuple[Document, Document]]:
    ask = BAR.format(colour=problem.colours[problem.asked])
    return [([Picture(shrink(plot(problem.colours, problem.heights), codes)), Text(ask)],
             [Text(str(problem.heights[problem.asked]))])]


def show_table(codes: int, world: World, problem: Table) -> list[tuple[Document, Document]]:
    ask = TABLE.format(colour=problem.colours[problem.row], column="AB"[problem.column])
    return [([Picture(shrink(tabulate(problem.colours, problem.cells), codes)), Text(ask)],
             [Text(str(problem.cells[problem.row][problem.column]))])]


def shrink(large: UInt8[np.ndarray, "side side 3"], codes: int) -> UInt8[np.ndarray, "size size 3"]:
    """Means of squares, so that `codes` codes stand on a side."""
    size = codes * PIXELS_PER_CODE
    by = len(large) // size
    return np.rint(large.reshape(size, by, size, by, 3).mean(axis=(1, 3))).astype(np.uint8)


def write(problem: Writing) -> UInt8[np.ndarray, "side side 3"]:
    """Black on white, all of it within the picture."""
    font = _font(FONTS[problem.font], problem.pixels)
    left, top, right, bottom = font.getbbox(problem.text)
    sheet = Image.new("RGB", (SIDE, SIDE), pictures.BACKGROUND)
    place = (round(problem.left * (SIDE - (right - left))) - left, round(problem.top * (SIDE - (bottom - top))) - top)
    ImageDraw.Draw(sheet).text(place, problem.text, fill=(0, 0, 0), font=font)
    return np.asarray(sheet)


@functools.lru_cache(maxsize=4096)   # 15 ms each; the same problems are shown at several sizes
def plot(colours: tuple[str, ...], heights: tuple[int, ...]) -> UInt8[np.ndarray, "side side 3"]:
    """A bar chart by matplotlib, with an axis from 0 to 10."""
    sheet, axes = _sheet([0.16, 0.05, 0.82, 0.9])
    axes.bar(range(len(heights)), heights, color=[BAR_COLOURS[colour] for colour in colours])
    axes.set_ylim(0, MOST_HEIGHT + 1)
    axes.set_xticks([])
    axes.set_yticks([0, 5, 10], ["0", "5", "10"], fontsize=6)
    axes.grid(axis="y", linewidth=0.5)
    return _pixels(sheet)


@functools.lru_cache(maxsize=4096)
def tabulate(colours: tuple[str, ...], cells: tuple[tuple[int, ...], ...]) -> UInt8[np.ndarray, "side side 3"]:
    """A table by matplotlib: columns are headed by letters, rows by colours."""
    sheet, axes = _sheet([0.02, 0.02, 0.96, 0.96])
    axes.set_axis_off()
    rows = [["", *"AB"[: len(cells[0])]], *(["", *map(str, row)] for row in cells)]
    fills = [["white"] * len(rows[0]), *([BAR_COLOURS[colour], *["white"] * len(row)] for colour, row in zip(colours, cells))]
    drawn = axes.table(rows, fills, cellLoc="center", bbox=[0, 0, 1, 1])
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(13)
    return _pixels(sheet)


def _sheet(box: list[float]) -> tuple[Any, Any]:
    """A figure of SIDE pixels and the axes that fill `box` of it. Raises: InputError without matplotlib."""
    _require()
    sheet = matplotlib.figure.Figure((SIDE / 100, SIDE / 100), dpi=100)
    return sheet, sheet.add_axes(box)


def _pixels(sheet: Any) -> np.ndarray:
    canvas = matplotlib.backends.backend_agg.FigureCanvasAgg(sheet)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@functools.cache
def _font(name: str, pixels: int) -> Any:
    _require()
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf", pixels)


def _require() -> None:
    if matplotlib is None:
        raise pictures.missing_package("matplotlib")


def _style(text: str, rng: np.random.Generator) -> Writing:
    low, high = FONT_PIXELS
    return Writing(text, int(rng.integers(len(FONTS))), int(rng.integers(low, high + 1)), float(rng.random()), float(rng.random()))


def _colours(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    return tuple(str(colour) for colour in rng.choice(list(BAR_COLOURS), count, replace=False))


def _chart(problem: Bars | Table) -> tuple:
    """All of it but what is asked."""
    return problem[:2]


def _at_sizes(name: str, draw: Any, show: Any, num_documents: int, key: Any = repr) -> dict[str, questions.Generator]:
    """One kind of question at every size; all of one family, so that their splits and questions are the same."""
    return {f"{name}_{codes}": questions.Generator(draw, functools.partial(show, codes), num_documents, num_questions=80, family=name, key=key)
            for codes in CODES}


GENERATORS: dict[str, questions.Generator] = (
    _at_sizes("number", number, show_writing, 1200) | _at_sizes("word", word, show_writing, 1200)
    | _at_sizes("bars", bars, show_bars, 600, _chart) | _at_sizes("table", table, show_table, 600, _chart)
)
