"""Judging pictures by their pixels alone: which real picture is this one, and what colour is it?"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64, UInt8

WHITE_ABOVE = 248  # a pixel is background when its darkest channel is above this; codes blur a little


def nearest(
    drawn: UInt8[np.ndarray, "drawn height width 3"], real: UInt8[np.ndarray, "real height width 3"]
) -> Int64[np.ndarray, "drawn"]:
    """Index of the real picture with the least mean squared error to each drawn one; of equals, the first."""
    return np.argmin(distances(drawn, real), axis=1)


def distances(
    drawn: UInt8[np.ndarray, "drawn height width 3"], real: UInt8[np.ndarray, "real height width 3"]
) -> Float64[np.ndarray, "drawn real"]:
    """Mean squared error, in squared levels of 0 to 255, of each pair."""
    a = drawn.reshape(len(drawn), -1).astype(np.float64)  # exact: sums of squared levels stay far below 2^53
    b = real.reshape(len(real), -1).astype(np.float64)
    squared = np.sum(a * a, axis=1)[:, None] + np.sum(b * b, axis=1) - 2 * a @ b.T
    return squared / a.shape[1]


def ink_colour(pixels: UInt8[np.ndarray, "height width 3"]) -> Float64[np.ndarray, "3"]:
    """Mean colour of what is not background; white when there is nothing."""
    ink = pixels[pixels.min(axis=-1) <= WHITE_ABOVE]
    return ink.mean(axis=0, dtype=np.float64) if len(ink) else np.full(3, 255.0)


def nearest_colour(pixels: UInt8[np.ndarray, "height width 3"], real: Sequence[UInt8[np.ndarray, "..."]]) -> int:
    """Index of the real picture whose ink has the colour nearest to this one's."""
    colours = np.stack([ink_colour(picture) for picture in real])
    return int(np.argmin(np.sum((colours - ink_colour(pixels)) ** 2, axis=1)))
