"""The optimizer: Muon for the matrices of the blocks, Adam with Nesterov's momentum for everything else, or AdamW for all; one schedule.

Warm up, hold, then decay linearly to zero: the decay falls together with the annealing stage of
the mixture. Papers: AdamW, arXiv 1711.05101; Muon, Jordan 2024 and arXiv 2502.16982; warm-up,
stable, decay, arXiv 2404.06395.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree
from optax import contrib

from gemini_mini import matmul, nn

NEWTON_SCHULZ = 5, (3.4445, -4.7750, 2.0315)  # steps and coefficients of x, (x x') x, (x x')² x: Jordan 2024
UPDATE_RMS = 0.2  # arXiv 2502.16982, section 2.2


@dataclass(frozen=True)
class OptimConfig:
    """Rates are peaks of the schedule; `muon_lr` is of the blocks' matrices when kind is "muon"."""

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    muon_lr: float = 1e-2  # update of root mean square 0.2 * lr, about that of AdamW
    warmup: float = 0.03  # fractions of the run
    decay: float = 0.3
    weight_decay: float = 0.0
    beta2: float = 0.95
    clip: float = 1.0
    explode: float = 10.0  # a gradient of more than so many times the running mean of norms is skipped


class Progress(NamedTuple):
    """Where a run is, kept beside the optimizer's moments: a program that reads it here serves runs of every length."""

    count: Int[Array, ""]
    steps: Int[Array, ""]


def share(config: OptimConfig, count: Int[Array, ""], steps: Int[Array, ""] | int) -> Float[Array, ""]:
    """Of the peak rate at step `count` of `steps`: warm up, hold, decay to zero."""
    warmup, decay = jnp.round(config.warmup * steps), jnp.round(config.decay * steps)
    rising = (count + (warmup == 0)) / jnp.maximum(warmup, 1)
    return jnp.clip(jnp.minimum(rising, (steps - count) / jnp.maximum(decay, 1)), 0, 1)


def make(config: OptimConfig, axes: Mapping[str, str], steps: int) -> optax.GradientTransformation:
    """The transformation of gradients, a dict by weight name, in a run of `steps` steps."""
    return optax.chain(optax.clip_by_global_norm(config.clip), _at_peak(config, axes), _scheduled(config, steps))


def _scheduled(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    def update(updates, now: Progress, weights=None):
        at = share(config, now.count, now.steps)
        return jax.tree.map(lambda x: at * x, updates), now._replace(count=now.count + 1)

    return optax.GradientTransformation(lambda _: Progress(jnp.zeros((), jnp.int32), jnp.array(steps, jnp.int32)), update)


def _at_peak(config: OptimConfig, axes: Mapping[str, str]) -> optax.GradientTransformation:
    if config.kind == "adamw":
        return optax.adamw(config.lr, b2=config.beta2, weight_decay=config.weight_decay,
                           mask={name: len(letters.split()) > 1 for name, letters in axes.items()})
    # An embedding's rows are not a linear map: orthogonalising it would tie unrelated ids together.
    kinds = {name: "muon" if len(letters.split()) == 2 and "V" not in letters else "nadam" for name, letters in axes.items()}
    matrices = lambda weights: jax.tree.map(lambda _: contrib.MuonDimensionNumbers(), weights)
    muon = optax.chain(
        contrib.scale_by_muon(ns_steps=0, weight_dimension_numbers=matrices),  # Nesterov's momentum, of norm 1
        optax.stateless(lambda updates, _: orthogonal(updates)),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(config.muon_lr))
    return optax.partition({"muon": muon, "nadam": optax.nadam(config.lr, b2=config.beta2)}, kinds)


def orthogonal(matrices: PyTree[Float[Array, "_ _"]]) -> PyTree[Float[Array, "_ _"]]:
    """About the nearest orthogonal matrix of each whose norm is at most 1, times 0.2 sqrt(its longer side), for AdamW's size.

    Newton-Schulz by our own products, where they are on: optax's own are always XLA's, in float32.
    """
    leaves, tree = jax.tree.flatten(matrices)
    wide = [x.T if x.shape[0] > x.shape[1] else x for x in leaves]
    steps, factors = NEWTON_SCHULZ
    made = matmul.newton_schulz(wide, steps, *factors) if matmul.is_on() else [_newton_schulz(x, steps, *factors) for x in wide]
    sized = [UPDATE_RMS * math.sqrt(x.shape[1]) * x for x in made]
    return tree.unflatten([x.T if like.shape[0] > like.shape[1] else x for x, like in zip(sized, leaves, strict=True)])


def _newton_schulz(x: Float[Array, "D F"], steps: int, first: float, third: float, fifth: float) -> Float[Array, "D F"]:
    for _ in range(steps):
        square = nn.product(x, x.T)
        x = first * x + nn.product(third * square + fifth * nn.product(square, square), x)
    return x
