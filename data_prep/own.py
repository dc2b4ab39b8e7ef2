"""Your own data: a folder or a JSONL file, checked and split, as a world to train on.

    python -m data_prep.own photos --out data/own/world      (own_files.py says which files belong together)
    make own DATA=photos                                     this and every later step

Every file is opened. What cannot be used is left out, with the reason in OUT/report.txt and OUT/report.json;
nothing a file holds stops the rest. Run again, it does nothing when no file has changed.
Next: own_check.py, how files become arrays and splits; own_documents.py, what the model reads.
"""

import argparse
import contextlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int16, UInt8

from data_prep import own_check, own_files, splits
from data_prep.own_check import IMAGE_SIZE, NUM_FRAMES, VIDEO_SIZE, Record, Store, padded
from data_prep.own_files import LeftOut
from gemini_mini import errors, files, stream
from gemini_mini.tokenizers import audio, audio_io, image_io

SHARD_SOUNDS = 250
SPELT_LETTERS = 200  # a longer text beside a sound is about it, not what is said


class World(NamedTuple):
    """A built world of own data. Arrays are memory maps."""

    records: list[Record]
    pictures: UInt8[np.ndarray, "pictures size size 3"]   # white right of and below what is shown
    shapes: list[tuple[int, int]]
    sounds: list[Int16[np.ndarray, "_"]]
    frames: UInt8[np.ndarray, "clips frames size size 3"]
    films: list[tuple[int, int, list[float]]]   # height, width, second of each frame

    def part(self, kind: str, value: str | int) -> stream.Part:
        """A part of a record as the stream knows it."""
        match kind:
            case "text":
                return stream.Text(value)
            case "role":
                return stream.Role(value)
            case "image":
                height, width = self.shapes[value]
                return stream.Image(np.ascontiguousarray(self.pictures[value, :height, :width]))
            case "audio":
                return stream.Audio(self.sounds[value].astype(np.float32) / 32768)
            case "video":
                height, width, seconds = self.films[value]
                return stream.Video(np.ascontiguousarray(self.frames[value, : len(seconds), :height, :width]),
                                    np.array(seconds, np.float32))
        raise ValueError(f"world of own data: no such kind of part: {kind}")


def build(source: Path, out: Path, label_by_folder: bool = False) -> bool:
    """Check, split and write; False when the same was there.

    Raises: InputError when there is nothing that can be used, or `out` and `source` lie one in the other.
    """
    here, there = source.resolve(), out.resolve()
    if there == here or here in there.parents and source.is_dir() or there in here.parents:
        raise errors.InputError(f"{out}: must lie outside of {source}; choose another --out, e.g. data/own/world")
    found, left_out = own_files.find(source, label_by_folder)
    inputs = {"source": own_files.shown(source), "found": files.hash_json([repr(f) for f in found]), "files": files.hash_json(_stats(source, found)),
              "code": files.code_hash(own_check, own_files, splits, audio_io, image_io), "builder": files.hash_bytes(Path(__file__).read_bytes()),
              "reads_films": image_io.reads_films()}

    def make(folder: Path) -> dict:
        store, missing = Store(), list(left_out)
        records = own_check.check(found, store, missing)
        if not records:
            raise errors.InputError(f"{source}: holds nothing that can be learned from"
                                    + (f"; {missing[0].name}: {missing[0].reason}" if missing else ""))
        records, split_of = own_check.split(records, store)
        _write(folder, records, store, split_of)
        report = _report(source, records, store, missing)
        files.write_json(folder / "report.json", report)
        files.write_bytes(folder / "report.txt", _readable(report).encode())
        return {"content": files.hash_json([files.hash_bytes(path.read_bytes()) for path in sorted(folder.rglob("*"))
                                            if path.suffix in (".npy", ".json") and path.name != "report.json"])}

    return files.build(out, inputs, make)


def load(folder: str | Path) -> World:
    """Open a built world of own data. Raises: InputError when the folder holds none."""
    folder = Path(folder)
    if not is_own(folder):
        raise errors.InputError(f"{folder}: holds no own data; run: python -m data_prep.own FOLDER --out {folder}")
    records = [Record(name, split, in_order, [tuple(part) for part in parts])
               for name, split, in_order, parts in files.read_json(folder / "documents.json")]
    pictures, frames = (np.load(path, mmap_mode="r") for path in (folder / "pictures" / "pictures.npy", folder / "video" / "frames.npy"))
    shards = sorted((folder / "speech").glob("[0-9]*"))
    sounds = [wave for shard in shards for wave in np.split(
        np.load(shard / "samples.npy", mmap_mode="r"), np.cumsum(np.load(shard / "lengths.npy"))[:-1])]
    return World(records, pictures, [(item["height"], item["width"]) for item in files.read_json(folder / "pictures" / "items.json")],
                 sounds, frames, [tuple(film) for *film, _ in files.read_json(folder / "video" / "shots.json")])


def is_own(folder: str | Path) -> bool:
    """Whether a folder holds a finished world of own data."""
    return (Path(folder) / "built.json").is_file() and (Path(folder) / "documents.json").is_file()


# Writing, as the tokenizers' tasks and pack.py read it

def _write(folder: Path, records: list[Record], store: Store, split_of: dict[tuple[str, int], str]) -> None:
    for name in ("pictures", "video", "speech"):
        (folder / name).mkdir()
    files.write_json(folder / "documents.json", records)
    images, films = store.arrays["image"], store.arrays["video"]
    empty = [np.zeros((0, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)]
    np.save(folder / "pictures" / "pictures.npy", np.concatenate([padded(pixels, IMAGE_SIZE)[None] for pixels, _ in images] + empty))
    files.write_json(folder / "pictures" / "items.json", [
        {"split": split_of.get(("image", place), "unused"), "height": pixels.shape[0], "width": pixels.shape[1]}
        for place, (pixels, _) in enumerate(images)])
    frames = np.full((len(films), NUM_FRAMES, VIDEO_SIZE, VIDEO_SIZE, 3), 255, np.uint8)
    for place, (shown, _, _) in enumerate(films):
        frames[place, : len(shown)] = padded(shown, VIDEO_SIZE)
    np.save(folder / "video" / "frames.npy", frames)
    files.write_json(folder / "video" / "shots.json", [
        [*shown.shape[1:3], seconds.tolist(), split_of.get(("video", place), "unused")]
        for place, (shown, seconds, _) in enumerate(films)])
    sounds = [samples for samples, _ in store.arrays["audio"]]
    for first in range(0, len(sounds), SHARD_SOUNDS):
        shard = folder / "speech" / f"{first // SHARD_SOUNDS:04d}"
        shard.mkdir()
        np.save(shard / "samples.npy", np.concatenate(sounds[first : first + SHARD_SOUNDS]))
        np.save(shard / "lengths.npy", np.array([len(s) for s in sounds[first : first + SHARD_SOUNDS]]))
    spelt = _spelt(records, sounds)
    files.write_json(folder / "speech" / "transcripts.json", [
        [spelt.get(place, ""), split_of.get(("audio", place), "unused")] for place in range(len(sounds))])


def _spelt(records: list[Record], sounds: list[Int16[np.ndarray, "_"]]) -> dict[int, str]:
    """What each sound may say letter by letter: the text beside it, when there is time to say it."""
    found = {}
    for record in records:
        for kind, lang, value in record.parts:
            if kind == "audio" and not record.in_order and (text := caption_of(record, lang)):
                doubled = sum(a == b for a, b in zip(text, text[1:]))
                if len(text) <= SPELT_LETTERS and len(text) + doubled <= audio.num_frames(len(sounds[value])):
                    found[value] = text
    return found


def caption_of(record: Record, lang: str) -> str:
    """The text in a language; or in none, in English, or the first. "" where there is no text."""
    texts: dict[str, str] = {}
    for kind, of, value in record.parts:
        if kind == "text":
            texts.setdefault(of, value)
    return texts.get(lang) or texts.get("") or texts.get("en") or next(iter(texts.values()), "")


# The report

def _report(source: Path, records: list[Record], store: Store, left_out: list[LeftOut]) -> dict:
    texts = Counter(lang or "of no named language" for r in records for kind, lang, _ in r.parts if kind == "text")
    seconds = sum(len(samples) for samples, _ in store.arrays["audio"]) / stream.SAMPLE_RATE_HZ
    shapes = Counter(f"{pixels.shape[1]} x {pixels.shape[0]}" for pixels, _ in store.arrays["image"])
    held_out = [r.name for r in records if r.split == "test"]
    return {"source": own_files.shown(source), "documents": dict(Counter(r.split for r in records)), "texts": dict(texts),
            "pictures": len(store.arrays["image"]), "sizes": dict(shapes.most_common()), "sounds": len(store.arrays["audio"]),
            "minutes_of_sound": round(seconds / 60, 2), "clips": len(store.arrays["video"]), "held_out": held_out,
            "left_out": [entry._asdict() for entry in left_out]}


def _readable(report: dict) -> str:
    def listed(counts: dict) -> str:
        return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"

    lines = [f"{report['source']}: documents: {listed(report['documents'])}",
             f"texts: {listed(report['texts'])}",
             f"pictures: {report['pictures']} (width x height now: {listed(report['sizes'])})",
             f"sounds: {report['sounds']} ({report['minutes_of_sound']} minutes), clips: {report['clips']}",
             f"left out: {len(report['left_out'])}"]
    lines += [f"  {entry['name']}: {entry['reason']}" for entry in report["left_out"]]
    lines += ["in test, so never trained on:", *(f"  {name}" for name in report["held_out"])]
    return "\n".join(lines) + "\n"


def _stats(source: Path, found: list[own_files.Found]) -> list[tuple[str, int, int]]:
    """Name, bytes and time of change of everything that decides what is built."""
    named = {part.value for document in found for part in document.parts if isinstance(part.value, Path)}
    stats = []
    for path in sorted(named | {source}):
        with contextlib.suppress(OSError, ValueError):  # what cannot be looked at is named when it is read
            for each in sorted(path.iterdir()) if path.is_dir() and path != source else [path]:
                stats.append((repr(each), each.stat().st_size, each.stat().st_mtime_ns))
    return stats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder, or a .jsonl file")
    parser.add_argument("--out", type=Path, required=True, help="folder to build, e.g. data/own/world")
    parser.add_argument("--label-by-folder", action="store_true", help="what has no text is called as the folder it is in")
    args = parser.parse_args()
    build(args.source, args.out, args.label_by_folder)
    lines = (args.out / "report.txt").read_text().splitlines()
    print("\n".join(line for line in lines[:15]), f"... {args.out}/report.txt lists all" if len(lines) > 15 else "", sep="\n")


if __name__ == "__main__":
    errors.run(main)
