"""The kernel of ring.py for TPUs: splash attention, the Pallas kernels that come with JAX.

The ring needs the backward kernel with a log-sum-exp of more keys than it is given, which JAX exports
under a private name only: this is the one file that knows it. The fused backward kernel computes the
scores once for all three gradients, five products in place of seven, for a partial gradient of the
queries from every block of keys; large blocks of keys keep those few, and need a chip's fast memory.
Next: ring.py.
"""

import math
from dataclasses import dataclass

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array

from gemini_mini.model import ring


@dataclass(frozen=True)
class Splash:
    """`interpret` runs the kernels without a TPU, for tests."""

    interpret: bool = False
    block: int = 1024  # queries and keys of a block
    block_grad: int = 2048  # keys of a block in the backward kernel

    @classmethod
    def on(cls, device_kind: str) -> "Splash":
        """The largest blocks that such a chip's fast memory holds: for v4 the compiler spills more."""
        return cls(block=512) if device_kind == "TPU v4" else cls()

    def forward(self, queries: ring.Queries, keys: ring.Keys, causal: bool) -> tuple[Array, Array]:
        """See ring.Kernel."""
        kernel = self._kernel(queries, keys, causal)
        def one(q, k, v, q_segments, k_segments):
            return kernel(q, k, v, kernels.SegmentIds(q_segments, k_segments))
        out, (lse,) = jax.vmap(one)(queries.q, *self._heads(keys), queries.segments, keys.segments)
        return out, lse

    def backward(self, queries: ring.Queries, keys: ring.Keys, out, lse, grad, causal: bool) -> tuple[Array, Array, Array]:
        """See ring.Kernel."""
        kernel = self._kernel(queries, keys, causal)
        settings = [kernel.kwargs[name] for name in ("save_residuals", "mask_value", "is_mqa", "block_sizes",
                                                     "residual_checkpoint_name", "mask_function",
                                                     "attn_logits_soft_cap", "interpret")]
        def one(q, k, v, q_segments, k_segments, out, lse, grad):
            segments = kernels.SegmentIds(q_segments, k_segments)
            residuals = (q, k, v, segments, None, out, lse, kernel.dq_mask_info, kernel.dkv_mask_info)
            return kernels._splash_attention_bwd(*settings, residuals, grad)[3:6]
        dq, dk, dv = jax.vmap(one)(queries.q, *self._heads(keys), queries.segments, keys.segments, out, lse, grad)
        return dq, dk.reshape(keys.k.shape), dv.reshape(keys.v.shape)

    def _heads(self, keys: ring.Keys) -> tuple[Array, Array]:
        """A single key head has no axis in these kernels."""
        return (keys.k[:, 0], keys.v[:, 0]) if keys.k.shape[1] == 1 else (keys.k, keys.v)

    def _kernel(self, queries: ring.Queries, keys: ring.Keys, causal: bool) -> kernels.SplashAttentionKernel:
        heads, rows, columns = *queries.q.shape[1:3], keys.k.shape[2]
        mask = masks.CausalMask((rows, columns)) if causal else masks.FullMask((rows, columns))
        block_q, block_k, block_grad = math.gcd(rows, self.block), math.gcd(columns, self.block), math.gcd(columns, self.block_grad)
        sizes = kernels.BlockSizes(block_q=block_q, block_kv=block_k, block_kv_compute=block_k, block_q_dkv=block_q,
                                   block_kv_dkv=block_grad, block_kv_dkv_compute=min(block_grad, self.block),
                                   use_fused_bwd_kernel=True)
        make = kernels.make_splash_mqa if keys.k.shape[1] == 1 else kernels.make_splash_mha
        return make(masks.MultiHeadMask([mask] * heads), block_sizes=sizes, save_residuals=True, head_shards=1,
                    q_seq_shards=1, interpret=self.interpret)
