"""The batch of a step: a function of (rows, stages, seed, step) and nothing else."""

from collections.abc import Sequence

import numpy as np

from gemini_mini import errors
from gemini_mini.data import mixture, packing, rows


class Loader:
    """Deals `batch_rows` rows a step, `steps` steps in all; `most_passes` as for the mixture."""

    def __init__(self, stored: rows.Rows, stages: tuple[mixture.Stage, ...], batch_rows: int, steps: int, seed: int,
                 most_passes: int = 0):
        self.rows, self.batch_rows = stored.sources, batch_rows
        sizes = {name: len(r) for name, r in stored.sources.items()}
        self.mixture = mixture.Mixture(stages, sizes, steps * batch_rows, seed, most_passes)

    def batch(self, step: int, parts: tuple[Sequence[int], int] = ((0,), 1)) -> packing.Batch:
        """Of rows step * batch_rows and following, cut into `of` parts, those parts whose numbers are given; no other row is read.

        Raises: InputError when they cannot be cut so.
        """
        numbers, of = parts
        if self.batch_rows % of:
            raise errors.InputError(f"task.batch_rows: must be a multiple of {of}, the parts of run.mesh's data * fsdp, got {self.batch_rows}")
        size = self.batch_rows // of
        places = [step * self.batch_rows + number * size + n for number in numbers for n in range(size)]
        picked = map(self.mixture.row, places)
        return packing.batch_of(np.stack([self.rows[source][row] for source, row in picked]))
