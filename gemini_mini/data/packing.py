"""Documents to fixed rows, and what a row means.

A row is only its ids: documents one after another, padding at the end. Everything else
follows from the BOS marks: segment, position, and which targets count. No document is cut, so
no part is; documents of one row never see each other.
Next: rows.py, which stores rows; loader.py, which deals them out.
"""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from gemini_mini import errors, vocab as vocabulary

NOBODY, USER, MODEL = range(3)


class Batch(NamedTuple):
    """The one contract between data and model. Segment 0 is padding; `speaker` is NOBODY, the USER or the MODEL."""

    tokens: Int32[np.ndarray, "B T"]
    positions: Int32[np.ndarray, "B T"]
    segments: Int32[np.ndarray, "B T"]
    targets: Int32[np.ndarray, "B T"]
    has_target: Float32[np.ndarray, "B T"]
    speaker: Int32[np.ndarray, "B T"]


def pack(documents: Sequence[Int32[np.ndarray, "_"]], row_tokens: int) -> Int32[np.ndarray, "R T"]:
    """Best fit, longest document first: each goes to the fullest row that still has room.

    Raises: InputError when a document is longer than a row.
    """
    order = sorted(range(len(documents)), key=lambda i: (-len(documents[i]), i))
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free ids, row), sorted
    for i in order:
        size = len(documents[i])
        if size > row_tokens:
            raise errors.InputError(f"packing: document {i} has {size} ids, a row holds {row_tokens}; "
                                    "use longer rows, smaller pictures or shorter clips")
        at = bisect.bisect_left(room, (size, -1))
        free, row = room.pop(at) if at < len(room) else (row_tokens, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(i)
        bisect.insort(room, (free - size, row))
    packed = np.full((len(rows), row_tokens), vocabulary.PAD, np.int32)
    for row, members in enumerate(rows):
        ids = np.concatenate([documents[i] for i in sorted(members)])
        packed[row, : len(ids)] = ids
    return packed


def batch_of(tokens: Int32[np.ndarray, "B T"]) -> Batch:
    """What the ids of packed rows imply. The last id of a document and padding have no target."""
    starts = tokens == vocabulary.BOS
    segments = np.where(tokens == vocabulary.PAD, 0, np.cumsum(starts, axis=1))
    column = np.arange(tokens.shape[1])
    positions = column - np.maximum.accumulate(np.where(starts, column, 0), axis=1)
    targets = np.roll(tokens, -1, axis=1)
    targets[:, -1] = vocabulary.PAD
    same = (segments == np.roll(segments, -1, axis=1)) & (segments > 0) & (column < tokens.shape[1] - 1)
    is_turn = starts | (tokens == vocabulary.USER) | (tokens == vocabulary.MODEL)
    turn = np.maximum.accumulate(np.where(is_turn, column, 0), axis=1)
    role = np.where(tokens == vocabulary.PAD, vocabulary.PAD, np.take_along_axis(tokens, turn, axis=1))
    speaker = np.select([role == vocabulary.USER, role == vocabulary.MODEL], [USER, MODEL], NOBODY)
    return Batch(tokens.astype(np.int32), positions.astype(np.int32), segments.astype(np.int32),
                 targets.astype(np.int32), same.astype(np.float32), speaker.astype(np.int32))


def is_said_by_user(tokens, speaker):
    """What a null prompt hides: all that the user says and shows, but not the mark of the role. Of numpy or jax arrays."""
    return (speaker == USER) & (tokens != vocabulary.USER)
