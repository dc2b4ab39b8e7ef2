"""How many tokens a model should see.

Compute-optimal training sees about 20 tokens a parameter. A model that will answer often should be
smaller than that and see more: its last tokens are dear for training and free for every answer after.

    loss(N, D) = 1.69 + 406.4 / N^0.34 + 410.7 / D^0.28

The constants are of English text, so losses here only rank sizes.
Papers: Hoffmann 2022, arXiv 2203.15556, section 3.3 and table 3, which the Gemini report follows for
its token budgets and leaves for its small models (section 3).
"""

from typing import NamedTuple

TOKENS_PER_PARAM = 20


class Budget(NamedTuple):
    """Tokens for a model; the compute-optimal model of the same loss, and this one's training FLOPs against that's."""

    factor: float
    tokens: float
    loss: float
    optimal_params: float
    extra_flops: float


def loss(params: float, tokens: float) -> float:
    """Expected nats a token of `params` parameters after `tokens`."""
    return 1.69 + 406.4 / params**0.34 + 410.7 / tokens**0.28


def overtrained(params: float, factor: float) -> Budget:
    """The budget of `factor` times the compute-optimal tokens."""
    tokens = factor * TOKENS_PER_PARAM * params
    reached = loss(params, tokens)
    low, high = params / 100, params * 100
    for _ in range(60):  # a larger compute-optimal model has a smaller loss
        middle = (low * high) ** 0.5
        low, high = (middle, high) if loss(middle, TOKENS_PER_PARAM * middle) > reached else (low, middle)
    return Budget(factor, tokens, reached, low, params * tokens / (TOKENS_PER_PARAM * low**2))
