"""The kernel of ring.py for a CPU that multiplies bfloat16: attend.cc, made by matmul.py.

Scores stay in the processor's caches, block by block, forward and backward; memory has none of them. Blocks of other
documents are left out, so that a packed row costs what its documents do.
Paper: FlashAttention-2, Dao 2023, arXiv 2307.08691.
Next: ring.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gemini_mini import matmul
from gemini_mini.model import ring

BLOCK, UNIT = 64, 32  # of attend.cc: positions, and numbers of a head, are padded to whole ones
NOWHERE = -1  # the segment of padding


class Flash:
    """Products are rounded to bfloat16 and summed in float32. `matmul.use` comes first."""

    def forward(self, queries: ring.Queries, keys: ring.Keys, causal: bool) -> tuple[Array, Array]:
        """See ring.Kernel."""
        inputs = _inputs(queries, keys)
        shape = inputs[0].shape
        call = jax.ffi.ffi_call("gemini_mini_attend", [matmul.floats(shape), matmul.floats(shape[:3])])
        out, lse = call(*inputs, causal=np.bool_(causal))
        length, size = queries.q.shape[2:]
        return out[:, :, :length, :size].astype(queries.q.dtype), lse[:, :, :length]

    def backward(self, queries: ring.Queries, keys: ring.Keys, out, lse, grad, causal: bool) -> tuple[Array, Array, Array]:
        """See ring.Kernel."""
        q, k, *others = _inputs(queries, keys)
        given = _padded(grad.astype(matmul.NARROW))
        mean = (given.astype(jnp.float32) * _padded(out.astype(jnp.float32))).sum(-1)  # of the weights' gradients, of what is multiplied
        lse = jnp.pad(lse, [(0, 0), (0, 0), (0, mean.shape[2] - lse.shape[2])])
        of_keys = (*q.shape[:2], *k.shape[2:])  # of each query head: they are summed here
        call = jax.ffi.ffi_call("gemini_mini_attend_back", [matmul.floats(q.shape), matmul.floats(of_keys), matmul.floats(of_keys)])
        slopes = call(q, k, *others, given, lse, mean, causal=np.bool_(causal))
        dq, dk, dv = (x[:, :, : like.shape[2], : like.shape[3]] for x, like in zip(slopes, (queries.q, keys.k, keys.v), strict=True))
        grouped = lambda x: x.reshape(x.shape[0], k.shape[1], -1, *x.shape[2:]).sum(2)
        return dq.astype(queries.q.dtype), grouped(dk).astype(keys.k.dtype), grouped(dv).astype(keys.v.dtype)


def _inputs(queries: ring.Queries, keys: ring.Keys) -> tuple[Array, ...]:
    segments = (jnp.pad(x, [(0, 0), (0, -x.shape[1] % BLOCK)], constant_values=NOWHERE) for x in (queries.segments, keys.segments))
    return *(_padded(x.astype(matmul.NARROW)) for x in (queries.q, keys.k, keys.v)), *segments


def _padded(x: Array) -> Array:
    return jnp.pad(x, [(0, 0), (0, 0), (0, -x.shape[2] % BLOCK), (0, -x.shape[3] % UNIT)])
