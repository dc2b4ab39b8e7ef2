"""What counts as right: each function judges answers against the true ones of their examples.

Next: baselines.py, which are judged by the same functions.
"""

import collections
import re

import numpy as np

from gemini_mini import stream
from gemini_mini.evals import metrics, pictures, task

NO_CONTENT = frozenset("a an and at for from in no of on or the to with skin tone light medium-light medium medium-dark dark".split())


def is_drawn(context: task.Context, examples: task.Examples, answers: task.Documents) -> list[task.Judged]:
    """As many pictures as asked for; the nearest of all real ones to each is the asked one, in order."""
    drawn = [task.images(answer) for answer in answers]
    comparable = [p for found in drawn for p in found if p.shape == context.gallery.shape]
    # In one go: a product of two matrices instead of thousands of passes over all real pictures.
    nearest = iter(context.gallery.nearest(np.stack(comparable)) if comparable else ())
    judged = []
    for example, found in zip(examples, drawn, strict=True):
        asked = [context.gallery.index_of(p) for p in task.images(example.answer)]
        seen = [int(next(nearest)) if p.shape == context.gallery.shape else None for p in found]
        judged.append(task.Judged(float(asked == seen), 1.0))
    return judged


def is_same_text(context: task.Context, examples: task.Examples, answers: task.Documents) -> list[task.Judged]:
    """The very words, borders of white space apart."""
    return [task.Judged(float(task.words(a) == task.words(e.answer)), 1.0) for e, a in zip(examples, answers, strict=True)]


def shares_a_word(context: task.Context, examples: task.Examples, answers: task.Documents) -> list[task.Judged]:
    """At least one right word of an English name, that says what it is: particles and skin tones do not."""
    return [task.Judged(float(bool(content(a) & content(e.answer))), 1.0) for e, a in zip(examples, answers, strict=True)]


def content(document: stream.Document) -> set[str]:
    """Its words, but for particles and skin tones."""
    return set(re.findall(r"[\w&'-]+", task.words(document).lower())) - NO_CONTENT


def commonest_word(train: task.Examples) -> stream.Document:
    """The word that the most names have."""
    counts = collections.Counter(word for example in train for word in sorted(content(example.answer)))
    return [stream.Text(counts.most_common(1)[0][0])]


def is_same_motion(context: task.Context, examples: task.Examples, answers: task.Documents) -> list[task.Judged]:
    """English captions end in the motion: "the cat moves left", "the cat grows"."""
    return [task.Judged(float(task.words(a).split()[-1:] == task.words(e.answer).split()[-1:]), 1.0)
            for e, a in zip(examples, answers, strict=True)]


def spelling(context: task.Context, examples: task.Examples, answers: task.Documents) -> list[task.Judged]:
    """Edits to the true text, over its characters."""
    pairs = [(task.words(e.answer), task.words(a)) for e, a in zip(examples, answers, strict=True)]
    return [task.Judged(float(metrics.edits(truth, [said])[0]), float(len(truth))) for truth, said in pairs]


def is_in_colours(context: task.Context, examples: task.Examples, answers: task.Documents) -> list[task.Judged]:
    """Exactly the asked number of pictures, each nearest in colour to the asked one of its shape's colours.

    The shape itself is not judged: it is an idea.
    """
    judged = []
    for example, answer in zip(examples, answers, strict=True):
        asked, drawn = asked_colours(context, example), task.images(answer)
        is_right = len(asked) == len(drawn) and all(
            not pictures.is_blank(pixels)
            and palette[pictures.nearest_colour(pixels, context.world.pictures[palette])] == item
            for pixels, (item, palette) in zip(drawn, asked))
        judged.append(task.Judged(float(is_right), 1.0))
    return judged


def asked_colours(context: task.Context, example: task.Example) -> list[tuple[int, list[int]]]:
    """For each true picture: its item, and the items of the same shape in every colour."""
    asked = []
    for item in map(context.gallery.index_of, task.images(example.answer)):
        kind = context.world.items[item].cell[:2]  # ("colour", "heart")
        asked.append((item, [i for i, other in enumerate(context.world.items) if other.cell[:2] == kind]))
    return asked
