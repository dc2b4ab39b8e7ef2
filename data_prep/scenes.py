"""Several things in one picture, to reason over: how many, which is larger, what is where, what colour, the same or not.

Things are the world's coloured shapes (for the last, any of its training pictures), scaled down and put on a white sheet of 8 x 8 codes; the split of a
problem is that of all it holds, places too.
Facts: reasoning over a picture is one of the four kinds of image understanding (Gemini report, section 5.2.1).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from data_prep import phrases, pictures, questions
from data_prep.emoji_world import World
from gemini_mini.stream import Document, Image, Text

CELL, CELLS = 16, 2   # pixels, cells on a side
COUNT, COLOUR, LARGER = "How many {name}?", "What colour is the {shape}?", "Which is larger?"
LEFT, RIGHT, SAME = "What is left?", "What is right?", phrases.SAME["en"][0]


class Scene(NamedTuple):
    """(item, cell, pixels) of each thing, sorted, so that one picture is one problem; the question, and its answer."""

    things: tuple[tuple[int, int, int], ...]
    question: str
    answer: str


def shapes(world: World) -> dict[tuple[str, str], int]:
    """{(shape, colour): item}, of the training split."""
    return {row.cell[1:]: item for item, row in enumerate(world.items) if row.cell[:1] == ("colour",) and row.split == "train"}


def count(world: World, rng: np.random.Generator) -> Scene:
    """One to four of a kind; other things in some of the free cells."""
    (wanted, other), names = _different(world, rng, 2)
    number = int(rng.integers(1, CELLS**2 + 1))
    places = rng.permutation(CELLS**2)
    things = [(wanted, place) for place in places[:number]] + [(other, place) for place in places[number:] if rng.random() < 0.5]
    return _scene(things, COUNT.format(name=f"{names[0]}s"), str(number))


def colour(world: World, rng: np.random.Generator) -> Scene:
    """A heart, a circle and a square; the colour of one."""
    known = shapes(world)
    chosen = [_one_of([cell for cell in known if cell[0] == shape], rng) for shape in pictures.SHAPES]
    asked = _one_of(chosen, rng)
    places = rng.permutation(CELLS**2)
    return _scene([(known[cell], place) for cell, place in zip(chosen, places)], COLOUR.format(shape=asked[0]), asked[1])


def larger(world: World, rng: np.random.Generator) -> Scene:
    """Two different things, one twice as wide."""
    items, names = _different(world, rng, 2)
    places = rng.permutation(CELLS**2)[:2]
    return Scene(tuple(sorted(((items[0], int(places[0]), CELL), (items[1], int(places[1]), CELL // 2)))), LARGER, names[0])


def side(world: World, rng: np.random.Generator) -> Scene:
    """Two things beside each other; the name of the one on the asked side."""
    items, names = _different(world, rng, 2)
    row, asked = int(rng.integers(CELLS)), int(rng.integers(2))
    return _scene([(item, row * CELLS + column) for column, item in enumerate(items)], (LEFT, RIGHT)[asked], names[asked])


def same(world: World, rng: np.random.Generator) -> Scene:
    """Two things that are the same picture or not, half each."""
    items = rng.choice(world.items_in("train"), 2, replace=False)
    is_same = bool(rng.integers(2))
    places = rng.permutation(CELLS**2)[:2]
    return _scene(list(zip([items[0], items[0 if is_same else 1]], places)), SAME, phrases.YES_NO["en"][0 if is_same else 1])


def show(world: World, problem: Scene) -> list[tuple[Document, Document]]:
    """One question about one picture."""
    return [([Image(compose(world, problem.things)), Text(problem.question)], [Text(problem.answer)])]


def compose(world: World, things: tuple[tuple[int, int, int], ...]) -> UInt8[np.ndarray, "side side 3"]:
    """Things on white, each in the middle of its cell."""
    sheet = np.full((CELLS * CELL, CELLS * CELL, 3), pictures.BACKGROUND, np.uint8)
    for item, cell, pixels in things:
        top, left = (CELL * place + (CELL - pixels) // 2 for place in divmod(cell, CELLS))
        sheet[top : top + pixels, left : left + pixels] = scaled(world.pictures[item], pixels)
    return sheet


def scaled(picture: UInt8[np.ndarray, "side side 3"], pixels: int) -> UInt8[np.ndarray, "pixels pixels 3"]:
    """Means of squares; `pixels` divides the side."""
    by = len(picture) // pixels
    return np.rint(picture.reshape(pixels, by, pixels, by, 3).mean(axis=(1, 3))).astype(np.uint8)


def _different(world: World, rng: np.random.Generator, number: int) -> tuple[list[int], list[str]]:
    items = [int(item) for item in rng.choice(list(shapes(world).values()), number, replace=False)]
    return items, [world.items[item].names["en"] for item in items]


def _scene(things: list, question: str, answer: str) -> Scene:
    return Scene(tuple(sorted((int(item), int(cell), CELL) for item, cell in things)), question, answer)


def _one_of(values: list, rng: np.random.Generator):
    return values[int(rng.integers(len(values)))]


GENERATORS: dict[str, questions.Generator] = {
    draw.__name__: questions.Generator(draw, show, num_documents=800, num_questions=100, key=lambda scene: scene.things) for draw in (count, colour, larger, side, same)}
