"""A small Conformer: attention looks around, convolution looks nearby, each between half MLPs.

    x + MLP/2 -> + attention -> + convolution -> + MLP/2 -> norm

Convolutions are sums of shifted copies: XLA's own are several times slower on a CPU. Frames
beyond the end of a clip are zeroed before anything looks sideways, so padding changes nothing.
A frame attends to those at most `window` away. Blocks of `window` queries meet their own keys and
those of the blocks beside them: linear cost, and no array of all pairs of a long clip. Queries and keys are
rotated by their places there, so only distances count, and those of an hour are as exact as the first.
Paper: Gulati et al. 2020, arXiv 2005.08100. We use RMSNorm for layer and batch norm, rotary
positions for those of Transformer-XL, and gated MLPs. Attention is local as in the BEST-RQ
pretraining of USM (arXiv 2303.01037, section 2.4).
Next: audio.py, which turns the output into codes.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from gemini_mini import nn


def neighbours(x: Float[Array, "B A D"], size: int) -> list[Float[Array, "B A D"]]:
    """`size` copies of `x`, shifted so that copy i holds frame t + i - size // 2 at t; zeros outside."""
    left = size // 2
    padded = jnp.pad(x, ((0, 0), (left, size - 1 - left), (0, 0)))
    return [padded[:, i : i + x.shape[1]] for i in range(size)]


class Subsample(nnx.Module):
    """Halve the frame rate: a convolution over four frames with stride two."""

    def __init__(self, inputs: int, width: int, rngs: nnx.Rngs):
        self.weight = nn.param(rngs, (4 * inputs, width), "M D", 2**0.5)

    def __call__(self, x: Float[Array, "B frames M"]) -> Float[Array, "B half D"]:
        pairs = x.reshape(x.shape[0], x.shape[1] // 2, 2 * x.shape[2])
        following = jnp.pad(pairs[:, 1:], ((0, 0), (0, 1), (0, 0)))
        return jax.nn.gelu(nn.linear(jnp.concatenate([pairs, following], -1), self.weight))


class Attention(nnx.Module):
    """Multi-head self-attention of each frame to the valid ones at most `window` away."""

    def __init__(self, width: int, heads: int, window: int, rngs: nnx.Rngs):
        shape = (width, heads, width // heads)
        self.window = window
        self.norm = nn.RMSNorm(width)
        self.query = nn.param(rngs, shape, "D N H", heads**0.5)  # the fan in is D alone
        self.key = nn.param(rngs, shape, "D N H", heads**0.5)
        self.value = nn.param(rngs, shape, "D N H", heads**0.5)
        self.out = nn.param(rngs, (heads, width // heads, width), "N H D")

    def __call__(self, x: Float[Array, "B A D"], valid: Bool[Array, "B A"]) -> Float[Array, "B A D"]:
        rows, frames, width = x.shape
        # A short clip is one block: all its pairs cost less than the keys of blocks beside.
        size, beside = (frames, 0) if frames <= 4 * self.window else (self.window, 1)
        x = self.norm(x)
        q, k, v = (_blocks(self._heads(x, weight), size) for weight in (self.query, self.key, self.value))
        seen = _blocks(1.0 * valid[..., None, None], size)
        k, v, seen = (_with_neighbours(part, rows, beside) for part in (k, v, seen))
        q_place, k_place = jnp.arange(size), jnp.arange(k.shape[1]) - beside * size
        near = jnp.abs(q_place[:, None] - k_place[None]) <= self.window
        near = near[None, None] & (seen[:, None, None, :, 0, 0] > 0)
        q, k = (nn.rope(part, nn.turns(place[None], part.shape[-1])) for part, place in ((q, q_place), (k, k_place)))
        scores = jnp.einsum("banh,bcnh->bnac", q, k) * q.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(near, scores, -1e9), axis=-1)
        mixed = jnp.einsum("bnac,bcnh->banh", weights, v).reshape(rows, -1, width)[:, :frames]
        return (mixed.reshape(-1, width) @ self.out[...].reshape(width, -1)).reshape(x.shape)

    def _heads(self, x: Float[Array, "B A D"], weight: nnx.Param) -> Float[Array, "B A N H"]:
        """One product of two matrices, as `nn.linear`."""
        flat = x.reshape(-1, x.shape[-1]) @ weight[...].reshape(x.shape[-1], -1)
        return flat.reshape(*x.shape[:2], *weight.shape[1:])


def _blocks(x: Float[Array, "B A N H"], size: int) -> Float[Array, "blocks size N H"]:
    """Every `size` frames as a row of their own; zeros fill the last."""
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), (0, 0), (0, 0)))
    return x.reshape(-1, size, *x.shape[2:])


def _with_neighbours(x: Float[Array, "blocks size N H"], rows: int, beside: int) -> Float[Array, "blocks keys N H"]:
    """Each block between the `beside` blocks before it and those behind it in its row."""
    copies = neighbours(x.reshape(rows, x.shape[0] // rows, -1), 1 + 2 * beside)
    return jnp.concatenate([copy.reshape(x.shape) for copy in copies], axis=1)


class Convolution(nnx.Module):
    """Gate, look at `kernel` neighbouring frames per channel, mix the channels."""

    def __init__(self, width: int, kernel: int, rngs: nnx.Rngs):
        self.norm = nn.RMSNorm(width)
        self.gate = nn.param(rngs, (width, width), "D F")
        self.up = nn.param(rngs, (width, width), "D F")
        self.depthwise = nn.param(rngs, (kernel, width), "A F")
        self.inner_norm = nn.RMSNorm(width, "F")
        self.down = nn.param(rngs, (width, width), "F D")

    def __call__(self, x: Float[Array, "B A D"], valid: Bool[Array, "B A"]) -> Float[Array, "B A D"]:
        x = self.norm(x)
        x = nn.linear(x, self.up) * jax.nn.sigmoid(nn.linear(x, self.gate))
        weight = self.depthwise[...]
        shifted = neighbours(x * valid[..., None], weight.shape[0])
        x = sum(copy * weight[i][None, None] for i, copy in enumerate(shifted))
        return nn.linear(jax.nn.silu(self.inner_norm(x)), self.down)


class Block(nnx.Module):
    """One Conformer block."""

    def __init__(self, width: int, heads: int, window: int, kernel: int, hidden: int, rngs: nnx.Rngs):
        self.norm_before, self.before = nn.RMSNorm(width), nn.MLP(width, hidden, rngs)
        self.attention = Attention(width, heads, window, rngs)
        self.convolution = Convolution(width, kernel, rngs)
        self.norm_after, self.after = nn.RMSNorm(width), nn.MLP(width, hidden, rngs)
        self.norm = nn.RMSNorm(width)

    def __call__(self, x: Float[Array, "B A D"], valid: Bool[Array, "B A"]) -> Float[Array, "B A D"]:
        x = x + 0.5 * self.before(self.norm_before(x))
        x = x + self.attention(x, valid)
        x = x + self.convolution(x, valid)
        x = x + 0.5 * self.after(self.norm_after(x))
        return self.norm(x)
