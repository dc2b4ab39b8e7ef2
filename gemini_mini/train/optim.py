"""The optimizer: Muon for the matrices of the blocks, Adam with Nesterov's momentum for everything else, or AdamW for all; one schedule.

Warm up, hold, then decay linearly to zero: the decay falls together with the annealing stage of
the mixture. Papers: AdamW, arXiv 1711.05101; Muon, Jordan 2024 and arXiv 2502.16982; warm-up,
stable, decay, arXiv 2404.06395.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import optax
from jaxtyping import Array, Float
from optax import contrib

from gemini_mini import nn

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


def schedule(config: OptimConfig, peak: float, steps: int) -> optax.Schedule:
    """Warm up, hold at `peak`, decay to zero at `steps`."""
    warmup, decay = round(config.warmup * steps), round(config.decay * steps)
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak), optax.linear_schedule(peak, 0.0, decay)],
        [warmup, steps - decay])


def make(config: OptimConfig, axes: Mapping[str, str], steps: int) -> optax.GradientTransformation:
    """The transformation of gradients, a dict by weight name, in a run of `steps` steps."""
    clip = optax.clip_by_global_norm(config.clip)
    if config.kind == "adamw":
        return optax.chain(clip, optax.adamw(schedule(config, config.lr, steps), b2=config.beta2, weight_decay=config.weight_decay,
                                             mask={name: len(letters.split()) > 1 for name, letters in axes.items()}))
    # An embedding's rows are not a linear map: orthogonalising it would tie unrelated ids together.
    kinds = {name: "muon" if len(letters.split()) == 2 and "V" not in letters else "nadam" for name, letters in axes.items()}
    matrices = lambda weights: jax.tree.map(lambda _: contrib.MuonDimensionNumbers(), weights)
    muon = optax.chain(
        contrib.scale_by_muon(ns_steps=0, weight_dimension_numbers=matrices),  # Nesterov's momentum, of norm 1
        optax.stateless(lambda updates, _: jax.tree.map(orthogonal, updates)),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(schedule(config, config.muon_lr, steps)))
    nadam = optax.nadam(schedule(config, config.lr, steps), b2=config.beta2)
    return optax.chain(clip, optax.partition({"muon": muon, "nadam": nadam}, kinds))


def orthogonal(x: Float[Array, "D F"]) -> Float[Array, "D F"]:
    """About the nearest orthogonal matrix of one whose norm is at most 1, times 0.2 sqrt(its longer side), for AdamW's size.

    Newton-Schulz by our own products, which may be a library's: optax's own are always XLA's, in float32.
    """
    if x.shape[0] > x.shape[1]:
        return orthogonal(x.T).T
    steps, (first, third, fifth) = NEWTON_SCHULZ
    for _ in range(steps):
        square = nn.product(x, x.T)
        x = first * x + nn.product(third * square + fifth * nn.product(square, square), x)
    return UPDATE_RMS * math.sqrt(x.shape[1]) * x
