"""Sharding by jit: a mesh, and one table from axis letters to mesh axes.

Weights name their axes by letters; the table says which mesh axes each letter is cut over, and
XLA's partitioner does the rest. The optimizer's moments are cut like the weights they follow.

    data      rows; every replica holds all weights
    fsdp      rows, and the storage of weights: whole only while a layer uses them
    tensor    heads, hidden units, vocabulary
    context   positions of a row (../model/ring.py), and the storage of weights

There are no experts here, so there is no expert axis. Inside a step the model asks for the mesh by
`current()`; without one, or on one device, every constraint is the identity.
Paper: GSPMD, arXiv 2105.04663 (the partitioner the Gemini report names in section 3).
"""

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from gemini_mini import errors

MESH_AXES = ("data", "fsdp", "tensor", "context")
AXIS_OF = {"B": ("data", "fsdp"), "T": "context", "D": ("fsdp", "context"), "N": "tensor", "F": "tensor", "V": "tensor",
           "Vs": ("tensor", "fsdp", "context")}  # ids of a table that is only read
ROWS = PartitionSpec(AXIS_OF["B"], AXIS_OF["T"])

# By default libtpu turns the gathering of a weight into a loop that rewrites its accumulator at every hop.
TPU_OPTIONS = {"xla_tpu_enable_windowed_einsum_for_all_gather": "false",
               "xla_tpu_enable_windowed_einsum_for_reduce_scatter": "false"}


def mesh(shape: tuple[int, ...], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of (data, fsdp, tensor, context) devices, all there are unless given; a data of 0 takes what is left.

    Slices, which only a slower network joins, lie along data. Raises: InputError when the shape has not four axes or does not use every
    device, or data does not divide by the slices.
    """
    devices = jax.devices() if devices is None else devices
    if len(shape) != len(MESH_AXES):
        raise errors.InputError(f"run.mesh: must be {len(MESH_AXES)} numbers, of {', '.join(MESH_AXES)}, got {shape}")
    data = shape[0] or len(devices) // max(1, math.prod(shape[1:]))
    if data * math.prod(shape[1:]) != len(devices):
        raise errors.InputError(f"run.mesh: the axes {', '.join(MESH_AXES)} must multiply to {len(devices)} devices, got {shape}")
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if data % slices:
        raise errors.InputError(f"run.mesh: data must divide by the {slices} slices, got {shape}")
    # An axis of the mesh may be a part of a side of the torus: 4 of the 16 chips of a v4 superpod's side.
    if slices == 1:
        places = mesh_utils.create_device_mesh((data, *shape[1:]), devices, allow_split_physical_axes=True)
    else:
        places = mesh_utils.create_hybrid_device_mesh((data // slices, *shape[1:]), (slices, 1, 1, 1), devices,
                                                      allow_split_physical_axes=True)
    return Mesh(places, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def read_mesh(text: str) -> Mesh:
    """The mesh that "0,1,4,1" says, of all devices there are. Raises: InputError as `mesh`, and when it says none."""
    sizes = text.split(",")
    if len(sizes) != len(MESH_AXES) or not all(size.isdecimal() for size in sizes):
        raise errors.InputError(f"--mesh: must be {len(MESH_AXES)} sizes such as 0,1,1,1, got {text!r}")
    return mesh(tuple(map(int, sizes)))


def spec(axes: str) -> PartitionSpec:
    """Where each axis of a weight goes: "D F" -> ((fsdp, context), tensor); a vector is on every device."""
    letters = axes.split()
    return PartitionSpec(*(AXIS_OF.get(letter) for letter in letters)) if len(letters) > 1 else PartitionSpec()


def shardings(state, axes: Mapping[str, str], devices: Mesh):
    """A sharding for every array of `state`, which holds dicts of weights by name.

    A weight, a gradient and a moment of the same name are cut alike; all else is on every device.
    Raises: InputError when a weight cannot be cut evenly.
    """
    def one(path, leaf):
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey) and key.key in axes]
        if not names or leaf.ndim != len(axes[names[-1]].split()):
            return NamedSharding(devices, PartitionSpec())
        sharding = NamedSharding(devices, spec(axes[names[-1]]))
        for size, letter in zip(leaf.shape, axes[names[-1]].split(), strict=True):
            parts = math.prod(devices.shape[axis] for axis in np.atleast_1d(AXIS_OF.get(letter, ())))
            if leaf.ndim > 1 and size % parts:
                raise errors.InputError(f"run.mesh: {names[-1]} has {size} along {letter}, which {parts} devices must "
                                        f"divide; got {dict(devices.shape)}, choose other sizes of fsdp, tensor or context")
        return sharding

    return jax.tree_util.tree_map_with_path(one, state)


def compile_step(step: Callable, places, devices: Mesh) -> Callable:
    """`step(state, batch) -> (state, metrics)` jitted on a mesh, its state in `places` and donated."""
    def on_mesh(state, batch):
        with under(devices):
            return step(state, batch)

    is_tpu = devices.devices.flat[0].platform == "tpu"
    return jax.jit(on_mesh, donate_argnums=0, out_shardings=(places, None), compiler_options=TPU_OPTIONS if is_tpu else None)


def under(devices: Mesh | None) -> contextlib.AbstractContextManager:
    """`with under(mesh)`: what is traced there is for that mesh."""
    return jax.sharding.use_abstract_mesh(devices.abstract_mesh) if devices else contextlib.nullcontext()


def current() -> AbstractMesh | None:
    """The mesh this code is traced for; None outside of one and on a single device."""
    found = jax.sharding.get_abstract_mesh()
    return None if found.empty or found.size == 1 else found


def device_kind() -> str:
    """What this code is traced for, such as "TPU v4"."""
    found = jax.sharding.get_abstract_mesh()
    return jax.devices()[0].device_kind if found.empty else found.abstract_device.device_kind


def context_size() -> int:
    """Over how many devices the positions of a row are cut."""
    return current().shape["context"] if current() else 1


def rows(x: Shaped[Array, "B T ..."]) -> Shaped[Array, "B T ..."]:
    """Activations, cut by rows and positions."""
    return jax.lax.with_sharding_constraint(x, ROWS) if current() else x


def gathered(w: Shaped[Array, "..."], axes: str) -> Shaped[Array, "..."]:
    """A weight as a layer uses it: whole over the mesh axes that only store it, fsdp and context."""
    if not current() or w.ndim < 2:
        return w
    cuts = [AXIS_OF.get(letter) for letter in axes.split()]
    return jax.lax.with_sharding_constraint(w, PartitionSpec(*(cut if cut == "tensor" else None for cut in cuts)))


def over_vocabulary(scores: Shaped[Array, "B T V"]) -> Shaped[Array, "B T V"]:
    """Scores of every id, cut by ids like the embedding: they are the largest arrays there are."""
    free = PartitionSpec.UNCONSTRAINED
    return jax.lax.with_sharding_constraint(scores, PartitionSpec(free, free, "tensor")) if current() else scores


def per_device(fn: Callable, in_specs, out_specs, axes: tuple[str, ...] = MESH_AXES) -> Callable:
    """`fn` on each device's own pieces, along these mesh axes; `fn` itself outside of a mesh."""
    if not current():
        return fn
    return jax.shard_map(fn, in_specs=in_specs, out_specs=out_specs, axis_names=set(axes), check_vma=False)


class Parts(NamedTuple):
    """Of the `of` equal parts that a batch's rows are cut into, those with these numbers, in this order."""

    numbers: tuple[int, ...]
    of: int


def shard_rows(batch: Callable[..., Any], step: int, devices: Mesh):
    """The batch of `step` on the devices, cut by rows and positions.

    `batch(step)` gives host arrays whose first axis is rows, the same in every process. On several processes
    a `batch(step, parts)` gives only those parts of the rows that this process's devices hold: on a slice of
    TPUs, whose chips are ordered by their links, they need not be neighbours.
    Raises: InputError when the rows cannot be cut so.
    """
    of = len(_by_rows(devices))
    is_partial = jax.process_count() > 1 and "parts" in inspect.signature(batch).parameters
    parts = Parts(_held(devices, jax.process_index()) if is_partial else tuple(range(of)), of)

    def place(x):
        x = np.asarray(x)
        if len(x) % len(parts.numbers):
            raise errors.InputError(f"run.mesh: data * fsdp cuts a batch into {of} parts, and its {len(x)} rows cannot be; "
                                    "choose a multiple, or another mesh")
        if x.ndim == 2 and x.shape[1] % (halves := 2 * devices.shape["context"]) and halves > 2:
            raise errors.InputError(f"run.mesh: context cuts a row into {halves} pieces, two a device, and its {x.shape[1]} ids cannot be; "
                                    "choose a multiple, or another mesh")
        size = len(x) // len(parts.numbers)
        cut = NamedSharding(devices, ROWS if x.ndim == 2 else PartitionSpec(AXIS_OF["B"]))

        def piece(at: tuple[slice, ...]) -> np.ndarray:
            first = size * parts.numbers.index((at[0].start or 0) // size)
            return x[(slice(first, first + size), *at[1:])]

        return jax.make_array_from_callback((size * of, *x.shape[1:]), cut, piece)

    return jax.tree.map(place, batch(step, parts) if is_partial else batch(step))


@functools.cache  # a pod has thousands of devices, and every step asks
def _held(devices: Mesh, process: int) -> tuple[int, ...]:
    """The parts of the rows of which some device of this process holds some."""
    return tuple(number for number, held in enumerate(_by_rows(devices)) if any(d.process_index == process for d in held))


def _by_rows(devices: Mesh) -> np.ndarray:
    """The devices of each part of the rows."""
    return devices.devices.reshape(devices.shape["data"] * devices.shape["fsdp"], -1)
