"""The staged mixture: which row of which source stands at which place of training.

A table of stages over the token budget, each with a weight per source. The source of row n is
read off a block of rows, a whole stage where that is not too long, that has of each source as many as
its weight says (largest remainder), each spread evenly; the row is the source's next one in a keyed
permutation, a new permutation for each pass. All of it is a function of (seed, stages, n):
there is no iterator state to save, lose or shard.
Idea: staged mixtures of the Gemini report (section 4), exact indices as in levanter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gemini_mini import errors

BLOCK = 1 << 20  # rows at most


@dataclass(frozen=True)
class Stage:
    """`weights` hold from the end of the stage before up to `until`, a fraction of the budget."""

    name: str
    until: float
    weights: Mapping[str, float]


def shares(stages: tuple[Stage, ...]) -> dict[str, float]:
    """The part of all rows that each source is given, over the whole budget."""
    found: dict[str, float] = {}
    start = 0.0
    for stage in stages:
        for name, weight in stage.weights.items():
            part = weight / sum(stage.weights.values()) * (stage.until - start)
            found[name] = found.get(name, 0.0) + part
        start = stage.until
    return found


class Mixture:
    """Row n of a run of `total_rows` rows, for sources of the given sizes.

    A source that has no rows, or would be read more than `most_passes` times (0: any number), leaves the rest
    of its part to the others, where they can fill it; its passes are shared among the stages that read it.
    Raises: InputError when a stage is empty, out of order, names an unknown source or has no
    positive weight.
    """

    def __init__(self, stages: tuple[Stage, ...], sizes: Mapping[str, int], total_rows: int, seed: int,
                 most_passes: int = 0):
        self.names, self.sizes, self.seed = sorted(sizes), sizes, seed
        self.ends: list[int] = []
        self.blocks: list[_Block] = []
        self.used: list[np.ndarray] = [np.zeros(len(self.names), np.int64)]  # rows dealt before each stage
        weights = np.stack([self._weights(i, stage) for i, stage in enumerate(stages)])
        start = 0
        for i, stage in enumerate(stages):
            end = round(stage.until * total_rows)
            if end < start or stage.until > 1 or (i == len(stages) - 1 and stage.until != 1):
                raise errors.InputError(f"mixture stage {i} ({stage.name}): stages must end in order, the last at 1.0, got {stage.until}")
            self.ends.append(end)
            start = end
        rows = np.diff([0, *self.ends])
        for i, (part, length) in enumerate(zip(weights, rows.tolist(), strict=True)):
            if most_passes:
                left = most_passes * np.array([sizes[name] for name in self.names]) - self.used[i]
                ahead = ((weights[i:] > 0) * rows[i:, None]).sum(axis=0)  # rows of the stages that still read it
                part = _limited(part, np.maximum(left, 0) / np.maximum(ahead, 1))
            blocks = max(1, -(-length // BLOCK))
            block = _block(part, max(1, -(-length // blocks)))
            self.blocks.append(block)
            self.used.append(self.used[-1] + block.counts(length))

    def _weights(self, i: int, stage: Stage) -> np.ndarray:
        """Of each source that has rows; they sum to 1."""
        where = f"mixture stage {i} ({stage.name})"
        if unknown := sorted(set(stage.weights) - set(self.sizes)):
            raise errors.InputError(f"{where}: sources must be among {self.names}, got {unknown}")
        weights = np.array([stage.weights.get(name, 0.0) * (self.sizes[name] > 0) for name in self.names])
        if not (weights >= 0).all() or weights.sum() <= 0:
            raise errors.InputError(f"{where}: weights must be >= 0, and sum to > 0 over sources that have rows, "
                                    f"got {dict(stage.weights)}")
        return weights / weights.sum()

    def stage_of(self, n: int) -> int:
        """The index of the stage that row n belongs to; the last one past the end."""
        return min(int(np.searchsorted(self.ends, n, side="right")), len(self.ends) - 1)

    def parts(self, n: int) -> dict[str, float]:
        """The part of the rows of n's stage that each source has."""
        block = self.blocks[self.stage_of(n)]
        return {name: len(places) / len(block.source) for name, places in zip(self.names, block.places, strict=True)}

    def row(self, n: int) -> tuple[str, int]:
        """(source, row of that source) at place n of training."""
        stage = self.stage_of(n)
        block, place = self.blocks[stage], n - (self.ends[stage - 1] if stage else 0)
        blocks, within = divmod(place, len(block.source))
        source = int(block.source[within])
        nth = self.used[stage][source] + blocks * len(block.places[source]) + np.searchsorted(block.places[source], within)
        name = self.names[source]
        passes, row = divmod(int(nth), self.sizes[name])
        return name, int(_permutation(self.seed, source, passes, self.sizes[name])[row])


def _limited(weights: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Weights that sum to 1, none above its `most`; where those cannot fill a whole, in their proportion."""
    most = np.where(weights > 0, most, 0)
    if most.sum() <= 1:
        return most / most.sum() if most.any() else weights
    full = np.zeros(len(weights), bool)
    while True:
        share = weights * (1 - most[full].sum()) / weights[~full].sum()
        limited = np.where(full, most, share)
        if not (limited > most + 1e-12).any():
            return limited
        full |= limited > most


class _Block(NamedTuple):
    source: np.ndarray  # of each place
    places: list[np.ndarray]  # of each source

    def counts(self, rows: int) -> np.ndarray:
        """How many of each source stand in the first `rows` rows."""
        blocks, rest = divmod(rows, len(self.source))
        return np.array([blocks * len(places) + np.searchsorted(places, rest) for places in self.places])


def _block(weights: np.ndarray, size: int) -> _Block:
    exact = weights * size
    counts = np.floor(exact).astype(int)
    for i in np.argsort(-(exact - counts), kind="stable")[: size - counts.sum()]:
        counts[i] += 1
    # The k-th of c rows is due at (k + 1/2) / c: sorting by due time spreads every source evenly.
    due = np.concatenate([(np.arange(c) + 0.5) / c for c in counts if c])
    source = np.repeat(np.arange(len(weights)), counts)[np.argsort(due, kind="stable")]
    return _Block(source, [np.flatnonzero(source == i) for i in range(len(weights))])


_CACHE: dict[tuple[int, int, int, int], np.ndarray] = {}


def _permutation(seed: int, source: int, passes: int, size: int) -> np.ndarray:
    """A bijection of range(size), keyed; kept while it is the newest of its source. Other threads may add and drop some at any time."""
    key = (seed, source, passes, size)
    if (found := _CACHE.get(key)) is None:
        for old in [k for k in list(_CACHE) if k[:2] == key[:2] and k[2] < passes - 1]:
            _CACHE.pop(old, None)
        found = _CACHE[key] = np.random.Generator(np.random.Philox(key=[seed, source << 32 | passes])).permutation(size)
    return found
