"""Figures: error rates, and how far they can be trusted.

Every metric here is a ratio of sums over examples, `sum(score) / sum(weight)`: an accuracy has
scores 0 or 1 and weights 1; a character error rate has edits over characters.
Next: suite.py, which says what is scored.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64
from rapidfuzz import distance, process

Z_95 = 1.959964  # two-sided 95 % of a normal distribution
RESAMPLES = 1_000


def edits(text: str, others: Sequence[str]) -> Int64[np.ndarray, "_"]:
    """Levenshtein distance of `text` to each of `others`: the fewest characters to insert, delete or change."""
    return process.cdist([text], others, scorer=distance.Levenshtein.distance, dtype=np.int32)[0].astype(np.int64)


def ratio(scores: Float64[np.ndarray, "n"], weights: Float64[np.ndarray, "n"]) -> float:
    """Sum of scores over sum of weights; nan when there is nothing to weigh."""
    return float(scores.sum() / weights.sum()) if weights.sum() else math.nan


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of `n`: honest also near 0 and 1 and for small `n`.

    Paper: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    if n == 0:
        return 0.0, 1.0
    z2 = Z_95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At the ends one side is exact, whatever rounding says.
    return 0.0 if share == 0 else middle - half, 1.0 if share == 1 else middle + half


def bootstrap(
    scores: Float64[np.ndarray, "n"], weights: Float64[np.ndarray, "n"], seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a ratio of sums, by drawing the examples again with replacement."""
    if not len(scores):
        return 0.0, math.inf
    drawn = np.random.default_rng(seed).integers(len(scores), size=(RESAMPLES, len(scores)))
    low, high = np.quantile(scores[drawn].sum(axis=1) / weights[drawn].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)
