"""Own data as documents: each pair of a record's parts in both directions, and what has an order as it stands.

    draw         caption -> picture             speech_draw  sound -> caption, picture
    name         picture -> captions            translate    caption -> caption in another language
    listen       sound -> text                  watch        clip -> caption
    documents    documents in order; what has nothing beside it

The words around them are those of the embedded world (phrases.py); in a language that has none there,
the English ones with its code. There is no text -> sound: the audio tokenizer's codes are for reading.
Next: pack.py.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from data_prep import documents, phrases, questions, splits, world_documents
from data_prep.own import Record, World, caption_of
from gemini_mini import errors
from gemini_mini.stream import Document, Text

MOST_LANGUAGES = 2       # that a picture is asked about in, in one document
SAMPLE_BYTES = 5_000_000   # for the text tokenizer, at most: enough for any number of pieces here


def source(world: World, name: str, seed: int, variants: int = 1) -> Iterator[Document]:
    """`variants` passes over the training documents of one source, each phrased anew."""
    if name not in SOURCES:
        raise errors.InputError(f"source must be one of {sorted(SOURCES)}, got {name!r}")
    for variant in range(variants):
        rng = np.random.default_rng([seed, variant, splits.bucket(name, 1 << 32)])
        for record in world.records:
            if record.split == "train":
                yield from SOURCES[name](world, record, rng)


def valid(world: World, names: Iterable[str]) -> dict[str, list[Document]]:
    """The documents of the valid split, by source."""
    rng = np.random.default_rng(0)
    return {name: [document for record in world.records if record.split == "valid" for document in SOURCES[name](world, record, rng)]
            for name in names}


def text_sample(world: World, shares: Mapping[str, float], seed: int) -> list[str]:
    """Texts to train the text tokenizer on, as often as the decoder reads them."""
    wanted = {name: source(world, name, seed) for name in sorted(shares) if shares[name]}
    read = documents.read_all(wanted, shares)
    once = sum(len(text.encode()) for found in read.values() for text in found.texts)
    return documents.sample(read, min(once, SAMPLE_BYTES), seed)


# One record to documents

def draw(world: World, record: Record, rng: np.random.Generator) -> Iterator[Document]:
    for picture in _values(record, "image"):
        for lang, caption in _captions(record):
            shown = [world.part("image", picture)]
            if rng.random() < world_documents.PLAIN_SHARE:
                yield [Text(caption), *shown]
            else:
                yield questions.turn([Text(_ask(phrases.DRAW, lang, rng).format(name=caption))], shown)


def name(world: World, record: Record, rng: np.random.Generator) -> Iterator[Document]:
    yield from _asked(world, record, "image", phrases.NAME, rng)


def watch(world: World, record: Record, rng: np.random.Generator) -> Iterator[Document]:
    yield from _asked(world, record, "video", phrases.WATCH, rng)


def listen(world: World, record: Record, rng: np.random.Generator) -> Iterator[Document]:
    for lang, sound in _pairs(record, "audio"):
        if said := caption_of(record, lang):
            yield questions.turn([world.part("audio", sound), Text(_ask(phrases.LISTEN, lang, rng))], [Text(said)])


def speech_draw(world: World, record: Record, rng: np.random.Generator) -> Iterator[Document]:
    for lang, sound in _pairs(record, "audio"):
        for picture in _values(record, "image"):
            question = [world.part("audio", sound), Text(_ask(phrases.SPEECH_DRAW, lang, rng))]
            heard = [Text(said)] if (said := caption_of(record, lang)) else []  # first, as in world_documents.py
            yield questions.turn(question, [*heard, world.part("image", picture)])


def translate(world: World, record: Record, rng: np.random.Generator) -> Iterator[Document]:
    captions = _captions(record)
    for wanted, answer in captions:
        others = [caption for lang, caption in captions if lang != wanted]
        if wanted and others:
            question = _ask(phrases.TRANSLATE, wanted, rng).format(name=others[int(rng.integers(len(others)))])
            yield questions.turn([Text(question)], [Text(answer)])


def as_it_stands(world: World, record: Record, rng: np.random.Generator) -> Iterator[Document]:
    if record.in_order:
        yield [world.part(kind, value) for kind, _, value in record.parts]
    elif not any(next(source(world, record, rng), None) for source in SOURCES.values() if source is not as_it_stands):
        yield from ([world.part(kind, value)] for kind, _, value in record.parts)  # nothing here says anything of the rest


SOURCES: dict[str, Callable[[World, Record, np.random.Generator], Iterator[Document]]] = {
    "draw": draw, "name": name, "listen": listen, "speech_draw": speech_draw, "translate": translate,
    "watch": watch, "documents": as_it_stands,
}


def _asked(world: World, record: Record, kind: str, table: Mapping, rng: np.random.Generator) -> Iterator[Document]:
    """What is shown is asked about in a few of its languages, one after the other."""
    for shown in _values(record, kind):
        captions = _captions(record)
        document: Document = []
        for place in rng.permutation(len(captions))[:MOST_LANGUAGES]:
            lang, caption = captions[place]
            question = [] if document else [world.part(kind, shown)]   # asked again, it is already on the table
            document += questions.turn([*question, Text(_ask(table, lang, rng))], [Text(caption)])
        if document:
            yield document


def _pairs(record: Record, kind: str) -> list[tuple[str, str | int]]:
    """(language, value) of the parts of one kind that are asked about."""
    return [] if record.in_order else [(lang, value) for of, lang, value in record.parts if of == kind]


def _values(record: Record, kind: str) -> list[str | int]:
    return [value for _, value in _pairs(record, kind)]


def _captions(record: Record) -> list[tuple[str, str]]:
    return _pairs(record, "text")


def _ask(table: Mapping[str, tuple[str, ...]], lang: str, rng: np.random.Generator) -> str:
    """A phrasing in a language; where there is none, the English one says which is wanted."""
    known = next((of for of in (lang, lang.partition("-")[0]) if of in table), "")
    phrasing = phrases.pick(table[known or "en"], rng)
    return phrasing if known or not lang else f"{phrasing} ({lang})"
