"""Attention over long rows: every kernel, on one device and around a ring, against numpy, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gemini_mini import parallel
from gemini_mini.model import ring, splash

TOKENS = 1024
BOUND = 2e-5  # float32, of values and gradients of order one
KERNELS = {"blockwise": ring.Blockwise(), "splash": splash.Splash(interpret=True, block=128, block_grad=256)}


def textbook(q, k, v, segments, grad):
    """Output and gradients in float64, one head of queries at a time, the scores whole."""
    q, k, v, grad = (x.astype(np.float64) for x in (q, k, v, grad))
    group, scale = q.shape[2] // k.shape[2], q.shape[-1] ** -0.5
    out, dq, dk, dv = (np.zeros_like(x) for x in (q, q, k, v))
    order = np.arange(q.shape[1])
    for b, n in np.ndindex(q.shape[0], q.shape[2]):
        seen = (order[:, None] >= order) & (segments[b, :, None] == segments[b, None])
        keys, values = k[b, :, n // group], v[b, :, n // group]
        scores = np.where(seen, q[b, :, n] @ keys.T * scale, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[b, :, n] = weights @ values
        dweights = grad[b, :, n] @ values.T
        dscores = weights * (dweights - (weights * dweights).sum(-1, keepdims=True)) * scale
        dq[b, :, n] = dscores @ keys
        dk[b, :, n // group] += dscores.T @ q[b, :, n]
        dv[b, :, n // group] += weights.T @ grad[b, :, n]
    return out, dq, dk, dv


@functools.cache
def case(kv_heads: int, head_dim: int):
    rng = np.random.default_rng(0)
    q, grad = rng.normal(size=(2, 1, TOKENS, 2, head_dim)).astype(np.float32)
    k, v = rng.normal(size=(2, 1, TOKENS, kv_heads, head_dim)).astype(np.float32)
    segments = np.repeat([1, 2, 3, 0], [300, 520, 150, 54])[None].astype(np.int32)
    return (q, k, v, segments, grad), textbook(q, k, v, segments, grad)


def check(kernel: str, size: int, kv_heads: int = 1, head_dim: int = 128):
    (q, k, v, segments, grad), wanted = case(kv_heads, head_dim)
    devices = parallel.mesh((1, 1, 1, size), jax.devices()[:size])

    def attend(q, k, v):
        args = (q, k, v, jnp.asarray(segments))
        if size == 1:
            return ring.attend(*args, KERNELS[kernel])
        return ring.from_zigzag(ring.attend(*map(ring.to_zigzag, args), KERNELS[kernel]))

    def both(q, k, v):
        with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
            out, back = jax.vjp(attend, q, k, v)
            return out, *back(jnp.asarray(grad))

    placed = [jax.device_put(x, NamedSharding(devices, PartitionSpec())) for x in (q, k, v)]
    with jax.default_matmul_precision("highest"):
        got = jax.jit(both)(*placed)
    for name, a, b in zip(("out", "dq", "dk", "dv"), got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=BOUND * max(1, np.abs(b).max()), err_msg=name)


@pytest.mark.parametrize("size, kv_heads", [(1, 2), (4, 1)])
def test_blocks_of_keys_equal_the_textbook(size, kv_heads, monkeypatch):
    monkeypatch.setattr(ring, "BLOCK", 64)  # many blocks, some of them without a document in common
    check("blockwise", size, kv_heads, head_dim=16)


def test_other_documents_are_never_read_and_memory_grows_with_the_row(monkeypatch):
    def compiled(tokens, heads=1, head_dim=8):
        x, segments = jax.ShapeDtypeStruct((1, tokens, heads, head_dim), jnp.float32), jax.ShapeDtypeStruct((1, tokens), jnp.int32)
        attend = lambda q, k, v, s: ring.attend(q, k, v, s, ring.Blockwise())
        return jax.jit(lambda grad, *args: jax.vjp(lambda *qkv: attend(*qkv, args[3]), *args[:3])[1](grad)).lower(*4 * [x], segments).compile()

    assert compiled(8192, 4, 64).memory_analysis().temp_size_in_bytes < 0.3e9  # scores of all positions alone take 1.1e9
    monkeypatch.setattr(ring, "BLOCK", 32)
    short, long = compiled(256), compiled(1024)
    grow = long.memory_analysis().temp_size_in_bytes / short.memory_analysis().temp_size_in_bytes
    assert grow < 4.5, f"four times the row took {grow:.1f} times the memory"
    segments = np.repeat([1, 2, 0], [96, 128, 32])[None].astype(np.int32)
    x = np.random.default_rng(0).normal(size=(4, 1, 256, 1, 8)).astype(np.float32)
    x[:, :, :96] = np.nan  # the product of a hidden weight, 0, and of this is no number
    assert all(np.isfinite(dx[:, 96:]).all() for dx in short(*x, segments))


@pytest.mark.parametrize("size, kv_heads", [(1, 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 1), (2, 1), (4, 1), (4, 2)))])
def test_the_tpu_kernels_equal_the_textbook(size, kv_heads):
    check("splash", size, kv_heads)


@pytest.mark.parametrize("size", [2, 8])
def test_a_zigzag_gives_each_device_an_early_and_a_late_stretch_and_comes_back(size):
    devices = parallel.mesh((1, 1, 1, size), jax.devices()[:size])
    x = np.arange(4 * size, dtype=np.int32)[None]

    def both(x):
        with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
            dealt = ring.to_zigzag(x)
            return dealt, ring.from_zigzag(dealt)

    dealt, back = jax.jit(both)(jax.device_put(x, NamedSharding(devices, parallel.ROWS)))
    stretches = x.reshape(2 * size, 2)
    wanted = [np.concatenate([stretches[i], stretches[2 * size - 1 - i]]) for i in range(size)]
    assert (np.asarray(dealt) == np.concatenate(wanted)).all() and (np.asarray(back) == x).all()
