"""Moving pictures with exact captions: one emoji on white that moves or changes size.

Four frames, one second apart. The object is about 8 pixels on 16 x 16, so a frame is 4 x 4 codes
and a clip costs about as much as one large picture.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_prep import pictures, splits

MOTIONS = ("left", "right", "up", "down", "grows", "shrinks")
NUM_FRAMES = 4


class Shot(NamedTuple):
    """What is filmed: an item of the world, its motion, and which of the variants of the two."""

    item: int
    motion: str
    variant: int
    split: str


def film(chars: str, motion: str, key: str, size: int) -> UInt8[np.ndarray, "frames size size 3"]:
    """Film an emoji. `key` decides the lane it moves in (or the ends of its growth)."""
    large = _sprite(chars, 4 * size)
    start, end, lane = _path(motion, key, size)
    frames = []
    for frame in range(NUM_FRAMES):
        at = start + (end - start) * frame / (NUM_FRAMES - 1)
        if motion in ("grows", "shrinks"):
            frames.append(_place(large, size, round(at), (size - round(at)) // 2, (size - round(at)) // 2))
        else:
            along = round(at)
            x, y = (along, lane) if motion in ("left", "right") else (lane, along)
            frames.append(_place(large, size, size // 2, x, y))
    return np.stack(frames)


_sprite = functools.lru_cache(maxsize=8)(pictures.sprite)   # the shots of one object follow one another


def _path(motion: str, key: str, size: int) -> tuple[int, int, int]:
    """(first, last, lane): of the object's place along its way and across it, or of its size."""
    if motion in ("grows", "shrinks"):
        small = size // 4 + splits.bucket(f"small {key}", size // 8 + 1)
        large = size - splits.bucket(f"large {key}", size // 8 + 1)
        return (small, large, 0) if motion == "grows" else (large, small, 0)
    free = size - size // 2
    lane = splits.bucket(f"lane {key}", free + 1)
    return (0, free, lane) if motion in ("right", "down") else (free, 0, lane)


def _place(large: Any, size: int, side: int, x: int, y: int) -> np.ndarray:
    """One frame: the sprite fitted into `side` pixels, the corner of its box at (x, y)."""
    scale = side / max(large.size)
    small = large.resize((max(1, round(large.width * scale)), max(1, round(large.height * scale))),
                         Image.Resampling.BOX)
    frame = Image.new("RGB", (size, size), pictures.BACKGROUND)
    frame.paste(small, (x + (side - small.width) // 2, y + (side - small.height) // 2), small)
    return np.asarray(frame)
