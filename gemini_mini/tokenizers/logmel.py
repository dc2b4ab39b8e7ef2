"""Waveform to log-mel energies: what the ear keeps of 25 ms of sound, every 10 ms.

    samples --Hann window, FFT--> power --80 triangles on the mel scale--> log(energy + FLOOR)

Only frames that lie wholly inside the clip count, so padding behind a clip changes nothing.
Frames are made by shifting and stacking hops, not by gathering: 400 = 2.5 hops of 160.
Paper: USM (arXiv 2303.01037, section 2.7) reads 128 bins; with this FFT one of those would be empty,
and with one twice as long they are read no better (EXPERIMENTS.md), so here they are 80.
Next: conformer.py, which reads the frames.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

SAMPLE_RATE_HZ = 16_000
WINDOW_SAMPLES = 400
HOP_SAMPLES = 160
FFT_SAMPLES = 512
NUM_MEL = 80
LOW_HZ, HIGH_HZ = 125.0, 7_500.0
FLOOR = 1e-2  # energy of hiss some 60 dB below speech: digital silence and quiet noise look alike
LOUDEST = 5.0  # log energy that is drawn brightest; the darkest is FLOOR
COLOURS = np.array([(6, 6, 24), (84, 24, 112), (214, 72, 56), (255, 200, 90), (255, 252, 220)])  # from quiet to loud


def num_frames(num_samples):
    """How many 10 ms frames lie wholly inside `num_samples` samples (an int or an int array)."""
    return (num_samples >= WINDOW_SAMPLES) * (1 + (num_samples - WINDOW_SAMPLES) // HOP_SAMPLES)


@functools.cache
def mel_weights() -> np.ndarray:
    """[spectrum bin, mel bin] triangles, equally wide in mel = 1127 ln(1 + Hz / 700)."""
    def mel(hz):
        return 1127.0 * np.log1p(np.asarray(hz) / 700.0)

    edges = np.linspace(mel(LOW_HZ), mel(HIGH_HZ), NUM_MEL + 2)
    bins = mel(np.arange(FFT_SAMPLES // 2 + 1) * SAMPLE_RATE_HZ / FFT_SAMPLES)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


@functools.cache
def window() -> np.ndarray:
    """Periodic Hann window."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW_SAMPLES) / WINDOW_SAMPLES)).astype(np.float32)


def log_mel(samples: Float[Array, "B samples"]) -> Float[Array, "B frames M"]:
    """Log-mel energies of 16 kHz sound in [-1, 1]; frame i starts at sample i * HOP_SAMPLES."""
    count = num_frames(samples.shape[1])
    hops = -(-WINDOW_SAMPLES // HOP_SAMPLES)
    reach = (count + hops - 1) * HOP_SAMPLES
    samples = jnp.pad(samples[:, :reach], ((0, 0), (0, max(0, reach - samples.shape[1]))))
    blocks = samples.reshape(samples.shape[0], count + hops - 1, HOP_SAMPLES)
    frames = jnp.concatenate([blocks[:, i : i + count] for i in range(hops)], axis=-1)[..., :WINDOW_SAMPLES]
    spectrum = jnp.fft.rfft(frames * window()[None, None], FFT_SAMPLES)
    power = spectrum.real**2 + spectrum.imag**2
    return jnp.log(power @ mel_weights() + FLOOR)


def picture(mel: Float[np.ndarray, "frames M"]) -> UInt8[np.ndarray, "M frames 3"]:
    """Log-mel energies as colours; time runs to the right, pitch up."""
    loudness = (mel.T[::-1] - np.log(FLOOR)) / (LOUDEST - np.log(FLOOR))
    steps = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(loudness, steps, channel) for channel in COLOURS.T], -1).round().astype(np.uint8)
