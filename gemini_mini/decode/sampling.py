"""Choosing one token per row: temperature, top-k, top-p, exact and without sorting.

    top-k keeps a token when fewer than k tokens are likelier
    top-p keeps a token when the likelier ones weigh less than p, over what top-k left

Tokens exactly as likely as the last one kept are kept too, so the cuts are thresholds. Top-p's
is found by bisection over the 31 bits of a positive float: 31 passes over the row, an order of
magnitude faster on a CPU than a sort of it.

Every row draws from its own key, so its result does not depend on the rows beside it.
Paper: Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration", arXiv 1904.09751 (top-p).
Next: engine.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
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

    def __post_init__(self):
        for name, is_valid, must in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_k", self.top_k >= 0, "0 (all tokens) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
        ):
            if not is_valid:
                raise errors.InputError(f"sampling: {name} must be {must}, got {getattr(self, name)}")


GREEDY = Sampling(temperature=0.0)


def sample(
    logits: Float32[Array, "B V"], keys: Key[Array, "B"], sampling: Sampling
) -> Int32[Array, "B"]:
    """Draw one token per row; a token of logit -inf is never drawn."""
    if sampling.temperature == 0:
        return _first(logits == jnp.max(logits, axis=-1, keepdims=True))
    weights = kept(logits, sampling)
    # One uniform number per row walks the cumulative weights: V times fewer random bits than
    # a Gumbel draw per token, which costs as much as the model's own step on a CPU.
    cumulative = jnp.cumsum(weights, axis=-1)
    uniform = jax.vmap(jax.random.uniform)(keys)
    # Rounding may leave the sums not quite ascending: only tokens of some weight are looked at,
    # so a forbidden one cannot be drawn, however rarely.
    has_weight = weights > 0
    drawn = _first(has_weight & (cumulative > uniform[:, None] * cumulative[:, -1:]))
    last = logits.shape[-1] - 1 - _first(has_weight[:, ::-1])
    return jnp.minimum(drawn, last)


def kept(logits: Float32[Array, "B V"], sampling: Sampling) -> Float32[Array, "B V"]:
    """Weights (up to their sum) of the tokens that survive the cuts, 0 for the others."""
    best = jnp.max(logits, axis=-1, keepdims=True)  # taken off first: a tiny temperature stays finite
    weights = jax.nn.softmax((logits - best) / sampling.temperature, axis=-1)
    if 0 < sampling.top_k < logits.shape[-1]:
        last = jax.lax.top_k(weights, sampling.top_k)[0][:, -1:]
        weights = jnp.where(weights >= last, weights, 0)
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return weights if sampling.top_p == 1 else _nucleus(weights, sampling.top_p)


def _nucleus(weights: Float32[Array, "B V"], top_p: float) -> Float32[Array, "B V"]:
    """Zero the weights below the lowest threshold that has less than `top_p` above it."""
    bits = jax.lax.bitcast_convert_type(weights, jnp.int32)

    def halve(_, bounds):
        low, high = bounds  # too much lies above low, little enough above high
        middle = (low + high) // 2
        is_enough = jnp.sum(jnp.where(bits > middle[:, None], weights, 0), axis=-1) < top_p
        return jnp.where(is_enough, low, middle), jnp.where(is_enough, middle, high)

    low = jnp.full(weights.shape[0], -1, jnp.int32)
    high = jnp.full(weights.shape[0], ONE_BITS, jnp.int32)
    _, threshold = jax.lax.fori_loop(0, FLOAT_BITS, halve, (low, high))
    return jnp.where(bits >= threshold[:, None], weights, 0)


def _first(is_chosen: Bool[Array, "B V"]) -> Int32[Array, "B"]:
    """The first chosen token of each row, V if there is none; many times faster than `argmax`."""
    size = is_chosen.shape[-1]
    return jnp.min(jnp.where(is_chosen, jnp.arange(size, dtype=jnp.int32)[None], size), axis=-1)
