"""Weights in 8 bits: whole numbers from -127 to 127, and a scale for each channel.

    w ≈ scale * q        scale = max |w| of the channel / 127,  so that |w - scale * q| <= scale / 2

A channel is what one scale serves: an output of a matrix, or an id of the embedding. Vectors (norms) are few, and
stay as they are. The file is small; in memory the weights are float32 again.
Paper: Jacob et al. 2018, "Quantization and Training of Neural Networks", arXiv 1712.05877 (here symmetric).
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Int8

SCALE = "#scale"  # after the name of a weight: the name of its scales
MOST = 127


def quantise(w: Float32[np.ndarray, "*S"], axes: str) -> tuple[Int8[np.ndarray, "*S"], Float32[np.ndarray, "*_"]]:
    """Whole numbers and the scale of each channel, its other axes kept as 1; `axes` are the letters of `w` ("D F")."""
    channel = 0 if axes.startswith("V") else w.ndim - 1
    others = tuple(axis for axis in range(w.ndim) if axis != channel)
    largest = np.max(np.abs(w), axis=others, keepdims=True)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / MOST
    return np.rint(w / scale).astype(np.int8), scale


def pack(weights: Mapping[str, np.ndarray], axes: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Every matrix as whole numbers beside its scales; vectors as they are."""
    packed = {}
    for name, w in weights.items():
        if w.ndim < 2:
            packed[name] = w
        else:
            packed[name], packed[name + SCALE] = quantise(w, axes[name])
    return packed


def unpack(packed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The float32 weights that `pack` made small."""
    return {name: w * packed[name + SCALE] if name + SCALE in packed else w
            for name, w in packed.items() if not name.endswith(SCALE)}
