"""Judging pictures by their pixels alone: which real picture is this one, and what colour is it?"""

import numpy as np
from jaxtyping import Float64, Int64, UInt8

WHITE_ABOVE = 240  # a pixel is background when its darkest channel is above this; codes blur a little


class Gallery:
    """Pictures of one size, to search by mean squared error. Exact: sums stay far below 2^53."""

    def __init__(self, real: UInt8[np.ndarray, "real height width 3"]):
        self.shape = real.shape[1:]
        self.flat = real.reshape(len(real), -1).astype(np.float64)
        self.norms = np.sum(self.flat**2, axis=1)
        self.known = {picture.tobytes(): i for i, picture in enumerate(real)}

    def distances(self, drawn: UInt8[np.ndarray, "drawn height width 3"]) -> Float64[np.ndarray, "drawn real"]:
        """Mean squared error, in squared levels of 0 to 255, of each pair."""
        flat = drawn.reshape(len(drawn), -1).astype(np.float64)
        return (np.sum(flat**2, axis=1)[:, None] + self.norms - 2 * flat @ self.flat.T) / flat.shape[1]

    def index_of(self, picture: UInt8[np.ndarray, "height width 3"]) -> int:
        """Index of exactly this picture. Raises: KeyError when it is none of these."""
        return self.known[picture.tobytes()]

    def nearest(self, drawn: UInt8[np.ndarray, "drawn height width 3"]) -> Int64[np.ndarray, "_"]:
        """Index of the picture with the least error to each drawn one; of equals, the first."""
        return np.argmin(self.distances(drawn), axis=1)


def is_blank(pixels: UInt8[np.ndarray, "height width 3"]) -> bool:
    """Whether there is nothing but background."""
    return bool(pixels.min() > WHITE_ABOVE)


def fill_colour(pixels: UInt8[np.ndarray, "height width 3"]) -> Float64[np.ndarray, "3"]:
    """Mean colour of the middle half of each side: what a centred thing is filled with.

    Not the mean of all that is not white: a white heart would be its outline alone, and a little
    blur makes that grey.
    """
    height, width, _ = pixels.shape
    middle = pixels[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return middle.mean(axis=(0, 1), dtype=np.float64)


def nearest_colour(
    pixels: UInt8[np.ndarray, "height width 3"], real: UInt8[np.ndarray, "real _ _ 3"]
) -> int:
    """Index of the real picture whose fill has the colour nearest to this one's."""
    colours = np.stack([fill_colour(picture) for picture in real])
    return int(np.argmin(np.sum((colours - fill_colour(pixels)) ** 2, axis=1)))


def psnr(a: UInt8[np.ndarray, "*n height width 3"], b: UInt8[np.ndarray, "*n height width 3"]) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(255² / mean squared error), of one error over all pictures; 100 for equal ones."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(min(100.0, 10 * np.log10(255**2 / error))) if error else 100.0


def ssim(
    a: UInt8[np.ndarray, "B height width 3"], b: UInt8[np.ndarray, "B height width 3"]
) -> Float64[np.ndarray, "B"]:
    """Structural similarity of each pair: 1 for equal pictures, near 0 for unrelated ones.

    Means, variances and covariance of each colour in Gaussian windows of 11 pixels (deviation 1.5) that lie
    within the picture. Paper: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural
    Similarity".
    """
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(x: np.ndarray) -> np.ndarray:
        for axis in (1, 2):
            x = np.lib.stride_tricks.sliding_window_view(x, len(window), axis) @ window
        return x

    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    small, smaller = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = ((2 * mean_x * mean_y + small) * (2 * cov + smaller)
               / ((mean_x**2 + mean_y**2 + small) * (var_x + var_y + smaller)))
    return similar.mean(axis=(1, 2, 3))


def mosaic(pixels: UInt8[np.ndarray, "height width 3"], patch: int) -> UInt8[np.ndarray, "height width 3"]:
    """Every patch as its mean colour: what codes of `patch` x `patch` pixels could do without learning."""
    height, width, _ = pixels.shape
    means = pixels.reshape(height // patch, patch, width // patch, patch, 3).mean(axis=(1, 3))
    return np.round(means.repeat(patch, axis=0).repeat(patch, axis=1)).astype(np.uint8)
