"""Weights in 8 bits: whole numbers from -127 to 127, and a scale for each channel.

    w ≈ scale * q        scale = max |w| of the channel / 127,  so that |w - scale * q| is about scale / 2 at most

A channel is what one scale serves: a place of the last axis of a weight, which is its output, or an id of a table. A scale has 16 bits: 127 of them are
exact in float32, so what was rounded once is not changed again. Vectors (norms) are few, and stay as they are. The
file is small; in memory the weights are float32 again, or `Codes`.
Paper: Jacob et al. 2018, "Quantization and Training of Neural Networks", arXiv 1712.05877 (here symmetric).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float, Float16, Float32, Int8

from gemini_mini import errors, matmul

SCALE = "#scale"  # after the name of a weight: the name of its scales
MOST = 127
LEAST = 2.0**-14  # the smallest that float16 holds with all its digits: weights of less than 0.008 have steps of that


def quantise(w: Float32[np.ndarray, "*S"], axes: str) -> tuple[Int8[np.ndarray, "*S"], Float16[np.ndarray, "*_"]]:
    """Whole numbers and the scale of each channel, its other axes kept as 1; `axes` are the letters of `w` ("D F")."""
    channel = 0 if axes.startswith("V") else w.ndim - 1
    others = tuple(axis for axis in range(w.ndim) if axis != channel)
    largest = np.max(np.abs(w), axis=others, keepdims=True)
    scale = np.maximum(largest / MOST, LEAST).astype(np.float16)
    return np.rint(w / scale.astype(np.float32)).astype(np.int8), scale


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
    return {name: w.astype(np.float32) * packed[name + SCALE] if name + SCALE in packed else w
            for name, w in packed.items() if not name.endswith(SCALE)}


def under(name: str, packed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The float32 weights of one module of a file that holds several, each array named NAME/its name."""
    here = {key.removeprefix(f"{name}/"): array for key, array in packed.items() if key.startswith(f"{name}/")}
    return {key: w.astype(np.float32) for key, w in unpack(here).items()}


def tokenizer(name: str, arrays: dict[str, np.ndarray], meta: dict[str, str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Weights and config of a tokenizer out of a file of its own or out of a released one (run.py)."""
    return (under(name, arrays), {"config": meta[name]}) if name in meta else (unpack(arrays), meta)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Codes:
    """A matrix that stays in 8 bits where it is multiplied, its channels first."""

    codes: Int8[Array, "F D"]
    scale: Float32[Array, "F"]

    @classmethod
    def of(cls, w: Float32[np.ndarray, "*S"], axes: str) -> "Codes":
        """As `pack`. Raises: InputError where `matmul.coded` cannot multiply it."""
        codes, scale = quantise(w, axes)
        codes = codes if axes.startswith("V") else codes.T
        if codes.shape[1] % matmul.UNIT:
            raise errors.InputError(f"--eight-bit: widths must be multiples of {matmul.UNIT}, got {codes.shape[1]}; do without it")
        return cls(*jax.device_put((codes, scale.ravel().astype(np.float32))))

    def __getitem__(self, channels):
        """Some channels as float32; all of it, as it is, for `...`."""
        return self if channels is Ellipsis else self.codes[channels] * self.scale[channels][..., None]

    def product(self, x: Float[Array, "*B D"]) -> Float[Array, "*B F"]:
        return matmul.coded(x.astype(np.float32), self.codes, self.scale).astype(x.dtype)

    @property
    def sharding(self):
        return self.codes.sharding
