"""Longer films of the world's clips, asked about in several ways: 16 frames of one object in one motion.

The clips of the world have four frames; these are the same objects and motions, held out by the same rule
(splits.of_motion), filmed anew from the world's pictures. Sixteen equally spaced frames of a longer film are
what an evaluation shows: `spaced` picks them.
Facts: 16 equally spaced frames a video (Gemini report, section 5.2.2).
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from data_prep import phrases, pictures, questions, splits
from data_prep.emoji_world import World
from gemini_mini.stream import Document, Text, Video

FILM_FRAMES, SHOWN_FRAMES = 46, 16   # every third frame is shown
FRAMES_PER_SECOND = 3
WHAT, WHERE, IS_IT, GROWS = "What is filmed?", "Which motion?", "Is it the {name}?", "Does its size change?"


def spaced(num_frames: int, wanted: int) -> Int64[np.ndarray, "wanted"]:
    """Indices of `wanted` equally spaced frames, first and last included."""
    return np.rint(np.linspace(0, num_frames - 1, wanted)).astype(np.int64)


def film(picture: UInt8[np.ndarray, "side side 3"], motion: str, key: str, size: int) -> UInt8[np.ndarray, "frames size size 3"]:
    """FILM_FRAMES of an object on white; `key` decides its lane, or the ends of its growth."""
    ink = np.flatnonzero((picture.min(axis=2) < 250).any(axis=1)), np.flatnonzero((picture.min(axis=2) < 250).any(axis=0))
    cut = Image.fromarray(picture[ink[0][0] : ink[0][-1] + 1, ink[1][0] : ink[1][-1] + 1])
    small, large = size // 4 + splits.bucket(f"small {key}", size // 8 + 1), size - splits.bucket(f"large {key}", size // 8 + 1)
    half, lane = size // 2, splits.bucket(f"lane {key}", size - size // 2 + 1)
    frames = []
    for share in np.linspace(0, 1, FILM_FRAMES):
        along = round((size - half) * (share if motion in ("right", "down") else 1 - share))
        side = round(small + (large - small) * (share if motion == "grows" else 1 - share))
        match motion:
            case "grows" | "shrinks":
                frames.append(_frame(cut, size, side, (size - side) // 2, (size - side) // 2))
            case "left" | "right":
                frames.append(_frame(cut, size, half, along, lane))
            case _:
                frames.append(_frame(cut, size, half, lane, along))
    return np.stack(frames)


def _frame(cut: Image.Image, size: int, side: int, left: int, top: int) -> np.ndarray:
    """The object fitted into `side` pixels, the corner of its box at (left, top)."""
    scale = side / max(cut.size)
    small = cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), Image.Resampling.BOX)
    sheet = Image.new("RGB", (size, size), pictures.BACKGROUND)
    sheet.paste(small, (left + (side - small.width) // 2, top + (side - small.height) // 2))
    return np.asarray(sheet)


def show(world: World, shot: int, variant: int = 0) -> Video:
    """SHOWN_FRAMES equally spaced frames of the film of a world's shot, and their times."""
    seen = world.shots[shot]
    key = f"film {world.items[seen.item].names['en']} {seen.motion} {variant}"
    frames = film(np.asarray(world.pictures[seen.item]), seen.motion, key, world.config.video_size)
    chosen = spaced(len(frames), SHOWN_FRAMES)
    return Video(frames[chosen], (chosen / FRAMES_PER_SECOND).astype(np.float32))


def ask(world: World, shot: int) -> list[tuple[str, str]]:
    """Every question about a shot with its answer; who moves, how, and two to be denied or not."""
    seen, objects = world.shots[shot], sorted({each.item for each in world.shots})
    name = world.items[seen.item].names["en"]
    other = world.items[objects[splits.bucket(f"other {name} {seen.motion}", len(objects))]].names["en"]
    asked = name if splits.bucket(f"is it {name} {seen.motion}", 2) else other
    yes, no = phrases.YES_NO["en"]
    return [(WHAT, name), (WHERE, seen.motion), (IS_IT.format(name=asked), yes if asked == name else no),
            (GROWS, yes if seen.motion in ("grows", "shrinks") else no)]


def caption(world: World, rng: np.random.Generator) -> Iterator[Document]:
    for shot in _shots(world, "train"):
        yield questions.turn([show(world, shot, int(rng.integers(1 << 16))), Text(phrases.WATCH["en"][0])], [Text(_caption(world, shot))])


def watch(world: World, rng: np.random.Generator) -> Iterator[Document]:
    """The clip is shown once and asked about twice."""
    for shot in _shots(world, "train"):
        found = ask(world, shot)
        (first, said), (second, then) = (found[int(i)] for i in rng.permutation(len(found))[:2])
        clip = show(world, shot, int(rng.integers(1 << 16)))
        yield questions.chat([([clip, Text(first)], [Text(said)]), ([Text(second)], [Text(then)])])


def caption_examples(world: World, split: str) -> Iterator[questions.Example]:
    for shot in _shots(world, split):
        question = [show(world, shot), Text(phrases.WATCH["en"][0])]
        yield questions.example(question, [Text(_caption(world, shot))], world.shots[shot].item, "en")


def watch_examples(world: World, split: str) -> Iterator[questions.Example]:
    for shot in _shots(world, split):
        for question, answer in ask(world, shot):
            yield questions.example([show(world, shot), Text(question)], [Text(answer)], world.shots[shot].item, "en")


def _caption(world: World, shot: int) -> str:
    seen = world.shots[shot]
    return phrases.MOTION["en"][seen.motion].format(name=world.items[seen.item].names["en"])


def _shots(world: World, split: str) -> list[int]:
    """One shot of each pair of object and motion."""
    return [shot for shot, seen in enumerate(world.shots) if seen.split == split and seen.variant == 0]


SOURCES = {"film": caption, "watch": watch}
TASKS = {"film": caption_examples, "watch": watch_examples}
