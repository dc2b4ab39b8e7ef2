"""Other languages: captions in each, names and messages from one to the other.

Names come from the world, messages from the catalogues that Django ships (data_prep/messages.py), where it
is installed. Exact answers, or the mean of each answer's chrF, with an interval; the usual figures of all
answers together, chrF and BLEU by sacrebleu, stand beside them.
Facts: captions in many languages, 4-shot; translation (Gemini report, sections 5.1.4 and 5.2.1).
Next: ../scores.py.
"""

import functools

from data_prep import messages
from gemini_mini.evals import baselines, judges, scores, task

CAPTION_SCORES = (("chrF", scores.chrf), ("character error rate", scores.character_error_rate))
TRANSLATION_SCORES = (("chrF", scores.chrf), ("BLEU", scores.bleu))
CAPTION_SPLITS = ("seen", "valid", "test_compose", "test_concept", "test_lang")
SPLITS = ("seen", "valid", "test")


def _caption(name: str, shots: int) -> task.Task:
    return task.Task(name, f"picture → its name in every language, {shots}-shot", judges.is_same_text, baselines.one_in_answers,
                     baselines.nearest_in_language, "the name of the nearest other training picture in that language", kind="name",
                     languages="apart", splits=CAPTION_SPLITS, share=0.5, shots=shots, also=CAPTION_SCORES)


def _messages(name: str, title: str) -> task.Measure:
    asked = task.Task(name, title, scores.sentence_chrf, baselines.random_chrf, baselines.copy_question, "the question, copied",
                      unit="mean chrF", languages="apart", splits=SPLITS, share=0.4, also=TRANSLATION_SCORES)
    return task.Measure(name, title, functools.partial(_with_django, asked))


def _with_django(asked: task.Task, exam: task.Exam) -> dict:
    """What the task finds, or why it finds nothing."""
    return asked.find(exam) if messages.folder() else {"splits": {}, "why": "Django is not installed (pip install 'gemini_mini[messages]')"}


SUITE = task.Suite("many languages", (
    task.Task("translate", "English name → another language", judges.is_same_text, baselines.one_in_answers,
              baselines.copy_name, "the English name, copied", splits=("seen", "valid", "test_lang"), share=0.5),
    task.Task("translate_names", "English name → another language, each", scores.sentence_chrf, baselines.random_chrf,
              baselines.copy_name, "the English name, copied", kind="translate", unit="mean chrF", languages="apart",
              splits=("seen", "valid", "test_lang"), share=0.5, also=TRANSLATION_SCORES),
    _caption("caption", 0), _caption("caption_4_shot", 4),
    _messages("messages", "English message → another language" + ("" if messages.folder() else " (Django is not installed)")),
    _messages("messages_en", "message in another language → English"),
))
