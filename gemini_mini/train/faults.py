"""One flipped bit, on purpose: what a failing chip does, to see that replay.py finds it."""

import difflib

import jax
import numpy as np

from gemini_mini import errors
from gemini_mini.train import trace


def check(tree, leaf: str, bit: int) -> None:
    """Raises: InputError when `tree` has no such leaf or bit."""
    names = trace.names(tree, "state")
    if leaf not in names:
        near = difflib.get_close_matches(leaf, names, cutoff=0) or names
        raise errors.InputError(f"run.flip: must name a leaf of the state, got {leaf!r}; nearest: {', '.join(near)}")
    bits = 8 * jax.tree.leaves(tree)[names.index(leaf)].nbytes
    if not 0 <= bit < bits:
        raise errors.InputError(f"run.flip: {leaf} has bits 0 to {bits - 1}, got {bit}")


def flip(tree, leaf: str, bit: int):
    """`tree` with one bit of one leaf's memory flipped, on the devices it was on."""
    leaves, treedef = jax.tree.flatten(tree)
    at = trace.names(tree, "state").index(leaf)
    array = np.array(leaves[at])
    array.reshape(-1).view(np.uint8)[bit // 8] ^= np.uint8(1 << bit % 8)
    leaves[at] = jax.device_put(array, leaves[at].sharding)
    return jax.tree.unflatten(treedef, leaves)
