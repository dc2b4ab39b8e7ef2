"""What every step did, as 32 bits for each leaf of its batch, its metrics and the state after it.

    RUN/trace.bin     one row of uint32 a step; all zero where nothing is known
    RUN/trace.json    the leaves' names
    RUN/stretches.json    [{"from": 0, "how": {...}}]: on what the steps from there on were computed

Two runs did the same when these files are the same. The sum of a leaf is of integers, so it does not depend
on how the leaf is spread over devices or processes, and one changed bit always changes it. What a step computes
does depend on it: another mesh adds in another order, and rounds otherwise.
Next: ../replay.py, which finds the step and the leaf where a machine went wrong.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt32

from gemini_mini import files

WORD = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit
def sums(tree) -> UInt32[Array, "leaves"]:
    """The sum of every leaf's elements, each mixed with its place; on device, in the order of `names`."""
    return jnp.stack([_sum(leaf) for leaf in jax.tree.leaves(tree)])


def names(tree, prefix: str = "") -> list[str]:
    """The path of every leaf, such as ".weights['embed']"."""
    return [prefix + jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


class Step(NamedTuple):
    """What a step read, said and left: the trees that a row of the trace sums up."""

    batch: Any
    metrics: dict[str, Array]
    state: Any

    def names(self) -> list[str]:
        return [name for part, tree in self._asdict().items() for name in names(tree, part)]

    def sums(self) -> tuple[UInt32[Array, "_"], ...]:
        """On device: reading them with `row` waits for the step, and the step after it may run by then."""
        return tuple(sums(tree) for tree in self)


def row(parts: tuple[UInt32[Array, "_"], ...]) -> UInt32[np.ndarray, "leaves"]:
    """The sums of a step, on the host."""
    return np.concatenate([np.asarray(part) for part in parts])


def _sum(leaf: Shaped[Array, "..."]) -> UInt32[Array, ""]:
    """Each element goes through a bijection of 32 bits (the finaliser of MurmurHash3), keyed by its place."""
    bits = leaf.astype(jnp.uint8) if leaf.dtype == bool else jax.lax.bitcast_convert_type(leaf, WORD[leaf.dtype.itemsize])
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    x = bits.astype(jnp.uint32) ^ (place * np.uint32(0x9E3779B1))
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return jnp.sum(x ^ (x >> 16), dtype=jnp.uint32)


class Writer:
    """Appends rows to the trace of a run that goes on after `start` steps; later rows are dropped."""

    def __init__(self, folder: Path, start: int, leaves: list[str], how: dict):
        old = read(folder)
        rows = np.zeros((start, len(leaves)), np.uint32)
        if old and old[0] == leaves:
            known = old[1][:start]
            rows[: len(known)] = known
        files.write_json(folder / "stretches.json", _with(stretches(folder), start, how))
        files.write_json(folder / "trace.json", leaves)
        files.write_bytes(folder / "trace.bin", rows.tobytes())
        self.file = open(folder / "trace.bin", "ab")

    def write(self, sums: UInt32[np.ndarray, "leaves"]) -> None:
        """The row of the next step."""
        self.file.write(sums.tobytes())
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def cut(folder: Path, steps: int) -> None:
    """Drop the rows after so many steps."""
    if known := read(folder):
        files.write_bytes(folder / "trace.bin", known[1][:steps].tobytes())


def read(folder: Path) -> tuple[list[str], UInt32[np.ndarray, "steps leaves"]] | None:
    """(names, a row a step) of the whole steps so far, or None where there is no trace."""
    if not (folder / "trace.json").is_file() or not (folder / "trace.bin").is_file():
        return None
    leaves = files.read_json(folder / "trace.json")
    flat = np.fromfile(folder / "trace.bin", np.uint32)
    return leaves, flat[: flat.size // len(leaves) * len(leaves)].reshape(-1, len(leaves))


def stretches(folder: Path) -> list[dict]:
    """From which step on the steps were computed on what, in order; of a run from before this was written down, none."""
    path = folder / "stretches.json"
    return files.read_json(path) if path.is_file() else []


def _with(before: list[dict], start: int, how: dict) -> list[dict]:
    """The stretches when the run goes on at `start`."""
    kept = [each for each in before if each["from"] < start] or [{"from": 0, "how": None}] * (start > 0)
    return kept if kept and kept[-1]["how"] == how else [*kept, {"from": start, "how": how}]
