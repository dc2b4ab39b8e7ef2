"""The grammar of the stream as a finite automaton that runs inside the compiled sampler.

`stream.NEXT` says which state follows a token; three counters (row, column, in a video?) settle
what the table leaves open. A row of the batch is a few integers, so rows in different modes
(one in the middle of a picture, one in a sentence) advance together.

The law: whatever the sampler has written can be completed within its budget. `need(state)` is
the length of the shortest ending, in closed form; a token is allowed when it leaves a state
whose shortest ending still fits:

    allowed(token)  =  NEXT has it  and  the rules open it  and  1 + need(next) <= budget

So a picture that could not close is never opened, and when the budget is just enough to close,
only closing tokens are left. Nothing is ever cut off, and nothing needs repair afterwards.
A prompt is walked in NumPy, by the same code: there it needs no program of its own.
Next: sampling.py (choosing among what is allowed), engine.py (the loop).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from gemini_mini import errors, stream, vocab as vocabulary
from gemini_mini.stream import TokenClass
from gemini_mini.vocab import Vocab

REJECTED = -1  # the state after a token that the grammar forbids; nothing follows it
SIZES = tuple(range(1, vocabulary.MAX_SIZE + 1))


@dataclasses.dataclass(frozen=True)
class Rules:
    """What an answer may open. What the prompt left open may always be finished."""

    has_text: bool = True
    has_images: bool = True
    has_audio: bool = False
    has_video: bool = False
    heights: tuple[int, ...] = SIZES  # of an image, in codes; one value fixes it
    widths: tuple[int, ...] = SIZES

    def __post_init__(self):
        for name, sizes in (("heights", self.heights), ("widths", self.widths)):
            if not sizes or not set(sizes) <= set(SIZES):
                raise errors.InputError(
                    f"grammar: {name} must be sizes from 1 to {vocabulary.MAX_SIZE} codes, got {sizes}")


class GrammarState(NamedTuple):
    """Where each row stands: a state of `stream` and the counters that complete it. NumPy's or JAX's arrays."""

    mode: Int32[Array, "B"]
    height: Int32[Array, "B"]  # of the open image, in codes
    width: Int32[Array, "B"]
    row: Int32[Array, "B"]  # finished lines of the open image
    column: Int32[Array, "B"]  # codes written in the open line
    is_video: Int32[Array, "B"]  # 1 between BOV and EOV


def start(batch: int) -> GrammarState:
    """Before any token."""
    return GrammarState(*(np.full(batch, value, np.int32) for value in (stream.START, 0, 0, 0, 0, 0)))


@dataclasses.dataclass(frozen=True)
class Grammar:
    """The automaton over one vocabulary, under rules. Hashable: a static argument of `jax.jit`."""

    vocab: Vocab
    rules: Rules = Rules()

    def advance(self, state: GrammarState, tokens: Int32[Array | np.ndarray, "*B"]) -> GrammarState:
        """Read one token per row. A finished row stays finished on padding."""
        xp = _namespace(state.mode, tokens)
        kind = _namespace(tokens).asarray(stream.class_of(self.vocab).astype(np.int32))[tokens]
        to = xp.asarray(stream.NEXT.astype(np.int32))[state.mode, kind]
        size = tokens - vocabulary.SIZE_1 + 1
        is_code, is_end = kind == TokenClass.IMAGE_CODE, kind == TokenClass.EOL
        height = xp.where(state.mode == stream.HEIGHT, size, state.height)
        width = xp.where(state.mode == stream.WIDTH, size, state.width)
        column = xp.where(is_code, state.column + 1, 0)
        row = xp.where(kind == TokenClass.SIZE, 0, state.row + is_end)
        after_code = xp.where(column < width, stream.CODE, stream.LINE_END)
        after_line = xp.where(row < height, stream.CODE, stream.IMAGE_END)
        after_image = xp.where(state.is_video == 1, stream.FRAME, stream.BODY)
        resolved = xp.where(is_code, after_code, xp.where(is_end, after_line, xp.where(kind == TokenClass.EOI, after_image, to)))
        is_legal = (state.mode >= 0) & (kind >= 0) & (to >= 0)
        is_video = xp.where(kind == TokenClass.BOV, 1, xp.where(kind == TokenClass.EOV, 0, state.is_video))
        after = (xp.where(is_legal, resolved, REJECTED), height, width, row, column, is_video)
        return GrammarState(*(x.astype(np.int32) for x in after))

    def need(self, state: GrammarState) -> Int32[Array | np.ndarray, "*B"]:
        """Fewest tokens, EOS included, that finish each row."""
        xp, low_width = _namespace(state.mode), min(self.rules.widths)
        image = 3 + _lines(min(self.rules.heights), low_width)  # two sizes, the lines, EOI
        at_least = {stream.START: 2, stream.BODY: 1, stream.HEIGHT: image, stream.WIDTH: 2, stream.CODE: 1, stream.LINE_END: 1,
                    stream.IMAGE_END: 1, stream.SOUND_START: 3, stream.SOUND: 2, stream.CLIP_START: 2 + image + 2,
                    stream.TIME: 1 + image + 2, stream.FRAME: 2}
        known = np.zeros(len(stream.NEXT), np.int32)
        known[list(at_least)] = list(at_least.values())
        is_line = (state.mode == stream.CODE) | (state.mode == stream.LINE_END)
        is_image = is_line | (state.mode == stream.HEIGHT) | (state.mode == stream.WIDTH) | (state.mode == stream.IMAGE_END)
        tail = xp.where(is_image, xp.where(state.is_video == 1, 2, 1), 0)  # after the image: EOV? EOS
        written = xp.where(state.mode == stream.CODE, state.column, state.width)
        lines = xp.where(state.mode == stream.WIDTH, _lines(state.height, low_width),
                         xp.where(is_line, _lines(state.height - state.row, state.width) - written, 0))
        return (xp.asarray(known)[state.mode] + tail + lines).astype(np.int32)

    def allowed(self, state: GrammarState, budget: Int32[Array, "B"]) -> Bool[Array, "B V"]:
        """The ids that may come next when `budget` tokens, EOS included, may still be written.

        At least one id is allowed whenever `need(state) <= budget`. A finished row is given PAD.
        """
        return self.spread(self.open_groups(state, budget))

    def open_groups(self, state: GrammarState, budget: Int32[Array, "B"]) -> Bool[Array, "B group"]:
        """The same by groups of ids that the grammar cannot tell apart."""
        _, examples, opened = self._groups()
        after = self.need(self.advance(jax.tree.map(lambda x: x[:, None], state), examples[None]))  # B group
        fits = (after < budget[:, None]) | (state.mode == stream.DONE)[:, None]
        return jnp.asarray(opened)[state.mode] & fits & (state.mode >= 0)[:, None]

    def spread(self, is_open: Bool[Array, "B group"]) -> Bool[Array, "B V"]:
        """From groups to their ids."""
        return is_open[:, self._groups()[0]]

    def forced(self, is_open: Bool[Array, "B group"]) -> Int32[Array, "B"]:
        """The one id that may come next: the end of a line, a size the rules fix, ...; -1 where there is a choice."""
        group_of, examples, _ = self._groups()
        group = jnp.argmax(is_open, axis=-1)
        is_only = (jnp.sum(is_open, axis=-1) == 1) & jnp.asarray(np.bincount(group_of) == 1)[group]
        return jnp.where(is_only, jnp.asarray(examples)[group], -1)

    def _groups(self) -> tuple[Int32[np.ndarray, "V"], Int32[np.ndarray, "group"], Bool[np.ndarray, "mode group"]]:
        """Ids the grammar cannot tell apart: the group of each, one of each, and who may open it.

        Every control id is a group (sizes differ), and so is every modality.
        """
        ids = np.arange(self.vocab.size, dtype=np.int32)
        in_modality = vocabulary.NUM_CONTROL + self.vocab.modality_of(ids)
        _, examples, group_of = np.unique(
            np.where(ids < vocabulary.NUM_CONTROL, ids, in_modality), return_index=True, return_inverse=True)
        kind = stream.class_of(self.vocab)[examples]
        opened = (stream.NEXT[:, kind] >= 0) & (kind >= 0)
        rules = self.rules
        for token, is_open in (
            (TokenClass.PIECE, rules.has_text), (TokenClass.BOI, rules.has_images),
            (TokenClass.BOA, rules.has_audio), (TokenClass.BOV, rules.has_video), (TokenClass.ROLE, False),
        ):
            opened[stream.BODY, kind == token] &= is_open
        size = examples - vocabulary.SIZE_1 + 1
        for mode, sizes in ((stream.HEIGHT, rules.heights), (stream.WIDTH, rules.widths)):
            opened[mode] &= np.isin(size, sizes)
        return group_of.astype(np.int32), examples.astype(np.int32), opened


def _namespace(*arrays: Array | np.ndarray):
    """jax.numpy if it made one of the arrays, else NumPy."""
    return jnp if any(isinstance(x, jax.Array) for x in arrays) else np


def _lines(height, width):
    """Tokens in the lines of an image: codes and an EOL each."""
    return height * (width + 1)
