"""Several processes, one training: what only one of them does, and what they do together."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils


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
    """Arrays that are spread over processes, whole on the devices of each; every process must ask."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(jnp.asarray, multihost_utils.process_allgather(tree, tiled=True))
