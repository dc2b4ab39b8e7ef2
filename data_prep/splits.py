"""Who is held out: functions of names alone.

Neither a package upgrade nor the size of the world moves an item from one side to the other.

    train        pictures and names to learn from
    valid        concepts never seen, to tune on
    test_concept concepts never seen
    test_compose cells of a table of factors; every factor, and every pair of factors of a cell
                 with three, is in train
    test_lang    the picture is in train, its name in this language is not
    test_speaker_language  the name, the voice and the language are in train, never together
    test_motion  the object and the motion are in train, never together
"""

import hashlib

from data_prep import pictures

PICTURE_SPLITS = ("train", "valid", "test_concept", "test_compose")
NAME_SPLITS = (*PICTURE_SPLITS, "test_lang")

TEST_CONCEPT_PERCENT = 7
VALID_PERCENT = 6
TEST_LANG_PERCENT = 6
CELLS_PER_ROLE = len(pictures.GENDERS) * len(pictures.TONES)

# Written out, because only a few colours have all three shapes and each must keep two of them.
HELD_COLOURS = frozenset({("heart", "green"), ("heart", "purple"), ("circle", "orange"), ("circle", "blue"),
                          ("square", "yellow")})
HELD_CLOCKS = frozenset({("three", "thirty"), ("six", "o'clock"), ("eight", "thirty"), ("eleven", "o'clock")})


def bucket(key: str, buckets: int = 100) -> int:
    """A stable pseudo-random number in [0, buckets): the only chance in every split."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, person=b"gemini_mini").digest()
    return int.from_bytes(digest, "big") % buckets


def of_picture(row: pictures.Emoji) -> str:
    """The split of an emoji's picture: one of PICTURE_SPLITS."""
    match pictures.cell(row):
        case "role", base, gender, tone:
            place = pictures.GENDERS.index(gender) * len(pictures.TONES) + pictures.TONES.index(tone)
            return "test_compose" if place == bucket(f"role {base}", CELLS_PER_ROLE) else "train"
        case "colour", shape, colour:
            return "test_compose" if (shape, colour) in HELD_COLOURS else "train"
        case "clock", hour, half:
            return "test_compose" if (hour, half) in HELD_CLOCKS else "train"
    if row.base in pictures.role_bases():
        return "train"
    chance = bucket(f"concept {pictures.concept(row)}")
    if chance < TEST_CONCEPT_PERCENT:
        return "test_concept"
    return "valid" if chance < TEST_CONCEPT_PERCENT + VALID_PERCENT else "train"


def of_name(row: pictures.Emoji, lang: str) -> str:
    """The split of an emoji's name in one language: one of NAME_SPLITS. English names stay in train."""
    split = of_picture(row)
    if split != "train" or lang == "en":
        return split
    return "test_lang" if bucket(f"lang {lang} {pictures.concept(row)}") < TEST_LANG_PERCENT else "train"


def is_held_voice(speaker: int, num_speakers: int, lang: str) -> bool:
    """Whether this voice never speaks this language in train: one per language, not the same for all."""
    return speaker == (3 * pictures.LANGUAGES.index(lang) + 1) % num_speakers


def of_motion(name: str, motion: int, num_motions: int) -> str:
    """train, test_motion (one motion of every object) or valid (one more, of every fourth object)."""
    held = bucket(f"motion {name}", num_motions)
    if motion == held:
        return "test_motion"
    is_valid = motion == (held + num_motions // 2) % num_motions and bucket(f"valid motion {name}", 4) == 0
    return "valid" if is_valid else "train"
