"""Learning from the prompt alone: worked examples, a language nobody speaks; the weights do not change.

Facts: one-shot interleaved generation (Gemini report, section 5.2.3, figure 6); a new language from its
grammar, dictionary and sentences in the prompt (Gemini 1.5 Pro).
"""

import functools
import itertools
import math

import numpy as np

from data_prep import documents, invented, questions
from gemini_mini import progress, stream
from gemini_mini.evals import baselines, judges, task

SHOTS = (0, 1, 2, 4, 8)
SHARE = 0.5  # of the limit, for each number of shots
ROOM_TOKENS = 8


def _invented(is_grammar_told: bool, exam: task.Exam) -> dict:
    """The same sentences of the same languages after more and more worked examples."""
    split = exam.settings.held_out
    found = questions.problems("invented", documents.GENERATORS["invented"], exam.world, split)
    drawn = list(itertools.islice(found, math.ceil(exam.settings.limit * SHARE)))
    context, splits = task.Context(exam.world, [], exam.gallery), {}
    chance = float(np.mean([_chance(problem) for problem in drawn])) if drawn else 0.0
    easy = [[stream.Text(invented.word_for_word(problem))] for problem in drawn]
    with progress.bar("invented", len(SHOTS) * len(drawn), "sentences") as bar:
        for shots in SHOTS:
            problems = [problem._replace(num_shots=shots, is_grammar_told=is_grammar_told) for problem in drawn]
            examples = [questions.last(invented.show(exam.world, problem), number) for number, problem in enumerate(problems)]
            room = max(exam.model.lengths([example.answer for example in examples])) + ROOM_TOKENS
            if room + max(exam.model.lengths([example.prompt for example in examples])) > exam.model.context_tokens:
                break
            answers = exam.model.answer([example.prompt for example in examples], room, bar.advance)
            judged = judges.is_same_text(context, examples, answers)
            baseline = task.figure(judges.is_same_text(context, examples, easy), False)["value"]
            splits[f"{split}: {shots} shots"] = {
                **task.cell(judged, False, chance, baseline, task.in_words(examples[0].prompt), shots=shots),
                "examples": [task.answered(exam.album, e, a, j, False) for e, a, j in zip(examples, answers, judged, strict=True)]}
    return {"is_error": False, "unit": "accuracy", "baseline_title": "word for word, in the order of English", "splits": splits}


def _chance(problem: invented.Problem) -> float:
    """Of a guessed grammar; where adjectives stand does not matter to a sentence without any."""
    return 1 / (invented.NUM_GRAMMARS if problem.asked.subject_adjective or problem.asked.object_adjective else len(invented.ORDERS))


SUITE = task.Suite("learning in context", (
    task.Task("one_shot", "one worked example → two pictures in the asked colours", judges.is_in_colours,
              baselines.one_in_colours, baselines.copy_pictures, "the pictures of the example, copied", share=0.2),
    task.Measure("invented", "an invented language: dictionary, grammar, examples",
                 functools.partial(_invented, True), ("shots",)),
    task.Measure("invented_untold", "an invented language: dictionary and examples, no grammar",
                 functools.partial(_invented, False), ("shots",)),
))
