"""Sound to codes: USM in small, with a vector quantiser at its end.

    16 kHz --log-mel--> 100/s --two strided convolutions--> 25/s --Conformer--> z --nearest--> code

A code is the nearest direction in a codebook, so it needs no scale. The codebook is a frozen
random matrix times a learned square one: every step moves all codes together and none can die.
Papers: USM, arXiv 2303.01037; SimVQ, arXiv 2411.02038.
Next: audio_losses.py, which trains it; audio_io.py, which reads files.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from gemini_mini import errors, files, nn
from gemini_mini.tokenizers import conformer, logmel

MEL_PER_CODE = 4
CODES_PER_S = logmel.SAMPLE_RATE_HZ / logmel.HOP_SAMPLES / MEL_PER_CODE
# Lengths that clips are padded to (0.9 to 7.2 s): few shapes, few compilations.
BUCKETS_SAMPLES = (14_400, 28_800, 57_600, 115_200)


@dataclasses.dataclass(frozen=True)
class AudioTokenizerConfig:
    """Sizes of the encoder and its codebook."""

    width: int = 128
    heads: int = 4
    layers: int = 3
    kernel: int = 5
    hidden: int = 256
    num_codes: int = 256
    code_dim: int = 16

    def __post_init__(self):
        if self.width % self.heads or self.width // self.heads % 2:
            raise errors.InputError(f"audio tokenizer: width must be an even multiple of heads, got {self.width} "
                                    f"and {self.heads}")


def num_frames(num_samples):
    """How many codes a clip of `num_samples` samples becomes (an int or an int array)."""
    return -(-logmel.num_frames(num_samples) // MEL_PER_CODE)


@functools.cache
def frozen_normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers, the same in every release of numpy: this generator is kept as it is."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def normalise(x: Float[Array, "... Z"]) -> Float[Array, "... Z"]:
    """Unit length along the last axis; zero stays zero, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-8)


class Features(NamedTuple):
    """Log-mel of a clip at the rate of the codes: four mel frames side by side."""

    mel: Float[Array, "B A mel"]
    valid: Bool[Array, "B A"]


def features(samples: Float[Array, "B samples"], num_samples: Int[Array, "B"]) -> Features:
    """Log-mel with the mean of each bin and the spread of the whole clip taken out.

    Taking the clip's own mean out removes much of voice and microphone; zeros stand past the end.
    """
    mel = logmel.log_mel(samples)
    mel = jnp.pad(mel, ((0, 0), (0, -mel.shape[1] % MEL_PER_CODE), (0, 0)))
    count = logmel.num_frames(num_samples)
    inside = (jnp.arange(mel.shape[1])[None] < count[:, None])[..., None]
    total = jnp.maximum(count, 1).astype(mel.dtype)[:, None, None]
    centred = jnp.where(inside, mel - jnp.sum(mel, 1, keepdims=True, where=inside) / total, 0.0)
    spread = jnp.sqrt(jnp.sum(centred**2, (1, 2), keepdims=True) / (total * logmel.NUM_MEL) + 0.1)
    mel = (centred / spread).reshape(mel.shape[0], -1, MEL_PER_CODE * logmel.NUM_MEL)
    return Features(mel, jnp.arange(mel.shape[1])[None] < num_frames(num_samples)[:, None])


class AudioTokenizer(nnx.Module):
    """Encoder and codebook. Weights only change by gradient."""

    def __init__(self, config: AudioTokenizerConfig, rngs: nnx.Rngs):
        self.config = config
        self.halve = conformer.Subsample(logmel.NUM_MEL, config.width, rngs)
        self.halve_again = conformer.Subsample(config.width, config.width, rngs)
        self.blocks = nnx.List([
            conformer.Block(config.width, config.heads, config.kernel, config.hidden, rngs)
            for _ in range(config.layers)
        ])
        self.project = nn.param(rngs, (config.width, config.code_dim), "D Z")
        self.mix_codes = nnx.Param(jnp.eye(config.code_dim), axes="Z Z")

    def hidden(self, mel: Float[Array, "B A mel"], valid: Bool[Array, "B A"]) -> Float[Array, "B A D"]:
        """Conformer features of normalised log-mel."""
        x = mel.reshape(mel.shape[0], -1, logmel.NUM_MEL)
        x = self.halve_again(self.halve(x))
        for block in self.blocks:
            x = block(x, valid)
        return x

    def codebook(self) -> Float[Array, "V Z"]:
        """The directions that the codes stand for."""
        frozen = frozen_normal(0, self.config.num_codes, self.config.code_dim)
        return normalise(frozen @ self.mix_codes[...])

    def directions(self, hidden: Float[Array, "B A D"]) -> Float[Array, "B A Z"]:
        """What is quantised: unit vectors."""
        return normalise(nn.linear(hidden, self.project))

    def nearest(self, z: Float[Array, "B A Z"]) -> Int[Array, "B A"]:
        """The code whose direction is nearest."""
        return jnp.argmax(z @ self.codebook().T, -1)

    def encode(self, samples: Float[Array, "B samples"], num_samples: Int[Array, "B"]) -> Int32[Array, "B A"]:
        """Codes at 25 per second; row i holds `num_frames(num_samples[i])` of them, then zeros.

        Padding may hold anything: what stands behind `num_samples` changes no valid code.
        """
        mel, valid = features(samples, num_samples)
        return jnp.where(valid, self.nearest(self.directions(self.hidden(mel, valid))), 0).astype(jnp.int32)


def encode_clip(tokenizer: AudioTokenizer, samples: Float32[np.ndarray, "samples"]) -> Int32[np.ndarray, "A"]:
    """Codes of one clip of any length.

    Raises: InputError when it is shorter than one frame (25 ms) or holds values that are not finite.
    """
    return encode_many(tokenizer, [samples], 1)[0]


def encode_many(
    tokenizer: AudioTokenizer, clips: Sequence[Float32[np.ndarray, "_"]], batch_clips: int = 16
) -> list[Int32[np.ndarray, "_"]]:
    """Codes of each clip. What is longer than the last bucket is encoded in pieces of that length.

    Pieces of a like length share a batch; memory is bounded by `batch_clips` of the last bucket.
    Raises: InputError as `encode_clip`.
    """
    for clip in clips:
        if len(clip) < logmel.WINDOW_SAMPLES:
            raise errors.InputError(f"audio: a clip must last at least {logmel.WINDOW_SAMPLES} samples (25 ms at "
                                    f"16 kHz), got {len(clip)}; give a longer one")
        if not np.isfinite(clip).all():
            raise errors.InputError("audio: samples must be finite, got NaN or infinity; record it again")
    waiting: dict[int, list[tuple[int, int]]] = {}  # bucket -> (clip, first sample)
    for index, clip in enumerate(clips):
        for start in range(0, len(clip), BUCKETS_SAMPLES[-1]):
            left = min(len(clip) - start, BUCKETS_SAMPLES[-1])
            if left >= logmel.WINDOW_SAMPLES:  # else a sliver behind the last full piece
                bucket = next(bucket for bucket in BUCKETS_SAMPLES if bucket >= left)
                waiting.setdefault(bucket, []).append((index, start))
    codes: dict[tuple[int, int], np.ndarray] = {}
    for bucket, places in waiting.items():
        for first in range(0, len(places), batch_clips):
            here = places[first : first + batch_clips]
            samples = np.zeros((batch_clips, bucket), np.float32)
            count = np.zeros(batch_clips, np.int32)
            for row, (index, start) in enumerate(here):
                piece = clips[index][start : start + bucket]
                samples[row, : len(piece)], count[row] = piece, len(piece)
            encoded = np.asarray(_encode(tokenizer, jnp.asarray(samples), jnp.asarray(count)))
            codes.update({place: encoded[row, : num_frames(int(count[row]))] for row, place in enumerate(here)})
    joined: list[list[np.ndarray]] = [[] for _ in clips]
    for index, start in sorted(codes):
        joined[index].append(codes[index, start])
    return [np.concatenate(pieces) for pieces in joined]


@jax.jit
def _encode(tokenizer: AudioTokenizer, samples: Float[Array, "B samples"], num_samples: Int[Array, "B"]) -> Int32[Array, "B A"]:
    return tokenizer.encode(samples, num_samples)


def save(tokenizer: AudioTokenizer, path: str | Path) -> None:
    """Write weights and config, all that `load` needs."""
    arrays = {name: np.asarray(array) for name, array in nn.weights(tokenizer).items()}
    files.save_arrays(path, arrays, {"config": json.dumps(dataclasses.asdict(tokenizer.config))})


def load(path: str | Path) -> AudioTokenizer:
    """Read what `save` wrote. Raises: InputError when it is missing, damaged or of another shape."""
    arrays, meta = files.load_arrays(path)
    try:
        config = AudioTokenizerConfig(**json.loads(meta["config"]))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise errors.InputError(f"{path}: is no audio tokenizer of this version ({error}); train it again") from None
    shape = jax.eval_shape(lambda: AudioTokenizer(config, nnx.Rngs(0)))
    return nn.with_weights(shape, {name: jnp.asarray(array) for name, array in arrays.items()})
