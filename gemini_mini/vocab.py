"""The one id space: control | text pieces | image codes | audio codes.

    0 ... 43        control: padding, borders of parts, roles, sizes 1..32
    44 ...          text pieces, then image codes, then audio codes
    ... size        padding up to a multiple of 128, never used

Nothing else knows the offsets. The fingerprint covers the ranges and the tokenizers' own
hashes; rows, checkpoints and samplers carry it and refuse another.
Next: stream.py, which gives these ids their grammar.
"""

from typing import NamedTuple

from gemini_mini import errors, files

PAD, BOS, EOS, BOI, EOI, EOL, BOA, EOA, BOV, EOV, USER, MODEL = range(12)
SIZE_1 = 12
MAX_SIZE = 32
NUM_CONTROL = SIZE_1 + MAX_SIZE

CONTROL, TEXT, IMAGE, AUDIO, UNUSED = range(5)
MODALITIES = ("control", "text", "image", "audio")
MULTIPLE = 128  # keeps the output matrix divisible by any mesh axis and by the TPU's lanes


def size_id(size: int) -> int:
    """The control id that says "`size` codes high" or "wide"."""
    if not 1 <= size <= MAX_SIZE:
        raise errors.InputError(f"image: a side must be 1 to {MAX_SIZE} codes, got {size}; scale the picture")
    return SIZE_1 + size - 1


class Vocab(NamedTuple):
    """Ranges of the id space; `tokenizers` is the hash of the three tokenizers."""

    num_pieces: int
    num_image_codes: int
    num_audio_codes: int
    tokenizers: str

    @property
    def text_start(self) -> int:
        return NUM_CONTROL

    @property
    def image_start(self) -> int:
        return self.text_start + self.num_pieces

    @property
    def audio_start(self) -> int:
        return self.image_start + self.num_image_codes

    @property
    def end(self) -> int:
        return self.audio_start + self.num_audio_codes

    @property
    def size(self) -> int:
        return -(-self.end // MULTIPLE) * MULTIPLE

    @property
    def fingerprint(self) -> str:
        return files.hash_json(list(self))

    def modality_of(self, ids):
        """CONTROL, TEXT, IMAGE, AUDIO or UNUSED for each id, of a numpy or a jax array."""
        starts = (self.text_start, self.image_start, self.audio_start, self.end)
        return sum((ids >= start).astype("int32") for start in starts)


def check(expected: str, got: str, where: str) -> None:
    """Raise InputError unless two fingerprints are the same."""
    if expected != got:
        raise errors.InputError(
            f"{where}: was made with vocabulary {got}, but this model reads {expected}; "
            "pack the rows, train and sample with the same three tokenizers"
        )
