"""One training step, as a pure function of (state, batch).

A step whose gradient is not finite, or explodes, changes no weight; it is counted in the state, so
that the counts too are the same after a resume.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from gemini_mini import nn

NORM_MEMORY = 0.95  # of the running mean of gradient norms: about 20 steps


class Health(NamedTuple):
    """What the steps so far say of the next one."""

    norm: Float[Array, ""]  # running mean of the gradient's norm; infinite before the first good step
    bad: Int[Array, ""]  # bad steps in a row, up to now
    skipped: Int[Array, ""]  # bad steps in all


class TrainState(NamedTuple):
    """Weights by name, what the optimizer remembers of them, the run's health, and the next step."""

    weights: dict[str, Array]
    opt_state: Any
    health: Health
    step: Int[Array, ""]


def init(module: nnx.Module, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before step 0: copies, because the step donates its input and `module` lives on."""
    weights = jax.tree.map(jnp.copy, nn.weights(module))
    health = Health(jnp.array(jnp.inf, jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
    return TrainState(weights, optimizer.init(weights), health, jnp.zeros((), jnp.int32))


def make(
    module: nnx.Module, loss_fn: Callable, optimizer: optax.GradientTransformation, seed: int,
    explode: float = math.inf, calm: float = 1.0,
) -> Callable:
    """`step(state, batch) -> (state, metrics)`; a bad step changes only the counts.

    Bad is a loss or a gradient that is not finite, or a gradient of more than `explode` times the running mean of
    norms, or `calm` where that is larger. The mean follows a lasting change of scale within a few steps, so that
    only an explosion stays bad.
    Only the structure of `module` is used. The random key is a function of (seed, step) alone.
    """
    def loss_of(weights, batch, key):
        return loss_fn(nn.with_weights(module, weights), batch, key)

    def step(state: TrainState, batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(state.weights, batch, key)
        norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.weights)
        limit = explode * jnp.maximum(state.health.norm, calm)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        good = finite & (norm <= limit)
        fresh = (optax.apply_updates(state.weights, updates), opt_state)
        weights, opt_state = jax.tree.map(lambda new, old: jnp.where(good, new, old), fresh, (state.weights, state.opt_state))
        health = _after(state.health, jnp.minimum(norm, limit), finite, good)
        return TrainState(weights, opt_state, health, state.step + 1), {
            "loss": loss, **metrics, "grad_norm": norm, "bad_in_a_row": health.bad, "skipped": health.skipped}

    return step


def _after(health: Health, norm: Float[Array, ""], finite: Array, good: Array) -> Health:
    mean = jnp.where(jnp.isinf(health.norm), norm, NORM_MEMORY * health.norm + (1 - NORM_MEMORY) * norm)
    bad = (~good).astype(jnp.int32)
    return Health(jnp.where(finite, mean, health.norm), bad * (health.bad + 1), health.skipped + bad)
