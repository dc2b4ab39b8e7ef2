"""Who is held out: functions of names alone.

Neither a package upgrade nor the size of the world moves an item from one side to the other.

    train        pictures and names to learn from
    test_concept concepts never seen
    test_compose cells of a table of factors; every factor, and every pair of factors of a cell
                 with three, is in train
    test_lang    the picture is in train, its name in this language is not
    test_speaker_language  the name, the voice and the language are in train, never together
    test_motion  the object and the motion are in train, never together
    test         handwritten digits, questions made by rule, documents of prose and code (text.py)
    valid, valid_compose, valid_speaker_language, valid_motion
                 others of the same kinds, to tune on: no choice needs a test split

Every test split has two halves: dev is looked at while working, assurance when a model is released. Skin tones of one
concept stand in one half: assurance where all that the world has of them in a split would be there by themselves.
"""

import hashlib

from data_prep import pictures

PICTURE_SPLITS = ("train", "valid", "valid_compose", "test_concept", "test_compose")
NAME_SPLITS = (*PICTURE_SPLITS, "test_lang")
VALID_SPLITS = ("valid", "valid_compose", "valid_speaker_language", "valid_motion")

TEST_CONCEPT_PERCENT = 7
VALID_PERCENT = 6
TEST_LANG_PERCENT = 6
CELLS_PER_ROLE = len(pictures.GENDERS) * len(pictures.TONES)
ONE_GENDER = {"1f9d1-200d-1f9b2"}  # bald: look-alikes leave no other to teach a tone by, so none is held out

# Written out, because only a few colours have all three shapes, and one that loses a shape keeps another.
HELD_COLOURS = {
    "test_compose": {("heart", "green"), ("heart", "purple"), ("circle", "orange"), ("circle", "blue"), ("square", "yellow")},
    "valid_compose": {("circle", "red"), ("square", "brown")},
}
HELD_CLOCKS = {
    "test_compose": {("three", "thirty"), ("six", "o'clock"), ("eight", "thirty"), ("eleven", "o'clock")},
    "valid_compose": {("two", "o'clock"), ("five", "thirty"), ("nine", "thirty")},
}


def bucket(key: str, buckets: int = 100) -> int:
    """A stable pseudo-random number in [0, buckets): the only chance in every split."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, person=b"gemini_mini").digest()
    return int.from_bytes(digest, "big") % buckets


def half(key: str) -> str:
    """dev or assurance: in which half of its test split the thing of this name stands by itself."""
    return ("dev", "assurance")[bucket(f"half {key}", 2)]


def of_picture(row: pictures.Emoji) -> str:
    """The split of an emoji's picture: one of PICTURE_SPLITS."""
    match pictures.cell(row):
        case "role", base, gender, tone:
            return _of_role(base, pictures.GENDERS.index(gender), pictures.TONES.index(tone))
        case "colour", *factors:
            return next((split for split, cells in HELD_COLOURS.items() if tuple(factors) in cells), "train")
        case "clock", *factors:
            return next((split for split, cells in HELD_CLOCKS.items() if tuple(factors) in cells), "train")
    if row.base in pictures.role_bases():
        return "train"
    chance = bucket(f"concept {pictures.concept(row.names['en'])}")
    if chance < TEST_CONCEPT_PERCENT:
        return "test_concept"
    return "valid" if chance < TEST_CONCEPT_PERCENT + VALID_PERCENT else "train"


def _of_role(base: str, gender: int, tone: int) -> str:
    """One cell of each role is held out for test and one for valid, of another gender and another tone."""
    test_gender, test_tone = divmod(bucket(f"role {base}", CELLS_PER_ROLE), len(pictures.TONES))
    if (gender, tone) == (test_gender, test_tone):
        return "test_compose"
    apart = (1 + bucket(f"valid gender {base}", len(pictures.GENDERS) - 1), 1 + bucket(f"valid tone {base}", len(pictures.TONES) - 1))
    is_valid = ((gender - test_gender) % len(pictures.GENDERS), (tone - test_tone) % len(pictures.TONES)) == apart
    return "valid_compose" if is_valid and base not in ONE_GENDER else "train"


def of_name(row: pictures.Emoji, lang: str) -> str:
    """The split of an emoji's name in one language: one of NAME_SPLITS. English names stay in train."""
    split = of_picture(row)
    if split != "train" or lang == "en":
        return split
    return "test_lang" if bucket(f"lang {lang} {pictures.concept(row.names['en'])}") < TEST_LANG_PERCENT else "train"


def of_voice(speaker: int, num_speakers: int, lang: str) -> str:
    """train, or the split in which alone this voice speaks this language: two a language, not the same for all."""
    held = (3 * pictures.LANGUAGES.index(lang) + 1) % num_speakers
    if speaker == held:
        return "test_speaker_language"
    return "valid_speaker_language" if speaker == (held + num_speakers // 2) % num_speakers else "train"


def of_motion(name: str, motion: int, num_motions: int) -> str:
    """train, test_motion (one motion of every object) or valid_motion (one more, of every fourth object)."""
    held = bucket(f"motion {name}", num_motions)
    if motion == held:
        return "test_motion"
    is_valid = motion == (held + num_motions // 2) % num_motions and bucket(f"valid motion {name}", 4) == 0
    return "valid_motion" if is_valid else "train"
