"""Pictures understood, in four kinds: what they show, what is written in them, charts and tables, and reasoning.

Writing and charts are asked about at 4 x 4, 8 x 8 and 16 x 16 codes, the same questions each time: what a model
does with more image tokens shows along the line. Sources number_16, bars_8, count and so on teach them
(data_prep/drawn.py, scenes.py); a decoder that never read them is asked all the same.
Facts: four kinds of image understanding, zero-shot, greedy, with no reader of letters beside the model (Gemini
report, section 5.2.1); variable input resolution (section 2).
"""

import functools

from data_prep import drawn, pictures
from gemini_mini.evals import baselines, judges, task

NEAREST_ASKED = "the answer to the same question about the nearest other training picture"


def _by_size(name: str, exam: task.Exam) -> dict:
    """One kind of question at every size, over the test split, or over valid where that is not to be seen."""
    split = exam.settings.held_out
    splits, found = {}, {}
    for codes in drawn.CODES:
        found = task.Task(f"{name}_{codes}", "", judges.is_same_text, baselines.one_in_answers_to_it, baselines.nearest_asked,
                          NEAREST_ASKED, splits=(split,)).find(exam)
        splits |= {f"{split}, {codes} x {codes}": {**cell, "image codes": codes**2} for cell in found["splits"].values()}
    return {**found, "splits": splits}


def _sizes(name: str, title: str) -> task.Measure:
    return task.Measure(name, title, functools.partial(_by_size, name), ("image codes",))


def _scene(name: str, title: str, num_shown: int = 0) -> task.Task:
    """`num_shown` things are shown of which one is the answer: chance is to see them all and guess."""
    chance = (lambda context, examples: 1 / num_shown) if num_shown else baselines.one_in_answers_to_it
    return task.Task(name, title, judges.is_same_text, chance, baselines.nearest_asked, NEAREST_ASKED, splits=("valid", "test"))


SUITE = task.Suite("pictures understood", (
    task.Task("name", "what it is: picture → English name", judges.is_same_text, baselines.one_in_answers, baselines.nearest_picture,
              "the name of the nearest other training picture", languages="en"),
    task.Task("name_word", "what it is: picture → a right word of its English name", judges.shares_a_word, baselines.random_name,
              baselines.nearest_picture, "the name of the nearest other training picture", judges.commonest_word, kind="name", languages="en"),
    task.Task("digits", "fine reading: handwritten digit → number", judges.is_same_text, baselines.one_in_answers,
              baselines.nearest_picture, "the label of the nearest other training digit", share=0.5),
    _sizes("number", "fine reading: a printed number"),
    _sizes("word", "fine reading: printed letters"),
    _sizes("bars", "layout: a bar's value"),
    _sizes("table", "layout: a cell of a table"),
    _scene("count", "reasoning: how many"),
    _scene("colour", "reasoning: what colour", len(pictures.SHAPES)),
    _scene("larger", "reasoning: which is larger", 2),
    _scene("side", "reasoning: what is left or right", 2),
    _scene("same", "reasoning: the same or not"),
))
