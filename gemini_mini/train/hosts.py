"""Several processes, one training: what only one of them does, and what they do together."""

from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from gemini_mini import nn


def is_first() -> bool:
    """Whether this process writes the run folder."""
    return jax.process_index() == 0


def notes(folder: Path) -> Path:
    """Where this process writes down what it saw: the run folder, or its own place in it."""
    return folder if is_first() else folder / "processes" / str(jax.process_index())


def meet(where: str) -> None:
    """Wait for the other processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def least(number: int) -> int:
    """The smallest of what the processes name; every process must ask."""
    return int(multihost_utils.process_allgather(np.int32(number)).min()) if jax.process_count() > 1 else number


def whole(tree):
    """Arrays that are spread over processes, whole in the memory of each host; every process must ask.

    They come one by one, and not to stay on accelerators, none of which may have room for all.
    """
    if jax.process_count() == 1:
        return tree
    here = jax.local_devices(backend="cpu")[0]
    return jax.tree.map(lambda x: jax.device_put(multihost_utils.process_allgather(x, tiled=True), here), tree)


def small(module: nnx.Module) -> nnx.Module:
    """A module that fits on one device, whole on one of each process; every process must ask."""
    if jax.process_count() == 1:
        return module
    return nn.with_weights(module, jax.device_put(whole(nn.weights(module)), jax.local_devices()[0]))
