"""Sound files <-> 16 kHz mono float32, 1 for the full scale of a file.

Any format libsndfile reads (WAV, FLAC, Ogg, MP3, AIFF), any rate, any number of channels. The
length is checked from the header before anything is decoded, so a large file costs nothing.
Next: audio.py, which turns the samples into codes.
"""

import io
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float, Float32, Int16

from gemini_mini import errors, files
from gemini_mini.tokenizers import logmel

LOWEST_RATE_HZ = 1_000
HIGHEST_RATE_HZ = 384_000
BLOCK_S = 10.0
LOUDNESS_DB, SILENCE_DB, PAUSE_DB = -18, -70, 20
LOUD_SAMPLES = 800  # 50 ms
WHOLE = 0.99  # of the bytes that a header promises; some writers miscount by a few
UNKNOWN_BYTES = 0x7FFF0000  # from here on a length is what programs write that did not know it, such as ffmpeg into a pipe
REACH = 10  # of scipy's resampling filter to either side, in samples of the lower rate


def read_audio(path: str | Path, max_seconds: float = 60.0) -> Float32[np.ndarray, "samples"]:
    """Read a sound file as 16 kHz mono; channels are averaged.

    Raises: InputError if the file is missing, unreadable, empty, longer than `max_seconds`, or
    holds values that are not finite.
    """
    return np.concatenate(list(read_blocks(path, max_seconds)))


def read_blocks(
    path: str | Path, max_seconds: float = math.inf, block_s: float = BLOCK_S
) -> Iterator[Float32[np.ndarray, "_"]]:
    """The same, in blocks of about `block_s`: a file of any length in bounded memory.

    Each block is resampled with what stands around it, so together they are the file resampled at once.
    Raises: InputError as `read_audio`.
    """
    path = Path(path)
    if not path.is_file():
        raise errors.InputError(f"{path}: no such file; give the path of a sound file")
    try:
        with soundfile.SoundFile(path) as file:
            rate_hz = file.samplerate
            _check_header(path, file.frames, rate_hz, max_seconds)
            _check_whole(path, file.extra_info)
            up, down = _ratio(rate_hz)
            # Whole numbers of samples come out of both, and the filter of `resample` reaches less far.
            margin = down * -(-2 * REACH * max(up, down) // (up * down))
            size = down * max(1, round(block_s * rate_hz / down), margin // down)
            left = file.frames + 1  # one more than the header claims: a header that lies is found out
            held, before, empty = np.zeros(0, np.float32), 0, True
            while True:
                block = file.read(min(size, left), dtype="float32", always_2d=True).mean(axis=1)
                left -= len(block)
                if not np.isfinite(block).all():
                    raise errors.InputError(f"{path}: holds values that are not finite (NaN or infinity); save it again")
                held = np.concatenate([held, block])
                is_last = len(block) < size
                done = len(held) if is_last else len(held) - margin
                if done > before:
                    empty = False
                    yield resample(held, rate_hz)[before * up // down : -(-done * up // down)]
                    held, before = held[max(0, done - margin) :], min(done, margin)
                if is_last:
                    break
    except soundfile.LibsndfileError as error:
        raise errors.InputError(f"{path}: could not be read as sound ({error.error_string.rstrip('.')}); "
                                "it is damaged or of another kind: save it again as WAV, FLAC, Ogg or MP3") from None
    if empty:
        raise errors.InputError(f"{path}: its header promises sound but none could be decoded; save it again")


def resample(samples: Float[np.ndarray, "samples"], rate_hz: int) -> Float32[np.ndarray, "resampled"]:
    """Bring sound to 16 kHz without aliases.

    Between samples at full scale the wave stands higher, so values may leave [-1, 1] a little. They are kept: to cut
    them would add tones that nobody played. What writes 16 bits cuts (`sixteen_bits`).
    """
    from scipy import signal  # half a second, which answers without sound at another rate need not wait for

    up, down = _ratio(rate_hz)
    if up != down:
        samples = signal.resample_poly(samples, up, down)
    return samples.astype(np.float32)


def sixteen_bits(samples: Float[np.ndarray, "samples"]) -> Int16[np.ndarray, "samples"]:
    """Whole numbers, 32767 for 1; values beyond [-1, 1] are cut, for they would come round on the other side."""
    return np.round(np.clip(samples, -1.0, 1.0) * 32767).astype(np.int16)


def even_loudness(samples: Float32[np.ndarray, "samples"]) -> Float32[np.ndarray, "samples"]:
    """As loud as speech is kept here: what sounds, pauses left out, at LOUDNESS_DB of full scale, without clipping.

    Raises: InputError when nothing is louder than SILENCE_DB.
    """
    frames = np.pad(samples, (0, -len(samples) % LOUD_SAMPLES)).reshape(-1, LOUD_SAMPLES)
    power = np.mean(frames.astype(np.float64) ** 2, axis=1)
    loud = power[power >= 10 ** (-PAUSE_DB / 10) * np.quantile(power, 0.95)].mean()  # not the maximum: it may be a click
    if loud <= 10 ** (SILENCE_DB / 10):
        raise errors.InputError(f"is silent (nothing above {SILENCE_DB} dB of full scale); record it louder")
    gain = min(10 ** (LOUDNESS_DB / 20) / loud**0.5, 1 / np.abs(samples).max())
    return (samples * gain).astype(np.float32)


def _ratio(rate_hz: int) -> tuple[int, int]:
    common = math.gcd(rate_hz, logmel.SAMPLE_RATE_HZ)
    return logmel.SAMPLE_RATE_HZ // common, rate_hz // common


def write_wav(path: str | Path, samples: Float[np.ndarray, "samples"]) -> None:
    """Write 16 kHz mono sound as 16-bit WAV, whole or not at all; values beyond [-1, 1] are clipped."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1.0, 1.0), logmel.SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    files.write_bytes(path, buffer.getvalue())


def _check_header(path: Path, frames: int, rate_hz: int, max_seconds: float) -> None:
    if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
        raise errors.InputError(f"{path}: the sample rate must be {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz, got {rate_hz}; "
                                "save it again at 16000 Hz")
    if frames <= 0:
        raise errors.InputError(f"{path}: holds no sound; record it again")
    seconds = frames / rate_hz
    if seconds > max_seconds:
        raise errors.InputError(f"{path}: lasts {seconds:.1f} s, but at most {max_seconds:g} s are taken; "
                                "cut it, or split it into several files")


def _check_whole(path: Path, log: str) -> None:
    """libsndfile takes what there is of a WAV or AIFF file that was cut, and says so in its log alone."""
    for promised, there in re.findall(r"^ *(?:data|SSND) : (\d+) \(should be (\d+)\)", log, re.MULTILINE):
        if int(there) < WHOLE * int(promised) < WHOLE * UNKNOWN_BYTES:
            raise errors.InputError(f"{path}: is cut short ({int(there):,} of {int(promised):,} bytes of sound); download or export it again")
