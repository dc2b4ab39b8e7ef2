"""Sound files <-> 16 kHz mono float32 in [-1, 1].

Any format libsndfile reads (WAV, FLAC, Ogg, MP3, AIFF), any rate, any number of channels. The
length is checked from the header before anything is decoded, so a large file costs nothing.
Next: audio.py, which turns the samples into codes.
"""

import io
import math
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float, Float32
from scipy import signal

from gemini_mini import errors, files
from gemini_mini.tokenizers import logmel

LOWEST_RATE_HZ = 1_000
HIGHEST_RATE_HZ = 384_000


def read_audio(path: str | Path, max_seconds: float = 60.0) -> Float32[np.ndarray, "samples"]:
    """Read a sound file as 16 kHz mono; channels are averaged.

    Raises: InputError if the file is missing, unreadable, empty, longer than `max_seconds`, or
    holds values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise errors.InputError(f"{path}: no such file; give the path of a sound file")
    try:
        with soundfile.SoundFile(path) as file:
            _check_header(path, file.frames, file.samplerate, max_seconds)
            # One frame more than the header claims: a header that lies is found out, never followed.
            samples = file.read(file.frames + 1, dtype="float32", always_2d=True)
            rate_hz = file.samplerate
    except soundfile.LibsndfileError as error:
        raise errors.InputError(f"{path}: could not be read as sound ({error.error_string.rstrip('.')}); "
                                "it is damaged or of another kind: save it again as WAV, FLAC, Ogg or MP3") from None
    if not len(samples):
        raise errors.InputError(f"{path}: its header promises sound but none could be decoded; save it again")
    if not np.isfinite(samples).all():
        raise errors.InputError(f"{path}: holds values that are not finite (NaN or infinity); save it again")
    return resample(samples.mean(axis=1), rate_hz)


def resample(samples: Float[np.ndarray, "samples"], rate_hz: int) -> Float32[np.ndarray, "resampled"]:
    """Bring sound to 16 kHz without aliases, and within [-1, 1]."""
    if rate_hz != logmel.SAMPLE_RATE_HZ:
        common = math.gcd(rate_hz, logmel.SAMPLE_RATE_HZ)
        samples = signal.resample_poly(samples, logmel.SAMPLE_RATE_HZ // common, rate_hz // common)
    return np.clip(samples, -1.0, 1.0).astype(np.float32)


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
