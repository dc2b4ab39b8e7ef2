"""Problems of several steps: answered at once, by a chain of thought, by a vote, and by a vote that knows its doubt.

    at once       greedy, only the result
    chain         greedy, step by step
    majority      the most frequent result of k sampled chains
    routed        the majority where at least a share t of the chains agree, the answer at once elsewhere

The threshold t is the best one on problems that are not reported: those of valid, or half of them where no test split
may be looked at. Beside the last figure stands by how much it is above the better of the two it chooses from, with the 95 % interval
of that difference over the same problems.
Facts: uncertainty-routed chain of thought (Gemini report, section 5.1.1 and appendix 9.1).
"""

import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from data_prep import documents, questions, reasoning
from gemini_mini import progress, stream
from gemini_mini.evals import metrics, task

SAMPLES, TEMPERATURE = 8, 0.7
ROOM_TOKENS = 12  # beyond the longest true chain


class Asked(NamedTuple):
    """The true result of each problem and the answers to it."""

    truths: list[str]
    at_once: list[stream.Document]
    chain: list[stream.Document]
    samples: list[list[stream.Document]]  # of each problem

    @property
    def votes(self) -> list[tuple[str, float]]:
        """The most frequent result of each problem's samples, the first of equals, and its share of them."""
        return [vote([result(answer) for answer in answers]) for answers in self.samples]


def vote(results: list[str]) -> tuple[str, float]:
    """The most frequent result, the first of equals, and its share; what ends in no result has no vote."""
    best, count = collections.Counter(filter(None, results) if any(results) else results).most_common(1)[0]
    return best, count / len(results)


def route(at_once: list[str], votes: list[tuple[str, float]], threshold: float) -> list[str]:
    """The vote where enough agree, the other answer elsewhere."""
    return [voted if share >= threshold else other for other, (voted, share) in zip(at_once, votes, strict=True)]


def best_threshold(truths: list[str], at_once: list[str], votes: list[tuple[str, float]]) -> float:
    """The share of equal results from which the vote is to be believed; the least of equally good ones.

    0 always takes the vote, 2 never.
    """
    tried = [0.0, *sorted({share for _, share in votes}), 2.0]
    return max(tried, key=lambda t: (_num_right(truths, route(at_once, votes, t)), -t))


def result(answer: stream.Document) -> str:
    """The last number that an answer says."""
    return reasoning.result_of(task.words(answer))


def _num_right(truths: list[str], results: list[str]) -> int:
    return sum(truth == said for truth, said in zip(truths, results, strict=True))


def _find(kind: str, ask: Callable[[Any, bool], tuple[stream.Document, stream.Document]], exam: task.Exam) -> dict:
    limit = exam.settings.limit
    problems = {split: list(questions.problems(kind, documents.GENERATORS[kind], exam.world, split)) for split in ("train", "valid", "test")}
    if exam.settings.is_valid_only:
        split, tuned, asked = "valid", problems["valid"][::2][:limit], problems["valid"][1::2][:limit]
    else:
        split, tuned, asked = "test", problems["valid"][:limit], problems["test"][:limit]
    found = _ask(kind, ask, exam, [*tuned, *asked])
    before = Asked(*(column[: len(tuned)] for column in found))
    after = Asked(*(column[len(tuned) :] for column in found))
    threshold = best_threshold(before.truths, [result(a) for a in before.at_once], before.votes)
    voted = [next(chain for chain in chains if result(chain) == best) for chains, (best, _) in zip(after.samples, after.votes, strict=True)]
    is_believed = [share >= threshold for _, share in after.votes]
    routed = [chain if believed else other for chain, believed, other in zip(voted, is_believed, after.at_once, strict=True)]
    known = collections.Counter(result(ask(problem, False)[1]) for problem in problems["train"])
    commonest = task.figure([_judge(truth, known.most_common(1)[0][0]) for truth in after.truths], False)["value"]
    chance, drawn = 1 / len(set(known) | set(after.truths)), f"{SAMPLES} chains at temperature {TEMPERATURE}"
    splits: dict[str, dict] = {}
    scores = {}
    for name, answers, in_steps, sampling, samples in (
        ("at once", after.at_once, [False] * len(asked), "greedy", 1),
        ("chain", after.chain, [True] * len(asked), "greedy", 1),
        (f"majority of {SAMPLES}", voted, [True] * len(asked), drawn, SAMPLES),
        (f"routed of {SAMPLES}", routed, is_believed,
         f"{drawn}; below {threshold:.0%} agreement (chosen on {len(tuned)} problems of valid) greedy at once", SAMPLES + 1),
    ):
        examples = [questions.example(*ask(problem, is_slow), number, "en") for number, (problem, is_slow) in enumerate(zip(asked, in_steps, strict=True))]
        judged = [_judge(truth, result(answer)) for truth, answer in zip(after.truths, answers, strict=True)]
        scores[name] = np.array([each.score for each in judged])
        splits[f"{split}: {name}"] = {
            **task.cell(judged, False, chance, commonest, task.in_words(examples[0].prompt), sampling=sampling, samples=samples),
            "threshold": threshold if name.startswith("routed") else None,
            "examples": [task.answered(exam.album, e, a, j, False) for e, a, j in zip(examples, answers, judged, strict=True)]}
    quick, majority, routed = (scores[name] for name in ("at once", f"majority of {SAMPLES}", f"routed of {SAMPLES}"))
    splits[f"{split}: routed of {SAMPLES}"]["also"] = gain(routed, quick, majority)
    return {"is_error": False, "unit": "accuracy", "baseline_title": "the commonest result of training", "splits": splits}


def gain(routed: Float64[np.ndarray, "n"], *others: Float64[np.ndarray, "n"]) -> dict[str, float]:
    """By how much a figure is above the best of others of the same problems, and between what that is in 95 % of draws of problems."""
    best = max(others, key=np.sum)
    low, high = metrics.bootstrap(routed - best, np.ones(len(routed)))
    return {"above the better of the two": float(np.mean(routed - best)), "at least": low, "at most": high}


def _judge(truth: str, said: str) -> task.Judged:
    return task.Judged(float(truth == said), 1.0)


def _ask(kind: str, ask: Callable, exam: task.Exam, problems: list[Any]) -> Asked:
    """Every problem at once, in steps, and in steps so many times at a temperature."""
    quick, slow = ([questions.example(*ask(problem, is_in_steps), 0, "en") for problem in problems] for is_in_steps in (False, True))
    room = max(exam.model.lengths([example.answer for example in slow])) + ROOM_TOKENS
    with progress.bar(kind, len(problems) * (SAMPLES + 2), "answers") as bar:
        answer = functools.partial(exam.model.answer, max_tokens=room, on_answers=bar.advance)
        at_once, chain = (answer([example.prompt for example in examples]) for examples in (quick, slow))
        drawn = answer([example.prompt for example in slow for _ in range(SAMPLES)], temperature=TEMPERATURE)
    samples = [drawn[at : at + SAMPLES] for at in range(0, len(drawn), SAMPLES)]
    return Asked([result(example.answer) for example in quick], at_once, chain, samples)


SUITE = task.Suite("reasoning in steps", (
    task.Measure("sums", "a number and what is done to it, in words", functools.partial(_find, "sums", reasoning.ask_sum)),
    task.Measure("programs", "what a small program prints", functools.partial(_find, "programs", reasoning.ask_program)),
))
