"""Text pieces: SentencePiece trained on a sample of everything.

Byte fallback makes every string a sentence of the language; whitespace is kept and digits are
split, so code survives the round trip exactly. One character does not by itself: SentencePiece
writes a space as U+2581 inside, and gives one back for the other. So U+2581 is spelt in bytes.
Fact: the Gemini report (section 4) trains its vocabulary on a large sample of the whole corpus.
"""

import collections
import io
import itertools
import os
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece
from jaxtyping import Int32

from gemini_mini import errors, files


SPACE_MARK = "\u2581"
NUM_BYTES = 256
LONGEST = 1 << 18  # characters of a sentence, of up to four bytes each: SentencePiece would leave out longer ones without a word


class TextTokenizer:
    """Encodes str to piece ids from 0 and back.

    Raises: InputError when `model_proto` is not a SentencePiece model.
    """

    def __init__(self, model_proto: bytes):
        self.model_proto = model_proto
        self.processor = sentencepiece.SentencePieceProcessor()
        try:
            self.processor.LoadFromSerializedProto(model_proto)
        except RuntimeError:
            raise errors.InputError("text tokenizer: not a SentencePiece model; train it again") from None

    @property
    def num_pieces(self) -> int:
        return self.processor.vocab_size()

    @property
    def fingerprint(self) -> str:
        return files.hash_bytes(self.model_proto)

    def encode(self, text: str) -> Int32[np.ndarray, "T"]:
        """Raises: InputError on lone surrogates, which no UTF-8 text holds."""
        return self.encode_many([text], num_threads=1)[0]

    def encode_many(self, texts: Sequence[str], num_threads: int = os.cpu_count() or 1) -> list[Int32[np.ndarray, "_"]]:
        """Pieces of each text, `num_threads` at a time. Raises: InputError as `encode`."""
        for index, text in enumerate(texts):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise errors.InputError(f"text {index}: must be valid Unicode, got a lone surrogate at character "
                                        f"{error.start}; remove it") from None
        between = [span for text in texts for span in text.split(SPACE_MARK)]
        encoded = iter(self.processor.encode(between, num_threads=num_threads))
        mark = [self.processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
        out = []
        for text in texts:
            ids = next(encoded)
            for span in itertools.islice(encoded, text.count(SPACE_MARK)):
                ids += mark + span
            out.append(np.array(ids, np.int32))
        return out

    def decode(self, ids: Int32[np.ndarray, "T"]) -> str:
        """Bytes that are no UTF-8 become the replacement character."""
        return self.processor.decode(np.asarray(ids).tolist())


def train(sentences: Iterable[str], num_pieces: int, is_exact: bool = True) -> TextTokenizer:
    """Train a BPE vocabulary; the same sentences give the same model.

    Unless `is_exact`, any sample will do: a small one has fewer pieces, and of many letters the rare ones are bytes.
    Raises: InputError when the sample does not fit `num_pieces`.
    """
    out = io.BytesIO()
    sentences = (sentence[i : i + LONGEST] for sentence in sentences for i in range(0, len(sentence), LONGEST))
    if not is_exact:
        sentences = list(sentences)
        letters = collections.Counter(itertools.chain.from_iterable(sentences))
        kept = {letter for letter, _ in letters.most_common((num_pieces - NUM_BYTES) // 2)}
        sentences = ["".join(letter for letter in sentence if letter in kept) for sentence in sentences]
        sentences = list(filter(None, sentences)) or [" "]  # of no text at all, bytes
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_writer=out, vocab_size=num_pieces, model_type="bpe",
            byte_fallback=True, split_digits=True, character_coverage=0.9995,
            normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True, user_defined_symbols=["\n", "\t"], max_sentence_length=4 * LONGEST,
            bos_id=-1, eos_id=-1, pad_id=-1, unk_id=0, num_threads=1, minloglevel=2,
            **({} if is_exact else {"hard_vocab_limit": False, "required_chars": SPACE_MARK}),
        )
    except (RuntimeError, OSError) as error:
        raise errors.InputError(f"text tokenizer: cannot make {num_pieces} pieces of this sample ({error}); "
                                "give more text or ask for fewer pieces") from None
    return TextTokenizer(out.getvalue())
