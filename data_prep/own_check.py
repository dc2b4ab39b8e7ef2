"""Own data is opened and checked: every file to arrays, or a reason why not; then documents to splits.

Pictures become what `sample.py` makes of them, so the model sees in training what it will be shown:
upright, on white, the longer side 32 pixels and the aspect kept to the nearest 4, which is the
tokenizer's patch. Padding to a square would cost up to eight times the ids. Sound becomes 16 kHz
mono of one loudness.

Splits go by content: documents that share a picture, one that looks the same, a sound or a clip are
all in train, all in valid, or all in test.
Next: own.py, which writes them.
"""

import unicodedata
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int16, UInt8
from scipy import sparse, spatial

from data_prep import own_files, splits
from data_prep.own_files import LeftOut
from gemini_mini import errors, files, progress, stream
from gemini_mini.tokenizers import audio_io, image_io

IMAGE_SIZE, VIDEO_SIZE, PATCH, NUM_FRAMES = 32, 16, 4, 4
SHORTEST_S, LONGEST_S = 0.1, 10.0
VALID_PERCENT, TEST_PERCENT = 5, 5
SAME_LEVELS = 3.0  # two pictures are one when their values differ by no more than this (RMS, of 255), at 8 x 8
THUMBNAIL = 8


class Record(NamedTuple):
    """A document that is used. A value is a text, whose turn it is, or the number of a picture, sound or clip."""

    name: str
    split: str
    in_order: bool
    parts: list[tuple[str, str, str | int]]   # kind, language, value


class Store:
    """What has been read, each content once, and why a file could not be."""

    def __init__(self) -> None:
        self.arrays: dict[str, list[tuple]] = {"image": [], "audio": [], "video": []}   # the last is a content's hash
        self.known: dict[str, int] = {}
        self.read: dict[tuple[str, Path], tuple[str, int] | str] = {}   # kind and number of a file's content, or why there is none

    def add(self, part: own_files.Part) -> tuple[str, str | int]:
        """Kind and value of a part. Raises: InputError when it cannot be used."""
        if part.kind == "role":
            return part.kind, part.value
        if part.kind == "text":
            return part.kind, clean(part.value if isinstance(part.value, str) else read_text(part.value))
        key = (part.kind, part.value)
        if key not in self.read:
            try:
                self.read[key] = self._keep(*_READERS[part.kind](part.value))
            except (errors.InputError, OSError) as error:
                self.read[key] = str(error).removeprefix(f"{part.value}: ").replace(str(part.value), part.value.name)
            except Exception as error:  # a file may hold anything, and one is no reason to lose the others
                self.read[key] = f"could not be read ({type(error).__name__}: {error})"
        if isinstance(self.read[key], str):
            raise errors.InputError(self.read[key])
        return self.read[key]

    def _keep(self, kind: str, *content: np.ndarray) -> tuple[str, int]:
        digest = files.hash_bytes(kind.encode(), *(f"{array.shape}".encode() + array.tobytes() for array in content))
        if digest not in self.known:
            self.known[digest] = len(self.arrays[kind])
            self.arrays[kind].append((*content, digest))
        return kind, self.known[digest]


def check(found: list[own_files.Found], store: Store, left_out: list[LeftOut]) -> list[Record]:
    """Every document with the parts that can be used; one in order has all its parts, or is left out itself."""
    records, first = [], {}
    with progress.bar("checking", len(found), "documents") as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF and the like: what is read well enough is used
        for document in found:
            parts, wrong = [], []
            for part in document.parts:
                try:
                    kind, value = store.add(part)
                    parts.append((kind, part.lang, value))
                except (errors.InputError, OSError) as error:
                    wrong.append(LeftOut(_named(document, part), own_files.shown(str(error))))
            bar.advance()
            left_out += wrong
            if wrong and document.in_order:
                left_out.append(LeftOut(document.name, "the whole document, whose order would be lost without that part"))
            elif all(kind == "role" for kind, _, _ in parts):
                continue   # each file has been named
            elif (key := repr((document.in_order, parts))) in first:
                left_out.append(LeftOut(document.name, f"is the same as {first[key]}"))
            else:
                first[key] = document.name
                records.append(Record(document.name, "", document.in_order, parts))
    return records


def _named(document: own_files.Found, part: own_files.Part) -> str:
    """A file is named with its document where that is a line, by itself where it is a file."""
    if isinstance(part.value, str):
        return f"{document.name} ({part.kind})"
    name = own_files.shown(part.value.name)
    return f"{document.name} ({name})" if ":" in document.name else str(Path(document.name).parent / name)


# Reading: the kind of a file and its arrays, or an InputError that says why not.

def _read_image(path: Path) -> tuple[str, UInt8[np.ndarray, "height width 3"]]:
    return "image", image_io.read_image(path, PATCH, IMAGE_SIZE)


def _read_video(path: Path) -> tuple[str, *tuple[np.ndarray, ...]]:
    """A clip; an animation of one frame is a picture."""
    frames, seconds = image_io.read_video(path, NUM_FRAMES, VIDEO_SIZE, PATCH)
    is_clip = len(frames) > 1 or path.is_dir() or path.suffix.lower() in image_io.FILMS
    return ("video", frames, seconds) if is_clip else _read_image(path)


def _read_sound(path: Path) -> tuple[str, Int16[np.ndarray, "samples"]]:
    samples = audio_io.read_audio(path, LONGEST_S)
    if len(samples) < SHORTEST_S * stream.SAMPLE_RATE_HZ:
        raise errors.InputError(f"lasts {len(samples) / stream.SAMPLE_RATE_HZ:.3f} s, but must last {SHORTEST_S} s at least")
    return "audio", audio_io.sixteen_bits(audio_io.even_loudness(samples))


_READERS = {"image": _read_image, "audio": _read_sound, "video": _read_video}


def read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.InputError(f"must be text in UTF-8, but {error}") from None


def clean(text: str) -> str:
    text = unicodedata.normalize("NFC", "\n".join(text.splitlines()).strip())
    if not text:
        raise errors.InputError("is an empty text")
    if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in text):
        raise errors.InputError("holds control characters or lone surrogates: it is no text")
    return text


# Splits

def split(records: list[Record], store: Store) -> tuple[list[Record], dict[tuple[str, int], str]]:
    """Records with their split, and the split of everything they share."""
    nodes: dict[tuple, int] = {("record", place): place for place in range(len(records))}
    edges = []
    for place, record in enumerate(records):
        for kind, _, value in record.parts:
            if kind in store.arrays or (kind == "text" and len(record.parts) == 1):
                edges.append((place, nodes.setdefault((kind, value), len(nodes))))
    node_of = np.array([nodes.get(("image", value), -1) for value in range(len(store.arrays["image"]))], np.int32)
    alike = node_of[_look_alike([content[0] for content in store.arrays["image"]])]
    ends = np.concatenate([np.array(edges, np.int32).reshape(-1, 2), alike[(alike >= 0).all(axis=1)]]).T
    graph = sparse.coo_array((np.ones(len(ends[0]), bool), (ends[0], ends[1])), shape=(len(nodes), len(nodes)))
    labels = sparse.csgraph.connected_components(graph, directed=False)[1]

    # A component goes where a hash of its first content says; not its least hash, or large ones would be held out.
    contents: dict[int, str] = {}
    for label, record in zip(labels, records):  # records are the first nodes
        content = repr([(kind, store.arrays[kind][value][-1] if kind in store.arrays else value) for kind, _, value in record.parts])
        contents[label] = min(content, contents.get(label, content))
    chances = {label: splits.bucket(content, 1 << 32) * 100 / (1 << 32) for label, content in contents.items()}
    sizes = np.bincount(labels[: len(records)])
    most = max(chances, key=lambda label: (sizes[label], -chances[label]))
    del chances[most]  # the largest is trained on, whatever its hash
    least = min(chances, key=chances.__getitem__, default=None)  # a small collection has something in valid, too
    split_of_label = {most: "train"} | {
        label: "valid" if chance < VALID_PERCENT or label == least
        else "test" if chance < VALID_PERCENT + TEST_PERCENT else "train" for label, chance in chances.items()}
    records = [record._replace(split=split_of_label[labels[place]]) for place, record in enumerate(records)]
    return records, {key: split_of_label[labels[node]] for key, node in nodes.items() if key[0] in store.arrays}


def _look_alike(pictures: list[UInt8[np.ndarray, "_ _ 3"]]) -> Int[np.ndarray, "_ 2"]:
    """Pairs of pictures that are one, scaled or compressed anew: nearly the same at 8 x 8."""
    if len(pictures) < 2:
        return np.zeros((0, 2), int)
    small = np.stack([padded(picture, IMAGE_SIZE) for picture in pictures]).astype(np.float32)
    pooled = small.reshape(len(small), THUMBNAIL, IMAGE_SIZE // THUMBNAIL, THUMBNAIL, IMAGE_SIZE // THUMBNAIL, 3).mean((2, 4))
    points = pooled.reshape(len(small), -1)
    return spatial.cKDTree(points).query_pairs(SAME_LEVELS * points.shape[1] ** 0.5, output_type="ndarray")


def padded(pixels: np.ndarray, size: int) -> np.ndarray:
    """White to the right and below, up to a square; the tokenizer's codes do not change by it."""
    *_, height, width, _ = pixels.shape
    room = [(0, 0)] * (pixels.ndim - 3) + [(0, size - height), (0, size - width), (0, 0)]
    return np.pad(pixels, room, constant_values=255)
