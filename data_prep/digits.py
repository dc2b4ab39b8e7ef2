"""Handwritten digits: 1,797 real ones by 13 writers, from scikit-learn's own files.

Drawn dark on white like everything else here. The file goes writer by writer, so cutting it in
three pieces keeps most writers on one side.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from data_prep import pictures

try:
    from sklearn import datasets
except ImportError:
    datasets = None

NUM_TRAIN, NUM_VALID = 1_350, 100


class Digits(NamedTuple):
    pictures: UInt8[np.ndarray, "digits size size 3"]
    labels: Int64[np.ndarray, "digits"]

    def only(self, half: str) -> "Digits":
        """Without the half of the test digits that is not the named one; the first writers are dev."""
        test = self.indices("test")
        middle = test.start + len(test) // 2
        kept = np.r_[:middle] if half == "dev" else np.r_[:test.start, middle:test.stop]
        return Digits(self.pictures[kept], self.labels[kept])

    def indices(self, split: str) -> range:
        """Which digits are in "train", "valid" or "test"; none of another split."""
        first = {"train": 0, "valid": NUM_TRAIN, "test": NUM_TRAIN + NUM_VALID}
        last = {"train": NUM_TRAIN, "valid": NUM_TRAIN + NUM_VALID, "test": len(self.labels)}
        return range(min(first.get(split, 0), len(self.labels)), min(last.get(split, 0), len(self.labels)))


def read(size: int) -> Digits:
    """All digits at `size` x `size`. Raises: InputError when scikit-learn is not installed."""
    if datasets is None:
        raise pictures.missing_package("scikit-learn")
    found = datasets.load_digits()
    ink = np.rint(255 - found.images * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC))
             for digit in ink]
    return Digits(np.repeat(np.stack(large)[..., None], 3, axis=-1), found.target.astype(np.int64))


def none(size: int) -> Digits:
    return Digits(np.zeros((0, size, size, 3), np.uint8), np.zeros(0, np.int64))
