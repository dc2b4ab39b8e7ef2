"""The decoder's laws: causal, blind across documents, the same cached, sharded and packed."""

import dataclasses

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gemini_mini import errors, nn, vocab as vocabulary
from gemini_mini.data import packing
from gemini_mini.model import attention, decoder
from gemini_mini.train import loss

CONFIG = decoder.DecoderConfig(vocab_size=256, depth=2, aspect=32, head_dim=16, context_tokens=64)


def model(**changes) -> decoder.Decoder:
    return decoder.Decoder(dataclasses.replace(CONFIG, **changes), nnx.Rngs(0))


def model_with_shortcuts(**changes) -> decoder.Decoder:
    return conftest.with_shortcuts(model(shortcuts=True, key_offset=True, **changes))


def document(length: int, seed: int) -> np.ndarray:
    body = np.random.default_rng(seed).integers(vocabulary.NUM_CONTROL, 256, length - 2)
    return np.concatenate([[vocabulary.BOS], body, [vocabulary.EOS]]).astype(np.int32)


@jax.jit
def forward(module, tokens, positions, segments):
    return module.logits(module(tokens, positions, segments))


def logits_of(module, tokens: np.ndarray) -> np.ndarray:
    batch = packing.batch_of(tokens)
    return np.asarray(forward(module, tokens, batch.positions, batch.segments))


def numpy_attention(q, k, v, segments):
    """The textbook, one query at a time."""
    out = np.zeros_like(q)
    group = q.shape[2] // k.shape[2]
    for b, t, n in np.ndindex(*q.shape[:3]):
        seen = [s for s in range(t + 1) if segments[b, s] == segments[b, t]]
        scores = np.array([q[b, t, n] @ k[b, s, n // group] for s in seen]) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        out[b, t, n] = (weights / weights.sum()) @ np.array([v[b, s, n // group] for s in seen])
    return out


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_equals_the_textbook(kv_heads, monkeypatch):
    monkeypatch.setattr(attention, "CHUNK", 5)
    rng = np.random.default_rng(0)
    q = rng.normal(size=(2, 13, 4, 8)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, 13, kv_heads, 8)).astype(np.float32)
    segments = np.array([[1] * 4 + [2] * 6 + [3] * 3, [1] * 13])
    got = jax.jit(attention.attend_packed)(q, k, v, segments)
    np.testing.assert_allclose(got, numpy_attention(q, k, v, segments), atol=1e-5)


def test_a_query_that_sees_nothing_gets_zeros_and_a_finite_gradient():
    x = jnp.ones((1, 1, 1, 4))
    def out(q):
        return attention.attend(q, x, x, jnp.zeros((1, 1, 1), bool)).sum()
    assert out(x) == 0 and bool(jnp.isfinite(jax.grad(out)(x)).all())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_a_products_gradients_are_the_textbooks_for_wide_and_tall_weights(shape, dtype):
    rng = np.random.default_rng(0)
    x, w, grad = (rng.integers(-4, 5, size) for size in ((2, 4, shape[0]), shape, (2, 4, shape[1])))  # exact in both types
    made, pull = jax.vjp(nn.product, jnp.array(x, dtype), jnp.array(w, dtype))
    x_grad, w_grad = pull(jnp.array(grad, dtype))
    for got, wanted in ((made, x @ w), (x_grad, grad @ w.T), (w_grad, np.einsum("btd,btf->df", x, grad))):
        np.testing.assert_array_equal(got.astype(np.float32), wanted)


def test_rope_depends_on_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))
    at = lambda x, p: nn.rope(x, nn.turns(jnp.full((1, 1), p), 16))[0, 0, 0]
    np.testing.assert_allclose(at(q, 7) @ at(k, 3), at(q, 104) @ at(k, 100), rtol=1e-4, atol=1e-4)
    assert abs(float(at(q, 7) @ at(k, 3) - at(q, 7) @ at(k, 5))) > 1e-3


def test_no_logit_depends_on_a_later_token_or_another_document():
    module = model()
    packed = packing.pack([document(9, 1), document(12, 2)], 24)
    batch = packing.batch_of(packed)
    def hidden(embedded_at):  # gradient with respect to what each position feeds in
        x = nn.embedded(module.embed, jnp.array(packed), module.dtype) + embedded_at
        for block in module.blocks:
            x = block(x, x, jnp.array(packed), module.turns(jnp.array(batch.positions)), jnp.array(batch.segments))
        return x
    jacobian = jax.jit(jax.jacobian(lambda e: hidden(e).sum(-1)[0]))(jnp.zeros((1, 24, CONFIG.width)))
    reach = np.abs(np.asarray(jacobian)).sum(-1)[:, 0] > 0  # [query, input]
    segments = batch.segments[0]
    for t, s in np.ndindex(24, 24):
        if segments[t] > 0:
            assert reach[t, s] == (s <= t and segments[s] == segments[t]), (t, s)


@pytest.mark.parametrize("made", [model, model_with_shortcuts])
def test_packed_logits_are_those_of_each_document_alone(made):
    module, documents = made(), [document(n, n) for n in (5, 17, 9, 11)]
    packed = packing.pack(documents, 48)
    together = logits_of(module, packed)
    for r, row in enumerate(packed):
        starts = [*np.flatnonzero(row == vocabulary.BOS), int((row != vocabulary.PAD).sum())]
        for a, b in zip(starts, starts[1:]):
            alone = logits_of(module, row[None, a:b])
            np.testing.assert_allclose(together[r, a:b], alone[0], atol=1e-5)


def test_ids_bring_their_own_values_to_their_document_alone():
    module = model_with_shortcuts(kv_heads=2)
    tokens = packing.pack([document(9, 1), document(12, 2)], 24)
    batch, attend = packing.batch_of(tokens), module.blocks[0].attention
    x = jax.random.normal(jax.random.key(0), (1, 24, CONFIG.width))
    q, k, v = (np.asarray(part) for part in attend.project(x, jnp.array(tokens), module.turns(jnp.array(batch.positions))))
    table = np.asarray(attend.token_values[...]).reshape(-1, 2, CONFIG.head_dim)
    wanted = np.asarray(x @ attend.kv[...])[..., 2 * CONFIG.head_dim :].reshape(v.shape) + table[tokens] / 0.02
    np.testing.assert_allclose(v, wanted, atol=1e-4)
    before, segments = logits_of(module, tokens), batch.segments[0]
    for s in (3, 8, 10, 20):
        changed = tokens.copy()
        changed[0, s] = 250 if tokens[0, s] != 250 else 251
        moved = np.abs(np.asarray(forward(module, changed, batch.positions, batch.segments)) - before).max(-1)[0] > 0
        assert np.array_equal(moved & (segments > 0), (np.arange(24) >= s) & (segments == segments[s])), s


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_half_of_each_key_is_of_the_id_before_in_its_document(kv_heads):
    tokens = packing.pack([document(9, 1), document(12, 2)], 24)
    batch, attend = packing.batch_of(tokens), model(key_offset=True, kv_heads=kv_heads).blocks[0].attention
    x, turns = jax.random.normal(jax.random.key(0), (1, 24, CONFIG.width)), nn.turns(jnp.array(batch.positions), 16)
    q, k, v = (np.array(part) for part in attend.project(x, jnp.array(tokens), turns))
    wanted = k.copy()
    for t, of_key in np.ndindex(24, 16):
        if of_key in (4, 5, 6, 7, 12, 13, 14, 15):  # the slower four of the eight half-pairs
            wanted[0, t, :, of_key] = k[0, t - 1, :, of_key] if batch.positions[0, t] else 0
    mixed = numpy_attention(q, wanted, v, batch.segments).reshape(1, 24, -1) @ np.asarray(attend.out[...])
    got = attend(x, jnp.array(tokens), turns, jnp.array(batch.segments))
    np.testing.assert_allclose(got[:, :21], mixed[:, :21], atol=1e-4)  # behind them is padding


def test_queries_begin_like_their_own_keys():
    made = attention.Attention(256, 4, 2, 16, 1.0, "chunks", nnx.Rngs(0), key_offset=True)
    q, k = made.q[...].reshape(256, 4, 16), made.kv[...][:, :32].reshape(256, 2, 16)
    alike = [[float(jnp.corrcoef(q[:, n].ravel(), k[:, g].ravel())[0, 1]) for g in range(2)] for n in range(4)]
    np.testing.assert_allclose(alike, [[0.7, 0], [0.7, 0], [0, 0.7], [0, 0.7]], atol=0.06)
    assert abs(float(jnp.std(q)) * 16 - 1) < 0.03  # of the same size as without


def test_ids_bring_some_of_the_id_before_and_enter_every_block_again():
    module, tokens = model_with_shortcuts(), packing.pack([document(9, 1), document(12, 2)], 24)
    batch, table, before = packing.batch_of(tokens), np.asarray(module.embed[...]) / 0.02, np.asarray(module.before[...])
    wanted = table[tokens[0]]
    for t in range(1, 24):
        wanted[t] += before * table[tokens[0, t - 1]] * (batch.positions[0, t] > 0)
    turns, segments = module.turns(jnp.array(batch.positions)), jnp.array(batch.segments)
    x = first = jnp.array(wanted[None])
    for block in module.blocks:
        x = block.kept[0] * x + block.again[0] * first
        x = x + block.attention(block.attention_norm(x), jnp.array(tokens), turns, segments)
        x = x + block.mlp(block.mlp_norm(x))
    got = forward(module, tokens, batch.positions, batch.segments)
    np.testing.assert_allclose(got, module.logits(module.norm(x)), atol=1e-4)


@pytest.mark.parametrize("made", [model, model_with_shortcuts])
def test_cached_steps_equal_the_full_forward_pass(made):
    module, tokens = made(kv_heads=2), np.stack([document(16, 1), document(16, 2)])
    full = logits_of(module, tokens)
    step, cache, got = jax.jit(type(module).step), module.init_cache(2, 20), []
    for start, size in ((0, 7), (7, 1), (8, 1), (9, 7)):
        positions = jnp.broadcast_to(jnp.arange(start, start + size), (2, size))
        hidden, cache = step(module, tokens[:, start : start + size], positions, cache)
        got.append(module.logits(hidden))
    np.testing.assert_allclose(np.concatenate(got, axis=1), full, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"depth": 3}, {"kv_heads": 2}, {"hidden": 40}, {"kv_heads": 2, "shortcuts": True}])
def test_num_params_counts_the_arrays(changes):
    module = model(**changes)
    assert sum(w.size for w in nn.weights(module).values()) == module.config.num_params


def test_logits_and_loss_are_float32_in_bfloat16_models():
    module = model(dtype="bfloat16")
    ids = jnp.ones((1, 4), jnp.int32)
    hidden = jax.jit(type(module).__call__)(module, ids, ids, ids)
    assert hidden.dtype == jnp.bfloat16 and module.logits(hidden).dtype == jnp.float32


@pytest.mark.parametrize("chunk", [5, 1024])
def test_loss_and_its_gradient_against_numpy(monkeypatch, chunk):
    monkeypatch.setattr(loss, "CHUNK", chunk)
    # 14 positions in chunks of 5: the last is padded
    vocab = vocabulary.Vocab(100, 60, 40, "t")
    rng = np.random.default_rng(0)
    embed, hidden = rng.normal(size=(vocab.size, 8)).astype(np.float32), rng.normal(size=(2, 7, 8)).astype(np.float32)
    targets = rng.integers(0, vocab.end, (2, 7)).astype(np.int32)
    weights = rng.integers(0, 2, (2, 7)).astype(np.float32)
    scale = rng.uniform(0.1, 3.0, (2, 7)).astype(np.float32) * rng.integers(0, 3, (2, 7)).clip(0, 1)
    given = [jnp.array(x) for x in (targets, weights, scale)]
    of = jax.value_and_grad(lambda embed, hidden: loss.next_token(embed, hidden, *given, vocab), (0, 1), has_aux=True)
    (got, metrics), gradients = of(jnp.array(embed), jnp.array(hidden))
    logits = hidden.astype(np.float64) @ embed.T
    log_z = np.log(np.exp(logits).sum(-1))
    nats = log_z - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    modality = np.digitize(targets, [vocab.text_start, vocab.image_start, vocab.audio_start])
    w = weights * scale / (weights * scale).sum()
    np.testing.assert_allclose(got, (w * (nats + loss.Z_LOSS * log_z**2)).sum(), rtol=1e-5)
    for i, name in enumerate(vocabulary.MODALITIES):
        here = weights * scale.clip(0, 1) * (modality == i)
        np.testing.assert_allclose(metrics[f"loss/{name}"], (here * nats).sum() / max(here.sum(), 1e-6), rtol=1e-5)
    of_logits = w[..., None] * ((1 + 2 * loss.Z_LOSS * log_z)[..., None] * np.exp(logits - log_z[..., None]) - np.eye(vocab.size)[targets])
    np.testing.assert_allclose(gradients[0], np.einsum("btv,btd->vd", of_logits, hidden), atol=1e-6)
    np.testing.assert_allclose(gradients[1], of_logits @ embed, atol=1e-6)
    assert loss.next_token(jnp.array(embed), jnp.array(hidden), *given, vocab)[0] == pytest.approx(float(got), rel=1e-6)


@pytest.mark.parametrize("counting", [0, 1, 5, 6, 14])
def test_no_logits_are_made_behind_the_last_target_that_counts(monkeypatch, counting):
    monkeypatch.setattr(loss, "CHUNK", 5)  # 14 positions in three chunks of 5
    vocab, rng = vocabulary.Vocab(100, 60, 40, "t"), np.random.default_rng(counting)
    embed, hidden = rng.normal(size=(vocab.size, 8)).astype(np.float32), rng.normal(size=(2, 7, 8)).astype(np.float32)
    places = rng.permutation(14)
    weights, made = np.zeros(14, np.float32), -(-counting // 5) * 5
    weights[places[:counting]] = 1
    # Those that count stand first, then the others in their order: whatever no chunk reaches may be anything.
    idle = np.flatnonzero(weights == 0)[made - counting :]
    hidden.reshape(14, 8)[idle] = np.nan
    targets = jnp.array(rng.integers(0, vocab.end, (2, 7)), jnp.int32)
    given = targets, jnp.array(weights.reshape(2, 7)), jnp.ones((2, 7)), vocab
    (value, _), slopes = jax.value_and_grad(lambda *x: loss.next_token(*x, *given), (0, 1), has_aux=True)(jnp.array(embed), jnp.array(hidden))
    assert np.isfinite(value) and all(np.isfinite(slope).all() for slope in slopes)
    assert (np.asarray(slopes[1]).reshape(14, 8)[idle] == 0).all() and (value > 0) == (counting > 0)


@pytest.mark.parametrize("changes", [{"aspect": 33}, {"kv_heads": 3}])
def test_impossible_shapes_are_refused(changes):
    with pytest.raises(errors.InputError, match="model:"):
        dataclasses.replace(CONFIG, **changes)


def test_weights_by_name_round_trip_and_refuse_others():
    module = model()
    weights = nn.weights(module)
    again = nn.with_weights(module, {k: v + 1 for k, v in weights.items()})
    assert all(np.array_equal(v, weights[k] + 1) for k, v in nn.weights(again).items())
    with pytest.raises(errors.InputError, match="names must be"):
        nn.with_weights(module, {k: v for k, v in weights.items() if k != "norm.scale"})
    with pytest.raises(errors.InputError, match="must have shape"):
        nn.with_weights(module, weights | {"norm.scale": jnp.ones(3)})
