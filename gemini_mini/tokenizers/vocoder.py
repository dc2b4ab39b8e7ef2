"""Log-mel back to sound, so that a person can hear what codes keep.

    log-mel --non-negative least squares--> magnitudes of the spectrum --Griffin-Lim--> samples

Magnitudes do not say where in its period a tone begins. Griffin-Lim guesses, makes sound, takes the
phases of that sound's own spectrum and guesses again; a momentum makes it converge faster.
Papers: Griffin and Lim 1984; Perraudin, Balazs, Søndergaard 2013 (the momentum); Lee and Seung
2001 (the updates).
"""

import numpy as np
from jaxtyping import Complex, Float, Float32

from gemini_mini.tokenizers import logmel

ITERATIONS = 60
MOMENTUM = 0.99
LOUDEST = 0.5  # of the result, out of 1
CHUNK_FRAMES = 1_000  # 10 s are made at once
FADE_FRAMES = 2  # short, for tones of two chunks may cancel there


def spectrum(samples: Float[np.ndarray, "samples"]) -> Complex[np.ndarray, "frames bins"]:
    """The windowed spectra that logmel.py takes the energies of."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, logmel.WINDOW_SAMPLES)[:: logmel.HOP_SAMPLES]
    return np.fft.rfft(frames * logmel.window(), logmel.FFT_SAMPLES)


def overlap_add(spectra: Complex[np.ndarray, "frames bins"]) -> Float[np.ndarray, "samples"]:
    """The sound whose `spectrum` is nearest to `spectra`, in squared error."""
    frames = np.fft.irfft(spectra, logmel.FFT_SAMPLES)[:, : logmel.WINDOW_SAMPLES] * logmel.window()
    weight = _add(np.broadcast_to(logmel.window() ** 2, frames.shape))
    return _add(frames) / np.maximum(weight, 1e-2)  # at both ends the window leaves nothing to divide by


def _add(frames: Float[np.ndarray, "frames window"]) -> Float[np.ndarray, "samples"]:
    """The sum of frames that start a hop apart, hop by hop of all of them at once."""
    hops = -(-logmel.WINDOW_SAMPLES // logmel.HOP_SAMPLES)
    parts = np.pad(frames, ((0, 0), (0, hops * logmel.HOP_SAMPLES - logmel.WINDOW_SAMPLES)))
    parts = parts.reshape(len(frames), hops, logmel.HOP_SAMPLES)
    total = np.zeros((len(frames) + hops - 1, logmel.HOP_SAMPLES))
    for hop in range(hops):
        total[hop : hop + len(frames)] += parts[:, hop]
    return total.ravel()[: (len(frames) - 1) * logmel.HOP_SAMPLES + logmel.WINDOW_SAMPLES]


def griffin_lim(magnitude: Float[np.ndarray, "frames bins"], iterations: int = ITERATIONS) -> Float[np.ndarray, "samples"]:
    """Sound with about these magnitudes; the first phases are random, always the same."""
    turn = np.exp(2j * np.pi * np.random.RandomState(0).random_sample(magnitude.shape))
    before = np.zeros_like(turn)
    for _ in range(iterations):
        now = spectrum(overlap_add(magnitude * turn))
        ahead = now + MOMENTUM * (now - before)
        turn, before = ahead / np.maximum(np.abs(ahead), 1e-9), now
    return overlap_add(magnitude * turn)


def _unmix(energies: Float[np.ndarray, "frames M"], iterations: int = 100) -> Float[np.ndarray, "frames bins"]:
    """Non-negative energies of the spectrum whose mel energies are about these, by multiplicative updates."""
    weights = logmel.mel_weights().astype(np.float64)
    wanted = energies @ weights.T
    guess = wanted.copy()
    for _ in range(iterations):
        guess *= wanted / np.maximum(guess @ weights @ weights.T, 1e-12)
    return guess


def from_log_mel(mel: Float[np.ndarray, "frames M"]) -> Float32[np.ndarray, "samples"]:
    """Sound with about this log-mel, as loud as is comfortable; what is long is made in chunks that fade into each other."""
    samples = np.zeros((len(mel) - 1) * logmel.HOP_SAMPLES + logmel.WINDOW_SAMPLES, np.float32)
    fade = (FADE_FRAMES - 1) * logmel.HOP_SAMPLES + logmel.WINDOW_SAMPLES
    rising = np.sin(np.linspace(0, np.pi / 2, fade))  # phases of two chunks are unrelated: their energies add up, not their samples
    for start in range(0, max(1, len(mel) - FADE_FRAMES), CHUNK_FRAMES - FADE_FRAMES):
        energies = np.maximum(np.exp(mel[start : start + CHUNK_FRAMES].astype(np.float64)) - logmel.FLOOR, 0.0)
        made = griffin_lim(np.sqrt(_unmix(energies)))
        if start:
            made[:fade] *= rising
        if start + CHUNK_FRAMES < len(mel):
            made[-fade:] *= rising[::-1]
        samples[start * logmel.HOP_SAMPLES :][: len(made)] += made
    return samples * np.float32(LOUDEST / max(np.abs(samples).max(), 1e-9))
