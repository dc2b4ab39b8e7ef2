"""The optimizer: Muon for the matrices of the blocks, AdamW for everything else, one schedule.

Warm up, hold, then decay linearly to zero: the decay falls together with the annealing stage of
the mixture. Papers: AdamW, arXiv 1711.05101; Muon, Jordan 2024 and arXiv 2502.16982; warm-up,
stable, decay, arXiv 2404.06395.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import optax
from optax import contrib


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
    adamw = optax.adamw(schedule(config, config.lr, steps), b2=config.beta2, weight_decay=config.weight_decay,
                        mask={name: len(letters.split()) > 1 for name, letters in axes.items()})
    if config.kind == "adamw":
        return optax.chain(optax.clip_by_global_norm(config.clip), adamw)
    # An embedding's rows are not a linear map: orthogonalising it would tie unrelated ids together.
    dims = {name: contrib.MuonDimensionNumbers() if len(letters.split()) == 2 and "V" not in letters else None
            for name, letters in axes.items()}
    muon = contrib.muon(schedule(config, config.muon_lr, steps), weight_decay=config.weight_decay,
                        adam_b2=config.beta2, adam_learning_rate=schedule(config, config.lr, steps),
                        muon_weight_dimension_numbers=dims, consistent_rms=0.2)
    return optax.chain(optax.clip_by_global_norm(config.clip), muon)
