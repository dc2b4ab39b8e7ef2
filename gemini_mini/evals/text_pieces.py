"""How well text pieces fit what is read: bytes in a piece, and what a vocabulary of each size costs.

More pieces make shorter texts and a larger matrix from hidden states to logits. A decoder reads
the same documents whatever the vocabulary; `Size.flops` is what a byte of their text then costs,
with the pictures and sounds that stand beside it.
Next: ../cards/text.py, ../../benchmarks/text_tokenizer.py.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from data_prep import documents, emoji_world, pictures
from gemini_mini import errors, stream, vocab as vocabulary
from gemini_mini.model import decoder
from gemini_mini.tokenizers import text

ROW_TOKENS = 448
SIZES = (512, 1024, 2048, 4096, 8192, 16384)


def held_out(world: emoji_world.World) -> dict[str, list[str]]:
    """Texts no tokenizer was trained on: names of the valid split in each language, prose and code."""
    found = {lang: [item.names[lang] for item in world.items if item.name_splits.get(lang) == "valid"]
             for lang in pictures.LANGUAGES}
    for name, source in (("prose", world.prose), ("code", world.code)):
        found[name] = [text for split, text, _ in source if split == "valid"]
    return {name: texts for name, texts in found.items() if texts}


def num_bytes(texts: Sequence[str]) -> int:
    """Of all texts as UTF-8."""
    return sum(len(string.encode()) for string in texts)


def bytes_per_piece(tokenizer: text.TextTokenizer, texts: Sequence[str]) -> float:
    """UTF-8 bytes that a piece stands for, over all texts together."""
    return num_bytes(texts) / sum(map(len, tokenizer.encode_many(texts)))


class Mix(NamedTuple):
    """What a decoder reads: held-out texts of each source, its share of all text, and what stands beside a byte."""

    texts: dict[str, list[str]]
    shares: dict[str, float]
    other_ids_per_byte: float

    def pieces_per_byte(self, tokenizer: text.TextTokenizer) -> float:
        return sum(share / bytes_per_piece(tokenizer, self.texts[name]) for name, share in self.shares.items())


def mix(world: emoji_world.World, row_shares: Mapping[str, float]) -> Mix:
    """The mixture's texts, from questions about the valid split; a source without any is left out."""
    known = held_out(world)
    texts = {name: [part.text for example in documents.examples(world, name, "valid")
                    for part in [*example.prompt, *example.answer] if isinstance(part, stream.Text)]
             for name in row_shares if name in documents.TASKS}
    texts |= {name: known[name] for name in ("prose", "code") if name in known and name in row_shares}
    read = documents.read(world, row_shares, seed=0)
    shares = {name: read[name].num_bytes for name, found in texts.items() if found and name in read}
    total = sum(shares.values())
    beside = sum(found.other_ids for found in read.values()) / sum(found.num_bytes for found in read.values())
    return Mix(texts, {name: share / total for name, share in shares.items()}, beside)


class Size(NamedTuple):
    """A vocabulary of one size, read by a decoder of one size."""

    pieces: int
    pieces_per_byte: float
    embedding_params: int  # of the embedding, and of the values that ids bring to each block
    params: int
    embedding_flops_share: float
    flops: float  # to train on a byte of text and on what stands beside it


def train_sizes(sample: Sequence[str], sizes: Sequence[int] = SIZES) -> dict[int, text.TextTokenizer]:
    """A tokenizer of each size, but for those that cannot hold the sample's letters or that its words cannot fill."""
    found = {}
    for size in sizes:
        with contextlib.suppress(errors.InputError):
            found[size] = text.train(sample, size)
    return found


def size_of(tokenizer: text.TextTokenizer, mixed: Mix, depth: int, aspect: int, num_codes: int) -> Size:
    """What this vocabulary costs a decoder of that size, with so many codes of images and sounds in the id space beside it."""
    pieces_per_byte = mixed.pieces_per_byte(tokenizer)
    vocab = vocabulary.Vocab(tokenizer.num_pieces, num_codes, 0, "")
    config = decoder.DecoderConfig(vocab_size=vocab.size, depth=depth, aspect=aspect, shortcuts=True)
    embedding, flops = vocab.size * config.width, config.flops_per_token(ROW_TOKENS)
    return Size(tokenizer.num_pieces, pieces_per_byte, embedding + config.num_token_values, config.num_params, 6 * embedding / flops,
                flops * (pieces_per_byte + mixed.other_ids_per_byte))
