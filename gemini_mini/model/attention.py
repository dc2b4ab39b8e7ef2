"""Multi-query attention over rows of the stream, and its cache.

One key-value head serves every query head (more is a config): the query heads fold into the
rows of one matrix product. Training attends in static chunks of queries, each to the keys up to
its own end, so no future key is ever multiplied; with `run.products=bfloat16` by flash.py. Scores
and softmax are float32 whatever the input type. Queries and keys are normalised first, which keeps
mixed modalities from diverging.
With `token_values` each id also has values of its own, a table that is only read, no product. With
`key_offset` the half of each key that positions turn least is of the id before, and queries begin much
like keys: one that is like an id finds what stood behind it, for which two blocks had to learn to work
together (EXPERIMENTS.md: after 500 steps of a mixture, where without both 4 million ids were too few).
Papers: multi-query, Shazeer 2019, arXiv 1911.02150; query-key norm, Dehghani 2023, arXiv 2302.05442;
keys of the id before, Olsson et al. 2022, arXiv 2209.11895 (smeared keys), of half of them, modded-nanogpt;
queries that begin like keys, Trockman & Kolter 2023, arXiv 2305.09828 (mimetic initialization).
Next: decoder.py; ring.py, for long rows; flash.py.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from gemini_mini import errors, matmul, nn, parallel
from gemini_mini.model import flash, ring

ALIKE = 0.7  # of what queries begin as is what their keys begin as, with `key_offset`: what is alike finds itself before anything is learned
CHUNK = 64  # queries per static chunk; the best of 32 to 512 on CPU


class LayerCache(NamedTuple):
    """Keys and values of one layer, one slot per position."""

    k: Float[Array, "B S K H"]
    v: Float[Array, "B S K H"]


def attend(
    q: Float[Array, "B T N H"], k: Float[Array, "B S K H"], v: Float[Array, "B S K H"], mask: Bool[Array, "B T S"]
) -> Float[Array, "B T N H"]:
    """Average `v` by softmax(q.k / sqrt(H)) where `mask`; a query that sees nothing gets zeros.

    Raises: ValueError if N is not a multiple of K.
    """
    heads, kv_heads = q.shape[2], k.shape[2]
    if heads % kv_heads:
        raise ValueError(f"attend: query heads must be a multiple of key heads, got {heads} and {kv_heads}")
    # Positions and the heads of a group are one axis of one product: twice as fast as two axes on CPU.
    folded = rearrange(q * q.shape[-1] ** -0.5, "b t (k g) h -> b k (t g) h", k=kv_heads)
    scores = jnp.einsum("bkmh,bskh->bkms", folded, k, preferred_element_type=jnp.float32)
    seen = jnp.repeat(mask, heads // kv_heads, axis=1)[:, None]
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True, where=seen, initial=-1e30))
    weights = jnp.exp(jnp.where(seen, scores - top, -jnp.inf))
    total = jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1e-30)
    out = jnp.einsum("bkms,bskh->bkmh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32).astype(v.dtype) / total.astype(v.dtype)
    return rearrange(out, "b k (t g) h -> b t (k g) h", t=q.shape[1])


def attend_packed(
    q: Float[Array, "B T N H"], k: Float[Array, "B T K H"], v: Float[Array, "B T K H"], segments: Int[Array, "B T"]
) -> Float[Array, "B T N H"]:
    """Causal attention within each segment of packed rows, chunk by chunk of queries."""
    length = q.shape[1]
    column = jnp.arange(length)
    outputs = []
    for start in range(0, length, CHUNK):
        end = min(start + CHUNK, length)
        causal = column[start:end, None] >= column[None, :end]
        same = segments[:, start:end, None] == segments[:, None, :end]
        outputs.append(attend(q[:, start:end], k[:, :end], v[:, :end], causal[None] & same))
    return jnp.concatenate(outputs, axis=1)


class Attention(nnx.Module):
    """Queries for every head, keys and values for few, rotary positions, an output product."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int, out_scale: float,
                 backend: Literal["chunks", "blockwise", "splash"], rngs: nnx.Rngs, token_values: int = 0, key_offset: bool = False):
        self.backend, self.key_offset = backend, key_offset
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.q = nn.param(rngs, (width, heads * head_dim), "D N")
        self.kv = nn.param(rngs, (width, 2 * kv_heads * head_dim), "D K")
        if key_offset and not isinstance(rngs, nn.Shapes):
            keys = rearrange(self.kv[...][:, : kv_heads * head_dim], "d (k h) -> d k h", k=kv_heads)
            alike = jnp.repeat(keys, heads // kv_heads, axis=1).reshape(self.q[...].shape)
            self.q[...] = ALIKE * alike + (1 - ALIKE**2) ** 0.5 * self.q[...]
        self.out = nn.param(rngs, (heads * head_dim, width), "N D", out_scale)
        self.q_norm, self.k_norm = nn.RMSNorm(head_dim, "H"), nn.RMSNorm(head_dim, "H")
        if token_values:
            self.token_values = nn.constant((token_values, kv_heads * head_dim), "Vs K", 0.0)

    def project(self, x: Float[Array, "B T D"], tokens: Int[Array, "B T"], turns: nn.Turns) -> tuple[Array, Array, Array]:
        """Normalised and rotated q [B T N H] and k [B T K H], and v [B T K H]."""
        q = rearrange(nn.linear(x, self.q), "b t (n h) -> b t n h", n=self.heads)
        k, v = rearrange(nn.linear(x, self.kv), "b t (two k h) -> two b t k h", two=2, k=self.kv_heads)
        if hasattr(self, "token_values"):
            v = v + nn.embedded(self.token_values, tokens, v.dtype).reshape(v.shape)
        return nn.rope(self.q_norm(q), turns), nn.rope(self.k_norm(k), turns), v

    def __call__(self, x: Float[Array, "B T D"], tokens: Int[Array, "B T"], turns: nn.Turns, segments: Int[Array, "B T"]):
        """Float [B T D] over packed rows; in zigzag order where their positions are cut over a mesh.

        Raises: InputError when the backend cannot attend over a cut row.
        """
        q, k, v = self.project(x, tokens, turns)
        k = self.keys(k, segments)
        if matmul.is_on():
            return self._merge(ring.attend(q, k, v, segments, flash.Flash()))
        if self.backend == "chunks":
            if parallel.context_size() > 1:
                raise errors.InputError("model.attention: rows cut over run.mesh's context axis need blockwise or splash")
            return self._merge(attend_packed(q, k, v, segments))
        kernel = ring.Blockwise() if self.backend == "blockwise" else _splash()
        return self._merge(ring.attend(q, k, v, segments, kernel))

    def step(
        self, x: Float[Array, "B T D"], tokens: Int[Array, "B T"], positions: Int[Array, "B T"], turns: nn.Turns, cache: LayerCache
    ) -> tuple[Float[Array, "B T D"], LayerCache]:
        """Write T positions of each row to their slots and attend to all slots up to each."""
        q, k, v = self.project(x, tokens, turns)
        row = jnp.arange(x.shape[0])[:, None]
        cache = LayerCache(cache.k.at[row, positions].set(k), cache.v.at[row, positions].set(v))
        seen = jnp.arange(cache.k.shape[1])[None, None, :] <= positions[:, :, None]
        k = self.keys(cache.k, jnp.ones(cache.k.shape[:2], jnp.int32))
        return self._merge(attend(q, k, cache.v, seen)), cache

    def keys(self, k: Float[Array, "B T K H"], segments: Int[Array, "B T"]) -> Float[Array, "B T K H"]:
        """Keys as queries meet them: with `key_offset` half of each is of the id before it in its segment, 0 at the first."""
        if not self.key_offset:
            return k
        half = self.head_dim // 2
        return jnp.where(jnp.arange(self.head_dim) % half >= half // 2, ring.previous(k, segments), k)

    def _merge(self, heads: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
        return nn.linear(rearrange(heads, "b t n h -> b t (n h)"), self.out)


def _splash() -> ring.Kernel:
    """Imported here because nothing else needs Pallas and its 0.4 s."""
    from gemini_mini.model import splash

    return splash.Splash.on(parallel.device_kind())
