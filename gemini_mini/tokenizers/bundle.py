"""The three tokenizers as one: documents to encoded parts and back.

    folder/text.model  folder/image.safetensors  folder/audio.safetensors

A picture or clip that comes again (by content) is encoded once.
Next: ../stream.py (encoded parts to ids), ../data/packing.py.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemini_mini import errors, files, stream, vocab as vocabulary
from gemini_mini.tokenizers import audio, image, text


class Tokenizers(NamedTuple):
    """Text, image and audio tokenizer, and the id space they share."""

    text: text.TextTokenizer
    image: image.ImageTokenizer
    audio: audio.AudioTokenizer
    vocab: vocabulary.Vocab

    def encode_documents(
        self, documents: list[stream.Document], known: dict[str, stream.Grid | stream.Sound] | None = None
    ) -> list[list[stream.EncodedPart]]:
        """Encode many documents, each distinct picture and sound once and in batches.

        `known` holds what is encoded, by content; handed from call to call, it saves doing it again.
        """
        parts = [part for document in documents for part in document]
        known = {} if known is None else known
        self._add_grids(parts, known)
        self._add_sounds(parts, known)
        texts = iter(self.text.encode_many([part.text for part in parts if isinstance(part, stream.Text)]))

        def encode(part: stream.Part) -> stream.EncodedPart:
            match part:
                case stream.Role():
                    return part
                case stream.Text():
                    return stream.Pieces(next(texts))
                case stream.Image(pixels):
                    return known[_key(pixels)]
                case stream.Video(frames, seconds):
                    return stream.Clip([self.text.encode(_clock(float(s))) for s in seconds], [known[_key(f)] for f in frames])
                case stream.Audio(samples):
                    return known[_key(samples)]
            raise TypeError(f"encode: not a part: {type(part).__name__}")

        return [[encode(part) for part in document] for document in documents]

    def decode_parts(self, parts: list[stream.EncodedPart]) -> stream.Document:
        """Text, pictures and sounds back from codes; a clip comes as its times and frames in turn."""
        document: stream.Document = []
        for part in parts:
            match part:
                case stream.Role():
                    document.append(part)
                case stream.Pieces(ids):
                    document.append(stream.Text(self.text.decode(ids)))
                case stream.Grid(codes):
                    document.append(stream.Image(image.decode_many(self.image, codes[None])[0]))
                case stream.Sound(codes):
                    document.append(stream.Audio(audio.resynthesise(self.audio, codes)))
                case stream.Clip(times, grids):
                    frames = [part for time, grid in zip(times, grids) for part in (stream.Pieces(time), grid)]
                    document.extend(self.decode_parts(frames))
        return document

    def _add_grids(self, parts: list[stream.Part], known: dict[str, stream.Grid | stream.Sound]) -> None:
        pictures = [p.pixels for p in parts if isinstance(p, stream.Image)]
        pictures += [frame for p in parts if isinstance(p, stream.Video) for frame in p.frames]
        distinct = {key: p for p in pictures if (key := _key(p)) not in known}
        by_shape: dict[tuple[int, ...], list[str]] = {}
        for key, pixels in distinct.items():
            by_shape.setdefault(pixels.shape, []).append(key)
        for keys in by_shape.values():
            codes = image.encode_many(self.image, np.stack([distinct[k] for k in keys]))
            known.update({k: stream.Grid(c) for k, c in zip(keys, codes, strict=True)})

    def _add_sounds(self, parts: list[stream.Part], known: dict[str, stream.Grid | stream.Sound]) -> None:
        distinct = {key: p.samples for p in parts if isinstance(p, stream.Audio) and (key := _key(p.samples)) not in known}
        codes = audio.encode_many(self.audio, list(distinct.values()))
        known.update({key: stream.Sound(c) for key, c in zip(distinct, codes, strict=True)})


def load(text_path: str | Path, image_path: str | Path, audio_path: str | Path) -> Tokenizers:
    """Raises: InputError when a file is missing or damaged."""
    for path in (text_path, image_path, audio_path):
        if not Path(path).is_file():
            raise errors.InputError(f"{path}: no such tokenizer; train it first (README, the steps of `make demo`)")
    digest = files.hash_bytes(*(Path(p).read_bytes() for p in (text_path, image_path, audio_path)))
    return of(text.TextTokenizer(Path(text_path).read_bytes()), image.load(image_path), audio.load(audio_path), digest)


def of(texts: text.TextTokenizer, images: image.ImageTokenizer, sounds: audio.AudioTokenizer, digest: str) -> Tokenizers:
    """Tokenizers and the id space they share; `digest` is of the files they were trained into."""
    return Tokenizers(texts, images, sounds, vocabulary.Vocab(
        texts.num_pieces, images.config.num_codes, sounds.config.num_codes, digest))


def _key(array: np.ndarray) -> str:
    return files.hash_bytes(repr(array.shape).encode(), array.tobytes())


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
