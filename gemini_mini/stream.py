"""The stream: what a document is, its grammar, and the way to ids and back.

    document ::= BOS part* EOS
    part     ::= text | image | audio | video | role
    text     ::= piece+
    image    ::= BOI height width (code^width EOL)^height EOI      sizes count codes
    audio    ::= BOA code+ EOA
    video    ::= BOV (time image)+ EOV                             time ::= piece+
    role     ::= USER | MODEL

The grammar stands here once, as the table `NEXT`. `parse` walks it in Python; the sampler
walks the same table inside its compiled loop. The header always equals the grid.
Facts: an image is 16 x 16 = 256 flat codes in the Gemini report's reading by its commentators;
here any height x width, as in Emu3 (arXiv 2409.18869) with size header and end-of-line marks.
Next: tokenizers/bundle.py (parts to codes), data/packing.py (ids to rows).
"""

import enum
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from gemini_mini import errors, vocab as vocabulary
from gemini_mini.vocab import Vocab

SAMPLE_RATE_HZ = 16_000


class Text(NamedTuple):
    text: str


class Image(NamedTuple):
    pixels: UInt8[np.ndarray, "height width 3"]


class Audio(NamedTuple):
    """16 kHz mono; 1 is full scale, and a little more may stand between samples that were at it."""

    samples: Float32[np.ndarray, "samples"]


class Video(NamedTuple):
    frames: UInt8[np.ndarray, "frames height width 3"]
    seconds: Float32[np.ndarray, "frames"]


class Role(NamedTuple):
    """Who speaks next: "user" or "model"."""

    name: str


Part = Text | Image | Audio | Video | Role
Document = list[Part]


class Pieces(NamedTuple):
    ids: Int32[np.ndarray, "T"]


class Grid(NamedTuple):
    codes: Int32[np.ndarray, "Y X"]


class Sound(NamedTuple):
    codes: Int32[np.ndarray, "A"]


class Clip(NamedTuple):
    """Frames and the text pieces of their times."""

    times: list[Int32[np.ndarray, "T"]]
    grids: list[Grid]


EncodedPart = Pieces | Grid | Sound | Clip | Role

ROLE_IDS = {"user": vocabulary.USER, "model": vocabulary.MODEL}
ROLE_NAMES = {i: name for name, i in ROLE_IDS.items()}

(START, BODY, HEIGHT, WIDTH, CODE, LINE_END, IMAGE_END,
 SOUND_START, SOUND, CLIP_START, TIME, FRAME, DONE) = range(13)


class TokenClass(enum.IntEnum):
    """What the grammar sees of an id."""

    PAD, BOS, EOS, BOI, EOI, EOL, BOA, EOA, BOV, EOV, ROLE, SIZE, PIECE, IMAGE_CODE, AUDIO_CODE = range(15)


def _table() -> np.ndarray:
    c = TokenClass
    table = np.full((13, len(c)), -1, np.int8)
    for state, token, to in (
        (START, c.BOS, BODY),
        (BODY, c.PIECE, BODY), (BODY, c.ROLE, BODY), (BODY, c.EOS, DONE),
        (BODY, c.BOI, HEIGHT), (BODY, c.BOA, SOUND_START), (BODY, c.BOV, CLIP_START),
        (HEIGHT, c.SIZE, WIDTH), (WIDTH, c.SIZE, CODE),
        (CODE, c.IMAGE_CODE, CODE),        # LINE_END once the row is full
        (LINE_END, c.EOL, CODE),           # IMAGE_END once the last row is full
        (IMAGE_END, c.EOI, BODY),          # FRAME inside a video
        (SOUND_START, c.AUDIO_CODE, SOUND), (SOUND, c.AUDIO_CODE, SOUND), (SOUND, c.EOA, BODY),
        (CLIP_START, c.PIECE, TIME), (TIME, c.PIECE, TIME), (TIME, c.BOI, HEIGHT),
        (FRAME, c.PIECE, TIME), (FRAME, c.EOV, BODY),
        (DONE, c.PAD, DONE),
    ):
        table[state, token] = to
    return table


NEXT = _table()
EXPECTED = tuple(" or ".join(TokenClass(t).name for t in np.flatnonzero(row >= 0)) for row in NEXT)


def class_of(vocab: Vocab) -> np.ndarray:
    """The token class of every id, -1 for the padding tail: int8 [V]."""
    classes = np.full(vocab.size, -1, np.int8)
    classes[: vocabulary.USER] = np.arange(vocabulary.USER)  # PAD ... EOV, in the same order
    classes[[vocabulary.USER, vocabulary.MODEL]] = TokenClass.ROLE
    classes[vocabulary.SIZE_1 : vocab.text_start] = TokenClass.SIZE
    classes[vocab.text_start : vocab.image_start] = TokenClass.PIECE
    classes[vocab.image_start : vocab.audio_start] = TokenClass.IMAGE_CODE
    classes[vocab.audio_start : vocab.end] = TokenClass.AUDIO_CODE
    return classes


def render(parts: Sequence[EncodedPart], vocab: Vocab, is_prompt: bool = False) -> Int32[np.ndarray, "T"]:
    """Ids of a document, BOS to EOS; of a prompt, without the EOS.

    Neighbouring texts become one. Raises: InputError on a side above 32 codes or an empty part.
    """
    ids: list[np.ndarray | list[int]] = [[vocabulary.BOS]]
    for part in parts:
        ids.extend(_render_part(part, vocab))
    if not is_prompt:
        ids.append([vocabulary.EOS])
    return np.concatenate(ids).astype(np.int32)


def _render_part(part: EncodedPart, vocab: Vocab) -> list[np.ndarray | list[int]]:
    match part:
        case Role(name):
            return [[ROLE_IDS[name]]]
        case Pieces(ids):
            return [ids + vocab.text_start]
        case Sound(codes):
            if not len(codes):
                raise errors.InputError("audio: must have at least one code, got none; give a longer clip")
            return [[vocabulary.BOA], codes + vocab.audio_start, [vocabulary.EOA]]
        case Grid(codes):
            height, width = codes.shape
            header = [vocabulary.BOI, vocabulary.size_id(height), vocabulary.size_id(width)]
            ends = np.full((height, 1), vocabulary.EOL)
            return [header, np.hstack([codes + vocab.image_start, ends]).ravel(), [vocabulary.EOI]]
        case Clip(times, grids):
            if not grids:
                raise errors.InputError("video: must have at least one frame, got none")
            inner = [x for time, grid in zip(times, grids, strict=True)
                     for x in (time + vocab.text_start, *_render_part(grid, vocab))]
            return [[vocabulary.BOV], *inner, [vocabulary.EOV]]
    raise TypeError(f"render: not an encoded part: {type(part).__name__}")


def parse(ids: Int32[np.ndarray, "T"], vocab: Vocab) -> list[EncodedPart]:
    """The document that renders to these ids, padding after EOS left out.

    Raises: InputError naming the first position that breaks the grammar, or a missing end.
    """
    classes, table = class_of(vocab).tolist(), NEXT.tolist()  # lists: a walk reads one number at a time
    state, parts = START, []
    pieces, codes, times, grids = [], [], [], []
    height = width = 0
    in_video = False
    for at, token in enumerate(np.asarray(ids).tolist()):
        kind = classes[token] if 0 <= token < vocab.size else -1
        to = table[state][kind] if kind >= 0 else -1
        if to < 0:
            raise errors.InputError(f"stream: position {at} must be {EXPECTED[state]}, got id {token}")
        if pieces and kind != TokenClass.PIECE:  # a text or a time ends where something else begins
            (times if in_video else parts).append(
                np.array(pieces, np.int32) if in_video else Pieces(np.array(pieces, np.int32)))
            pieces = []
        match kind:
            case TokenClass.PIECE:
                pieces.append(token - vocab.text_start)
            case TokenClass.ROLE:
                parts.append(Role(ROLE_NAMES[token]))
            case TokenClass.SIZE if state == HEIGHT:
                height = token - vocabulary.SIZE_1 + 1
            case TokenClass.SIZE:
                width = token - vocabulary.SIZE_1 + 1
            case TokenClass.IMAGE_CODE:
                codes.append(token - vocab.image_start)
                to = LINE_END if len(codes) % width == 0 else CODE
            case TokenClass.EOL:
                to = IMAGE_END if len(codes) == height * width else CODE
            case TokenClass.EOI:
                grid = Grid(np.array(codes, np.int32).reshape(height, width))
                (grids if in_video else parts).append(grid)
                codes, to = [], FRAME if in_video else BODY
            case TokenClass.AUDIO_CODE:
                codes.append(token - vocab.audio_start)
            case TokenClass.EOA:
                parts.append(Sound(np.array(codes, np.int32)))
                codes = []
            case TokenClass.BOV:
                in_video = True
            case TokenClass.EOV:
                parts.append(Clip(times, grids))
                times, grids, in_video = [], [], False
        state = to
    if state != DONE:
        raise errors.InputError(f"stream: ends after {len(ids)} ids where {EXPECTED[state]} must follow")
    return parts
