"""The staged mixture: which row of which source stands at which place of training.

A table of stages over the token budget, each with a weight per source. The source of row n is
read off a block of `BLOCK` rows that realises the weights exactly (largest remainder) and
spreads each source evenly through the block; the row is the source's next one in a keyed
permutation, a new permutation for each pass. All of it is a function of (seed, stages, n):
there is no iterator state to save, lose or shard.
Idea: staged mixtures of the Gemini report (section 4), exact indices as in levanter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gemini_mini import errors

BLOCK = 256


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


def at(stages: tuple[Stage, ...], done: float) -> dict[str, float]:
    """The part of its rows that each source of the run is given after this part of the budget."""
    stage = next((stage for stage in stages if done < stage.until), stages[-1])
    return {name: stage.weights.get(name, 0.0) / sum(stage.weights.values()) for name in shares(stages)}


class Mixture:
    """Row n of a run of `total_rows` rows, for sources of the given sizes.

    A source that has no rows, or would be read more than `most_passes` times (0: any number), leaves the rest
    of its part to the others.
    Raises: InputError when a stage is empty, out of order, names an unknown source or has no
    positive weight.
    """

    def __init__(self, stages: tuple[Stage, ...], sizes: Mapping[str, int], total_rows: int, seed: int,
                 most_passes: int = 0):
        self.names, self.sizes, self.seed = sorted(sizes), sizes, seed
        self.ends: list[int] = []
        self.blocks: list[_Block] = []
        self.used: list[np.ndarray] = [np.zeros(len(self.names), np.int64)]  # rows dealt before each stage
        start = 0
        for i, stage in enumerate(stages):
            where = f"mixture stage {i} ({stage.name})"
            if unknown := sorted(set(stage.weights) - set(sizes)):
                raise errors.InputError(f"{where}: sources must be among {self.names}, got {unknown}")
            weights = np.array([stage.weights.get(name, 0.0) * (sizes[name] > 0) for name in self.names])
            if not (weights >= 0).all() or weights.sum() <= 0:
                raise errors.InputError(f"{where}: weights must be >= 0, and sum to > 0 over sources that have rows, "
                                        f"got {dict(stage.weights)}")
            end = round(stage.until * total_rows)
            if end < start or stage.until > 1 or (i == len(stages) - 1 and stage.until != 1):
                raise errors.InputError(f"{where}: stages must end in order, the last at 1.0, got {stage.until}")
            weights = weights / weights.sum()
            if most_passes:
                weights = _limited(weights, most_passes * np.array([sizes[name] for name in self.names]) / total_rows)
            block = _block(weights)
            self.ends.append(end)
            self.blocks.append(block)
            self.used.append(self.used[-1] + block.counts(end - start))
            start = end

    def stage_of(self, n: int) -> int:
        """The index of the stage that row n belongs to; the last one past the end."""
        return min(int(np.searchsorted(self.ends, n, side="right")), len(self.ends) - 1)

    def row(self, n: int) -> tuple[str, int]:
        """(source, row of that source) at place n of training."""
        stage = self.stage_of(n)
        place = n - (self.ends[stage - 1] if stage else 0)
        source = int(self.blocks[stage].source[place % BLOCK])
        nth = self.used[stage][source] + self.blocks[stage].counts(place)[source]
        name = self.names[source]
        passes, within = divmod(int(nth), self.sizes[name])
        return name, int(_permutation(self.seed, source, passes, self.sizes[name])[within])


def _limited(weights: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Weights that sum to 1, none above its `most`; where those cannot fill a whole, in their proportion."""
    most = np.where(weights > 0, most, 0)
    if most.sum() <= 1:
        return most / most.sum()
    full = np.zeros(len(weights), bool)
    while True:
        share = weights * (1 - most[full].sum()) / weights[~full].sum()
        limited = np.where(full, most, share)
        if not (limited > most + 1e-12).any():
            return limited
        full |= limited > most


class _Block(NamedTuple):
    source: np.ndarray  # [BLOCK] source at each place
    before: np.ndarray  # [BLOCK + 1, sources] how many of each stand before each place

    def counts(self, rows: int) -> np.ndarray:
        """How many of each source stand in the first `rows` rows."""
        blocks, rest = divmod(rows, BLOCK)
        return blocks * self.before[-1] + self.before[rest]


def _block(weights: np.ndarray) -> _Block:
    exact = weights * BLOCK
    counts = np.floor(exact).astype(int)
    for i in np.argsort(-(exact - counts), kind="stable")[: BLOCK - counts.sum()]:
        counts[i] += 1
    # The k-th of c rows is due at (k + 1/2) / c: sorting by due time spreads every source evenly.
    due = np.concatenate([(np.arange(c) + 0.5) / c for c in counts if c])
    source = np.repeat(np.arange(len(weights)), counts)[np.argsort(due, kind="stable")]
    before = np.zeros((BLOCK + 1, len(weights)), np.int64)
    before[1:] = np.cumsum(np.eye(len(weights), dtype=np.int64)[source], axis=0)
    return _Block(source, before)


_CACHE: dict[tuple[int, int, int, int], np.ndarray] = {}


def _permutation(seed: int, source: int, passes: int, size: int) -> np.ndarray:
    """A bijection of range(size), keyed; kept while it is the newest of its source. Other threads may add and drop some at any time."""
    key = (seed, source, passes, size)
    if (found := _CACHE.get(key)) is None:
        for old in [k for k in list(_CACHE) if k[:2] == key[:2] and k[2] < passes - 1]:
            _CACHE.pop(old, None)
        found = _CACHE[key] = np.random.Generator(np.random.Philox(key=[seed, source << 32 | passes])).permutation(size)
    return found
