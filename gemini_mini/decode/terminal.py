"""Answers on a terminal: text as it is written, pictures as blocks of colour."""

import os
import sys
from collections.abc import Callable

import numpy as np
from jaxtyping import Int32, UInt8

from gemini_mini import vocab as vocabulary

UNFINISHED = "\ufffd"  # what a decoder shows for the first bytes of a character


class Typewriter:
    """Turns the tokens of one answer into text as they come: `write("...")` gets every new bit."""

    def __init__(self, vocab: vocabulary.Vocab, decode: Callable[[Int32[np.ndarray, "T"]], str],
                 write: Callable[[str], object]):
        self.vocab, self.decode, self.write = vocab, decode, write
        self.pieces: list[int] = []
        self.shown = 0  # characters of the current text

    def add(self, tokens: Int32[np.ndarray, "_"]) -> None:
        """Write what these tokens add. A character cut in two waits for its other bytes."""
        for token, modality in zip(tokens.tolist(), self.vocab.modality_of(tokens)):
            if modality == vocabulary.TEXT:
                self.pieces.append(token - self.vocab.text_start)
            elif modality == vocabulary.CONTROL:
                self._show(is_final=True)
                self.pieces, self.shown = [], 0
                if token == vocabulary.BOI:
                    self.write("[picture]")
        self._show()

    def _show(self, is_final: bool = False) -> None:
        string = self.decode(np.array(self.pieces, np.int32)) if self.pieces else ""
        if not is_final:
            string = string.rstrip(UNFINISHED)
        self.write(printable(string[self.shown :]))
        self.shown = max(self.shown, len(string))


def printable(string: str) -> str:
    """Without the control characters that could move the cursor or rename the window."""
    return "".join(c if c.isprintable() or c in "\n\t" else UNFINISHED for c in string)


def has_colour() -> bool:
    """Whether standard output is a terminal that says it shows 24-bit colour."""
    return sys.stdout.isatty() and os.environ.get("COLORTERM", "") in ("truecolor", "24bit")


def picture(pixels: UInt8[np.ndarray, "height width 3"]) -> str:
    """Two pixels per character: the upper in the colour of a half block, the lower behind it."""
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, pixels[-1:]])
    lines = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist()):
        cells = (f"\x1b[38;2;{a};{b};{c};48;2;{x};{y};{z}m▀" for (a, b, c), (x, y, z) in zip(upper, lower))
        lines.append("".join(cells) + "\x1b[0m\n")
    return "".join(lines)
