"""Laws of our own products: the same numbers as in NumPy, whichever thread makes which part, and clear refusals."""

import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import test_ring
from gemini_mini import errors, matmul, nn, parallel, quant, replay
from gemini_mini.model import attention, decoder, flash, ring
from gemini_mini.train import loop, loss, optim, setup, trace

@pytest.fixture(params=matmul.KINDS)
def products(request, monkeypatch):
    """Products of each kind that can be had here, from now to the end of the test."""
    if request.param not in matmul.cpu_info():
        pytest.skip(f"the CPU has no {request.param}")
    monkeypatch.setattr(matmul, "_library", "bfloat16")
    assert matmul.open_narrow(request.param)
    yield
    monkeypatch.undo()
    jax.clear_caches()


def rounded(x: np.ndarray) -> np.ndarray:
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("rows, inner, cols", [(1, 48, 33), (17, 40, 1), (300, 64, 130), (96, 64, 700), (515, 16, 515), (131, 601, 1100)])
def test_products_and_slopes_are_those_of_numpy(products, rows, inner, cols):
    rng = np.random.default_rng(rows)
    x, w, grad = (rng.normal(size=shape).astype(np.float32) for shape in ((rows, inner), (inner, cols), (rows, cols)))
    made, pull = jax.vjp(jax.jit(lambda x, w: nn.product(x, w)), x, w)
    x_slope, w_slope = pull(jnp.asarray(grad))
    close = dict(rtol=1e-4, atol=1e-4 * np.sqrt(max(rows, inner, cols)))
    np.testing.assert_allclose(made, rounded(x) @ rounded(w), **close)
    np.testing.assert_allclose(x_slope, rounded(grad) @ rounded(w).T, **close)
    np.testing.assert_allclose(w_slope, rounded(x).T @ rounded(grad), **close)


@pytest.mark.parametrize("rows, width, hidden", [(1, 32, 32), (70, 64, 96), (300, 160, 288), (1100, 32, 128)])
def test_a_gated_mlp_and_its_slopes_are_those_of_numpy(products, rows, width, hidden):
    rng = np.random.default_rng(rows)
    x, grad = rng.normal(size=(2, rows, width)).astype(np.float32)
    gate, up = rng.normal(size=(2, width, hidden)).astype(np.float32) * 2 / np.sqrt(width)
    down = rng.normal(size=(hidden, width)).astype(np.float32)
    layer = nn.MLP(width, hidden, nnx.Rngs(0))
    mlp = lambda x, *weights: nn.with_weights(layer, dict(zip(("gate", "up", "down"), weights, strict=True)))(x)
    made, pull = jax.vjp(jax.jit(mlp), x, gate, up, down)
    assert "gemini_mini_gated" in str(jax.make_jaxpr(mlp)(x, gate, up, down))
    x, gate, up, down, slope = (rounded(a).astype(np.float64) for a in (x, gate, up, down, grad))
    gates, ups, back = x @ gate, x @ up, slope @ down.T
    bell = np.exp(-2 * np.sqrt(2 / np.pi) * (gates + 0.044715 * gates**3))
    share = 1 / (1 + bell)
    steep = share + gates * share * (1 - share) * 2 * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * gates**2)
    both, gate_slope, up_slope = (rounded(a.astype(np.float32)) for a in (gates * share * ups, back * ups * steep, back * gates * share))
    wanted = both @ down, gate_slope @ gate.T + up_slope @ up.T, x.T @ gate_slope, x.T @ up_slope, both.T @ slope
    for got, right in zip((made, *pull(jnp.asarray(grad))), wanted, strict=True):
        np.testing.assert_allclose(got, right, rtol=0, atol=2e-3 * np.abs(right).max())


@pytest.mark.parametrize("shape", [(1, 16), (3, 200, 2, 48), (1100, 256)])
def test_a_norm_and_its_slopes_are_those_of_numpy(products, shape):
    rng = np.random.default_rng(sum(shape))
    x, grad = rng.normal(size=(2, *shape)).astype(np.float32)
    scale = rng.normal(size=shape[-1:]).astype(np.float32)
    norm = lambda x, scale: nn.with_weights(nn.RMSNorm(shape[-1]), {"scale": scale})(x)
    made, pull = jax.vjp(jax.jit(norm), x, scale)
    assert "gemini_mini_norm" in str(jax.make_jaxpr(norm)(x, scale))
    x, scale, slope = (a.astype(np.float64) for a in (x, scale, grad))
    unit = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)
    back = (slope * scale - unit * np.mean(slope * scale * unit, axis=-1, keepdims=True)) * unit / x
    wanted = unit * scale, back, (slope * unit).reshape(-1, shape[-1]).sum(0)
    for got, right in zip((made, *pull(jnp.asarray(grad))), wanted, strict=True):
        np.testing.assert_allclose(got, right, rtol=0, atol=1e-5 * np.abs(right).max())


@pytest.mark.parametrize("size, kv_heads, head_dim", [(1, 1, 64), (1, 2, 128), (4, 1, 32)])
def test_attention_by_blocks_is_that_of_the_textbook(products, size, kv_heads, head_dim, monkeypatch):
    monkeypatch.setitem(test_ring.KERNELS, "flash", flash.Flash())
    monkeypatch.setattr(test_ring, "BOUND", 0.02)  # bfloat16 has 8 bits
    test_ring.check("flash", size, kv_heads, head_dim)


def test_attention_of_any_length_and_size_is_near_that_of_xla(products):
    rng = np.random.default_rng(2)
    layer = attention.Attention(32, 4, 2, 8, 1.0, "chunks", nnx.Rngs(0))
    x, grad = (jnp.asarray(rng.normal(size=(3, 100, 32)), jnp.float32) for _ in range(2))
    segments = jnp.asarray(np.sort(rng.integers(1, 4, (3, 100)), axis=1), jnp.int32)
    turns = nn.turns(jnp.arange(100)[None].repeat(3, 0), 8)
    made = lambda: jax.jit(lambda x: jax.vjp(lambda x: layer(x, segments, turns, segments), x)[1](grad))(x)
    (slope,) = made()
    matmul._library = "xla"
    (wanted,) = made()
    assert 0 < np.linalg.norm(slope - wanted) < 0.02 * np.linalg.norm(wanted)


@pytest.mark.parametrize("causal, tokens, keys, heads, kv_heads, size", [(False, 100, 164, 2, 1, 80), (True, 200, 200, 4, 2, 48)])
def test_blocks_that_are_not_whole_are_those_of_xla(products, causal, tokens, keys, heads, kv_heads, size):
    """Keys of other positions, as on a ring; padding, segment 0, among them; some queries see nothing, and their attention is anything."""
    rng = np.random.default_rng(3)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    segments = lambda count, first: jnp.asarray(np.minimum(np.arange(count) // 37 + first, 6) % 6, jnp.int32)[None]
    queries = ring.Queries(draw(1, heads, tokens, size) / 8, segments(tokens, 1))
    given = ring.Keys(draw(1, kv_heads, keys, size), draw(1, kv_heads, keys, size), segments(keys, 1 if causal else 2))
    sees = (queries.segments[:, :, None] == given.segments[:, None]).any(-1)[:, None, :]
    assert sees.all() == causal
    grad = draw(1, heads, tokens, size) * sees[..., None]

    def both(kernel):
        out, lse = kernel.forward(queries, given, causal)
        return out * sees[..., None], lse * sees, *kernel.backward(queries, given, out, lse, grad, causal)

    for made, wanted in zip(jax.jit(lambda: both(flash.Flash()))(), jax.jit(lambda: both(ring.Blockwise()))(), strict=True):
        assert 0 < np.linalg.norm(made - wanted) < 0.01 * np.linalg.norm(wanted)


def test_attention_passes_on_what_is_no_number(products):
    x = np.random.default_rng(4).normal(size=(3, 1, 128, 1, 32)).astype(np.float32)
    x[1, 0, 5] = np.nan
    out = jax.jit(lambda q, k, v: ring.attend(q, k, v, jnp.ones((1, 128), jnp.int32), flash.Flash()))(*x)
    assert np.isfinite(out[:, :5]).all() and np.isnan(out[:, 5:]).all()


def test_many_products_at_once_are_each_right(products):
    """Parts of several products stand in the same queue of threads; none may wait for another for ever."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(12, 160, 64)).astype(np.float32), rng.normal(size=(12, 64, 128)).astype(np.float32)
    mlp, targets = nn.MLP(64, 96, nnx.Rngs(0)), jnp.asarray(rng.integers(0, 128, (1, 160)))
    def others(x, w):
        of_loss = jax.grad(lambda x, w: loss.total(w.T, x[None], targets, jnp.ones((1, 160)))[0], (0, 1))(x, w)
        return *of_loss, *jax.tree.leaves(jax.grad(lambda mlp: mlp(x).sum())(mlp))
    many = jax.jit(lambda x, w: ([nn.product(*pair) for pair in zip(x, w)], [others(*pair) for pair in zip(x[:3], w)]))
    first = many(x, w)
    for _ in range(20):
        same = jax.tree.map(lambda a, b: (a == b).all(), many(x, w), first)
        assert all(jax.tree.leaves(same)), "the same bits, whoever made them"
    np.testing.assert_allclose(first[0], rounded(x) @ rounded(w), rtol=1e-4, atol=1e-3)


def test_the_loss_and_its_gradient_are_near_those_of_xla(products):
    rng = np.random.default_rng(1)
    embed, hidden = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((90, 32), (3, 40, 32)))
    targets, weights = jnp.asarray(rng.integers(0, 90, (3, 40))), jnp.asarray(rng.random((3, 40)), jnp.float32)
    grad = lambda: jax.jit(jax.value_and_grad(lambda e, h: loss.total(e, h, targets, weights)[0], (0, 1)))(embed, hidden)
    value, slopes = grad()
    matmul._library = "xla"
    exact, exact_slopes = grad()
    value, exact = float(value), float(exact)
    assert value == pytest.approx(exact, rel=2e-3) and value != exact, "rounded, but hardly"
    for slope, wanted in zip(slopes, exact_slopes):
        assert np.linalg.norm(slope - wanted) < 0.02 * np.linalg.norm(wanted)


@pytest.mark.parametrize("rows, width, ids, counted", [(1, 32, 7, 1), (50, 64, 90, 0), (120, 64, 300, 50), (2500, 32, 97, 2300)])
def test_cross_entropy_and_its_slopes_are_those_of_numpy(products, rows, width, ids, counted):
    """Rows of more than one block, a vocabulary that is no multiple of a vector, and rows of which nothing is made."""
    rng = np.random.default_rng(rows)
    hidden, table = (rng.normal(size=shape).astype(np.float32) for shape in ((rows, width), (ids, width)))
    targets, weights = rng.integers(0, ids, rows), np.zeros(rows, np.float32)
    weights[rng.permutation(rows)[:counted]] = rng.random(counted)
    total = lambda t, h: loss.total(t, h[None], jnp.asarray(targets)[None], jnp.asarray(weights)[None])
    value, (table_slope, hidden_slope) = jax.jit(jax.value_and_grad(lambda t, h: total(t, h)[0], (0, 1)))(table, hidden)
    alone, nats = jax.jit(total)(table, hidden)
    hidden, table = rounded(hidden).astype(np.float64), rounded(table).astype(np.float64)
    scores = hidden @ table.T
    log_z = np.log(np.exp(scores).sum(1))
    wanted = (log_z - scores[np.arange(rows), targets]) * (weights > 0)
    np.testing.assert_allclose(nats[0], wanted, atol=1e-4)
    np.testing.assert_allclose([value, alone], weights @ (wanted + loss.Z_LOSS * log_z**2), rtol=1e-5)
    slope = np.exp(scores - log_z[:, None]) * (1 + 2 * loss.Z_LOSS * log_z)[:, None] - np.eye(ids)[targets]
    slope = rounded((slope * weights[:, None]).astype(np.float32))
    for got, right in ((table_slope, slope.T @ hidden), (hidden_slope, slope @ table)):
        np.testing.assert_allclose(got, right, rtol=0, atol=2e-3 * np.abs(right).max() + 1e-12)


def test_many_matrices_become_orthogonal_at_once(products):
    rng = np.random.default_rng(0)
    given = {str(shape): rng.normal(size=shape).astype(np.float32) for shape in ((32, 64), (40, 100), (128, 7), (96, 96), (1, 50))}
    given = {name: x / np.linalg.norm(x) for name, x in given.items()}
    made = jax.jit(optim.orthogonal)(jax.tree.map(jnp.asarray, given))
    for name, x in given.items():
        is_tall = x.shape[0] > x.shape[1]
        x = x.T if is_tall else x
        for _ in range(5):
            square = rounded(x) @ rounded(x).T
            x = 3.4445 * x + rounded(-4.7750 * square + 2.0315 * (rounded(square) @ rounded(square))) @ rounded(x)
        wanted = 0.2 * np.sqrt(x.shape[1]) * x
        assert np.linalg.norm(made[name] - (wanted.T if is_tall else wanted)) < 0.01 * np.linalg.norm(wanted)


def test_a_loss_of_no_number_is_none_and_rows_that_do_not_count_have_no_part(products):
    hidden, table = np.random.default_rng(0).normal(size=(2, 64, 32)).astype(np.float32)
    table, targets, weights = table[:40], np.arange(64) % 40, np.ones(64, np.float32)
    hidden[3], weights[3] = np.nan, 0
    def check(targets, weights, has_number):
        given = table, hidden[None], jnp.asarray(targets, jnp.int32)[None], jnp.asarray(weights)[None]
        value, slopes = jax.jit(jax.value_and_grad(lambda *args: loss.total(*args)[0], (0, 1)))(*given)
        assert np.isfinite(value) == has_number
        return slopes
    table_slope, hidden_slope = check(targets, weights, True)
    assert np.isfinite(table_slope).all() and not hidden_slope[0, 3].any() and np.abs(hidden_slope).sum(-1).astype(bool).sum() == 63
    check(targets, np.ones(64, np.float32), False)
    for none in (-1, 40, 63, 64, 1000):  # of a table that is padded to 64
        check(np.where(np.arange(64) == 9, none, targets), weights, False)


def test_a_decoder_in_bfloat16_learns_with_them(products):
    """Slopes have the type of what they are of."""
    module = decoder.Decoder(decoder.DecoderConfig(64, depth=2, aspect=16, head_dim=16, dtype="bfloat16", scan=True, shortcuts=True), nnx.Rngs(0))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 64, (2, 32)))
    def value(module):
        hidden = module(tokens, jnp.arange(32)[None].repeat(2, 0), jnp.ones((2, 32), jnp.int32))
        return loss.total(module.embed[...], hidden, tokens, jnp.ones((2, 32)))[0]
    slopes = nn.weights(jax.jit(jax.grad(value))(module))
    matmul._library = "xla"
    wanted = nn.weights(jax.jit(jax.grad(value))(module))
    for name, slope in slopes.items():
        assert np.linalg.norm(slope - wanted[name]) < 0.05 * np.linalg.norm(wanted[name]), name


def test_weights_in_8_bits_go_their_own_way(products):
    matmul.load_coded()
    mlp, x = nn.MLP(64, 96, nnx.Rngs(0)), jnp.asarray(np.random.default_rng(0).normal(size=(5, 64)), jnp.float32)
    coded, whole = jax.jit(lambda m: m(x))(nn.eight_bit(mlp)), jax.jit(lambda m: m(x))(mlp)
    assert 0 < np.linalg.norm(coded - whole) < 0.03 * np.linalg.norm(whole)


@pytest.mark.parametrize("inner, cols", [(16, 1), (80, 33), (768, 1500)])
def test_weights_in_8_bits_multiply_as_their_float32_do(inner, cols):
    if not shutil.which("c++"):
        pytest.skip("needs a C++ compiler")
    matmul.load_coded()
    rng = np.random.default_rng(cols)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 20, inner), (inner, cols)))
    codes = quant.Codes.of(w, "D F")
    multiply = jax.jit(quant.Codes.product)
    made = np.asarray(multiply(codes, x))
    kept = np.asarray(codes.codes, np.float32) * np.asarray(codes.scale)[:, None]
    exact = x @ kept.T
    # Where the processor multiplies whole numbers, x is one of 32,638 steps to its row's largest.
    assert np.abs(made - exact).max() <= 1e-3 * exact.std() and np.linalg.norm(made - exact) < 2e-4 * np.linalg.norm(exact)
    assert np.array_equal(codes[jnp.array([0, cols - 1])], kept[[0, -1]])
    for rows in (x[:1, :1], x[:, 3:], x[1:, :4]):
        where = np.isin(x[..., 0], rows[..., 0])
        assert np.array_equal(np.asarray(multiply(codes, rows)).reshape(-1, cols), made[where]), "a row is the same in any batch"


def test_what_8_bits_cannot_multiply_is_refused():
    with pytest.raises(errors.InputError, match="multiples of 16, got 24"):
        quant.Codes.of(np.ones((24, 32), np.float32), "D F")


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    refused = pytest.raises(errors.InputError, match="run.products=bfloat16: needs Linux, a CPU with amx_bf16 or avx512_bf16")
    monkeypatch.setattr(matmul, "cpu_info", lambda: "flags: avx2 avx512f")
    with refused:
        matmul.use("bfloat16")
    monkeypatch.setattr(matmul, "cpu_info", lambda: "flags: amx_bf16 avx512_bf16")
    monkeypatch.setattr(matmul, "_compiled", lambda: types.SimpleNamespace(open_units=lambda: 0, open_vectors=lambda: 0))
    with refused:  # a compiler that does not know them
        matmul.use("bfloat16")
    monkeypatch.undo()
    monkeypatch.setattr(matmul.files, "CACHE", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    matmul._compiled.cache_clear()
    with pytest.raises(errors.InputError, match="need a C.. compiler"):
        matmul.load_coded.__wrapped__()
    assert not matmul.is_on()


def test_the_faster_kind_is_taken_and_the_other_where_it_cannot_be_had(monkeypatch):
    monkeypatch.setattr(matmul, "cpu_info", lambda: "flags: avx512_bf16 amx_bf16")
    for can, wanted in (({"amx_bf16", "avx512_bf16"}, ["amx_bf16"]), ({"avx512_bf16"}, ["amx_bf16", "avx512_bf16"])):
        asked = []
        monkeypatch.setattr(matmul, "open_narrow", lambda flag: asked.append(flag) or flag in can)
        monkeypatch.setattr(matmul, "_library", "xla")
        assert matmul.use("bfloat16") == f"{wanted[-1]} {matmul._made_of()[:8]}"
        assert asked == wanted and matmul.is_on()


def test_a_run_says_of_which_source_its_products_are(monkeypatch, tmp_path):
    if not shutil.which("c++"):
        pytest.skip("needs a C++ compiler")
    says = matmul._made_of.__wrapped__
    other = tmp_path / "matmul.cc"
    other.write_bytes(matmul.SOURCES[0].read_bytes())
    before = says()
    monkeypatch.setattr(matmul, "SOURCES", [other, *matmul.SOURCES[1:]])
    assert says() == before
    other.write_bytes(other.read_bytes() + b" ")
    assert says() != before


def test_several_devices_have_the_products_of_xla(monkeypatch):
    with pytest.raises(errors.InputError, match="run.products: must be xla on a mesh of 8 devices"):
        setup.build(None, optim.OptimConfig(), loop.RunConfig("runs/none", 1, products="bfloat16"), 1)
    assert not matmul.is_on()
    monkeypatch.setattr(matmul, "_library", "bfloat16")  # as one run leaves it to the next in a process
    assert matmul.is_on()
    with jax.sharding.use_abstract_mesh(parallel.mesh((0, 1, 1, 1)).abstract_mesh):
        assert not matmul.is_on()


DYING = """
import os, signal, sys
sys.path.insert(0, TESTS)
import test_loop
from gemini_mini import config as config_lib
from gemini_mini.train import loop, optim

def config():
    if "DIES" in os.environ:
        batches = test_loop.FitLine.batches
        die = lambda step: os.kill(os.getpid(), signal.SIGKILL) if step == 10 else None
        test_loop.FitLine.batches = lambda self, *args: (lambda batch: lambda step: (die(step), batch(step))[1])(batches(self, *args))
    run = loop.RunConfig("unset", 14, save_every=3, products="bfloat16")
    return config_lib.Experiment(test_loop.FitLine(), optim.OptimConfig("muon"), run)
"""


@pytest.mark.slow
def test_a_run_with_them_is_exact_through_a_kill_and_in_its_replay(tmp_path):
    """Each in a process with one device, for a mesh has none of them."""
    try:
        matmul.use("bfloat16")
    except errors.InputError as error:
        pytest.skip(str(error))
    finally:
        matmul.use("xla")
    (tmp_path / "c.py").write_text(DYING.replace("TESTS", repr(str(Path(__file__).parent))))
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}

    def run(*arguments, **more) -> int:
        return subprocess.run([sys.executable, *map(str, arguments)], cwd=Path(__file__).parent.parent, env=environment | more).returncode

    train = lambda name, *settings, **more: run("train.py", tmp_path / "c.py", f"run.folder={tmp_path / name}", *settings, **more)
    assert train("whole") == train("plain", "run.products=xla") == 0
    assert train("cut", DIES="1") == -signal.SIGKILL and len(trace.read(tmp_path / "cut")[1]) < 14
    assert train("cut") == 0
    whole, cut, plain = (trace.read(tmp_path / name)[1] for name in ("whole", "cut", "plain"))
    assert len(whole) == 14 and (whole == cut).all() and not (whole == plain).all(), "and the products are not XLA's"
    assert run("-m", "gemini_mini.replay", tmp_path / "cut", "--step", 11) == replay.SAME
