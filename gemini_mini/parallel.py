"""Sharding by jit: a mesh, and one table from axis letters to mesh axes.

Weights name their axes by letters; the table says which mesh axis each letter is cut over, and
XLA's partitioner does the rest. The optimizer's moments are cut like the weights they follow.
Paper: GSPMD, arXiv 2105.04663 (the partitioner the Gemini report names in section 3).
"""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gemini_mini import errors

MESH_AXES = ("data", "fsdp", "tensor")
AXIS_OF = {"B": ("data", "fsdp"), "D": "fsdp", "N": "tensor", "F": "tensor", "V": "tensor"}


def mesh(shape: tuple[int, int, int]) -> Mesh:
    """A mesh of (data, fsdp, tensor) devices; a data of 0 takes all that are left.

    Raises: InputError when the shape does not use every device.
    """
    devices = jax.device_count()
    data = shape[0] or devices // math.prod(shape[1:])
    if data * math.prod(shape[1:]) != devices:
        raise errors.InputError(f"run.mesh: the axes must multiply to {devices} devices, got {shape}")
    return jax.make_mesh((data, *shape[1:]), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def spec(axes: str) -> PartitionSpec:
    """Where each axis of a weight goes: "D F" -> (fsdp, tensor)."""
    return PartitionSpec(*(AXIS_OF.get(letter) for letter in axes.split()))


def shardings(state, axes: Mapping[str, str], devices: Mesh):
    """A sharding for every array of `state`, which holds dicts of weights by name.

    A weight, a gradient and a moment of the same name are cut alike; all else is on every device.
    """
    def one(path, leaf):
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey) and key.key in axes]
        cut = names and leaf.ndim == len(axes[names[-1]].split())
        return NamedSharding(devices, spec(axes[names[-1]]) if cut else PartitionSpec())

    return jax.tree_util.tree_map_with_path(one, state)


def shard_rows(batch, devices: Mesh):
    """Host arrays, the same in every process, to device arrays, their first axis cut over the rows' mesh axes."""
    sharding = NamedSharding(devices, PartitionSpec(AXIS_OF["B"]))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x, x.shape), jax.tree.map(np.asarray, batch))
