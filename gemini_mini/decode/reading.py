"""Reading prompts into a cache: in chunks, once for all answers that share one, and nothing twice.

    prompts --distinct--> what is new of each --chunk by chunk--> cache --copied--> a row per answer

A chunk is `READ_TOKENS` of every row. It looks at the shortest power of two of slots that holds
what is read so far: the scores of a long prompt take memory by its length, not by its square,
and half of the future is never multiplied. Rows may stand at different places.

`Memory` keeps what has been read and written, for the next turn of a conversation: it begins with
all that was said, so only the rest of it is read.

Prompts are padded on the right. A padded slot is never seen: a query looks at slots up to its own
position, and a row overwrites each slot as it gets there. Slots past the end are not written.
Next: engine.py.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int32

from gemini_mini import parallel
from gemini_mini.model import decoder
from gemini_mini.model.decoder import Cache

READ_TOKENS = 256  # of each row at a time
FEWEST_TOKENS = 32  # a short prompt is padded to 32, 64, 128, ... tokens: few shapes, few compilations

class Prefix(NamedTuple):
    """Ids and a cache of one row that has read them."""

    tokens: Int32[np.ndarray, "T"]
    cache: Cache


class Memory:
    """What was read lately. Hand the same one to every turn of a conversation."""

    def __init__(self, max_slots: int = 1 << 16):
        """The oldest is forgotten when more than `max_slots` positions are held."""
        self.max_slots = max_slots
        self.prefixes: list[Prefix] = []  # the oldest first

    def longest(self, tokens: Int32[np.ndarray, "T"]) -> tuple[int, Cache | None]:
        """How many of the first tokens are known already, and the cache that has read them."""
        found = [(_num_common(prefix.tokens, tokens), prefix.cache) for prefix in self.prefixes]
        return max((pair for pair in found if pair[0]), key=lambda pair: pair[0], default=(0, None))

    def keep(self, tokens: Int32[np.ndarray, "T"], cache: Cache, row: int) -> None:
        """Remember what a row of a cache has read; shorter beginnings of it are forgotten."""
        self.prefixes = [p for p in self.prefixes if _num_common(p.tokens, tokens) < len(p.tokens)]
        self.prefixes.append(Prefix(tokens, take(cache, jnp.array([row]))))
        while sum(p.cache.ids.shape[1] for p in self.prefixes) > self.max_slots and len(self.prefixes) > 1:
            self.prefixes.pop(0)


class Chunk(NamedTuple):
    """Tokens that are read together, and how many slots they look at."""

    tokens: Int32[np.ndarray, "B T"]
    positions: Int32[np.ndarray, "B T"]
    slots: int


def read(model: decoder.Decoder, prompts: Sequence[Int32[np.ndarray, "_"]], slots: int, memory: Memory) -> Cache:
    """A cache that has read all of each prompt but its last token, which the first step feeds."""
    places: dict[bytes, int] = {}
    rows = [places.setdefault(prompt.tobytes(), len(places)) for prompt in prompts]
    distinct = [np.frombuffer(prompt, np.int32)[:-1] for prompt in places]
    # A power of two of rows, so that few programs serve all batches.
    distinct += distinct[-1:] * (min(len(prompts), power(len(distinct))) - len(distinct))
    known = [memory.longest(prompt) for prompt in distinct]
    cache = deal(_recall([found for _, found in known], model.init_cache(len(distinct), slots)), model)
    for chunk in chunks(distinct, [length for length, _ in known], slots):
        cache = _read(model, chunk.tokens, chunk.positions, cache, chunk.slots)
    return cache if rows == list(range(len(distinct))) else take(cache, jnp.array(rows))


def chunks(rows: Sequence[Int32[np.ndarray, "_"]], starts: Sequence[int], slots: int) -> Iterator[Chunk]:
    """Each row from its start to its end, `READ_TOKENS` at a time, padded on the right."""
    left = max(len(row) - start for row, start in zip(rows, starts, strict=True))
    for first in range(0, left, READ_TOKENS):
        count = min(READ_TOKENS, padded(left - first))
        tokens = np.zeros((len(rows), count), np.int32)
        positions = np.add.outer(np.array(starts, np.int32) + first, np.arange(count, dtype=np.int32))
        end = 1
        for line, row, start in zip(tokens, rows, starts):
            part = row[start + first : start + first + count]
            line[: len(part)] = part
            end = max(end, start + first + len(part)) if len(part) else end
        yield Chunk(tokens, positions, min(slots, padded(end)))


def mesh_of(model: decoder.Decoder) -> Mesh | None:
    """The mesh that the weights are on, None on one device."""
    sharding = model.embed[...].sharding
    return sharding.mesh if isinstance(sharding, NamedSharding) else None


def num_parts(model: decoder.Decoder) -> int:
    """Into how many parts the mesh cuts the rows of a batch."""
    mesh = mesh_of(model)
    return math.prod(mesh.shape[axis] for axis in parallel.AXIS_OF["B"]) if mesh else 1


def deal(tree, model: decoder.Decoder):
    """Arrays whose first axis is rows, dealt over the mesh of the weights; whole on every device where they do not divide."""
    if not (mesh := mesh_of(model)):
        return tree
    parts = num_parts(model)

    def cut(x: Array | np.ndarray | np.generic) -> NamedSharding:
        is_even = x.ndim and x.shape[0] % parts == 0
        return NamedSharding(mesh, PartitionSpec(parallel.AXIS_OF["B"]) if is_even else PartitionSpec())

    return jax.device_put(tree, jax.tree.map(cut, tree))


def view(cache: Cache, slots: int) -> Cache:
    """The first slots of a cache."""
    return jax.tree.map(lambda x: x[:, :slots], cache)


def write_back(cache: Cache, part: Cache) -> Cache:
    """A cache with its first slots replaced."""
    return jax.tree.map(lambda whole, x: whole.at[:, : x.shape[1]].set(x), cache, part)


@jax.jit
def take(cache: Cache, rows: Int32[Array, "_"]) -> Cache:
    """Copies of some rows, in their order."""
    return jax.tree.map(lambda x: x[rows], cache)


@functools.partial(jax.jit, static_argnames="slots", donate_argnames="cache")
def _read(
    model: decoder.Decoder, tokens: Int32[Array, "B T"], positions: Int32[Array, "B T"], cache: Cache, slots: int
) -> Cache:
    return write_back(cache, model.step(tokens, positions, view(cache, slots))[1])


def _recall(found: list[Cache | None], empty: Cache) -> Cache:
    """The known caches below each other, where there is one, cut or filled up to the slots of `empty`."""
    if all(cache is None for cache in found):
        return empty
    return _stack([take(empty, jnp.array([row])) if cache is None else cache for row, cache in enumerate(found)],
                  empty.ids.shape[1])


@functools.partial(jax.jit, static_argnames="slots")
def _stack(caches: list[Cache], slots: int) -> Cache:
    def fit(x: Array) -> Array:
        return jnp.pad(x[:, :slots], ((0, 0), (0, max(0, slots - x.shape[1]))) + ((0, 0),) * (x.ndim - 2))

    return jax.tree.map(lambda *rows: jnp.concatenate([fit(row) for row in rows]), *caches)


def _num_common(first: Int32[np.ndarray, "_"], second: Int32[np.ndarray, "_"]) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(first), len(second))
    return int(np.argmin(np.append(first[:length] == second[:length], False)))


def padded(length: int) -> int:
    """The length that a sequence is padded to."""
    return max(FEWEST_TOKENS, power(length))


def power(number: int) -> int:
    """The least power of two that is not below it."""
    return 1 << max(0, number - 1).bit_length()
