"""Choosing among what is allowed: temperature, top-k, top-p, min-p, exact and without sorting.

    repetition   a token the answer has used already becomes less likely
    temperature  divides the logits
    top-k        keeps a token when fewer than k tokens are likelier
    top-p        keeps a token when the likelier ones weigh less than p, over what top-k left
    min-p        keeps a token at least p times as likely as the likeliest

Tokens exactly as likely as the last one kept are kept too, so the cuts are thresholds. Those of
top-k and top-p are found by bisection over the 31 bits of a positive float: 31 passes over the
row, an order of magnitude faster on a CPU than a sort of it.

Every row brings its own numbers, because rows of one batch are in the middle of different
modalities, and its own key, so its result does not depend on the rows beside it. Numbers are
arrays: another temperature runs the same compiled program.
Papers: Holtzman et al. 2019, arXiv 1904.09751 (top-p); Nguyen et al. 2024, arXiv 2407.01082
(min-p); Keskar et al. 2019, CTRL, arXiv 1909.05858 (repetition penalty, section 4.1).
Next: engine.py.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, Key

from gemini_mini import errors

ONE_BITS = 0x3F80_0000  # the bits of 1.0: positive floats and their bits have the same order
FLOAT_BITS = 31  # all but the sign


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to draw a token. The defaults draw from the model as it is."""

    temperature: float = 1.0  # 0 takes the likeliest token
    top_k: int = 0  # 0 keeps all
    top_p: float = 1.0  # 1 keeps all
    min_p: float = 0.0  # 0 keeps all
    repetition_penalty: float = 1.0  # 1 does nothing, 2 halves the logit of a token used before

    def __post_init__(self):
        for name, is_valid, must in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_k", 0 <= self.top_k < 2**31, "0 (all tokens) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "above 0; 1 does nothing"),
        ):
            if not is_valid:
                raise errors.InputError(f"sampling: {name} must be {must}, got {getattr(self, name)}")


GREEDY = Sampling(temperature=0.0)


class Controls(NamedTuple):
    """The numbers of several `Sampling`s: one for each row, or for each kind of token."""

    temperature: Float32[Array, "B"]
    top_k: Int32[Array, "B"]
    top_p: Float32[Array, "B"]
    min_p: Float32[Array, "B"]
    repetition_penalty: Float32[Array, "B"]

    def of(self, which: Int32[Array, "B"]) -> "Controls":
        """Those of each row, given which one it follows."""
        return jax.tree.map(lambda numbers: numbers[which], self)


def controls(samplings: Sequence[Sampling]) -> Controls:
    """Their numbers side by side."""
    columns = zip(*map(dataclasses.astuple, samplings), strict=True)
    return jax.device_put(Controls(*(np.array(column, np.int32 if name == "top_k" else np.float32)
                                     for name, column in zip(Controls._fields, columns, strict=True))))


def penalise(
    logits: Float32[Array, "B V"], is_used: Bool[Array, "B V"], controls: Controls
) -> Float32[Array, "B V"]:
    """Make the used tokens less likely (more, with a penalty below 1)."""
    penalty = controls.repetition_penalty[:, None]
    return jnp.where(is_used, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def sample(
    logits: Float32[Array, "B V"], keys: Key[Array, "B"], controls: Controls
) -> Int32[Array, "B"]:
    """Draw one token per row; a token of logit -inf is never drawn."""
    likeliest = _first(logits == jnp.max(logits, axis=-1, keepdims=True))

    def draw() -> Int32[Array, "B"]:
        weights = kept(logits, controls)
        # One uniform number per row walks the cumulative weights: V times fewer random bits than
        # a Gumbel draw per token, which costs as much as the model's own step on a CPU.
        cumulative = jnp.cumsum(weights, axis=-1)
        uniform = jax.vmap(jax.random.uniform)(keys)
        # Rounding may leave the sums not quite ascending: only tokens of some weight are looked at,
        # so a forbidden one cannot be drawn, however rarely.
        has_weight = weights > 0
        drawn = _first(has_weight & (cumulative > uniform[:, None] * cumulative[:, -1:]))
        last = logits.shape[-1] - 1 - _first(has_weight[:, ::-1])
        return jnp.where(controls.temperature > 0, jnp.minimum(drawn, last), likeliest)

    return jax.lax.cond(jnp.any(controls.temperature > 0), draw, lambda: likeliest)


def kept(logits: Float32[Array, "B V"], controls: Controls) -> Float32[Array, "B V"]:
    """Weights (up to their sum) of the tokens that survive the cuts, 0 for the others."""
    best = jnp.max(logits, axis=-1, keepdims=True)  # taken off first: a tiny temperature stays finite
    weights = jax.nn.softmax((logits - best) / jnp.where(controls.temperature > 0, controls.temperature, 1)[:, None])
    # A cut that no row asks for is not computed.
    weights = jax.lax.cond(jnp.any(controls.top_k > 0), _top_k, lambda w, _: w, weights, controls.top_k)
    weights = jax.lax.cond(jnp.any(controls.top_p < 1), _top_p, lambda w, _: w, weights, controls.top_p)
    least = controls.min_p[:, None] * jnp.max(weights, axis=-1, keepdims=True)
    return jnp.where(weights >= least, weights, 0)


def _top_k(weights: Float32[Array, "B V"], top_k: Int32[Array, "B"]) -> Float32[Array, "B V"]:
    weights = _cut(weights, jnp.ones_like(weights), jnp.where(top_k > 0, top_k, jnp.inf))
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def _top_p(weights: Float32[Array, "B V"], top_p: Float32[Array, "B"]) -> Float32[Array, "B V"]:
    return _cut(weights, weights, jnp.where(top_p < 1, top_p, jnp.inf))  # at 1, rounding would cut the tail


def _cut(
    weights: Float32[Array, "B V"], costs: Float32[Array, "B V"], limit: Float32[Array, "B"]
) -> Float32[Array, "B V"]:
    """Zero what lies below the lowest threshold above which the costs are less than `limit`."""
    bits = jax.lax.bitcast_convert_type(weights, jnp.int32)

    def halve(_, bounds):
        low, high = bounds  # too much lies above low, little enough above high
        middle = (low + high) // 2
        is_enough = jnp.sum(jnp.where(bits > middle[:, None], costs, 0), axis=-1) < limit
        return jnp.where(is_enough, low, middle), jnp.where(is_enough, middle, high)

    low = jnp.full(weights.shape[0], -1, jnp.int32)
    high = jnp.full(weights.shape[0], ONE_BITS, jnp.int32)
    _, threshold = jax.lax.fori_loop(0, FLOAT_BITS, halve, (low, high))
    return jnp.where(bits >= threshold[:, None], weights, 0)


def _first(is_chosen: Bool[Array, "B V"]) -> Int32[Array, "B"]:
    """The first chosen token of each row, V if there is none; many times faster than `argmax`."""
    size = is_chosen.shape[-1]
    return jnp.min(jnp.where(is_chosen, jnp.arange(size, dtype=jnp.int32)[None], size), axis=-1)
