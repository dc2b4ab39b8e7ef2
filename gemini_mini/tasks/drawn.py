"""What the decoder draws as it learns: a few fixed prompts of its own rows, the picture there above the model's.

Next: pretrain.py, which shows it at every evaluation.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from gemini_mini import stream, vocab as vocabulary
from gemini_mini.data import rows
from gemini_mini.decode import engine, grammar, sampling
from gemini_mini.model import decoder
from gemini_mini.tokenizers import bundle

PROMPTS = 2  # of each source
ROWS = 1_024  # looked through at once
WHITE = 255


class Question(NamedTuple):
    """A prompt up to the model's turn, and the document's own end, which opens with a picture."""

    prompt: Int32[np.ndarray, "T"]
    answer: Int32[np.ndarray, "_"]


def questions(stored: rows.Rows) -> list[Question]:
    """The first documents of each source whose model answers with a picture."""
    found = []
    for source in stored.sources.values():
        asked = _asked(source)
        found += [question for question, _ in zip(asked, range(PROMPTS))]
    return found


def _asked(source: Int32[np.ndarray, "R T"]) -> Iterator[Question]:
    opens = lambda ids: (ids[..., :-1] == vocabulary.MODEL) & (ids[..., 1:] == vocabulary.BOI)
    for start in range(0, len(source), ROWS):
        part = source[start : start + ROWS]
        for row in part[opens(part).any(axis=1)]:  # of the rows of speech there is none
            for document in np.split(row, np.flatnonzero(row == vocabulary.BOS))[1:]:
                if len(turns := np.flatnonzero(opens(document))):
                    answer = document[turns[0] + 1 :]
                    yield Question(document[: turns[0] + 1].astype(np.int32), answer[: np.argmax(answer == vocabulary.EOI) + 1])


def sheet(
    module: decoder.Decoder, tokenizers: bundle.Tokenizers, asked: list[Question]
) -> UInt8[np.ndarray, "height width 3"]:
    """Two lines of pictures: those of the documents, and what the model draws greedily; white where it draws none."""
    settings = engine.Settings(
        image=sampling.GREEDY, text=sampling.GREEDY, rules=grammar.Rules(has_text=False),
        max_tokens=max(len(question.answer) for question in asked) + 1, batch_rows=len(asked))
    answers = engine.generate(module, tokenizers.vocab, [question.prompt for question in asked], settings)
    lines = [[_picture(ids, tokenizers) for ids in column]
             for column in ([question.answer for question in asked], [answer.tokens for answer in answers])]
    height, width = (max(picture.shape[axis] for line in lines for picture in line) for axis in (0, 1))
    fill = lambda picture: np.pad(picture, ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)),
                                  constant_values=WHITE)
    return np.concatenate([np.concatenate([fill(picture) for picture in line], axis=1) for line in lines])


def _picture(ids: Int32[np.ndarray, "_"], tokenizers: bundle.Tokenizers) -> UInt8[np.ndarray, "height width 3"]:
    """The first picture of an answer."""
    if vocabulary.EOI not in ids:
        return np.full((1, 1, 3), WHITE, np.uint8)
    whole = [vocabulary.BOS, *ids[: np.argmax(ids == vocabulary.EOI) + 1], vocabulary.EOS]
    parts = stream.parse(np.array(whole, np.int32), tokenizers.vocab)
    return tokenizers.decode_parts(parts)[0].pixels
