"""Everything there is to read and to be asked: the embedded world's documents, and those made by rule.

`SOURCES` names what a stage of the mixture may read, `TASKS` what an evaluation may ask. `source`
writes passes over the training split, `examples` asks about one split of one task.
A kind of example that is made by rule is one row of `GENERATORS`, and both a source and a task.

Next: world_documents.py (the world's), films.py, spoken.py and messages.py (more of the same kind), questions.py
(what a generator is; drawn.py, scenes.py, analogies.py, needles.py, reasoning.py, invented.py are some), pack.py.
"""

import collections
import functools
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_prep import (
    analogies, drawn, films, invented, messages, needles, phrases, pictures, questions, reasoning, scenes, splits, spoken, world_documents,
)
from data_prep.emoji_world import World
from gemini_mini import errors, stream
from gemini_mini.stream import Document, Text

TABLE_SHARE = 0.05           # of names and phrases in all languages in the sample for the text tokenizer
BYTES_PER_PIECE, PIXELS_PER_CODE, SAMPLES_PER_CODE = 3, 16, 640

MODULES = (  # whose code says what documents say, with this one
    analogies, drawn, films, invented, messages, needles, phrases, questions, reasoning, scenes, spoken, world_documents)
GENERATORS: dict[str, questions.Generator] = {
    "retrieval": needles.RETRIEVAL, "video_needle": needles.VIDEO, "audio_needle": needles.AUDIO,
    "sums": reasoning.SUMS, "programs": reasoning.PROGRAMS, "invented": invented.INVENTED,
    "analogy": analogies.ANALOGY, **drawn.GENERATORS, **scenes.GENERATORS,
}
SOURCES: dict[str, Callable[[World, np.random.Generator], Iterator[Document]]] = (
    world_documents.SOURCES | films.SOURCES | messages.SOURCES | spoken.SOURCES
    | {name: functools.partial(questions.documents, made.family or name, made) for name, made in GENERATORS.items()})
TASKS: dict[str, Callable[[World, str], Iterable[questions.Example]]] = (
    world_documents.TASKS | films.TASKS | messages.TASKS | spoken.TASKS
    | {name: functools.partial(questions.examples, made.family or name, made) for name, made in GENERATORS.items()})


def source(world: World, name: str, seed: int, variants: int = 1) -> Iterator[Document]:
    """`variants` passes over the training documents of one source, each phrased anew."""
    if name not in SOURCES:
        raise errors.InputError(f"source must be one of {sorted(SOURCES)}, got {name!r}")
    return (document for variant in range(variants)
            for document in SOURCES[name](world, questions.rng_of(name, seed, variant)))


def examples(world: World, task: str, split: str, most: int | None = None, is_heard: bool = True) -> list[questions.Example]:
    """Questions of a task in one split ("seen" asks about training items), in hash order; at most `most` of each language.

    The order mixes items and languages, so the first n are a fair sample of all. Prompts have no sounds where they are not
    to be heard: those of all training clips together fill the memory of a laptop.
    """
    if task not in TASKS:
        raise errors.InputError(f"task must be one of {sorted(TASKS)}, got {task!r}")
    kept: dict[str, list[tuple[int, int, questions.Example]]] = collections.defaultdict(list)  # heaps, the last in order on top
    for i, example in enumerate(TASKS[task](world, "train" if split == "seen" else split)):
        if not is_heard:
            example = example._replace(prompt=[part for part in example.prompt if not isinstance(part, stream.Audio)])
        heapq.heappush(kept[example.lang], (-splits.bucket(f"{task} {example.item} {example.lang} {i}", 1 << 62), -i, example))
        if most is not None and len(kept[example.lang]) > most:
            heapq.heappop(kept[example.lang])
    return [example for *_, example in sorted((each for heap in kept.values() for each in heap), key=lambda each: each[:2], reverse=True)]


def valid(world: World, names: Iterable[str]) -> dict[str, list[Document]]:
    """What `names` hold out to tune on, as training documents: questions with their answers, prose and code.

    Those of the split "valid_compose" are called "draw_compose", and so on.
    """
    written = {"prose": world.prose, "code": world.code}
    found = {name: [[Text(text)] for split, text, _ in written[name] if split == "valid"] for name in names if name in written}
    found |= {name + split.removeprefix("valid"): [example.prompt + example.answer for example in examples(world, name, split)]
              for name in names if name in TASKS for split in splits.VALID_SPLITS}
    return {name: docs for name, docs in found.items() if docs}


class Read(NamedTuple):
    """What a decoder reads of one source, for each id it reads of all sources."""

    texts: list[str]   # of one pass
    num_bytes: float   # of text
    other_ids: float   # of pictures, sounds and roles


def read(world: World, shares: Mapping[str, float], seed: int) -> dict[str, Read]:
    """`shares` are the parts of all rows that each source gets, as in `read_all`."""
    return read_all({name: source(world, name, seed) for name in sorted(shares) if shares[name]}, shares)


def read_all(sources: Mapping[str, Iterable[Document]], shares: Mapping[str, float]) -> dict[str, Read]:
    """What is read of each source's documents. Ids of text are about a third of its bytes.

    A row of drawings holds less text than a row of prose, so a source's text counts by its part of an id.
    """
    found = {}
    for name, docs in sources.items():
        texts, others = [], 0.0
        for part in (part for document in docs for part in document):
            if isinstance(part, Text):
                texts.append(part.text)
            else:
                others += _about_ids(part)
        rate = shares[name] / max(1, _num_bytes(texts) / BYTES_PER_PIECE + others)
        found[name] = Read(texts, rate * _num_bytes(texts), rate * others)
    return found


def text_sample(
    world: World, shares: Mapping[str, float], seed: int, languages: Sequence[str] = pictures.LANGUAGES
) -> list[str]:
    """Texts to train the text tokenizer on, as often as the decoder reads them; `shares` as in `read`.

    Names and phrases in all `languages` are a small part, also where the world does not use a language, so
    that no script falls apart into bytes. Only names of the training split.
    """
    table = [item.names[lang] for item in world.items for lang, split in item.name_splits.items()
             if split == "train" and lang in languages]
    for phrasings in phrases.TABLES:
        table += [phrasing for lang in languages for phrasing in phrasings[lang]]
    for lang in languages:
        table += [*phrases.MOTION[lang].values(), *phrases.DIGIT_WORDS[lang].split()]
    table = [text.replace("{name}", "").replace("{digit}", "7").strip() for text in table]
    return table + sample(read(world, shares, seed), _num_bytes(table) * (1 / TABLE_SHARE - 1), seed)


def sample(sources: Mapping[str, Read], num_bytes: float, seed: int) -> list[str]:
    """About `num_bytes` of text, of each source its part."""
    rng = np.random.default_rng([seed, 0])
    passes = num_bytes / max(1e-9, sum(found.num_bytes for found in sources.values()))
    return [text for found in sources.values() for text in _repeat(found.texts, passes * found.num_bytes, rng)]


def _repeat(texts: list[str], num_bytes: float, rng: np.random.Generator) -> Iterator[str]:
    """Whole passes, each in a new order, until `num_bytes` are written."""
    while num_bytes > 0:
        for index in rng.permutation(len(texts)):
            yield texts[index]
            num_bytes -= len(texts[index].encode())
            if num_bytes <= 0:
                return


def _num_bytes(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _about_ids(part: stream.Part) -> float:
    """About how many ids a role, picture, clip or sound becomes, before there is a tokenizer to say."""
    match part:
        case stream.Image(pixels):
            return pixels[..., 0].size / PIXELS_PER_CODE
        case stream.Video(frames, _):
            return frames[..., 0].size / PIXELS_PER_CODE
        case stream.Audio(samples):
            return len(samples) / SAMPLES_PER_CODE
    return 1
