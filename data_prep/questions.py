"""Questions and answers: their shape, and how kinds of them are made by rule rather than taken from a world.

A generator draws a problem (a value that says all that is asked) and shows it as turns of a chat: the last
is asked, those before it stand in the prompt with their answers. The problem's hash says its split, so training
never shows what is asked in evaluation, whatever the seeds:

    draw(world, rng) -> problem ──hash──▶ train 80 %, valid 10 %, test 10 %
    show(world, problem) -> [(question, answer), ...]

Nothing is stored in the world: documents are made where they are packed, questions where they are asked.
Next: documents.py, which lists the generators.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_prep import splits
from data_prep.emoji_world import World
from gemini_mini import stream
from gemini_mini.stream import Document

USER, MODEL = stream.Role("user"), stream.Role("model")
VALID_PERCENT, TEST_PERCENT = 10, 10
MOST_DRAWS = 200  # for each question: where a split has fewer problems, fewer are asked


class Example(NamedTuple):
    """A question and the answer it should get. `prompt` ends with the model's role."""

    prompt: Document
    answer: Document
    item: int     # the item (or digit) asked for; the first of several; the number of a problem
    lang: str


class Generator(NamedTuple):
    """One kind of question made by rule. A problem is a value whose `repr` holds all that is asked."""

    draw: Callable[[World, np.random.Generator], Any]
    show: Callable[[World, Any], list[tuple[Document, Document]]]
    num_documents: int  # in one pass of training
    num_questions: int = 200  # in each split of an evaluation
    family: str = ""  # several that show the same problems in different ways, and therefore split them alike
    key: Callable[[Any], Any] = repr  # what of a problem says its split, where others ask about the same


def turn(question: Document, answer: Document) -> Document:
    """One turn of a chat."""
    return [USER, *question, MODEL, *answer]


def chat(turns: Sequence[tuple[Document, Document]]) -> Document:
    """All turns, answered."""
    return [part for question, answer in turns for part in turn(question, answer)]


def example(question: Document, answer: Document, item: int, lang: str) -> Example:
    """A question as it is asked in an evaluation."""
    return Example([USER, *question, MODEL], answer, item, lang)


def last(turns: Sequence[tuple[Document, Document]], number: int) -> Example:
    """The last turn as it is asked, after those before it."""
    *before, (question, answer) = turns
    return Example([*chat(before), USER, *question, MODEL], answer, number, "en")


def rng_of(name: str, seed: int, variant: int) -> np.random.Generator:
    """The chance of one pass over one source."""
    return np.random.default_rng([seed, variant, splits.bucket(name, 1 << 32)])


def split_of(name: str, key: Any) -> str:
    """train, valid or test: a function of the problem's key alone."""
    chance = splits.bucket(f"{name} {key}")
    if chance < TEST_PERCENT:
        return "test"
    return "valid" if chance < TEST_PERCENT + VALID_PERCENT else "train"


def documents(name: str, made: Generator, world: World, rng: np.random.Generator) -> Iterator[Document]:
    """One pass of training documents."""
    problems = _problems(name, made, world, rng, "train", itertools.count())
    for problem in itertools.islice(problems, made.num_documents):
        yield chat(made.show(world, problem))


def examples(name: str, made: Generator, world: World, split: str) -> list[Example]:
    """Questions of one split, the same at each call; those of "train" are the first that training reads."""
    return [last(made.show(world, problem), number) for number, problem in enumerate(problems(name, made, world, split))]


def problems(name: str, made: Generator, world: World, split: str) -> Iterator[Any]:
    """Different problems of one split, behind `examples`."""
    if split not in ("train", "valid", "test"):
        return
    rng = rng_of(name, 0, 0) if split == "train" else rng_of(f"{name} {split}", 0, 0)
    found: set[str] = set()
    for problem in _problems(name, made, world, rng, split, range(made.num_questions * MOST_DRAWS)):
        if len(found) == made.num_questions:
            return
        if repr(problem) not in found:
            found.add(repr(problem))
            yield problem


def _problems(
    name: str, made: Generator, world: World, rng: np.random.Generator, split: str, draws: Iterable[int]
) -> Iterator[Any]:
    """The problems of one split among so many drawn."""
    for _ in draws:
        problem = made.draw(world, rng)
        key = made.key(problem)
        if split_of(name, key) == split and (split != "test" or world.shows(f"{name} {key}")):
            yield problem
