"""Scores of recognition and translation by the libraries that others use: jiwer and sacrebleu.

Words are not split by spaces in Chinese and Japanese (nor Thai): there an error is one of a character, and
BLEU counts characters.
Facts: word error rate, and character error rate where words are not split; BLEU and chrF (Gemini report,
sections 5.1.4 and 5.2.4). Papers: BLEU, Papineni et al. 2002; chrF, Popović 2015; sacrebleu, arXiv 1804.08771.
Next: suites/audio.py, suites/multilingual.py.
"""

import math
from collections.abc import Callable

from gemini_mini import errors
from gemini_mini.evals import task

try:
    import jiwer
    import sacrebleu.metrics
except ImportError:
    jiwer = sacrebleu = None

UNSPLIT = ("zh", "ja", "th")
THAI = "\u0e00"  # where its block begins: after all letters of English, before all of Chinese and Japanese


def require() -> None:
    """Raises: InputError when the packages that score are not installed."""
    if jiwer is None:
        raise errors.InputError("these figures need the packages 'jiwer' and 'sacrebleu'; run: pip install 'gemini_mini[eval]'")


def word_errors(context: task.Context, examples: task.Examples, answers: task.Documents) -> list[task.Judged]:
    """Words to insert, delete or change, over those of the true text; characters where that is in a language of UNSPLIT."""
    return _errors(examples, answers, is_unsplit)


def word_error_rate(examples: task.Examples, answers: task.Documents) -> float:
    """Of all answers together, 0 and more; those whose true text is in a language of UNSPLIT have no words to count."""
    split = [place for place, example in enumerate(examples) if not is_unsplit(example)]
    return _rate(_errors([examples[i] for i in split], [answers[i] for i in split], is_unsplit))


def character_error_rate(examples: task.Examples, answers: task.Documents) -> float:
    """Of all answers together, 0 and more."""
    return _rate(_errors(examples, answers, lambda example: True))


def is_unsplit(example: task.Example) -> bool:
    """Whether the true text is in a language of UNSPLIT; the question may be alone, and its answer English."""
    return example.lang in UNSPLIT and any(letter.isalpha() and letter >= THAI for letter in task.words(example.answer))


def _errors(examples: task.Examples, answers: task.Documents, by_character: Callable[[task.Example], bool]) -> list[task.Judged]:
    """Edits and length of each, of words or characters."""
    require()
    judged = []
    for example, answer in zip(examples, answers, strict=True):
        process = jiwer.process_characters if by_character(example) else jiwer.process_words
        found = process(task.words(example.answer), task.words(answer))
        wrong = found.substitutions + found.deletions
        judged.append(task.Judged(float(wrong + found.insertions), float(wrong + found.hits)))
    return judged


def _rate(judged: list[task.Judged]) -> float:
    return sum(j.score for j in judged) / sum(j.weight for j in judged) if judged else math.nan


def sentence_chrf(context: task.Context, examples: task.Examples, answers: task.Documents) -> list[task.Judged]:
    """chrF of each answer by itself, 0 to 1: its mean has an interval."""
    require()
    chrf = sacrebleu.metrics.CHRF()
    return [task.Judged(chrf.sentence_score(task.words(a), [task.words(e.answer)]).score / 100, 1.0)
            for e, a in zip(examples, answers, strict=True)]


def chrf(examples: task.Examples, answers: task.Documents) -> float:
    """Of all answers together, 0 to 100."""
    require()
    return float(sacrebleu.metrics.CHRF().corpus_score(*_texts(examples, answers)).score)


def bleu(examples: task.Examples, answers: task.Documents) -> float:
    """Of all answers together, 0 to 100; tokens are those of the answers' language (characters for ja and th).

    A name has fewer than four tokens: orders that no answer can have are left out (sacrebleu's effective order). Tokenisers that sacrebleu would have to download are not used.
    """
    require()
    langs, tokens = {e.lang for e in examples}, {"zh": "zh", "ja": "char", "th": "char"}
    is_one = len(langs) == 1 and any(map(is_unsplit, examples))  # a name in Latin letters among them changes nothing
    return float(sacrebleu.metrics.BLEU(tokenize=tokens.get(langs.pop(), "13a") if is_one else "13a", effective_order=True)
                 .corpus_score(*_texts(examples, answers)).score)


def _texts(examples: task.Examples, answers: task.Documents) -> tuple[list[str], list[list[str]]]:
    return [task.words(a) for a in answers], [[task.words(e.answer) for e in examples]]
