"""Checkpoints: whole or not there, and never believed without their checksums.

    RUN/checkpoints/00000120/state        the arrays, by Orbax
    RUN/checkpoints/00000120/sums.json    a hash of every array

Orbax restores a flipped byte without a word, so each array is hashed before it is written and
after it is read; a damaged checkpoint gives way, loudly, to the one before it.
"""

import logging
import os
import shutil
import sys
from pathlib import Path

import jax
import numpy as np

from gemini_mini import errors, files


def array_hashes(state) -> dict[str, str]:
    """A hash of every array of a tree, by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): files.hash_bytes(np.asarray(leaf).tobytes()) for path, leaf in leaves}


def save(folder: Path, step: int, state, keep: int) -> None:
    """Write the state of `step`, then drop all but the newest `keep`.

    Raises: OSError when the disk is full; the checkpoints before stay as they were.
    """
    ocp = _orbax()
    folder = folder.absolute()  # Orbax takes no other
    beside = folder / f".{step:08d}.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        ocp.save(beside / "state", jax.tree.leaves(state))
        files.write_json(beside / "sums.json", array_hashes(state))
        shutil.rmtree(folder / f"{step:08d}", ignore_errors=True)
        os.replace(beside, folder / f"{step:08d}")
    except Exception as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise OSError(f"{folder}: checkpoint of step {step} could not be written ({_short(error)}); the one before "
                      "is intact: free some space and run the same command again") from error
    for old in steps(folder)[:-keep]:
        shutil.rmtree(folder / f"{old:08d}")


def restore(folder: Path, template) -> tuple[int, object] | None:
    """(step, state) of the newest intact checkpoint, shaped and placed like `template`; None without any.

    Raises: InputError when there are checkpoints and none is intact.
    """
    ocp = _orbax()
    folder = folder.absolute()
    leaves, treedef = jax.tree.flatten(template)
    abstract = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for x in leaves]
    for step in reversed(steps(folder)):
        place = folder / f"{step:08d}"
        try:
            state = jax.tree.unflatten(treedef, ocp.load(place / "state", abstract))
            sums, wanted = array_hashes(state), files.read_json(place / "sums.json")
            if sums == wanted:
                return step, state
            why = f"{sorted(k for k in sums if sums[k] != wanted.get(k))[0]} differs from its checksum"
        except Exception as error:  # whatever a damaged file makes Orbax raise
            why = _short(error)
        print(f"warning: {place} is damaged ({why}); using the checkpoint before it", file=sys.stderr)
    if steps(folder):
        raise errors.InputError(f"{folder}: no checkpoint is intact; move the folder away to train from the start")
    return None


def steps(folder: Path) -> list[int]:
    """The steps that have a complete checkpoint, oldest first."""
    return sorted(int(p.name) for p in folder.glob("[0-9]*") if p.is_dir()) if folder.is_dir() else []


def _orbax():
    """Orbax, imported here because sampling never needs its 0.3 s, and quiet: its errors are raised as ours."""
    from orbax.checkpoint import v1

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    return v1


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no message'}"
