"""What a person types on the command line -> the parts of a prompt.

A part is a file when it says so: it names a file with a known suffix, or a folder of pictures.
Everything else is text. A name with a known suffix that does not exist is a mistake, never text.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from gemini_mini import errors, stream
from gemini_mini.tokenizers import audio_io, image_io

PICTURES = image_io.PICTURES
SOUNDS = frozenset((".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"))
CLIPS = frozenset((".gif",)) | image_io.FILMS


def check(words: Sequence[str]) -> None:
    """Raise InputError at once when a named file is missing, or nothing installed reads its kind; reads nothing."""
    for word in words:
        _kind(word)


def read(words: Sequence[str], patch: int, check: Callable[[], None] = lambda: None) -> stream.Document:
    """The user's turn. Neighbouring texts are joined by a space, as a shell's `echo` does; `check` is that of `image_io.read_video`.

    Raises: InputError when a file is missing, damaged or of a kind that cannot be read.
    """
    parts: stream.Document = []
    for word in words:
        kind = _kind(word)
        if kind in PICTURES:
            parts.append(stream.Image(image_io.read_image(word, patch)))
        elif kind in SOUNDS:
            parts.append(stream.Audio(_evened(word)))
        elif kind:
            frames, seconds = image_io.read_video(word, multiple=patch, check=check)
            is_still = kind == ".gif" and len(frames) == 1
            parts.append(stream.Image(image_io.read_image(word, patch)) if is_still else stream.Video(frames, seconds))
        else:
            parts.append(stream.Text(word))
    return join(parts)


def split(line: str) -> list[str]:
    """A typed line as words; a space in the name of a file is written "\\ "."""
    return [word.replace("\\ ", " ") for word in re.split(r"(?<!\\) +", line.strip()) if word]


def join(parts: stream.Document) -> stream.Document:
    """The same with neighbouring texts joined by a space."""
    joined: stream.Document = []
    for part in parts:
        if joined and isinstance(part, stream.Text) and isinstance(joined[-1], stream.Text):
            part = stream.Text(f"{joined.pop().text} {part.text}")
        joined.append(part)
    return joined


def _evened(path: str) -> Float32[np.ndarray, "samples"]:
    """A sound as loud as speech was in training."""
    samples = audio_io.read_audio(path)
    try:
        return audio_io.even_loudness(samples)
    except errors.InputError as error:
        raise errors.InputError(f"{path}: {error}") from None


def _kind(word: str) -> str:
    """The suffix of a media file, "/" for a folder of pictures, "" for text."""
    suffix = Path(word).suffix.lower() if word == word.strip() else ""
    if word.strip("./~") and os.path.isdir(word):  # False, not an error, for text too long to be a path
        try:
            names = os.listdir(word)
        except OSError as error:
            raise errors.InputError(f"{word}: is a folder that cannot be read ({error.strerror}); check who may") from None
        if any(Path(name).suffix.lower() in PICTURES for name in names):
            return "/"
        if os.sep in word:
            raise errors.InputError(f"{word}: holds no pictures; a folder in a prompt is a clip, one frame per file")
        return ""
    if suffix in PICTURES | SOUNDS | CLIPS:
        if not os.path.isfile(word):
            raise errors.InputError(f"{word}: no such file; check the path, or end it with a full stop if it is text")
        if suffix in image_io.FILMS:
            image_io.check_films(word)
        return suffix
    if suffix and os.path.isfile(word):
        raise errors.InputError(f"{word}: is a file, but of no kind that can be read here; pictures "
                                f"({' '.join(sorted(PICTURES))}), sounds ({' '.join(sorted(SOUNDS))}), clips "
                                f"({' '.join(sorted(CLIPS))}) and folders of pictures can")
    return ""
