"""Sound to codes: USM in small, with a vector quantiser at its end. And back, to hear what was kept.

    16 kHz --log-mel--> 100/s --two strided convolutions--> 25/s --Conformer--> z --nearest--> code
    code --three side by side, MLP--> log-mel --vocoder.py--> 16 kHz

A code is the nearest direction in a codebook, so it needs no scale. The codebook is a frozen
random matrix times a learned square one: every step moves all codes together and none can die.

Attention, convolution and the statistics of `features` look a fixed way around, so a code hears
`AudioTokenizerConfig.reach` codes to either side and nothing further away changes it. Long sound is
encoded chunk by chunk with that much context, in linear time and bounded memory:

    |reach| chunk |reach|         and the codes are those of the whole clip in one piece,
          |reach| chunk |reach|   up to the rounding of float32

USM's chunk-wise attention (section 2.4) stops at the borders of fixed chunks instead, because the
windows of a deep encoder, stacked, reach further than any clip it learns from. Ours stay at seconds.
Papers: USM, arXiv 2303.01037; SimVQ, arXiv 2411.02038.
Next: audio_losses.py, which trains it; audio_io.py, which reads files; vocoder.py.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from gemini_mini import errors, files, nn, quant
from gemini_mini.tokenizers import audio_io, conformer, logmel, vocoder

MEL_PER_CODE = 4
CODES_PER_S = logmel.SAMPLE_RATE_HZ / logmel.HOP_SAMPLES / MEL_PER_CODE
# Lengths that clips are padded to (0.9 to 7.2 s): few shapes, few compilations.
BUCKETS_SAMPLES = (14_400, 28_800, 57_600, 115_200)
# Longer sound is cut into chunks of 10 s.
CHUNK_CODES = 250
SAMPLES_PER_CODE = MEL_PER_CODE * logmel.HOP_SAMPLES
LISTEN_S = 3_600.0  # of sound that `listen` takes: it is read as a stream, but what is made of it is written in one piece


@dataclasses.dataclass(frozen=True)
class AudioTokenizerConfig:
    """Sizes of the encoder and its codebook."""

    width: int = 128
    heads: int = 4
    layers: int = 3
    around: int = 32  # codes to either side whose mean and spread `features` takes out: 2.6 s in all
    window: int = 16  # codes to either side that a layer attends to
    kernel: int = 5
    hidden: int = 256
    num_codes: int = 256
    code_dim: int = 16

    def __post_init__(self):
        if self.width % self.heads or self.width // self.heads % 2:
            raise errors.InputError(f"audio tokenizer: width must be an even multiple of heads, got {self.width} "
                                    f"and {self.heads}")
        if self.window < 1 or self.around < 1 or self.around & (self.around - 1):
            raise errors.InputError(f"audio tokenizer: window must be at least 1 code and around a power of two, got "
                                    f"{self.window} and {self.around}")

    @property
    def reach(self) -> int:
        """How many codes away sound may stand and still change a code."""
        ahead = 9 // MEL_PER_CODE  # the strided convolutions read ten mel frames, from a code's first
        return self.around + ahead + self.layers * (self.window + self.kernel // 2)


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
    """Log-mel of a clip at the rate of the codes, four mel frames side by side; what was taken out of it."""

    mel: Float[Array, "B A mel"]
    valid: Bool[Array, "B A"]
    mean: Float[Array, "B A M"]
    spread: Float[Array, "B A 1"]


def features(samples: Float[Array, "B samples"], num_samples: Int[Array, "B"], around: int) -> Features:
    """Log-mel with the mean of each bin and the spread of all bins around each code taken out.

    They are measured over `around` codes to either side, a power of two, as far as the clip goes. Taking
    the mean out removes much of voice and microphone; zeros stand past the end.
    """
    mel = logmel.log_mel(samples)
    mel = jnp.pad(mel, ((0, 0), (0, -mel.shape[1] % MEL_PER_CODE), (0, 0)))
    inside = (jnp.arange(mel.shape[1])[None] < logmel.num_frames(num_samples)[:, None])[..., None]
    mel = jnp.where(inside, mel, 0.0).reshape(mel.shape[0], -1, MEL_PER_CODE, logmel.NUM_MEL)
    inside = inside.reshape(*mel.shape[:3], 1)
    count = jnp.maximum(_sum_around(jnp.sum(inside, 2, dtype=mel.dtype), around), 1.0)
    mean = _sum_around(jnp.sum(mel, 2), around) / count
    square = _sum_around(jnp.sum(mel**2, (2, 3))[..., None], around) / (count * logmel.NUM_MEL)
    variance = jnp.maximum(square - jnp.mean(mean**2, -1, keepdims=True), 0.0)
    spread = jnp.sqrt(variance + 0.1)
    mel = jnp.where(inside, (mel - mean[:, :, None]) / spread[:, :, None], 0.0)
    return Features(mel.reshape(*mel.shape[:2], -1), inside[:, :, 0, 0], mean, spread)


def _sum_around(x: Float[Array, "B A M"], around: int) -> Float[Array, "B A M"]:
    """Sums over `around` codes to either side, zeros outside; the same wherever a clip is cut.

    Doubling: the sums of 2n are those of n and those of n that follow. No running total is kept,
    for its rounding would depend on all that came before.
    """
    padded = jnp.pad(x, ((0, 0), (around, around), (0, 0)))
    total, length = padded, 1
    while length < 2 * around:
        total, length = total[:, :-length] + total[:, length:], 2 * length
    return total[:, :-1] + padded[:, length:]


class AudioTokenizer(nnx.Module):
    """Encoder, codebook and the small decoder back to log-mel."""

    def __init__(self, config: AudioTokenizerConfig, rngs: nnx.Rngs):
        self.config = config
        self.halve = conformer.Subsample(logmel.NUM_MEL, config.width, rngs)
        self.halve_again = conformer.Subsample(config.width, config.width, rngs)
        self.blocks = nnx.List([
            conformer.Block(config.width, config.heads, config.window, config.kernel, config.hidden, rngs)
            for _ in range(config.layers)
        ])
        self.project = nn.param(rngs, (config.width, config.code_dim), "D Z")
        self.mix_codes = nnx.Param(jnp.asarray(np.eye(config.code_dim, dtype=np.float32)), axes="Z Z")
        mel = MEL_PER_CODE * logmel.NUM_MEL
        self.mel_in = nn.param(rngs, (3 * config.code_dim, config.width), "Z D", 3.0)
        self.mel_out = nn.param(rngs, (config.width, mel), "D M", 0.5)
        # What `features` takes out of a typical training clip. Set at export; no loss reads them.
        self.mel_mean = nn.constant((logmel.NUM_MEL,), "M", 0.0)
        self.mel_spread = nn.constant((1,), "M", 1.0)

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
        The cost is linear in the samples, and so is the memory: `encode_stream` bounds it.
        """
        mel, valid, _, _ = features(samples, num_samples, self.config.around)
        return jnp.where(valid, self.nearest(self.directions(self.hidden(mel, valid))), 0).astype(jnp.int32)

    def draw(self, quantised: Float[Array, "B A Z"]) -> Float[Array, "B A mel"]:
        """Normalised log-mel of code vectors, each read with its two neighbours; zeros stand past the end."""
        context = jnp.concatenate(conformer.neighbours(quantised, 3), -1)
        return nn.linear(jax.nn.gelu(nn.linear(context, self.mel_in)), self.mel_out)

    def decode(self, codes: Int[Array, "B A"]) -> Float[Array, "B frames M"]:
        """Log-mel of codes, as loud and as dark as a typical training clip."""
        mel = self.draw(self.codebook()[codes]).reshape(codes.shape[0], -1, logmel.NUM_MEL)
        return mel * self.mel_spread[...][None, None] + self.mel_mean[...][None, None]


class Piece(NamedTuple):
    """Samples `start` to `stop` are encoded; codes `skip` to `skip + keep` of them are kept."""

    start: int
    stop: int
    skip: int
    keep: int


def _chunk(index: int, num_samples: int, reach: int) -> Piece:
    """Chunk `index` of a long clip that ends at `num_samples`."""
    first = index * CHUNK_CODES
    skip = min(first, reach)
    return Piece((first - skip) * SAMPLES_PER_CODE, min(_samples_of(first + CHUNK_CODES + reach), num_samples), skip,
                 min(CHUNK_CODES, num_frames(num_samples) - first))


def _samples_of(codes: int) -> int:
    """Samples that `codes` codes are made of: the windows of their last mel frames stand out."""
    return codes * SAMPLES_PER_CODE + logmel.WINDOW_SAMPLES - logmel.HOP_SAMPLES


def pieces(num_samples: int, reach: int) -> list[Piece]:
    """What is encoded of a clip: all of it when it fits the last bucket, else chunks with context."""
    if num_samples <= BUCKETS_SAMPLES[-1]:
        return [Piece(0, num_samples, 0, num_frames(num_samples))]
    return [_chunk(index, num_samples, reach) for index in range(-(-num_frames(num_samples) // CHUNK_CODES))]


def encode_clip(tokenizer: AudioTokenizer, samples: Float32[np.ndarray, "samples"]) -> Int32[np.ndarray, "A"]:
    """Codes of one clip of any length.

    Raises: InputError when it is shorter than one frame (25 ms) or holds values that are not finite.
    """
    return encode_many(tokenizer, [samples], 1)[0]


def encode_many(
    tokenizer: AudioTokenizer, clips: Sequence[Float32[np.ndarray, "_"]], batch_clips: int = 16
) -> list[Int32[np.ndarray, "_"]]:
    """Codes of each clip; what is longer than the last bucket is encoded in chunks with context.

    Pieces of a like length share a batch; memory is bounded by `batch_clips` chunks.
    Raises: InputError as `encode_clip`.
    """
    joined: list[dict[int, np.ndarray]] = [{} for _ in clips]
    for bucket, here in _batches(tokenizer, clips, batch_clips):
        codes = _encode_pieces(tokenizer, [(clips[index][p.start : p.stop], p) for index, p in here], bucket, batch_clips)
        for (index, piece), part in zip(here, codes, strict=True):
            joined[index][piece.start + piece.skip] = part
    return [np.concatenate([parts[place] for place in sorted(parts)]) for parts in joined]


def mel_error(tokenizer: AudioTokenizer, clips: Sequence[Float32[np.ndarray, "_"]], batch_clips: int = 16) -> float:
    """Mean squared error of the log-mel that codes keep, as a share of its variance around each code.

    0 keeps all; codes that say nothing have about 1. Raises: InputError as `encode_clip`.
    """
    error = count = 0.0
    for bucket, here in _batches(tokenizer, clips, batch_clips):
        samples, num_samples = _padded([clips[index][p.start : p.stop] for index, p in here], bucket, batch_clips)
        missed = np.asarray(_missed(tokenizer, samples, num_samples), np.float64)
        kept = [row[p.skip : p.skip + p.keep] for row, (_, p) in zip(missed, here)]
        error, count = error + sum(map(np.sum, kept)), count + sum(map(len, kept))
    return float(error / count)


def encode_stream(
    tokenizer: AudioTokenizer, blocks: Iterable[Float32[np.ndarray, "_"]], batch_chunks: int = 1
) -> Iterator[Int32[np.ndarray, "_"]]:
    """Codes of sound that arrives in blocks of any size, in order; together those of `encode_clip`.

    Nothing is held but the samples of the chunks under way: codes come `batch_chunks` chunks and the
    context of the last behind the sound. More than one at once is no faster on a CPU, and may be elsewhere.
    Raises: InputError as `encode_clip`.
    """
    reach = tokenizer.config.reach
    held, held_from, received, index = np.zeros(0, np.float32), 0, 0, 0
    ready: list[tuple[np.ndarray, Piece]] = []

    def encoded() -> Iterator[np.ndarray]:
        codes = _encode_pieces(tokenizer, ready, _buckets(tokenizer)[-1], batch_chunks)
        ready.clear()
        yield from codes

    for block in blocks:
        _check_finite(block)
        held = np.concatenate([held, block])
        received += len(block)
        # Only what is longer than the last bucket is cut; a chunk is ready when its context is there.
        while received > BUCKETS_SAMPLES[-1] and (piece := _chunk(index, received, reach)).stop < received:
            ready.append((held[piece.start - held_from : piece.stop - held_from].copy(), piece))
            index += 1
            start = _chunk(index, received, reach).start
            held, held_from = held[start - held_from :], start
            if len(ready) == batch_chunks:
                yield from encoded()
    _check_length(received)
    if received <= BUCKETS_SAMPLES[-1]:
        yield encode_clip(tokenizer, held)
        return
    for piece in pieces(received, reach)[index:]:
        ready.append((held[piece.start - held_from : piece.stop - held_from], piece))
        if len(ready) == batch_chunks:
            yield from encoded()
    if ready:
        yield from encoded()


def _batches(
    tokenizer: AudioTokenizer, clips: Sequence[Float32[np.ndarray, "_"]], batch_clips: int
) -> Iterator[tuple[int, list[tuple[int, Piece]]]]:
    """At most `batch_clips` pieces of a like length, each with its clip's place, and the samples they are padded to."""
    waiting: dict[int, list[tuple[int, Piece]]] = {}
    for index, clip in enumerate(clips):
        _check_length(len(clip))
        _check_finite(clip)
        for piece in pieces(len(clip), tokenizer.config.reach):
            bucket = next(bucket for bucket in _buckets(tokenizer) if bucket >= piece.stop - piece.start)
            waiting.setdefault(bucket, []).append((index, piece))
    for bucket, places in waiting.items():
        for first in range(0, len(places), batch_clips):
            yield bucket, places[first : first + batch_clips]


def _buckets(tokenizer: AudioTokenizer) -> tuple[int, ...]:
    """Lengths that pieces are padded to, in samples; the last is that of a chunk with its context."""
    return (*BUCKETS_SAMPLES, max(BUCKETS_SAMPLES[-1], _samples_of(CHUNK_CODES + 2 * tokenizer.config.reach)))


def _check_length(num_samples: int) -> None:
    if num_samples < logmel.WINDOW_SAMPLES:
        raise errors.InputError(f"audio: a clip must last at least {logmel.WINDOW_SAMPLES} samples (25 ms at "
                                f"16 kHz), got {num_samples}; give a longer one")


def _check_finite(samples: np.ndarray) -> None:
    if not np.isfinite(samples).all():
        raise errors.InputError("audio: samples must be finite, got NaN or infinity; record it again")


def _encode_pieces(
    tokenizer: AudioTokenizer, parts: Sequence[tuple[np.ndarray, Piece]], bucket: int, rows: int
) -> list[Int32[np.ndarray, "_"]]:
    """The kept codes of at most `rows` pieces, in one compiled shape."""
    encoded = np.asarray(_encode(tokenizer, *_padded([part for part, _ in parts], bucket, rows)))
    return [encoded[row, piece.skip : piece.skip + piece.keep] for row, (_, piece) in enumerate(parts)]


def _padded(parts: Sequence[np.ndarray], bucket: int, rows: int) -> tuple[Float[Array, "B samples"], Int[Array, "B"]]:
    """Samples and how many of them count; rows without a part are empty."""
    samples, count = np.zeros((rows, bucket), np.float32), np.zeros(rows, np.int32)
    for row, part in enumerate(parts):
        samples[row, : len(part)], count[row] = part, len(part)
    return jnp.asarray(samples), jnp.asarray(count)


@jax.jit
def _encode(tokenizer: AudioTokenizer, samples: Float[Array, "B samples"], num_samples: Int[Array, "B"]) -> Int32[Array, "B A"]:
    return tokenizer.encode(samples, num_samples)


@jax.jit
def _missed(tokenizer: AudioTokenizer, samples: Float[Array, "B samples"], num_samples: Int[Array, "B"]) -> Float[Array, "B A"]:
    """Mean squared error of normalised log-mel at each code."""
    mel, valid, _, _ = features(samples, num_samples, tokenizer.config.around)
    quantised = tokenizer.codebook()[tokenizer.encode(samples, num_samples)] * valid[..., None]
    return jnp.mean((tokenizer.draw(quantised) - mel) ** 2, -1)


def save(tokenizer: AudioTokenizer, path: str | Path) -> None:
    """Write weights, in 8 bits, and config, all that `load` needs."""
    files.save_arrays(path, nn.packed(tokenizer), {"config": json.dumps(dataclasses.asdict(tokenizer.config))})


def load(path: str | Path) -> AudioTokenizer:
    """Read what `save` wrote, or the same out of a released file. Raises: InputError when it is missing, damaged or of another shape."""
    return of_arrays(*quant.tokenizer("audio", *files.load_arrays(path)), path)


def of_arrays(arrays: dict[str, np.ndarray], meta: dict[str, str], path: str | Path) -> AudioTokenizer:
    """The tokenizer of these weights and this config. Raises: InputError when they do not belong together."""
    try:
        settings = json.loads(meta["config"])
        config = AudioTokenizerConfig(**settings)
        if missing := dataclasses.asdict(config).keys() - settings.keys():  # a default would make other codes of the same weights
            raise KeyError(", ".join(sorted(missing)))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise errors.InputError(f"{path}: is no audio tokenizer of this version ({error}); train it again") from None
    shape = AudioTokenizer(config, nn.Shapes())
    try:
        return nn.with_weights(shape, jax.device_put(arrays))
    except errors.InputError as error:
        raise errors.InputError(f"{path}: is an audio tokenizer of another version, train it again ({error})") from None


def resynthesise(tokenizer: AudioTokenizer, codes: Int32[np.ndarray, "A"]) -> Float32[np.ndarray, "samples"]:
    """Sound that has the log-mel which `tokenizer` decodes from `codes`."""
    return vocoder.from_log_mel(np.asarray(tokenizer.decode(jnp.asarray(codes[None])))[0])


def listen(source: str | Path, target: str | Path, run: str | Path) -> None:
    """Write what the codes kept of a sound file of at most an hour, as a WAV file beside it.

    Raises: InputError when `target` is `source`, or either or the tokenizer cannot be used.
    """
    source, target, run = Path(source), Path(target), Path(run)
    if target.exists() and source.exists() and target.samefile(source):
        raise errors.InputError(f"{target}: would overwrite the sound it is made from; give another name")
    if target.suffix.lower() != ".wav":
        raise errors.InputError(f"{target}: the result is a WAV file; give a name that ends in .wav")
    places = [run, run / "audio.safetensors", run / "tokenizers" / "audio.safetensors"]
    found = [place for place in places if place.is_file()]
    if not found:
        raise errors.InputError(f"{run}: holds no audio tokenizer; give a run folder, an audio.safetensors or a released file "
                                "(make one: python train.py configs/audio_tokenizer.py)")
    tokenizer = load(found[0])
    codes = np.concatenate(list(encode_stream(tokenizer, audio_io.read_blocks(source, LISTEN_S))))
    audio_io.write_wav(target, resynthesise(tokenizer, codes))
    print(f"{target}: {len(codes)} codes, {len(np.unique(codes))} of them different, for {len(codes) / CODES_PER_S:.1f} s")


def main() -> None:
    """python -m gemini_mini.tokenizers.audio listen IN.wav OUT.wav --run RUN"""
    parser = argparse.ArgumentParser(prog="python -m gemini_mini.tokenizers.audio", description="Hear what the codes keep.")
    command = parser.add_subparsers(required=True).add_parser("listen", help="encode a sound file and make it sound again")
    command.add_argument("source", help="a sound file of at most an hour")
    command.add_argument("target", help="the WAV file to write")
    command.add_argument("--run", default="runs/demo-audio", help="a run folder, an audio.safetensors or a released file (%(default)s)")
    args = parser.parse_args()
    listen(args.source, args.target, args.run)


if __name__ == "__main__":
    errors.run(main)
