"""A picture from pictures alone, with no words: A is to B as C is to what?

    [user] red heart, blue heart, red square  [model] blue square

What changes is one factor of a table of the world's (data_prep/pictures.py: colour and shape, gender and skin
tone, hour and half); pictures are those of the training split. The four say the split: they are never all together in training.
Facts: pictures that no words stand between (Gemini report, section 5.2.3).
"""

from typing import NamedTuple

import numpy as np

from data_prep import questions
from data_prep.emoji_world import World
from gemini_mini.stream import Document


class Analogy(NamedTuple):
    """Items: first and changed, asked, answer."""

    first: int
    changed: int
    asked: int
    answer: int


def tables(world: World) -> list[dict[tuple[str, str], int]]:
    """{(one factor, the other): item} of every table of the training split; each role is one."""
    found: dict[tuple[str, ...], dict[tuple[str, str], int]] = {}
    for item, row in enumerate(world.items):
        if row.cell and row.split == "train":
            found.setdefault(row.cell[:-2], {})[row.cell[-2:]] = item
    return list(found.values())


def draw(world: World, rng: np.random.Generator) -> Analogy:
    known = tables(world)
    while True:
        table = known[int(rng.integers(len(known)))]
        cells = list(table)
        (a, b), (c, d) = (cells[int(i)] for i in rng.integers(len(cells), size=2))
        square = [(a, b), (a, d), (c, b), (c, d)]
        if a != c and b != d and all(cell in table for cell in square):
            # Either factor is the one that changes.
            return Analogy(*(table[square[i]] for i in ((0, 1, 2, 3) if rng.random() < 0.5 else (0, 2, 1, 3))))


def show(world: World, problem: Analogy) -> list[tuple[Document, Document]]:
    return [([world.picture(item) for item in problem[:3]], [world.picture(problem.answer)])]


ANALOGY = questions.Generator(draw, show, num_documents=1000, num_questions=40, key=sorted)
