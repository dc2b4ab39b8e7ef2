"""Names read aloud by eSpeak NG: 16 kHz mono, the same samples at every build.

A list of utterances is a shard, spoken by a fresh process (espeak.py says why). Two builds on one
machine are equal by test; on another platform pin texts, not sounds.
"""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int16, Int32
from scipy import signal

from data_prep import espeak, pictures
from gemini_mini import errors, stream

# Names of eSpeak's voices. Japanese has none: eSpeak cannot read kanji.
VOICES = {"en": "en-us", "es": "es", "fr": "fr", "de": "de", "it": "it", "pt": "pt-br", "ru": "ru",
          "tr": "tr", "id": "id", "zh": "cmn", "ko": "ko", "fa": "fa", "ar": "ar"}
SPEAKERS = ("", "+f2", "+m3", "+f4", "+m7", "+klatt2", "+Annie", "+Andy")
"""Variants of a voice: each is one person, in every language."""

UP, DOWN = 320, 441                            # 16,000 / 22,050
MARGIN_SAMPLES = stream.SAMPLE_RATE_HZ // 20   # 50 ms of silence stay on each side
SILENT_BELOW = 0.01                            # of the loudest sample


class Utterance(NamedTuple):
    text: str
    lang: str
    speaker: int    # index into SPEAKERS


def require() -> None:
    """Raises: InputError when eSpeak is not installed."""
    if espeak.espeakng_loader is None:
        raise pictures.missing_package("espeakng-loader")


def say(utterances: list[Utterance]) -> tuple[Int16[np.ndarray, "samples"], Int32[np.ndarray, "clips"]]:
    """All utterances one after the other, and the length of each; spoken in a process of its own.

    What a voice cannot read (a rare script) has length 0.
    """
    require()
    lines = [(VOICES[u.lang] + SPEAKERS[u.speaker], u.text) for u in utterances]
    worker = subprocess.run([sys.executable, "-m", "data_prep.espeak"], input=json.dumps(lines).encode(),
                            check=False, capture_output=True, cwd=Path(__file__).resolve().parents[1])
    if worker.returncode:
        said = worker.stderr.decode(errors="replace").strip() or f"exit code {worker.returncode}"
        raise errors.InputError(f"eSpeak could not speak {len(utterances)} names: {said.splitlines()[-1]}")
    made = np.load(io.BytesIO(worker.stdout))
    raw = np.split(made["samples"], np.cumsum(made["lengths"])[:-1])
    clips = [_finish(clip) for clip in raw]
    return np.concatenate([np.zeros(0, np.int16), *clips]), np.array([len(c) for c in clips], np.int32)


def trim(samples: np.ndarray) -> np.ndarray:
    """Cut the silence at both ends down to MARGIN_SAMPLES."""
    loud = np.flatnonzero(np.abs(samples) > SILENT_BELOW * np.max(np.abs(samples), initial=1))
    if not len(loud):
        return samples[:0]
    return samples[max(0, loud[0] - MARGIN_SAMPLES):loud[-1] + 1 + MARGIN_SAMPLES]


def _finish(clip: Int16[np.ndarray, "samples"]) -> Int16[np.ndarray, "samples"]:
    """eSpeak's sound at our sample rate, without the silence around it."""
    if not len(clip):
        return clip
    wave = trim(signal.resample_poly(clip.astype(np.float64), UP, DOWN))
    return np.clip(np.rint(wave), -32768, 32767).astype(np.int16)
