"""The text tokenizer's card: bytes in a piece, sentences cut into pieces, and whether every string comes back."""

import unicodedata
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int32

from data_prep import documents, emoji_world, phrases
from gemini_mini.cards import card
from gemini_mini.decode import page
from gemini_mini.evals import text_pieces
from gemini_mini.tokenizers import text

SCRIPTS = {"en": "English", "fr": "French", "ru": "Russian", "tr": "Turkish", "zh": "Chinese", "ja": "Japanese",
           "ko": "Korean", "ar": "Arabic", "fa": "Persian"}
CODE = "def area(radius):\n    return 3.14159 * radius ** 2  # of a circle\n"
EMOJI = "I 🧡 🐈\u200d⬛, e\u0301 and \u2581!"
NUM_STRINGS, MAX_CHARS = 20_000, 24
DEPTH_ASPECT = {256: (4, 64), 384: (6, 64)}  # sizes of decoder that a laptop trains


def make(tokenizer: text.TextTokenizer, world: emoji_world.World, row_shares: Mapping[str, float], num_codes: int) -> card.Card:
    """Held-out figures of one tokenizer; what its decoder reads, and the codes beside, are for the curve of sizes."""
    held = text_pieces.held_out(world)
    every = [line for lines in held.values() for line in lines]
    rows = [(name, str(len(texts)), f"{text_pieces.num_bytes(texts):,}",
             f"{text_pieces.bytes_per_piece(tokenizer, texts):.2f}") for name, texts in held.items()]
    counts = np.bincount(np.concatenate(tokenizer.encode_many(every)), minlength=tokenizer.num_pieces)
    num_failed = failures(tokenizer, every)
    num_tried = NUM_STRINGS + len(every)
    mixed = text_pieces.mix(world, row_shares)
    facts = [(f"{tokenizer.num_pieces:,}", "pieces"), ("256", "of them bytes"),
             (f"{1 / mixed.pieces_per_byte(tokenizer):.2f}", "bytes per piece of the mixture's text, held out"),
             (f"{num_tried - num_failed:,} of {num_tried:,}", "strings come back exactly")]
    sizes = text_pieces.train_sizes(documents.text_sample(world, row_shares, seed=0))
    curves = "".join(_curve(width, [text_pieces.size_of(t, mixed, *shape, num_codes) for t in sizes.values()], tokenizer.num_pieces)
                     for width, shape in DEPTH_ASPECT.items() if sizes)
    note = ("<p class='note'>Training FLOPs for a byte of text and the pictures and sounds beside it, relative to the "
            "cheapest. Few pieces: long texts. Many: a large output matrix. The dot is this tokenizer's size.</p>")
    return card.Card("Text", facts, [card.Table("Bytes per piece, held-out names, prose and code",
                                                ("text", "n", "bytes", "bytes per piece"), rows)],
                     [("Use of the pieces", card.usage_chart(counts, "pieces of held-out text")), ("Cut into pieces", _cuts(tokenizer, world)),
                      ("What a vocabulary of each size costs", f'{note}<div class="charts">{curves}</div>')])


def failures(tokenizer: text.TextTokenizer, texts: list[str]) -> int:
    """How many of `texts` and of seeded random strings, from all of Unicode, do not come back exactly."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0x110000 - 0x800, size=(NUM_STRINGS, MAX_CHARS))
    near = rng.integers(0x3000, size=codes.shape)  # most scripts, punctuation, and what moves and hides
    codes = np.where(rng.random(codes.shape) < 0.5, near, codes)
    codes += np.where(codes >= 0xD800, 0x800, 0)  # surrogates are no characters
    strings = ["".join(map(chr, row[:length])) for row, length in zip(codes.tolist(), rng.integers(MAX_CHARS + 1, size=NUM_STRINGS))]
    strings += texts
    return sum(tokenizer.decode(ids) != string for ids, string in zip(tokenizer.encode_many(strings), strings, strict=True))


def pieces(tokenizer: text.TextTokenizer, ids: Int32[np.ndarray, "T"]) -> list[str]:
    """What each piece writes; a byte of a character that has no piece is shown as two digits, its number."""
    names = [tokenizer.processor.id_to_piece(i) for i in ids.tolist()]
    return [name[3:5] if tokenizer.processor.is_byte(i) else name.replace(text.SPACE_MARK, " ")
            for name, i in zip(names, ids.tolist())]


def _cuts(tokenizer: text.TextTokenizer, world: emoji_world.World) -> str:
    held = text_pieces.held_out(world)
    sentences = [(name, phrases.DRAW[lang][0].format(name=held[lang][0])) for lang, name in SCRIPTS.items() if lang in held]
    rows = []
    for name, sentence in [*sentences, ("Code", CODE), ("Anything", EMOJI)]:
        ids = tokenizer.encode(sentence)
        cut = "".join(f'<span class="piece{" byte" if tokenizer.processor.is_byte(i) else ""}">{_visible(piece)}</span>'
                      for piece, i in zip(pieces(tokenizer, ids), ids.tolist()))
        rows.append([page.escape(name), f'<span dir="auto">{cut}</span>', f"{len(ids)}",
                     f"{len(sentence.encode()) / len(ids):.2f}"])
    return '<div class="scroll">' + page.table(rows, ("", "pieces; grey ones are single bytes", "pieces", "bytes per piece")) + "</div>"


def _visible(piece: str) -> str:
    """Spaces and line ends as signs, other control characters by number."""
    signs = {" ": "·", "\n": "⏎", "\t": "⇥"}
    return page.escape("".join(signs.get(c, c if unicodedata.category(c)[0] != "C" else f"{ord(c):04X}") for c in piece))


def _curve(width: int, sizes: list[text_pieces.Size], chosen: int) -> str:
    """FLOPs per byte over the number of pieces, on a logarithmic axis."""
    least = min(size.flops for size in sizes)
    high = max(1.5, min(2.0, max(size.flops for size in sizes) / least))
    wide, tall, left, bottom, top = 360, 200, 40, 22, 24
    exponents = [np.log2(size.pieces) for size in sizes]
    first, last = exponents[0], max(exponents[-1], exponents[0] + 1)

    def place(exponent: float, relative: float) -> tuple[float, float]:
        return (left + (wide - left - 20) * (exponent - first) / (last - first),
                tall - bottom - (tall - bottom - top) * (min(relative, high) - 1) / (high - 1))

    points = [place(exponent, size.flops / least) for exponent, size in zip(exponents, sizes)]
    parts = []
    for relative in np.arange(1, high + 0.01, 0.25 if high > 1.5 else 0.1):
        y = place(first, relative)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{wide - 8}" y1="{y:.1f}" y2="{y:.1f}"/>'
                     f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{relative:.2f}</text>')
    parts += [f'<text x="{x:.1f}" y="{tall - 6}" text-anchor="middle">{size.pieces}</text>' for (x, _), size in zip(points, sizes)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle class="valid" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
                   for (x, y), size in zip(points, sizes) if size.pieces == chosen)
    return (f'<svg class="chart" viewBox="0 0 {wide} {tall}" role="img" aria-label="cost over the number of pieces">'
            f'<text x="{left}" y="14" style="font-weight:600">decoder of width {width}</text>{"".join(parts)}'
            f'<polyline class="train" points="{line}"/>{dots}</svg>')
