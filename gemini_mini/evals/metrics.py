"""Figures: error rates, and how far they can be trusted.

Every metric here is a ratio of sums over examples, `sum(score) / sum(weight)`: an accuracy has
scores 0 or 1 and weights 1; a character error rate has edits over characters.
Next: suite.py, which says what is scored.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

Z_95 = 1.959964  # two-sided 95 % of a normal distribution
RESAMPLES = 1_000


def edits(text: str, others: Sequence[str]) -> Int64[np.ndarray, "others"]:
    """Levenshtein distance of `text` to each of `others`: the fewest characters to insert, delete or change.

    One pass for all others at once. The row of the table is filled without its left neighbour
    first; what that neighbour adds is a running minimum: row[j] = min over i <= j of best[i] + j - i.
    """
    lengths = np.array([len(other) for other in others], np.int64)
    width = int(lengths.max(initial=0))
    # 0 stands for no character: a padded column is never read at `lengths`.
    codes = np.array([[ord(c) for c in other.ljust(width, "\0")] for other in others], np.int64).reshape(-1, width)
    column = np.arange(width + 1)
    row = np.tile(column, (len(lengths), 1))
    for number, char in enumerate(text, 1):
        best = np.empty_like(row)
        best[:, 0] = number
        best[:, 1:] = np.minimum(row[:, 1:] + 1, row[:, :-1] + (codes != ord(char)))
        row = np.minimum.accumulate(best - column, axis=1) + column
    return row[np.arange(len(lengths)), lengths]


def ratio(scores: Sequence[float], weights: Sequence[float]) -> float:
    """Sum of scores over sum of weights; nan when there is nothing to weigh."""
    total = math.fsum(weights)
    return math.fsum(scores) / total if total else math.nan


def wilson(right: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion: honest also near 0 and 1 and for small `n`.

    Paper: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = right / n, Z_95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(scores: Float64[np.ndarray, "n"], weights: Float64[np.ndarray, "n"], seed: int = 0) -> tuple[float, float]:
    """95 % interval of a ratio of sums, by drawing the examples again with replacement."""
    if not len(scores):
        return 0.0, math.inf
    drawn = np.random.default_rng(seed).integers(len(scores), size=(RESAMPLES, len(scores)))
    low, high = np.quantile(scores[drawn].sum(axis=1) / weights[drawn].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)
