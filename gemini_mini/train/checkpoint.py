"""Checkpoints: whole or not there, written beside the training, never believed without their checksums.

    RUN/checkpoints/00000120/state        the arrays, by Orbax
    RUN/checkpoints/00000120/sums.json    a checksum of every array, and how good the step was

Orbax restores a flipped byte without a word, so each array is summed before it is written and
after it is read; a damaged checkpoint gives way, loudly, to the one before it.
"""

import logging
import os
import shutil
import sys
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from gemini_mini import errors, files
from gemini_mini.train import hosts, trace


class Keep(NamedTuple):
    """Which checkpoints stay: the newest `last`, the best one, and those of every so many steps."""

    last: int
    every: int = 0
    best: bool = False  # of those saved with a score


class Saver:
    """`with Saver(folder, keep) as saver: saver.save(step, state)` returns once the state is copied from the devices.

    The next save, or the end, waits for the one before. Every process of a job calls it alike.
    """

    def __init__(self, folder: Path, keep: Keep):
        self.folder, self.keep = folder.absolute(), keep  # Orbax takes no other
        self.pool = futures.ThreadPoolExecutor(1)
        self.pending: futures.Future | None = None
        for half in self.folder.glob(".*.tmp") if hosts.is_first() else ():
            shutil.rmtree(half)  # of a process that was killed

    def save(self, step: int, state, score: float | None = None) -> None:
        """Write the state of `step`; the lowest score is the best.

        Raises: OSError, here or at the next call, when the disk is full; the checkpoints before stay as they were.
        """
        self.wait()
        beside = self.folder / f".{step:08d}.tmp"
        if hosts.is_first():
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        hosts.meet(f"saving {step}")
        sums = _sums(state)
        try:
            response = _orbax().save_async(beside / "state", jax.tree.leaves(state))
        except Exception as error:
            raise self._failed(step, error) from error
        self.pending = self.pool.submit(self._finish, step, response, {"sums": sums, "score": score})

    def grade(self, step: int, score: float | None) -> None:
        """Say how good the state of `step` is that was saved without a score; nothing where it is there no more."""
        self.wait()
        sums = self.folder / f"{step:08d}" / "sums.json"
        if score is not None and hosts.is_first() and sums.is_file():
            files.write_json(sums, files.read_json(sums) | {"score": score})
            self._drop()

    def wait(self) -> None:
        """Until the last save is whole. Raises: OSError when it failed."""
        if self.pending:
            pending, self.pending = self.pending, None
            pending.result()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self.pool.shutdown()

    def _finish(self, step: int, response, about: dict) -> None:
        beside = self.folder / f".{step:08d}.tmp"
        try:
            response.result()
            if not hosts.is_first():
                return
            files.write_json(beside / "sums.json", about)
            shutil.rmtree(self.folder / f"{step:08d}", ignore_errors=True)
            os.replace(beside, self.folder / f"{step:08d}")
        except Exception as error:
            raise self._failed(step, error) from error
        self._drop()

    def _drop(self) -> None:
        """Delete what the policy does not keep."""
        for old in sorted(set(steps(self.folder)) - kept(self.folder, self.keep)):
            beside = self.folder / f".{old:08d}.tmp"
            os.replace(self.folder / f"{old:08d}", beside)  # gone at once: nobody reads half of it
            shutil.rmtree(beside)

    def _failed(self, step: int, error: Exception) -> OSError:
        shutil.rmtree(self.folder / f".{step:08d}.tmp", ignore_errors=True)
        return OSError(f"{self.folder}: checkpoint of step {step} could not be written ({_short(error)}); the one before "
                       "is intact: free some space and run the same command again")


def restore(folder: Path, template, last: int | None = None) -> tuple[int, object] | None:
    """(step, state) of the newest checkpoint that is intact for every process, of step `last` at most, like `template`.

    None without any. Raises: InputError when there are checkpoints, no `last` is given and none is intact.
    """
    leaves, treedef = jax.tree.flatten(template)
    abstract = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for x in leaves]
    is_damaged, bound = False, np.inf if last is None else last
    while (step := hosts.least(max((step for step in steps(folder) if step <= bound), default=-1))) >= 0:
        place, why = folder.absolute() / f"{step:08d}", ""
        try:
            state, wanted = treedef.unflatten(_load(place / "state", abstract)), files.read_json(place / "sums.json")["sums"]
        except Exception as error:  # whatever a damaged file makes Orbax raise
            why = _short(error)
        is_gone = bool(why) and not place.is_dir()  # the run that goes on beside this reader has deleted it
        if not hosts.least(not why):  # before the sums, which all must make together
            why = why or "for another process"
        elif (sums := _sums(state)) == wanted:
            return step, state
        else:
            why = f"{sorted(k for k in sums if sums[k] != wanted.get(k))[0]} differs from its checksum"
        bound = step - 1
        if not is_gone:
            is_damaged = True
            print(f"warning: {place} is damaged ({why}); using the checkpoint before it", file=sys.stderr)
    if is_damaged and last is None:
        raise errors.InputError(f"{folder}: no checkpoint is intact; move the folder away to train from the start")
    return None


def set_aside(folder: Path, last: int) -> None:
    """Rename what is later than step `last`, the latest intact one: damaged, it would still count as the newest to keep."""
    for step in [step for step in steps(folder) if step > last]:
        aside = folder / f"damaged-{step:08d}"
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder / f"{step:08d}", aside)


def steps(folder: Path) -> list[int]:
    """The steps that have a complete checkpoint, oldest first."""
    return sorted(int(p.name) for p in folder.glob("[0-9]*") if p.is_dir()) if folder.is_dir() else []


def best(folder: Path) -> int | None:
    """The step of the checkpoint with the lowest score, the newest of equals."""
    scores = {step: _score(folder / f"{step:08d}") for step in steps(folder)}
    scored = {step: score for step, score in scores.items() if score is not None}
    return min(scored, key=lambda step: (scored[step], -step)) if scored else None


def kept(folder: Path, keep: Keep) -> set[int]:
    """The steps that the policy keeps."""
    there = steps(folder)
    found = set(there[-keep.last:]) | {step for step in there if keep.every and step % keep.every == 0}
    return found | ({best(folder)} - {None} if keep.best else set())


def _score(place: Path) -> float | None:
    try:
        score = files.read_json(place / "sums.json")["score"]
    except (errors.InputError, KeyError, TypeError):  # a damaged one, which restore will tell of
        return None
    return score if isinstance(score, int | float) and np.isfinite(score) else None


def _sums(state) -> dict[str, int]:
    return dict(zip(trace.names(state), np.asarray(trace.sums(state)).tolist(), strict=True))


def _load(place: Path, abstract: list[jax.ShapeDtypeStruct]) -> list[jax.Array]:
    """What this process's devices hold of the arrays, without Orbax's barrier: one that fails would keep the others there."""
    ocp, me = _orbax(), jax.process_index()
    with ocp.Context(multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})):
        return ocp.load(place, abstract)


def _orbax():
    """Orbax, imported here because sampling never needs its 0.3 s, and quiet: its errors are raised as ours."""
    from orbax.checkpoint import v1

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    return v1


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no message'}"
