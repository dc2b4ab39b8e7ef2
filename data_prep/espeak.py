"""eSpeak NG in a process of its own: a JSON list of [voice, text] on stdin, sound on stdout.

The library is called through ctypes, synchronously and in memory. It remembers what it said
before, and breathy voices draw noise from a clock seed, so: a fresh process, a fixed order, and
the seed set before each utterance. Imports little, because it starts once per shard.
"""

import ctypes
import io
import json
import sys

import numpy as np
from jaxtyping import Int16

from gemini_mini import errors

try:
    import espeakng_loader
except ImportError:
    espeakng_loader = None

RATE_HZ = 22_050
WORDS_PER_MINUTE = 170

# From espeak_ng/speak_lib.h
_SYNCHRONOUS_RETRIEVAL, _CHARS_UTF8, _POSITION_CHARACTER, _PARAMETER_RATE = 2, 1, 1, 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """The library with its data loaded; call it with a voice and a text."""

    def __init__(self):
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        rate = self.library.espeak_Initialize(_SYNCHRONOUS_RETRIEVAL, 0, data, 0)
        if rate != RATE_HZ:
            raise errors.InputError(f"eSpeak's data must sound at {RATE_HZ} Hz, got {rate}; "
                                    "reinstall espeakng-loader")
        self.library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self.chunks: list[np.ndarray] = []
        self.callback = _CALLBACK(self._receive)   # kept alive: C holds only its address
        self.library.espeak_SetSynthCallback(self.callback)

    def __call__(self, voice: str, text: str) -> Int16[np.ndarray, "samples"]:
        if self.library.espeak_SetVoiceByName(voice.encode()):
            raise errors.InputError(f"eSpeak has no voice {voice!r}; reinstall espeakng-loader")
        self.library.espeak_SetParameter(_PARAMETER_RATE, WORDS_PER_MINUTE, 0)
        self.library.espeak_ng_SetRandSeed(1)
        self.chunks = [np.zeros(0, np.int16)]
        said = text.encode() + b"\0"
        self.library.espeak_Synth(said, ctypes.c_size_t(len(said)), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8,
                                  None, None)
        self.library.espeak_Synchronize()
        return np.concatenate(self.chunks)

    def _receive(self, samples, count: int, events) -> int:
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


def main() -> None:
    speak = Espeak()
    clips = [speak(voice, text) for voice, text in json.load(sys.stdin)]
    out = io.BytesIO()
    np.savez(out, samples=np.concatenate([np.zeros(0, np.int16), *clips]),
             lengths=np.array([len(clip) for clip in clips], np.int32))
    sys.stdout.buffer.write(out.getvalue())


if __name__ == "__main__":
    main()
