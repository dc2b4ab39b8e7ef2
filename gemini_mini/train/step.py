"""One training step, as a pure function of (state, batch)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from gemini_mini import nn


class TrainState(NamedTuple):
    """Weights by name, what the optimizer remembers of them, and the next step."""

    weights: dict[str, Array]
    opt_state: Any
    step: Int[Array, ""]


def init(module: nnx.Module, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before step 0: copies, because the step donates its input and `module` lives on."""
    weights = jax.tree.map(jnp.copy, nn.weights(module))
    return TrainState(weights, optimizer.init(weights), jnp.zeros((), jnp.int32))


def make(module: nnx.Module, loss_fn: Callable, optimizer: optax.GradientTransformation, seed: int) -> Callable:
    """`step(state, batch) -> (state, metrics)`; a step whose gradient is not finite changes nothing.

    Only the structure of `module` is used. The random key is a function of (seed, step) alone.
    """
    def loss_of(weights, batch, key):
        return loss_fn(nn.with_weights(module, weights), batch, key)

    def step(state: TrainState, batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(state.weights, batch, key)
        norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.weights)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        new = TrainState(optax.apply_updates(state.weights, updates), opt_state, state.step)
        new = jax.tree.map(lambda fresh, old: jnp.where(finite, fresh, old), new, state)
        return new._replace(step=state.step + 1), {"loss": loss, **metrics, "grad_norm": norm,
                                                   "skipped": (~finite).astype(jnp.float32)}

    return step
