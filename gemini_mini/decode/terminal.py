"""Answers on a terminal: text as it is written, pictures where they come.

Pictures go out in the protocol that the terminal speaks: kitty's, iTerm2's, sixel (DEC's, 1983), or
as half blocks, two pixels a character, which any terminal with 24-bit colour shows.
Sources: sw.kovidgoyal.net/kitty/graphics-protocol, iterm2.com/documentation-images.html,
vt100.net/docs/vt3xx-gp/chapter14.html (sixel).
"""

import base64
import io
import os
import select
import sys
import unicodedata
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import PIL.Image
from jaxtyping import Int32, UInt8

from gemini_mini import stream, vocab as vocabulary

try:
    import termios
    import tty
except ImportError:  # Windows, whose terminals are not asked
    termios = tty = None

UNFINISHED = "\ufffd"  # what a decoder shows for the first bytes of a character
TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # the reading order of what follows
PROTOCOLS = ("kitty", "iterm", "sixel", "blocks", "none")
Protocol = Literal["kitty", "iterm", "sixel", "blocks", "none"]
SHOWN_PIXELS = 256  # the longer side of a picture, blown up without smoothing
KITTY_CHUNK = 4096  # most characters of one escape sequence
ANSWER_WAIT_S = 0.2  # for a terminal to say what it can show


class Typewriter:
    """Turns the tokens of one answer into text and parts as they come.

    `write("...")` gets every new bit of text, `show(part)` every picture and sound that is whole.
    """

    def __init__(self, vocab: vocabulary.Vocab, decode: Callable[[Int32[np.ndarray, "T"]], str],
                 write: Callable[[str], object], show: Callable[[stream.EncodedPart], object]):
        self.vocab, self.decode, self.write, self.show = vocab, decode, write, show
        self.pieces: list[int] = []
        self.shown = 0  # characters of the current text
        self.sizes: list[int] = []
        self.codes: list[int] = []

    def add(self, tokens: Int32[np.ndarray, "_"]) -> None:
        """Write what these tokens add. A character cut in two waits for its other bytes."""
        starts = {vocabulary.IMAGE: self.vocab.image_start, vocabulary.AUDIO: self.vocab.audio_start}
        for token, modality in zip(tokens.tolist(), self.vocab.modality_of(tokens).tolist()):
            if modality == vocabulary.TEXT:
                self.pieces.append(token - self.vocab.text_start)
            elif modality in starts:
                self.codes.append(token - starts[modality])
            else:
                self._finish(token)
        self._write()

    def _finish(self, token: int) -> None:
        """What a control token ends."""
        self._write(is_final=True)
        self.pieces, self.shown = [], 0
        if vocabulary.SIZE_1 <= token < vocabulary.NUM_CONTROL:
            self.sizes.append(token - vocabulary.SIZE_1 + 1)
        elif token in (vocabulary.EOI, vocabulary.EOA):
            codes = np.array(self.codes, np.int32)
            self.show(stream.Grid(codes.reshape(self.sizes)) if token == vocabulary.EOI else stream.Sound(codes))
            self.codes, self.sizes = [], []

    def _write(self, is_final: bool = False) -> None:
        string = self.decode(np.array(self.pieces, np.int32)) if self.pieces else ""
        if not is_final:
            string = string.rstrip(UNFINISHED)
        self.write(printable(string[self.shown :]))
        self.shown = max(self.shown, len(string))


def printable(string: str) -> str:
    """Without what could move the cursor, rename the window or turn the reading order; joiners and special spaces stay."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") and c not in TURNING else UNFINISHED
                   for c in string)


def protocol(environment: Mapping[str, str] = os.environ) -> Protocol:
    """How standard output shows pictures; "none" where it is no terminal or says nothing of colour."""
    if not sys.stdout.isatty():
        return "none"
    if "TMUX" not in environment:  # which passes no pictures on
        program = environment.get("TERM_PROGRAM", "")
        if "KITTY_WINDOW_ID" in environment or environment.get("TERM") == "xterm-kitty" or program == "ghostty":
            return "kitty"
        if program in ("iTerm.app", "WezTerm"):
            return "iterm"
        if sys.stdin.isatty() and has_sixel(sys.stdin.fileno()):
            return "sixel"
    return "blocks" if environment.get("COLORTERM") in ("truecolor", "24bit") else "none"


def has_sixel(terminal: int) -> bool:
    """Ask a terminal for its attributes, of which 4 is sixel; one that does not answer soon has none."""
    if termios is None:
        return False
    before, answer = termios.tcgetattr(terminal), b""
    try:
        tty.setcbreak(terminal)
        os.write(terminal, b"\x1b[c")
        while not answer.endswith(b"c") and select.select([terminal], [], [], ANSWER_WAIT_S)[0]:
            answer += os.read(terminal, 64)
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)
    return b"4" in answer.partition(b"?")[2].rstrip(b"c").split(b";")


def picture(pixels: UInt8[np.ndarray, "height width 3"], how: Protocol) -> str:
    """A picture as what a terminal is sent, with an end of line."""
    match how:
        case "blocks":
            return blocks(pixels)
        case "none":
            return ""
    times = max(1, SHOWN_PIXELS // max(pixels.shape[:2]))
    large = PIL.Image.fromarray(pixels.repeat(times, 0).repeat(times, 1))
    if how == "sixel":
        return sixel(large) + "\n"
    png = io.BytesIO()
    large.save(png, "PNG")
    data = base64.b64encode(png.getvalue()).decode()
    if how == "iterm":
        return f"\x1b]1337;File=inline=1;width={large.width}px;height={large.height}px:{data}\x07\n"
    chunks = [data[at : at + KITTY_CHUNK] for at in range(0, len(data), KITTY_CHUNK)]
    heads = ["a=T,f=100,q=2,"] + [""] * (len(chunks) - 1)
    return "".join(f"\x1b_G{head}m={int(at < len(chunks) - 1)};{chunk}\x1b\\"
                   for at, (head, chunk) in enumerate(zip(heads, chunks))) + "\n"


def blocks(pixels: UInt8[np.ndarray, "height width 3"]) -> str:
    """Two pixels per character: the upper in the colour of a half block, the lower behind it."""
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, pixels[-1:]])
    lines = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist()):
        cells = (f"\x1b[38;2;{a};{b};{c};48;2;{x};{y};{z}m▀" for (a, b, c), (x, y, z) in zip(upper, lower))
        lines.append("".join(cells) + "\x1b[0m\n")
    return "".join(lines)


def sixel(image: PIL.Image.Image) -> str:
    """Bands of six lines; in each, for every colour, a character of six bits per column, repeats counted."""
    indexed = image.quantize(255, dither=PIL.Image.Dither.NONE)
    index = np.asarray(indexed)
    colours = np.array(indexed.getpalette(), int).reshape(-1, 3)
    out = [f'\x1bPq"1;1;{image.width};{image.height}']
    out += [f"#{i};2;" + ";".join(str(round(c / 2.55)) for c in colours[i]) for i in np.unique(index)]
    for top in range(0, image.height, 6):
        band = index[top : top + 6]
        for colour in np.unique(band):
            bits = ((band == colour) << np.arange(len(band))[:, None]).sum(0)
            starts = np.flatnonzero(np.diff(bits, prepend=-1))
            runs = np.diff(starts, append=len(bits))
            out.append(f"#{colour}" + "".join(f"!{n}{chr(63 + bits[at])}" for at, n in zip(starts, runs)) + "$")
        out.append("-")
    return "".join(out) + "\x1b\\"
