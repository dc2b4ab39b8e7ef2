"""Laws of the optimizer: Muon is optax's own, and what it makes of a matrix is near orthogonal."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from gemini_mini.train import optim

AXES = {"wide": "D F", "tall": "F D", "embedding": "V D", "gain": "D"}
SHAPES = {"wide": (16, 48), "tall": (48, 16), "embedding": (40, 16), "gain": (16,)}


def test_muon_is_that_of_optax_with_adam_for_embeddings_and_vectors():
    rng = np.random.default_rng(0)
    made = lambda: {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
    config = optim.OptimConfig(kind="muon", weight_decay=0.1, warmup=0.1)
    theirs = optax.chain(optax.clip_by_global_norm(config.clip), contrib.muon(
        lambda count: config.muon_lr * optim.share(config, count, 20), weight_decay=config.weight_decay, adam_b2=config.beta2, consistent_rms=0.2,
        adam_learning_rate=lambda count: config.lr * optim.share(config, count, 20),
        muon_weight_dimension_numbers={name: contrib.MuonDimensionNumbers() if name in ("wide", "tall") else None for name in AXES}))
    start, gradients, ends = made(), [made() for _ in range(20)], []
    for optimizer in (optim.make(config, AXES, 20), theirs):
        weights, state, update = start, optimizer.init(start), jax.jit(optimizer.update)
        for gradient in gradients:
            updates, state = update(gradient, state, weights)
            weights = optax.apply_updates(weights, updates)
        ends.append(weights)
    for name in AXES:
        assert np.abs(ends[0][name] - start[name]).max() > 1e-3, name
        np.testing.assert_allclose(*(end[name] for end in ends), atol=1e-5, err_msg=name)


def test_the_rate_is_that_of_optax_by_pieces():
    for warmup, decay, steps in ((0.03, 0.4, 100), (0.0, 0.3, 7), (0.1, 0.0, 40), (0.0, 0.0, 1)):
        config, count = optim.OptimConfig(warmup=warmup, decay=decay), np.arange(steps)
        rises, falls = round(warmup * steps), round(decay * steps)
        pieces = optax.join_schedules([optax.linear_schedule(0.0, 1.0, rises), optax.constant_schedule(1.0),
                                       optax.linear_schedule(1.0, 0.0, falls)], [rises, steps - falls])
        np.testing.assert_allclose(jax.vmap(lambda n: optim.share(config, n, steps))(count), [pieces(n) for n in count], atol=1e-6)


def test_one_program_serves_runs_of_every_length():
    """How long a run is stands in the optimizer's state alone."""
    weights, made = {"gain": jnp.ones(4)}, lambda steps: optim.make(optim.OptimConfig(warmup=0.0, decay=1.0), {"gain": "D"}, steps)
    update, states = jax.jit(made(10).update), []
    for steps in (10, 1000):
        state = made(steps).init(weights)
        for _ in range(6):
            updates, state = update(weights, state, weights)
        states.append(updates["gain"])
    assert update._cache_size() == 1 and np.abs(states[0]).max() < 0.6 * np.abs(states[1]).max()


def test_a_matrix_becomes_near_orthogonal_and_keeps_its_directions():
    matrix = np.random.default_rng(1).normal(size=(24, 64)).astype(np.float32)
    made = np.asarray(optim.orthogonal({'': jnp.asarray(matrix / np.linalg.norm(matrix))})['']) / (0.2 * np.sqrt(64))
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ made @ right.T
    assert np.all((0.6 < np.diag(inner)) & (np.diag(inner) < 1.3))
    np.testing.assert_allclose(inner - np.diag(np.diag(inner)), 0, atol=1e-4)
    np.testing.assert_allclose(optim.orthogonal({'': jnp.asarray(matrix.T / np.linalg.norm(matrix))})[''].T / (0.2 * np.sqrt(64)), made, atol=1e-5)
