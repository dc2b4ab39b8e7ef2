"""The state in memory, twice: with the keeper of one's own host and with the next host's.

A process that is killed comes back to its own keeper's copy; one that lost its host comes back to the next
host's. All continue from the newest copy that everyone has, without reading storage, and lose the steps since: those between
two copies, and those done while one was on its way.
Fact: redundant in-memory copies of the model state, any intact one recovers the job (Gemini report, section 3).

Orbax's own peer-to-peer manager (orbax.checkpoint.experimental.emergency.p2p) keeps local copies and fetches what
data-parallel replicas hold alike; here the shard of every process is copied to another host, so that a state
which is cut over all hosts (fsdp) survives too.
Next: ../supervise.py, which starts the keepers and brings processes back.
"""

import json
import sys
from concurrent import futures

import jax
import numpy as np
import safetensors.numpy
from jax.experimental import multihost_utils

from gemini_mini import files
from gemini_mini.train import hosts, keeper

DIGEST_BYTES = 32  # of files.hash_bytes, in hex


class Copies:
    """The copies of one process of a job. Every process calls alike."""

    def __init__(self, addresses: list[tuple[str, int]], key: bytes, every: int):
        """`addresses` are the keepers, one for each process in order; a copy is made every so many steps."""
        self.owner, self.key, self.every = jax.process_index(), key, every
        self.keepers = [addresses[self.owner], addresses[(self.owner + 1) % len(addresses)]]
        self.pool = futures.ThreadPoolExecutor(1)
        self.pending: futures.Future | None = None

    def save(self, step: int, state) -> None:
        """Copy the state of `step`; returns once it is off the devices, and on its way to both keepers."""
        self.close()
        hosts.meet(f"copying {step}")  # all have the copy before: it may be dropped once this one is there
        arrays = {f"{i} {place}": data for i, leaf in enumerate(jax.tree.leaves(state)) for place, data in _shards(leaf).items()}
        self.pending = self.pool.submit(self._put, step, arrays)

    def restore(self, template) -> tuple[int, object] | None:
        """(step, state) of the newest copy that every process can reach, placed like `template`; None without one."""
        mine = {step for where in self.keepers for step in self._list(where)}
        for step in sorted(_common(mine), reverse=True):
            arrays = self._get(step)
            if _all(arrays is not None):
                leaves, treedef = jax.tree.flatten(template)
                state = jax.tree.unflatten(treedef, [_join(i, leaf, arrays) for i, leaf in enumerate(leaves)])
                self.save(step, state)  # a keeper that came back empty has it again
                return step, state
        return None

    def forget(self) -> None:
        """Drop every copy of this process: the run went back behind them."""
        self.close()
        for where in self.keepers:
            self._ask(where, do="forget")

    def close(self) -> None:
        """Until the last copy is whole."""
        if self.pending:
            pending, self.pending = self.pending, None
            pending.result()

    def _put(self, step: int, arrays: dict[str, np.ndarray]) -> None:
        data = safetensors.numpy.save(arrays)
        sealed = files.hash_bytes(data).encode() + data
        for where in self.keepers:
            if self._ask(where, sealed, do="put", step=step) is None:
                print(f"warning: the keeper at {where[0]}:{where[1]} is gone; step {step} has one copy less", file=sys.stderr)

    def _list(self, where: tuple[str, int]) -> list[int]:
        return json.loads(self._ask(where, do="list") or b"[]")

    def _get(self, step: int) -> dict[str, np.ndarray] | None:
        """One's own copy, or the next host's where that is lost or damaged."""
        for where in self.keepers:
            answer = self._ask(where, do="get", step=step) or b""
            digest, data = answer[:DIGEST_BYTES].decode(), answer[DIGEST_BYTES:]
            if data and files.hash_bytes(data) == digest:
                return safetensors.numpy.load(data)
        return None

    def _ask(self, where: tuple[str, int], data: bytes | None = None, **request: int | str) -> bytes | None:
        try:
            return keeper.ask(where, self.key, data, owner=self.owner, **request)
        except (OSError, EOFError):
            return None


def _shards(leaf: jax.Array) -> dict[str, np.ndarray]:
    """The bytes of the parts of an array that this process holds, each once, by their place in the whole; copied."""
    return {_place(shard.index): np.array(shard.data).reshape(-1).view(np.uint8) for shard in leaf.addressable_shards}


def _join(number: int, leaf: jax.Array, arrays: dict[str, np.ndarray]) -> jax.Array:
    """An array like `leaf` from the parts of `_shards`. Raises: KeyError when it is cut otherwise now."""
    shape = leaf.sharding.shard_shape(leaf.shape)
    parts = [jax.device_put(arrays[f"{number} {_place(index)}"].view(leaf.dtype).reshape(shape), device)
             for device, index in leaf.sharding.addressable_devices_indices_map(leaf.shape).items()]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, parts)


def _place(index: tuple[slice, ...]) -> str:
    return ",".join(f"{cut.start or 0}" for cut in index)


def _common(steps: set[int]) -> set[int]:
    """The steps that every process names; each keeper has at most KEPT of them."""
    most = 2 * keeper.KEPT
    named = np.array((sorted(steps, reverse=True) + [-1] * most)[:most], np.int32)
    return set.intersection(*(set(row.tolist()) for row in _gather(named))) - {-1}


def _all(here: bool) -> bool:
    return bool(_gather(np.array([here])).all())


def _gather(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, one a row."""
    return np.asarray(multihost_utils.process_allgather(array)).reshape(jax.process_count(), -1)
