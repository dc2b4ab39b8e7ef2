"""Real translations: the message catalogues that Django ships, when it is installed; it is read, never imported.

A message is taken when it is one short line without a place to fill in. Its English text says its split, so
all its translations are held out together.
Source: Django (BSD-3) and its translators.
"""

import functools
import importlib.util
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep import phrases, questions
from data_prep.emoji_world import World
from gemini_mini import errors
from gemini_mini.stream import Document, Text

FOLDERS = {"zh": "zh_Hans"}   # of languages that are called otherwise there
MOST_CHARS = 60
MAGIC = 0x950412DE


def folder() -> Path | None:
    """Where Django's catalogues are, or None."""
    found = importlib.util.find_spec("django")
    return Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None


def read_mo(data: bytes) -> dict[str, str]:
    """The messages of a compiled catalogue, those with a context or a plural left out.

    Format: GNU gettext manual, "The Format of GNU MO Files". Raises: InputError when it is no such file.
    """
    for order in "<>":
        if len(data) >= 20 and struct.unpack_from(f"{order}I", data)[0] == MAGIC:
            count, originals, translations = struct.unpack_from(f"{order}3I", data, 8)
            texts = [[data[start : start + length].decode() for length, start in struct.iter_unpack(f"{order}2I", data[at : at + 8 * count])]
                     for at in (originals, translations)]
            return {a: b for a, b in zip(*texts) if a and "\0" not in a and "\4" not in a}
    raise errors.InputError("catalogue: must begin with the mark of a .mo file; install Django again")


@functools.lru_cache(maxsize=32)
def catalogue(lang: str) -> dict[str, str]:
    """{English: translation} of one language; {} where Django is not installed or does not know it."""
    root, found = folder(), {}
    if root is not None:
        for path in sorted(root.glob(f"**/locale/{FOLDERS[lang] if lang in FOLDERS else lang}/LC_MESSAGES/django.mo")):
            found |= read_mo(path.read_bytes())
    return {a.strip(): b.strip() for a, b in found.items() if a != b and all(_is_plain(text) for text in (a, b))}


def split_of(english: str) -> str:
    """train 80 %, valid 10 %, test 10 %."""
    return questions.split_of("message", repr(english))


def messages(world: World, rng: np.random.Generator) -> Iterator[Document]:
    """Every message once from English and once into it, in each of the world's languages."""
    for lang, english, other in _pairs(world, "train"):
        for known, wanted, text, answer in (("en", lang, english, other), (lang, "en", other, english)):
            yield questions.turn([Text(phrases.pick(phrases.TRANSLATE[wanted], rng).format(name=text))], [Text(answer)])


def examples(world: World, split: str) -> Iterator[questions.Example]:
    """Into the other language; `lang` is that of the answer."""
    for number, (lang, english, other) in enumerate(_pairs(world, split)):
        yield questions.example([Text(phrases.TRANSLATE[lang][0].format(name=english))], [Text(other)], number, lang)


def examples_to_english(world: World, split: str) -> Iterator[questions.Example]:
    """Into English; `lang` is that of the question."""
    for number, (lang, english, other) in enumerate(_pairs(world, split)):
        yield questions.example([Text(phrases.TRANSLATE["en"][0].format(name=other))], [Text(english)], number, lang)


def _pairs(world: World, split: str) -> list[tuple[str, str, str]]:
    return [(lang, english, other) for lang in world.config.languages if lang != "en"
            for english, other in sorted(catalogue(lang).items())
            if split_of(english) == split and (split != "test" or world.shows(f"message {english}"))]


def _is_plain(text: str) -> bool:
    return 0 < len(text.strip()) <= MOST_CHARS and not set(text) & set("%{}<>\n")


SOURCES = {"messages": messages}
TASKS = {"messages": examples, "messages_en": examples_to_english}
