"""Documents as JSON, their pictures and sounds in one file of arrays beside it; no pickle.

    [{"text": "Draw: cat"}, {"image": "3f0a..."}, {"audio": ...}, {"video": ..., "seconds": [0, 1]}, {"role": "model"}]

An array is named by the hash of its content, so a picture that comes again is stored once.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gemini_mini import errors, files, stream


class Album:
    """The arrays of many documents."""

    def __init__(self, arrays: dict[str, np.ndarray] | None = None):
        self.arrays = dict(arrays or {})

    def add(self, document: Sequence[stream.Part]) -> list[dict]:
        """The document as JSON values; its arrays are kept here."""
        return [self._add(part) for part in document]

    def _add(self, part: stream.Part) -> dict:
        match part:
            case stream.Role(name):
                return {"role": name}
            case stream.Text(text):
                return {"text": text}
            case stream.Image(pixels):
                return {"image": self._keep(pixels)}
            case stream.Audio(samples):
                return {"audio": self._keep(np.round(samples * 32767).clip(-32768, 32767).astype(np.int16))}
            case stream.Video(frames, seconds):
                return {"video": self._keep(frames), "seconds": [float(s) for s in seconds]}
        raise TypeError(f"album: not a part: {type(part).__name__}")

    def document(self, parts: Sequence[dict]) -> stream.Document:
        """The document that `add` turned into these values. Raises: InputError when an array is missing."""
        return [self._part(part) for part in parts]

    def _part(self, part: dict) -> stream.Part:
        match part:
            case {"role": name}:
                return stream.Role(name)
            case {"text": text}:
                return stream.Text(text)
            case {"image": key}:
                return stream.Image(self._find(key))
            case {"audio": key}:
                return stream.Audio(self._find(key).astype(np.float32) / 32767)
            case {"video": key, "seconds": seconds}:
                return stream.Video(self._find(key), np.array(seconds, np.float32))
        raise errors.InputError(f"album: not a part: {part}; run the evaluation again")

    def _keep(self, array: np.ndarray) -> str:
        array = np.ascontiguousarray(array)
        key = files.hash_bytes(repr((array.shape, array.dtype.str)).encode(), array.tobytes())
        self.arrays[key] = array
        return key

    def _find(self, key: str) -> np.ndarray:
        if key not in self.arrays:
            raise errors.InputError(f"album: the array {key} is missing; run the evaluation again")
        return self.arrays[key]


def save(album: Album, path: Path) -> None:
    """Write the arrays, whole or not at all."""
    files.save_arrays(path, album.arrays, {"what": "pictures and sounds of documents"})  # readable without arrays too


def load(path: Path) -> Album:
    """Raises: InputError when the file is missing or damaged."""
    return Album(files.load_arrays(path)[0])
