"""Four ways to round a latent vector to one of a table of vectors, behind the same functions.

    latents ─bound─▶ nearest row of vectors() ─▶ id        tie(latents) ─▶ rounded latents, losses

    pulled    a codebook that learns by gradient from both sides: each latent pulls its nearest code,
              each code is pulled to the nearest latent that is badly represented
    rotation  the same codebook; the decoder's gradient is turned with the rounding, not copied
    simvq     a frozen random codebook times one learned matrix, which moves all codes at once
    fsq       a grid: every value is bounded and rounded to a few levels; nothing learned, no losses

Whatever the kind, the table is the weight `codebook`, so codes are dropped by dropping its rows and
a finished tokenizer always looks up the nearest row. Row 0 is the zero vector, white.
Papers: VQ-VAE, arXiv 1711.00937; rotation trick, arXiv 2410.06424; SimVQ, arXiv 2411.02038; finite
scalar quantisation, arXiv 2309.15505.
Next: image.py.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from gemini_mini import nn

Kind = Literal["pulled", "rotation", "simvq", "fsq"]
Losses = dict[str, Float[Array, ""]]
stop = jax.lax.stop_gradient
CACHED_DISTANCES = 1 << 21  # 8 MB


class Pulled(nnx.Module):
    """A codebook stored divided by `lr`, which multiplies its learning rate."""

    def __init__(self, num_codes: int, dim: int, lr: float, rngs: nnx.Rngs):
        self.lr = lr
        unit = num_codes**0.5  # undoes the fan-in: a codebook is looked up, not summed over
        self.codebook = nn.param(rngs, (num_codes, dim), "V Z", unit / lr)

    def vectors(self) -> Float[Array, "V Z"]:
        """The codebook; code 0 is the zero vector, white."""
        return (self.codebook[...] * self.lr).at[0].set(0.0)

    def bound(self, latents: Float[Array, "B Z"]) -> Float[Array, "B Z"]:
        """The latents as they are compared with the vectors."""
        return latents

    def tie(self, latents: Float[Array, "B Z"]) -> tuple[Float[Array, "B Z"], Losses]:
        """Rounded latents whose gradient is the latents' own, and what pulls codes and latents together."""
        book = self.vectors()
        quantised = book[nearest(stop(latents), stop(book))]
        missed = jnp.sum((stop(latents) - stop(quantised)) ** 2, axis=1)
        wanting = nearest(stop(book), stop(latents), jnp.where(missed < jnp.mean(missed), jnp.inf, 0.0))
        attraction = mean_square(quantised - stop(latents)) + mean_square(book - stop(latents)[wanting])
        return self.through(latents, stop(quantised)), {
            "commitment": mean_square(latents - stop(quantised)), "attraction": attraction}

    def through(self, latents: Float[Array, "B Z"], quantised: Float[Array, "B Z"]) -> Float[Array, "B Z"]:
        """`quantised`, with the gradient of `latents` as if nothing had been rounded."""
        return latents + stop(quantised - latents)


class Rotation(Pulled):
    """The gradient goes through the rotation and scaling that take a latent to its code."""

    def through(self, latents: Float[Array, "B Z"], quantised: Float[Array, "B Z"]) -> Float[Array, "B Z"]:
        """`quantised` as a linear map of `latents`: turn the one direction into the other, then scale."""
        old, new = length(stop(latents)), length(quantised)
        start, end = stop(latents) / old, quantised / new
        middle = (start + end) / length(start + end)
        turned = (latents - 2 * jnp.sum(latents * middle, axis=1, keepdims=True) * middle
                  + 2 * jnp.sum(latents * start, axis=1, keepdims=True) * end)
        return jnp.where(new > 1e-3, turned * new / old, latents + stop(quantised - latents))  # white has no direction


class SimVq(Pulled):
    """The codebook is frozen; one matrix moves all of its codes, so none is left behind."""

    def __init__(self, num_codes: int, dim: int, lr: float, rngs: nnx.Rngs):
        super().__init__(num_codes, dim, 1.0, rngs)
        self.mixing = nnx.Param(jnp.asarray(np.eye(dim, dtype=np.float32)), axes="Z Z")

    def vectors(self) -> Float[Array, "V Z"]:
        """The frozen codebook times the matrix."""
        return (stop(self.codebook[...]) @ self.mixing[...]).at[0].set(0.0)

    def tie(self, latents: Float[Array, "B Z"]) -> tuple[Float[Array, "B Z"], Losses]:
        """As for the pulled codebook, without the pull of every code to a latent."""
        book = self.vectors()
        quantised = book[nearest(stop(latents), stop(book))]
        return self.through(latents, stop(quantised)), {
            "commitment": mean_square(latents - stop(quantised)), "attraction": mean_square(quantised - stop(latents))}


class Fsq(nnx.Module):
    """Every value on a grid of its own; `num_codes` is the product of `levels`, fewer once some are dropped."""

    def __init__(self, levels: tuple[int, ...], num_codes: int):
        self.levels = levels
        self.codebook = nnx.Param(jnp.asarray(grid(levels)[:num_codes]), axes="V Z")

    def vectors(self) -> Float[Array, "V Z"]:
        """The grid, or what is left of it."""
        return stop(self.codebook[...])

    def bound(self, latents: Float[Array, "B Z"]) -> Float[Array, "B Z"]:
        """Squeeze each value between its lowest and highest level; zero stays zero."""
        levels = np.array(self.levels)
        half, offset = (levels - 1) * 1.001 / 2, np.where(levels % 2, 0.0, 0.5)
        squeezed = half * jnp.tanh(latents + np.arctanh(offset / half)) - offset
        return (squeezed / (levels // 2)).astype(latents.dtype)

    def tie(self, latents: Float[Array, "B Z"]) -> tuple[Float[Array, "B Z"], Losses]:
        """Rounded latents whose gradient is that of the bounded ones; there is nothing to pull."""
        bounded, halves = self.bound(latents), np.array(self.levels, np.float32) // 2
        return bounded + stop(jnp.round(bounded * halves) / halves - bounded), {}


def make(kind: Kind, num_codes: int, dim: int, levels: tuple[int, ...], lr: float, rngs: nnx.Rngs) -> Pulled | Fsq:
    """The quantiser of that kind."""
    match kind:
        case "pulled":
            return Pulled(num_codes, dim, lr, rngs)
        case "rotation":
            return Rotation(num_codes, dim, lr, rngs)
        case "simvq":
            return SimVq(num_codes, dim, lr, rngs)
        case "fsq":
            return Fsq(levels, num_codes)


def ids(quantiser: Pulled | Fsq, latents: Float[Array, "B Z"]) -> Int[Array, "B"]:
    """The nearest code of each latent."""
    return nearest(quantiser.bound(latents), quantiser.vectors())


def nearest(
    points: Float[Array, "B Z"], table: Float[Array, "V Z"], farther: Float[Array, "V"] | float = 0.0
) -> Int[Array, "B"]:
    """The row of `table` nearest to each point, the first of equals; `farther` is added to squared distances.

    A few points at a time, so that their distances stay in cache, and a minimum with the first place equal
    to it in place of `argmin`, which XLA's CPU backend does one value at a time: ten times as fast together.
    """
    places = jnp.arange(len(table), dtype=jnp.int32)
    squares = jnp.sum(table**2, axis=1) + farther

    def one(point: Float[Array, "Z"]) -> Int[Array, ""]:
        far = squares - 2 * table @ point
        return jnp.min(jnp.where(far == jnp.min(far), places, len(table) - 1))

    return jax.lax.map(one, points, batch_size=max(1, CACHED_DISTANCES // len(table)))


def grid(levels: tuple[int, ...]) -> Float[np.ndarray, "V Z"]:
    """Every combination of levels, scaled to [-1, 1]; the one of zeros first."""
    ticks = [(np.arange(n) - n // 2) / (n // 2) for n in levels]
    points = np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1).reshape(math.prod(levels), -1)
    return points[np.argsort(points.any(axis=1), kind="stable")].astype(np.float32)


def length(x: Float[Array, "B Z"]) -> Float[Array, "B 1"]:
    """Euclidean length, never quite zero."""
    return jnp.sqrt(jnp.sum(x * x, axis=1, keepdims=True) + 1e-12)


def mean_square(x: Float[Array, "B Z"]) -> Float[Array, ""]:
    """Mean squared length of vectors."""
    return jnp.mean(jnp.sum(x * x, axis=-1))
