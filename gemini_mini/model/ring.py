"""Attention over long rows: blocks of keys one after another, and rows that no device holds whole.

A kernel gives the attention of some queries to some keys and its log-sum-exp; two such results merge
into the attention to all those keys:

    lse = log(e^lse1 + e^lse2)        out = out1 e^(lse1 - lse) + out2 e^(lse2 - lse)

So keys and values can travel: each device keeps its queries, passes its keys on around the context
axis of the mesh, and merges. The next keys are under way while those at hand are used; in the
backward pass the gradients of keys travel with them. Causal rows give the first device the least to
do, so a row of 2n stretches is dealt in a zigzag, stretches i and 2n - 1 - i to device i: then every
device does the same at every step, either all its queries to the first half of the keys that came or
its later half of queries to all of them.
Papers: ring attention, arXiv 2310.01889; zigzag, as in arXiv 2311.09431; blocks, arXiv 2205.14135.
Next: splash.py, the same kernel for TPUs.
"""

import functools
import math
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Shaped

from gemini_mini import parallel

RESIDUALS = "attention"  # names what a rematerialised block keeps of its attention
BLOCK = 256  # queries and keys of a block of `Blockwise`


class Queries(NamedTuple):
    """Scaled queries of some positions, and the segments these are in."""

    q: Float[Array, "B N T H"]
    segments: Int[Array, "B T"]


class Keys(NamedTuple):
    """Keys and values of some positions, and the segments these are in."""

    k: Float[Array, "B K S H"]
    v: Float[Array, "B K S H"]
    segments: Int[Array, "B S"]


@runtime_checkable
class Kernel(Protocol):
    """Attention of queries to keys of the same segment; `causal` says both are the same positions, in order."""

    def forward(self, queries: Queries, keys: Keys, causal: bool) -> tuple[Array, Array]:
        """(out [B N T H], log-sum-exp [B N T]); a query that sees no key has a very negative log-sum-exp."""

    def backward(self, queries: Queries, keys: Keys, out, lse, grad, causal: bool) -> tuple[Array, Array, Array]:
        """Gradients of q, k and v, given the merged `out` and `lse` of all keys and the gradient of `out`."""


def attend(
    q: Float[Array, "B T N H"], k: Float[Array, "B T K H"], v: Float[Array, "B T K H"], segments: Int[Array, "B T"],
    kernel: Kernel,
) -> Float[Array, "B T N H"]:
    """Causal attention within each segment; on a mesh, positions cut over the context axis in zigzag order.

    Key heads follow the tensor axis with the query heads, except a single one, which every device holds.
    """
    heads = "tensor" if k.shape[2] > 1 else None
    rows, positions = parallel.ROWS
    inner = parallel.per_device(functools.partial(_attend, kernel, parallel.context_size()),
                                (PartitionSpec(rows, "tensor", positions), *2 * (PartitionSpec(rows, heads, positions),),
                                 parallel.ROWS), PartitionSpec(rows, "tensor", positions))
    q, k, v = (rearrange(x, "b t n h -> b n t h") for x in (q * q.shape[-1] ** -0.5, k, v))
    return rearrange(inner(q, k, v, segments), "b n t h -> b t n h")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(kernel: Kernel, size: int, q, k, v, segments):
    return _forward(kernel, size, q, k, v, segments)[0]


def _forward(kernel: Kernel, size: int, q, k, v, segments):
    queries, keys = Queries(q, segments), Keys(k, v, segments)
    if size == 1:
        return kernel.forward(queries, keys, True)
    here = jax.lax.axis_index("context")
    coming = _pass_on(keys, size)
    out, lse = kernel.forward(queries, keys, True)

    def step(carry, n):
        keys, out, lse = carry
        coming = _pass_on(keys, size)
        merged = jax.lax.cond(
            n <= here,  # these keys come from device here - n, whose first half is all earlier than ours
            lambda: _merge(out, lse, *kernel.forward(queries, _half(keys, 0), False)),
            lambda: jax.tree.map(lambda old, new: jnp.concatenate([_half(old, 0), new], 2), (out, lse),
                                 _merge(_half(out, 1), _half(lse, 1), *kernel.forward(_half(queries, 1), keys, False))))
        return (coming, *merged), None

    (_, out, lse), _ = jax.lax.scan(step, (coming, out.astype(jnp.float32), lse), jnp.arange(1, size))
    return out.astype(q.dtype), lse


def _forward_rule(kernel: Kernel, size: int, q, k, v, segments):
    out, lse = checkpoint_name(_forward(kernel, size, q, k, v, segments), RESIDUALS)
    return out, (q, k, v, segments, out, lse)


def _backward_rule(kernel: Kernel, size: int, residuals, grad):
    q, k, v, segments, out, lse = residuals
    queries, keys = Queries(q, segments), Keys(k, v, segments)
    if size == 1:
        return *kernel.backward(queries, keys, out, lse, grad, True), None
    here = jax.lax.axis_index("context")
    coming = _pass_on(keys, size)
    dq, *dkv = _wide(kernel.backward(queries, keys, out, lse, grad, True))

    def step(carry, n):
        keys, dkv, dq = carry
        coming, dkv = _pass_on(keys, size), _pass_on(dkv, size)

        def earlier():
            dq, *dkv = _wide(kernel.backward(queries, _half(keys, 0), out, lse, grad, False))
            return dq, [jnp.concatenate([x, jnp.zeros_like(x)], 2) for x in dkv]

        def later():
            dq, *dkv = _wide(kernel.backward(_half(queries, 1), keys, *(_half(x, 1) for x in (out, lse, grad)), False))
            return jnp.concatenate([jnp.zeros_like(dq), dq], 2), dkv

        more_dq, more_dkv = jax.lax.cond(n <= here, earlier, later)
        return (coming, jax.tree.map(jnp.add, dkv, more_dkv), dq + more_dq), None

    (_, dkv, dq), _ = jax.lax.scan(step, (coming, dkv, dq), jnp.arange(1, size))
    dk, dv = _pass_on(dkv, size)  # the last hop brings them home
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_attend.defvjp(_forward_rule, _backward_rule)


def _merge(out, lse, more, more_lse):
    """Attention to two sets of keys as one, in float32."""
    both = jnp.logaddexp(lse, more_lse)
    return out * jnp.exp(lse - both)[..., None] + more * jnp.exp(more_lse - both)[..., None], both


def _half(x, which: int):
    """The first or second half of the positions of queries, keys, outputs or log-sum-exps."""
    def cut(leaf):
        axis = 1 if leaf.ndim == 2 else 2
        return jnp.split(leaf, 2, axis)[which]
    return jax.tree.map(cut, x)


def _wide(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def _pass_on(tree, size: int):
    """To the next device of the context axis."""
    ring = [(i, (i + 1) % size) for i in range(size)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, "context", ring), tree)


def to_zigzag(x: Shaped[Array, "B T ..."]) -> Shaped[Array, "B T ..."]:
    """Rows in order, cut over the context axis, to stretches i and 2n - 1 - i on device i."""
    return parallel.per_device(functools.partial(_deal, parallel.context_size(), False), parallel.ROWS, parallel.ROWS)(x)


def from_zigzag(x: Shaped[Array, "B T ..."]) -> Shaped[Array, "B T ..."]:
    """The inverse of `to_zigzag`."""
    return parallel.per_device(functools.partial(_deal, parallel.context_size(), True), parallel.ROWS, parallel.ROWS)(x)


def previous(x: Shaped[Array, "B T ..."], segments: Int[Array, "B T"]) -> Shaped[Array, "B T ..."]:
    """Of each position what the one before it has, and zeros where a segment begins; in zigzag order where rows are cut."""
    is_cut = parallel.context_size() > 1
    if is_cut:
        x, segments = from_zigzag(x), from_zigzag(segments)
    behind = lambda a: jnp.pad(a, [(0, 0), (1, 0)] + [(0, 0)] * (a.ndim - 2))[:, :-1]
    same = (segments == behind(segments)).reshape(*segments.shape, *[1] * (x.ndim - 2))
    found = jnp.where(same, behind(x), 0)
    return to_zigzag(found) if is_cut else found


def _deal(size: int, back: bool, x):
    """Each device sends its even and its odd stretch to where they belong; no two arrive at one place.

    Stretches i and 2n - 1 - i differ in parity, so each device has one of each parity before and after.
    """
    home = [min(s, 2 * size - 1 - s) for s in range(2 * size)]
    hops = [[(s // 2, home[s]) for s in range(parity, 2 * size, 2)] for parity in (0, 1)]
    here = jax.lax.axis_index("context")
    first, second = jnp.split(x, 2, axis=1)
    if back:
        # The lower of the two is stretch `here`: even on even devices.
        even, odd = (jnp.where(here % 2 == 0, a, b) for a, b in ((first, second), (second, first)))
        hops = [[(there, origin) for origin, there in pairs] for pairs in hops]
        moved = [jax.lax.ppermute(part, "context", pairs) for part, pairs in zip((even, odd), hops, strict=True)]
        return jnp.concatenate(moved, axis=1)
    even, odd = (jax.lax.ppermute(part, "context", pairs) for part, pairs in zip((first, second), hops, strict=True))
    lower, upper = (jnp.where(here % 2 == 0, a, b) for a, b in ((even, odd), (odd, even)))
    return jnp.concatenate([lower, upper], axis=1)


class Blockwise:
    """The kernel for any device: scores of one block of queries and one of keys at a time; blocks in the
    future or of other documents are skipped.
    """

    def forward(self, queries: Queries, keys: Keys, causal: bool) -> tuple[Array, Array]:
        """See Kernel."""
        blocks = _Blocks(queries, keys, causal)

        def of_queries(i):
            def of_keys(j, carry):
                out, top, total = carry
                scores = blocks.scores(i, j)
                new_top = jnp.maximum(top, scores.max(-1))
                weights, shrink = jnp.exp(scores - new_top[..., None]), jnp.exp(top - new_top)
                out = out * shrink[..., None] + _product("bkgts,bksh->bkgth", weights.astype(keys.v.dtype), blocks.of_keys(keys.v, j))
                return out, new_top, total * shrink + weights.sum(-1)

            shape = blocks.q.shape[:3] + (blocks.rows,)
            zeros = jnp.zeros((*shape, queries.q.shape[-1]), jnp.float32)
            out, top, total = jax.lax.fori_loop(*_span(blocks.reach[i]), of_keys,
                                                (zeros, jnp.full(shape, HIDDEN), jnp.zeros(shape)))
            total = jnp.maximum(total, 1e-30)  # 0 where all blocks of keys are skipped
            return out / total[..., None], top + jnp.log(total)

        out, lse = jax.lax.map(of_queries, jnp.arange(blocks.num_queries))
        return (rearrange(out, "i b k g t h -> b (k g) (i t) h").astype(queries.q.dtype),
                rearrange(lse, "i b k g t -> b (k g) (i t)"))

    def backward(self, queries: Queries, keys: Keys, out, lse, grad, causal: bool) -> tuple[Array, Array, Array]:
        """See Kernel."""
        blocks = _Blocks(queries, keys, causal)
        fold = functools.partial(rearrange, pattern="b (k g) ... -> b k g ...", k=keys.k.shape[1])
        grad, lse = fold(grad), fold(lse)
        mean = (grad.astype(jnp.float32) * fold(out).astype(jnp.float32)).sum(-1)  # of the weights' gradients

        def of_keys(dq, j):
            k, v = blocks.of_keys(keys.k, j), blocks.of_keys(keys.v, j)

            def of_queries(i, carry):
                dq, dk, dv = carry
                q, g = blocks.of_queries(blocks.q, i), blocks.of_queries(grad, i)
                weights = jnp.exp(blocks.scores(i, j) - blocks.of_queries(lse, i)[..., None])
                dv += _product("bkgts,bkgth->bksh", weights.astype(g.dtype), g)
                dscores = weights * (_product("bkgth,bksh->bkgts", g, v) - blocks.of_queries(mean, i)[..., None])
                dscores = dscores.astype(q.dtype)
                dk += _product("bkgts,bkgth->bksh", dscores, q)
                old = blocks.of_queries(dq, i)
                dq = jax.lax.dynamic_update_slice_in_dim(dq, old + _product("bkgts,bksh->bkgth", dscores, k), i * blocks.rows, 3)
                return dq, dk, dv

            zeros = jnp.zeros(k.shape, jnp.float32)
            dq, dk, dv = jax.lax.fori_loop(*_span(blocks.reach[:, j]), of_queries, (dq, zeros, zeros))
            return dq, (dk, dv)

        dq, (dk, dv) = jax.lax.scan(of_keys, jnp.zeros(blocks.q.shape, jnp.float32), jnp.arange(blocks.num_keys))
        dk, dv = (rearrange(x, "j b k s h -> b k (j s) h").astype(keys.k.dtype) for x in (dk, dv))
        return rearrange(dq, "b k g t h -> b (k g) t h").astype(queries.q.dtype), dk, dv


HIDDEN = -1e30  # the score of a key that must not be seen
_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _span(is_needed: Bool[Array, "_"]) -> tuple[Array, Array]:
    """The first that is needed and the one after the last; none at all if none is."""
    size = is_needed.size
    stop = jnp.where(jnp.any(is_needed), size - jnp.argmax(is_needed[::-1]), 0)
    return jnp.argmax(is_needed).astype(jnp.int32), stop.astype(jnp.int32)


class _Blocks:
    """Queries and keys cut into blocks of equal size."""

    def __init__(self, queries: Queries, keys: Keys, causal: bool):
        self.queries, self.keys, self.causal = queries, keys, causal
        self.q = rearrange(queries.q, "b (k g) t h -> b k g t h", k=keys.k.shape[1])
        self.rows, self.columns = math.gcd(queries.q.shape[2], BLOCK), math.gcd(keys.k.shape[2], BLOCK)
        self.num_queries, self.num_keys = queries.q.shape[2] // self.rows, keys.k.shape[2] // self.columns
        # Blocks whose segments lie apart share none, whatever their order; padding, 0, stands after all others.
        last = jnp.iinfo(jnp.int32).max
        first_q, last_q, first_k, last_k = (
            end(jnp.where(segments == 0, last, segments).reshape(len(segments), blocks, -1), axis=2)
            for segments, blocks in ((queries.segments, self.num_queries), (keys.segments, self.num_keys))
            for end in (jnp.min, jnp.max))
        self.reach = jnp.any((first_q[:, :, None] <= last_k[:, None]) & (first_k[:, None] <= last_q[:, :, None]), axis=0)
        if causal:
            self.reach &= (jnp.arange(1, self.num_queries + 1) * self.rows)[:, None] > jnp.arange(self.num_keys)[None] * self.columns

    def of_queries(self, x, i):
        return jax.lax.dynamic_slice_in_dim(x, i * self.rows, self.rows, 3)

    def of_keys(self, x, j):
        return jax.lax.dynamic_slice_in_dim(x, j * self.columns, self.columns, 2)

    def scores(self, i, j):
        """Float32 [B K G T S] of block i of the queries and block j of the keys."""
        scores = _product("bkgth,bksh->bkgts", self.of_queries(self.q, i), self.of_keys(self.keys.k, j))
        row, column = i * self.rows + jnp.arange(self.rows), j * self.columns + jnp.arange(self.columns)
        seen = self.queries.segments[:, row, None] == self.keys.segments[:, None, column]
        if self.causal:
            seen &= (row[:, None] >= column)[None]
        return jnp.where(seen[:, None, None], scores, HIDDEN)
