"""Long contexts: is something far back found, and does what stands far back help?

Three needles (data_prep/needles.py) at five depths of contexts of a quarter of a training row to four rows, as far
as the model can read: a heat map each. And the surprise at each position of long held-out documents, which should
fall to the end; reading that begins anew at every window is its baseline.
Facts: 98 % of key-value pairs found at 32k, and loss that falls with position (Gemini report, section 5.1.5, figure 4);
needles at each depth and length (Gemini 1.5 Pro).
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from data_prep import documents, needles, questions, world_documents
from gemini_mini import progress, stream
from gemini_mini.evals import judges, task

LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the longest row in training
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
ROOM_TOKENS = 12  # for an answer, within the length
WINDOW_TOKENS = 64
LONG_TEXTS = 24
POSITIONS = 8  # bins, each up to twice as far as the one before


class Needle(NamedTuple):
    """A kind of problem that can be given any size."""

    sized: Callable[[Any, int, float], Any]  # (problem, size, depth) -> problem
    num_choices: Callable[[Any], int]  # that a guess has
    guess: Callable[[Any], str]  # an answer without looking
    sizes: range
    share: float  # of the limit, for each cell


def _needles(kind: str, needle: Needle, baseline_title: str, exam: task.Exam) -> dict:
    """Ask at each depth of each length that the model can read."""
    model, made = exam.model, documents.GENERATORS[kind]
    split = exam.settings.held_out
    drawn = list(itertools.islice(questions.problems(kind, made, exam.world, split), math.ceil(exam.settings.limit * needle.share)))
    context, splits = task.Context(exam.world, [], exam.gallery), {}

    def ask(problem: Any, number: int = 0) -> task.Example:
        return questions.last(made.show(exam.world, problem)[:1], number)

    def fits(problem: Any, size: int, depth: float, length: int) -> bool:
        return model.lengths([ask(needle.sized(problem, size, depth)).prompt])[0] + ROOM_TOKENS <= length

    lengths = [round(share * model.row_tokens) for share in LENGTHS]
    lengths = [length for length in lengths if length <= model.context_tokens]
    with progress.bar(kind, len(lengths) * len(DEPTHS), "cells") as bar:
        for length in lengths:
            # Each problem has as much around its needle as there is room for: prose and speech are not equally dense.
            sizes = [_largest(needle.sizes, lambda size: fits(problem, size, 0.5, length)) for problem in drawn]
            for depth in DEPTHS:
                problems = []
                for problem, size in zip(drawn, sizes, strict=True):
                    while size in needle.sizes and not fits(problem, size, depth, length):
                        size -= 1 + size // 50
                    if size in needle.sizes:
                        problems.append(needle.sized(problem, size, depth))
                bar.advance()
                if not problems:
                    continue
                examples = [ask(problem, number) for number, problem in enumerate(problems)]
                answers = model.answer([e.prompt for e in examples], ROOM_TOKENS, lambda n: None)
                judged = judges.is_same_text(context, examples, answers)
                guesses = judges.is_same_text(context, examples, [[stream.Text(needle.guess(problem))] for problem in problems])
                chance = float(np.mean([1 / needle.num_choices(problem) for problem in problems]))
                splits[f"{split}: {length} ids, depth {depth:.0%}"] = {
                    **task.cell(judged, False, chance, task.figure(guesses, False)["value"], task.in_words(examples[0].prompt)),
                    "length": length, "depth": depth, "is_trained_length": length <= model.row_tokens,
                    "examples": [task.answered(exam.album, e, a, j, False) for e, a, j in zip(examples, answers, judged)]}
    return {"is_error": False, "unit": "accuracy", "baseline_title": baseline_title, "splits": splits}


def _largest(sizes: range, fits: Callable[[int], bool]) -> int:
    """The largest size that fits, 0 if none does; whatever fits, smaller fits too."""
    low, step = -1, 1
    while low + step < len(sizes) and fits(sizes[low + step]):  # from small to large: what is tried is encoded, and far too long is dear
        low, step = low + step, 2 * step
    high = min(low + step, len(sizes))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(sizes[middle]) else (low, middle)
    return sizes[low] if low >= 0 else 0


def _by_position(exam: task.Exam) -> dict:
    """Surprise in nats at each position of documents of many pages, code and prose, never seen; the longest alone, so that
    every figure is of the same ones."""
    model, split, splits = exam.model, exam.settings.held_out, {}
    texts = world_documents.pages(exam.world, split)
    whole = model.nats(texts[:LONG_TEXTS], model.context_tokens)
    anew = model.nats(texts[:LONG_TEXTS], WINDOW_TOKENS)
    width = max(map(len, whole), default=0)
    longest = [i for i, nats in enumerate(whole) if len(nats) == width]
    ends = [width >> shift for shift in reversed(range(POSITIONS)) if width >> shift]
    for start, end in zip([0, *ends], ends):
        read, baseline = ([found[i][start:end] for i in longest] for found in (whole, anew))
        judged = [task.Judged(float(nats.sum()), float(len(nats))) for nats in read]
        again = [task.Judged(float(nats.sum()), float(len(nats))) for nats in baseline]
        splits[f"{split}: positions {start + 1} to {end}"] = {
            **task.cell(judged, True, math.log(model.num_pieces), task.figure(again, True)["value"], "each text by itself",
                        sampling="none: what is given is foreseen"), "position": (start + end) / 2, "examples": []}
    return {"is_error": True, "unit": "nats per piece of text",
            "baseline_title": f"reading anew every {WINDOW_TOKENS} ids", "splits": splits}


def _measure(kind: str, title: str, baseline_title: str, needle: Needle) -> task.Measure:
    return task.Measure(kind, title, functools.partial(_needles, kind, needle, baseline_title), ("length", "depth"))


SUITE = task.Suite("long contexts", (
    _measure("retrieval", "a number among pairs in prose", "the number that was told last",
             Needle(needles.size_pairs, lambda p: len(p.pairs), needles.last_number, range(1, 40_000), 0.125)),
    _measure("video_needle", "the second of a frame that differs", "the middle",
             Needle(needles.size_frames, lambda p: p.size, needles.middle, range(3, 1_000), 0.08)),
    _measure("audio_needle", "the second of a word", "the middle",
             Needle(needles.size_words, lambda p: len(p.clips), needles.middle, range(2, 1_000), 0.05)),
    task.Measure("position", "long documents: surprise by position", _by_position, ("position",)),
))
