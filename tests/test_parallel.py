"""Sharding's laws: any mesh gives one device's numbers, and nothing large stands on every device by accident."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gemini_mini import errors, nn, parallel, vocab as vocabulary
from gemini_mini.data import loader, mixture, packing, rows as stored
from gemini_mini.model import decoder
from gemini_mini.plan import hlo
from gemini_mini.train import hosts, loss, optim, step as step_lib
from tests import processes

VOCAB = vocabulary.Vocab(300, 60, 40, "t")  # so large that a whole embedding is larger than any activation, as is a whole MLP
CONFIG = decoder.DecoderConfig(vocab_size=VOCAB.size, depth=2, aspect=64, head_dim=16, context_tokens=64, hidden=256,
                               attention="blockwise", scan=True)
ROWS, TOKENS = 8, 64
LOSS_BOUND, GRADIENT_BOUND = 1e-5, 2e-5  # of nats; of each gradient's largest element, float32 sums in another order
MUON_BOUND = 1e-4  # of nats, of three steps: Newton-Schulz makes directions of what is near zero as long as all others
SHAPES = [shape for shape in itertools.product((1, 2, 4, 8), repeat=4) if math.prod(shape) == 8]  # 20 of them
QUICK = [(1, 2, 2, 2), (8, 1, 1, 1)]


def batch(step: int) -> packing.Batch:
    rng = np.random.default_rng(step)
    sizes = [(20, 30, 9), (64,), (11, 50), (40, 20), (33, 31), (5, 5, 5, 40), (62,), (17, 17, 17)]
    documents = [[np.concatenate([[vocabulary.BOS], rng.integers(44, VOCAB.end, n - 2), [vocabulary.EOS]]).astype(np.int32)
                  for n in row] for row in sizes]
    return packing.batch_of(np.concatenate([packing.pack(row, TOKENS) for row in documents]))


def loss_fn(module, batch, key):
    hidden = module(batch.tokens, batch.positions, batch.segments)
    embed = parallel.gathered(module.embed[...], "V D")
    return loss.next_token(embed, hidden, batch.targets, batch.has_target, batch.has_target, VOCAB)


def keep() -> optax.GradientTransformation:
    """Remembers the gradient, and passes it on."""
    return optax.GradientTransformation(lambda weights: jax.tree.map(jnp.zeros_like, weights), lambda gradient, state, weights: (gradient, gradient))


@functools.cache
def step_on(shape: tuple[int, int, int, int], num_devices: int = 8, **changes):
    """(compiled step, state, batch) on a mesh."""
    devices = parallel.mesh(shape, jax.devices()[:num_devices])
    module = decoder.Decoder(dataclasses.replace(CONFIG, **changes), nnx.Rngs(0))
    state = step_lib.init(module, keep())
    places = parallel.shardings(state, nn.axes(module), devices)
    args = jax.device_put(state, places), parallel.shard_rows(batch, 0, devices)
    return parallel.compile_step(step_lib.make(module, loss_fn, keep(), 0), places, devices).lower(*args).compile(), *args


@functools.cache
def loss_and_gradient(shape, num_devices: int = 8, **changes):
    step, state, rows = step_on(shape, num_devices, **changes)
    state, metrics = step(jax.tree.map(jnp.copy, state), rows)
    return float(metrics["loss"]), jax.tree.map(np.asarray, state.opt_state)


def check_equal(got, wanted):
    assert abs(got[0] - wanted[0]) < LOSS_BOUND
    for name, gradient in wanted[1].items():
        np.testing.assert_allclose(got[1][name], gradient, rtol=0, atol=GRADIENT_BOUND * np.abs(gradient).max(), err_msg=name)


@pytest.mark.parametrize("shape", [pytest.param(s, marks=[] if s in QUICK else pytest.mark.slow) for s in SHAPES])
def test_every_mesh_gives_one_devices_loss_and_gradient(shape):
    check_equal(loss_and_gradient(shape), loss_and_gradient((1, 1, 1, 1), 1, attention="chunks", scan=False))


def test_a_mesh_gives_one_devices_loss_and_gradient_of_shortcuts():
    got = loss_and_gradient(QUICK[0], shortcuts=True, key_offset=True)
    check_equal(got, loss_and_gradient((1, 1, 1, 1), 1, attention="chunks", scan=False, shortcuts=True, key_offset=True))
    assert all(np.abs(got[1][name]).max() > 0 for name in ("blocks.1.attention.token_values", "blocks.1.again", "before"))


def test_no_large_array_is_whole_on_every_device():
    """By accident: what a layer uses is gathered for it, but nothing is stored so, and no activation is made so."""
    shape, changes = (1, 2, 2, 2), {"shortcuts": True, "hidden": 768}  # so wide that an MLP's matrix is the largest of all arrays
    step, state, rows = step_on(shape, **changes)
    config = dataclasses.replace(CONFIG, **changes)
    axes = nn.axes(decoder.Decoder(config, nnx.Rngs(0)))
    for name, leaf in {**state.weights, **{f"moment of {k}": v for k, v in state.opt_state.items()}}.items():
        if leaf.ndim > 1:
            parts = {"K": 4, "N": 8, "F": 8, "V": 8, "Vs K": 8}[axes[name.removeprefix("moment of ")].replace("D", "").strip()]
            assert leaf.addressable_shards[0].data.size * parts == leaf.size, name
    assert all(x.addressable_shards[0].data.size * 4 == x.size for x in rows)
    # The largest arrays of one device's program are an MLP's matrix, whole but for the tensor axis, its own rows' and positions'
    # logits, cut over the vocabulary, and what its blocks keep of them for the way back.
    logits, kept = ROWS // 2 * TOKENS // 2 * VOCAB.size // 2, CONFIG.depth * (ROWS // 2) * (TOKENS // 2) * CONFIG.width
    matrix = config.width * config.hidden_width
    largest = max(math.prod(s.dims) for s in hlo.shapes(step.as_text()))
    assert largest == max(logits, kept, matrix // 2) < min(VOCAB.size * CONFIG.width, matrix)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_no_moment_is_whole_on_every_device(kind):
    devices, module = parallel.mesh((1, 2, 2, 2)), decoder.Decoder(dataclasses.replace(CONFIG, shortcuts=True), nnx.Rngs(0))
    state = jax.eval_shape(lambda: step_lib.init(module, optim.make(optim.OptimConfig(kind), nn.axes(module), 3)))
    places = parallel.shardings(state, nn.axes(module), devices)
    moments = [(leaf, place) for leaf, place in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(places.opt_state), strict=True) if leaf.ndim > 1]
    assert len(moments) >= 18
    assert all(math.prod(place.shard_shape(leaf.shape)) * 4 <= leaf.size for leaf, place in moments)


def test_rows_that_cannot_be_cut_are_refused():
    devices = parallel.mesh((0, 1, 1, 1))
    with pytest.raises(errors.InputError, match="into 8 parts, and its 9 rows"):
        parallel.shard_rows(lambda step: np.zeros((9, 4)), 0, devices)
    with pytest.raises(errors.InputError, match="into 8 pieces, two a device, and its 12 ids"):
        parallel.shard_rows(lambda step: np.zeros((8, 12)), 0, parallel.mesh((2, 1, 1, 4)))
    dealt = loader.Loader(stored.Rows("", 4, {"a": np.zeros((20, 4), np.int32)}), (mixture.Stage("all", 1.0, {"a": 1.0}),), 9, 2, 0)
    with pytest.raises(errors.InputError, match="batch_rows: must be a multiple of 2, .* got 9"):
        dealt.batch(0, ((0,), 2))


def train(shape, order=range(8), steps: int = 3, kind: str = "adamw") -> dict:
    """Losses of a few steps on one batch, on a mesh over all processes, the first gradient, and the parts of the rows this one read."""
    devices, read = parallel.mesh(tuple(shape), [jax.devices()[i] for i in order]), []
    module = decoder.Decoder(CONFIG, nnx.Rngs(0))
    optimizer = optax.chain(keep(), optim.make(optim.OptimConfig(kind, warmup=0.0, decay=0.0), nn.axes(module), steps))
    host = step_lib.init(module, optimizer)
    places = parallel.shardings(host, nn.axes(module), devices)
    state = jax.tree.map(lambda x, place: jax.make_array_from_callback(x.shape, place, np.asarray(x).__getitem__), host, places)
    step_fn = parallel.compile_step(step_lib.make(module, loss_fn, optimizer, 0), places, devices)

    def reading(step, parts=((0,), 1)):
        numbers, of = parts
        read.append(list(numbers))
        return jax.tree.map(lambda x: np.concatenate([np.split(x, of)[number] for number in numbers]), batch(0))

    seen, first = [], {}
    for n in range(steps):
        state, metrics = step_fn(state, parallel.shard_rows(reading, n, devices))
        seen.append({name: float(value) for name, value in metrics.items()})
        first = first or {name: whole.tolist() for name, whole in hosts.whole(state.opt_state[0]).items()}
    return {"seen": seen, "gradient": first, "read": read}


@pytest.mark.slow
@pytest.mark.parametrize("count, shape, order, parts", [
    (2, (1, 2, 2, 2), range(8), [[0], [1]]), (4, (1, 4, 1, 2), range(8), [[0], [1], [2], [3]]), (4, (2, 2, 1, 2), range(8), [[0], [1], [2], [3]]),
    (2, (1, 4, 1, 2), (0, 1, 4, 5, 6, 7, 2, 3), [[0, 3], [1, 2]]),  # as on a torus of chips: a process's are no neighbours
    (2, (1, 4, 2, 1), (0, 4, 1, 5, 6, 7, 2, 3), [[0, 1, 3], [0, 1, 2]]),  # and some rows are read by both
])
def test_several_processes_train_as_one_and_read_only_their_rows(count, shape, order, parts, tmp_path):
    together = processes.together(count, "test_parallel.train", [shape, list(order)], tmp_path)
    alone = train(shape)
    for one, numbers in zip(together, parts, strict=True):
        assert one["read"] == [numbers] * 3
        check_equal((one["seen"][0]["loss"], one["gradient"]), (alone["seen"][0]["loss"], alone["gradient"]))
        for got, wanted in zip(one["seen"], alone["seen"], strict=True):
            assert abs(got["loss"] - wanted["loss"]) < LOSS_BOUND and abs(got["grad_norm"] / wanted["grad_norm"] - 1) < GRADIENT_BOUND
    assert alone["seen"][2]["loss"] < alone["seen"][0]["loss"] - 100 * LOSS_BOUND


@pytest.mark.parametrize("shape", [(1, 2, 2, 2), pytest.param((2, 4, 1, 1), marks=pytest.mark.slow)])
def test_muon_trains_on_a_mesh_as_on_one_device(shape):
    """Its Newton-Schulz multiplies whole matrices, which stand in pieces."""
    alone, together = train((1, 1, 1, 1), [0], kind="muon"), train(shape, kind="muon")
    for got, wanted in zip(together["seen"], alone["seen"], strict=True):
        assert abs(got["loss"] - wanted["loss"]) < MUON_BOUND
    assert alone["seen"][2]["loss"] < alone["seen"][0]["loss"] - 100 * MUON_BOUND


def test_a_mesh_that_cannot_be_is_refused():
    with pytest.raises(errors.InputError, match="must multiply to 8 devices"):
        parallel.mesh((3, 1, 1, 1))
    with pytest.raises(errors.InputError, match="must multiply to 8 devices"):
        parallel.mesh((0, 0, 1, 1))
    with pytest.raises(errors.InputError, match="must be 4 numbers, of data, fsdp, tensor, context"):
        parallel.mesh((0, 8))
    weights = {"w": jnp.zeros((6, 8))}
    with pytest.raises(errors.InputError, match="w has 6 along D, which 8 devices must divide"):
        parallel.shardings(weights, {"w": "D F"}, parallel.mesh((1, 8, 1, 1)))


def test_a_row_that_is_cut_needs_a_kernel_for_it():
    with pytest.raises(errors.InputError, match="need blockwise or splash"):
        step_on((1, 1, 1, 8), attention="chunks")


def test_logits_of_long_rows_are_made_a_stretch_at_a_time_with_the_same_gradients(monkeypatch):
    rng = np.random.default_rng(0)
    embed, hidden = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((VOCAB.size, 16), (2, 24, 16)))
    targets = jnp.asarray(rng.integers(0, VOCAB.end, (2, 24)))
    def total(embed, hidden):
        nats, log_z = loss.over_mesh(embed, hidden, targets)
        return (nats * log_z).sum()
    whole = jax.grad(total, (0, 1))(embed, hidden)
    monkeypatch.setattr(loss, "STRETCH", 8)
    for a, b in zip(jax.jit(jax.grad(total, (0, 1)))(embed, hidden), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
