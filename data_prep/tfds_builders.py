"""TFDS builders over a built world; see tfds_sources.py, which runs them.

Facts that shape this file: TFDS encodes image *arrays*, `Audio` and `Video` features through
TensorFlow, so pictures go in as PNG bytes and sound and frames as plain tensors; a builder must
not live in `__main__`.
"""

import io
from collections.abc import Iterator
from typing import Any

import array_record.python.array_record_module  # noqa: F401  TFDS imports it only when it writes
import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from data_prep import phrases, splits, world_documents
from data_prep.emoji_world import World

LICENCE = "pictures: OpenMoji, CC BY-SA 4.0; names: Unicode CLDR, Unicode-3.0; speech: made with eSpeak NG"


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A dataset over a built world; subclasses say which features and which records."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS: tuple[str, ...]

    def __init__(self, *, world: World, data_dir: str):
        self.world = world
        config = tfds.core.BuilderConfig(name=f"{world.config.name}-{world.fingerprint[:12]}")
        super().__init__(data_dir=data_dir, config=config, file_format="array_record")

    def features(self) -> dict[str, Any]:
        raise NotImplementedError

    def records(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(self.features()),
                                     homepage="https://openmoji.org", license=LICENCE)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in self.SPLITS if any(self.records(split))}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from self.records(split)


class EmojiPictures(_Builder, skip_registration=True):
    """One record per picture, with its names of the split."""

    SPLITS = splits.NAME_SPLITS

    def features(self) -> dict[str, Any]:
        size = self.world.config.image_size
        return {"item": np.int32, "cell": tfds.features.Text(),
                "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
                "names": tfds.features.Sequence({"lang": tfds.features.Text(), "text": tfds.features.Text()})}

    def records(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for index, item in enumerate(self.world.items):
            langs = self.world.languages_of(index, split)
            if item.split == split or langs:
                names = [{"lang": lang, "text": item.names[lang]} for lang in langs]
                yield item.chars, {"item": index, "cell": "|".join(item.cell), "names": names,
                                   "image": _png(self.world.picture(index).pixels)}


class EmojiSpeech(_Builder, skip_registration=True):
    """One record per spoken name, 16 kHz int16."""

    SPLITS = (*splits.NAME_SPLITS, "valid_speaker_language", "test_speaker_language")

    def features(self) -> dict[str, Any]:
        return {"clip": np.int32, "item": np.int32, "speaker": np.int32,
                "lang": tfds.features.Text(), "text": tfds.features.Text(),
                "samples": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes")}

    def records(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for index in self.world.clips_in(split):
            clip = self.world.clips[index]
            yield f"{index:07d}", {"clip": index, "item": clip.item,
                                   "speaker": clip.speaker, "lang": clip.lang,
                                   "text": self.world.items[clip.item].names[clip.lang],
                                   "samples": np.array(self.world.samples(index))}


class EmojiVideo(_Builder, skip_registration=True):
    """One record per video clip, with its English caption."""

    SPLITS = ("train", "valid_motion", "test_motion")

    def features(self) -> dict[str, Any]:
        shape = self.world.frames.shape[1:]
        return {"shot": np.int32, "item": np.int32, "caption": tfds.features.Text(),
                "frames": tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes"),
                "seconds": tfds.features.Tensor(shape=shape[:1], dtype=np.float32)}

    def records(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for index, shot in enumerate(self.world.shots):
            if shot.split == split:
                (film, _), (caption,) = world_documents.ask_motion(self.world, index, "en", phrases.WATCH["en"][0])
                yield f"{index:06d}", {"shot": index, "item": shot.item, "caption": caption.text,
                                       "frames": film.frames, "seconds": film.seconds}


BUILDERS = (EmojiPictures, EmojiSpeech, EmojiVideo)


def _png(pixels: np.ndarray) -> io.BytesIO:
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, "PNG")
    out.seek(0)
    return out
