"""Choosing one token per row: temperature, top-k, top-p, exact and without sorting.

Both cuts keep the tokens above a threshold that is unique up to ties:

    top-k keeps x when fewer than k tokens are likelier          count(y > x) < k
    top-p keeps x when the likelier ones weigh less than p         sum(y > x) < p

Both left sides fall as x grows, so the threshold is found by bisection over the 31 bits of a
positive float: 31 passes over the row, an order of magnitude faster on a CPU than a sort of it.
Tokens exactly as likely as the last one kept are kept too. Top-p follows top-k, over what it left.

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
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    weights = kept(logits, sampling)
    # One uniform number per row walks the cumulative weights: V times fewer random bits than
    # a Gumbel draw per token, which costs more than the model's own step on a CPU.
    cumulative = jnp.cumsum(weights, axis=-1)
    uniform = jax.vmap(jax.random.uniform)(keys)
    tokens = jnp.arange(logits.shape[-1], dtype=jnp.int32)[None]
    # Rounding may leave the sums not quite ascending: only tokens of some weight are looked at,
    # so a forbidden one cannot be drawn, however rarely.
    passed = (weights > 0) & (cumulative > uniform[:, None] * cumulative[:, -1:])
    first = jnp.min(jnp.where(passed, tokens, logits.shape[-1]), axis=-1)
    return jnp.minimum(first, jnp.max(jnp.where(weights > 0, tokens, 0), axis=-1))


def kept(logits: Float32[Array, "B V"], sampling: Sampling) -> Float32[Array, "B V"]:
    """Weights (up to their sum) of the tokens that survive the cuts, 0 for the others."""
    best = jnp.max(logits, axis=-1, keepdims=True)  # taken off first: a tiny temperature stays finite
    weights = jax.nn.softmax((logits - best) / sampling.temperature, axis=-1)
    if 0 < sampling.top_k < logits.shape[-1]:
        weights = _cut(weights, lambda above: jnp.sum(above, axis=-1) < sampling.top_k)
    if sampling.top_p < 1:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
        weights = _cut(weights, lambda above: jnp.sum(jnp.where(above, weights, 0), axis=-1) < sampling.top_p)
    return weights


def _cut(weights: Float32[Array, "B V"], keeps) -> Float32[Array, "B V"]:
    """Zero the weights below the lowest threshold at which `keeps(weights > threshold)` holds."""
    bits = jax.lax.bitcast_convert_type(weights, jnp.int32)

    def halve(_, bounds):
        low, high = bounds  # keeps fails at low and holds at high
        middle = (low + high) // 2
        holds = keeps(bits > middle[:, None])
        return jnp.where(holds, low, middle), jnp.where(holds, middle, high)

    low = jnp.full(weights.shape[0], -1, jnp.int32)
    high = jnp.full(weights.shape[0], ONE_BITS, jnp.int32)
    _, threshold = jax.lax.fori_loop(0, FLOAT_BITS, halve, (low, high))
    return jnp.where(bits >= threshold[:, None], weights, 0)
