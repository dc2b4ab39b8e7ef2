"""TPU pods by name, and what a chip of them can do.

The compiler knows every topology; only the speeds stand here, from the vendor's data sheets
(cloud.google.com/tpu/docs/v4, v5e, v5p, v6e), and the peaks in train/machine.py, which measures MFU by them.
"""

import re
from dataclasses import dataclass

import jax
from jax.experimental import topologies

from gemini_mini import errors
from gemini_mini.train import machine


@dataclass(frozen=True)
class Chip:
    """Speeds of one chip; a link's bytes are one way. A ring over one axis of the torus uses two links."""

    peak_flops: float  # bfloat16, a second
    memory_bytes_per_s: float
    link_bytes_per_s: float
    clock_hz: float
    torus: int  # dimensions
    whole: int  # a side of this length, or in three dimensions a multiple of it, closes to a ring


CHIPS = {
    "v4": Chip(machine.PEAK_FLOPS["TPU v4"], 1228e9, 45e9, 1.05e9, 3, 4),
    "v5e": Chip(machine.PEAK_FLOPS["TPU v5 lite"], 819e9, 45e9, 1.5e9, 2, 16),
    "v5p": Chip(machine.PEAK_FLOPS["TPU v5"], 2765e9, 90e9, 1.75e9, 3, 4),
    "v6e": Chip(machine.PEAK_FLOPS["TPU v6 lite"], 1638e9, 90e9, 1.75e9, 2, 16),
}


def chip(name: str) -> Chip:
    """Raises: InputError when `name` is not a known kind and shape, such as v5e:4x4 or v4:16x16x16."""
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", name)
    if not found or found[1] not in CHIPS or len(found[2].split("x")) != CHIPS[found[1]].torus:
        raise errors.InputError(f"--plan: must be {', '.join(CHIPS)} and the sides of its torus, such as v5e:4x4, "
                                f"v5p:8x8x4 or v4:16x16x16, got {name!r}")
    return CHIPS[found[1]]


def devices(name: str, slices: int = 1) -> list[jax.Device]:
    """The chips of `slices` slices, one device each. Raises: InputError when the compiler knows no such slice."""
    kind, sides = chip(name), [int(side) for side in name.split(":")[1].split("x")]
    if kind.torus == 3:
        rings = [all(side % kind.whole == 0 for side in sides)] * 3
    else:
        rings = [*(side == kind.whole for side in sides), False]
    settings = {"wrap": rings} | ({"num_slices": slices} if slices > 1 else {})
    if name.startswith("v4"):
        settings["chip_config_name"] = "megacore"  # its two cores as one device
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **settings).devices)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise errors.InputError(f"--plan: the compiler knows no {name}: {str(error).splitlines()[0][:200]}") from None
