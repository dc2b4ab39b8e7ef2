"""Names read aloud by eSpeak NG: 16 kHz mono, the same samples at every build.

eSpeak remembers: what it said before, and for breathy voices a clock-seeded noise, leak into the
next clip. So a list of utterances is a shard, spoken by a fresh process in a fixed order, with the
seed set before each clip. Equal on one machine by test; on another platform pin texts, not sounds.

This module is also the process: a JSON list of utterances on stdin, samples and lengths on stdout.
"""

import ctypes
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int16, Int32
from scipy import signal

from data_prep import pictures
from gemini_mini import errors, stream

try:
    import espeakng_loader
except ImportError:
    espeakng_loader = None

# Names of eSpeak's voices. Japanese has none: eSpeak cannot read kanji.
VOICES = {"en": "en-us", "es": "es", "fr": "fr", "de": "de", "it": "it", "pt": "pt-br", "ru": "ru", "tr": "tr",
          "id": "id", "zh": "cmn", "ko": "ko", "fa": "fa", "ar": "ar"}
SPEAKERS = ("", "+f2", "+m3", "+f4", "+m7", "+klatt2", "+Annie", "+Andy")
"""Variants of a voice: each is one person, in every language."""

ESPEAK_RATE_HZ = 22_050
WORDS_PER_MINUTE = 170
MARGIN_SAMPLES = stream.SAMPLE_RATE_HZ // 20   # 50 ms of silence stay on each side
SILENT_BELOW = 0.01                            # of the loudest sample

# From espeak_ng/speak_lib.h
_SYNCHRONOUS_RETRIEVAL, _CHARS_UTF8, _POSITION_CHARACTER, _PARAMETER_RATE = 2, 1, 1, 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Utterance(NamedTuple):
    text: str
    lang: str
    speaker: int    # index into SPEAKERS


def require() -> None:
    """Raises: InputError when eSpeak is not installed."""
    if espeakng_loader is None:
        raise pictures.missing_package("espeakng-loader")


def say(utterances: list[Utterance]) -> tuple[Int16[np.ndarray, "samples"], Int32[np.ndarray, "clips"]]:
    """All utterances one after the other, and the length of each; in a process of their own.

    What a voice cannot read (a rare script) has length 0.
    """
    require()
    worker = subprocess.run([sys.executable, "-m", "data_prep.speech"], input=json.dumps(utterances).encode(),
                            capture_output=True, cwd=Path(__file__).resolve().parents[1])
    if worker.returncode:
        reason = worker.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit {worker.returncode}"]
        raise errors.InputError(f"eSpeak could not speak {len(utterances)} names: {reason[0]}; "
                                "reinstall espeakng-loader")
    made = np.load(io.BytesIO(worker.stdout))
    return made["samples"], made["lengths"]


def trim(samples: np.ndarray) -> np.ndarray:
    """Cut the silence at both ends down to MARGIN_SAMPLES."""
    loud = np.flatnonzero(np.abs(samples) > SILENT_BELOW * np.max(np.abs(samples), initial=1))
    if not len(loud):
        return samples[:0]
    return samples[max(0, loud[0] - MARGIN_SAMPLES):loud[-1] + 1 + MARGIN_SAMPLES]


class _Espeak:
    """The eSpeak NG library: synchronous, in memory."""

    def __init__(self):
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        rate = self.library.espeak_Initialize(_SYNCHRONOUS_RETRIEVAL, 0, data, 0)
        if rate != ESPEAK_RATE_HZ:
            raise errors.InputError(f"eSpeak's data must sound at {ESPEAK_RATE_HZ} Hz, got {rate}")
        self.library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self.chunks: list[np.ndarray] = []
        self.callback = _CALLBACK(self._receive)   # kept alive: C holds only its address
        self.library.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples, count: int, events) -> int:
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def __call__(self, utterance: Utterance) -> Int16[np.ndarray, "samples"]:
        voice = VOICES[utterance.lang] + SPEAKERS[utterance.speaker]
        if self.library.espeak_SetVoiceByName(voice.encode()):
            raise errors.InputError(f"eSpeak has no voice {voice!r}")
        self.library.espeak_SetParameter(_PARAMETER_RATE, WORDS_PER_MINUTE, 0)
        self.library.espeak_ng_SetRandSeed(1)
        self.chunks = []
        text = utterance.text.encode() + b"\0"
        self.library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        self.library.espeak_Synchronize()
        wave = np.concatenate([np.zeros(0, np.int16), *self.chunks]).astype(np.float64)
        wave = trim(signal.resample_poly(wave, 320, 441)) if len(wave) else wave   # 16000 / 22050 = 320 / 441
        return np.clip(np.rint(wave), -32768, 32767).astype(np.int16)


def main() -> None:
    utterances = [Utterance(*u) for u in json.load(sys.stdin)]
    speak = _Espeak()
    clips = [speak(u) for u in utterances]
    out = io.BytesIO()
    np.savez(out, samples=np.concatenate([np.zeros(0, np.int16), *clips]),
             lengths=np.array([len(c) for c in clips], np.int32))
    sys.stdout.buffer.write(out.getvalue())


if __name__ == "__main__":
    main()
