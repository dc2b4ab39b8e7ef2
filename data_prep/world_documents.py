"""The embedded world as documents: one function for each kind of question, used in training and in evaluation.

    draw         name -> picture                translate  name (and picture) -> another language
    name         picture -> names               motion     video -> what happens
    listen       speech -> text                 digits     digit -> number or word, and back
    speech_draw  speech -> text, picture        one_shot   a worked example, then two new colours
    interleaved  several pictures, sounds and texts in one turn
    chat         several turns, each about another thing
    prose, code, names, captions, long_text     text alone

`SOURCES` write one pass over the training split in many phrasings, `TASKS` ask about one split in the
canonical phrasing, which training documents use too. Both speak through the same few functions, so they
cannot drift apart.
Next: documents.py, which joins these with the kinds that are made by rule; phrases.py for the words.
"""

from collections.abc import Callable, Iterator

import numpy as np

from data_prep import phrases, pictures, questions, splits
from data_prep.emoji_world import World
from gemini_mini.stream import Document, Text

PLAIN_SHARE = 0.15           # documents that are a caption beside its picture, without roles
OTHER_LANGUAGE_SHARE = 0.3   # of motion and digit documents
NAME_ENGLISH_FIRST = 0.75    # of pictures to name
DRAW_OTHERS = 0.45           # drawings asked for in other languages, all together, for each in English
CHAT_TURNS = 2, 4            # the fewest and the most
CHAT_DRAWN, CHAT_NAMED = 0.6, 0.85  # of the turns ask for a drawing; so many for that or for a name
NUM_ONE_SHOT = 400           # documents in one pass
NUM_QUESTIONS = 200          # examples of the tasks that combine items freely
LONG_CHARS = 20_000          # of a document of long_text, before it is cut to rows
HELD_PAIR_PERCENT, VALID_PAIR_PERCENT = 20, 10


# Questions and answers, one function per task: used in training and in evaluation.

def ask_draw(world: World, item: int, lang: str, phrasing: str) -> tuple[Document, Document]:
    return [Text(phrasing.format(name=_name(world, item, lang)))], [world.picture(item)]


def ask_name(world: World, item: int, lang: str, phrasing: str) -> tuple[Document, Document]:
    return [world.picture(item), Text(phrasing)], [Text(_name(world, item, lang))]


def ask_listen(world: World, clip: int, phrasing: str) -> tuple[Document, Document]:
    said = world.clips[clip]
    return [world.sound(clip), Text(phrasing)], [Text(_name(world, said.item, said.lang))]


def ask_speech_draw(world: World, clip: int, phrasing: str) -> tuple[Document, Document]:
    """What is heard is written first: then it is drawn from words, which is learned from far more documents."""
    question, heard = ask_listen(world, clip, phrasing)
    return question, [*heard, world.picture(world.clips[clip].item)]


def ask_translate(
    world: World, item: int, known: str, wanted: str, phrasing: str
) -> tuple[Document, Document]:
    return [Text(phrasing.format(name=_name(world, item, known)))], [Text(_name(world, item, wanted))]


def ask_motion(world: World, shot: int, lang: str, phrasing: str) -> tuple[Document, Document]:
    seen = world.shots[shot]
    caption = phrases.MOTION[lang][seen.motion].format(name=_name(world, seen.item, lang))
    return [world.shot(shot), Text(phrasing)], [Text(caption)]


def ask_digit(world: World, digit: int, phrasing: str) -> tuple[Document, Document]:
    return [world.digit(digit), Text(phrasing)], [Text(str(world.digits.labels[digit]))]


def ask_list(world: World, items: list[int], lang: str) -> tuple[Document, Document]:
    names = [_name(world, item, lang) for item in items]
    prompt = phrases.DRAW[lang][0].format(name=f"{', '.join(names[:-1])} {phrases.AND[lang]} {names[-1]}")
    return [Text(prompt)], _list(world, items, lang)


def ask_ideas(
    world: World, example: list[int], wanted: list[int], phrasing: str
) -> tuple[Document, Document]:
    """The worked example and the answer use the same two shapes; the colours are given.

    Paper: Gemini report, arXiv 2312.11805, figure 6 (two ideas from two colours of yarn).
    """
    first, second = (_ideas(world, items) for items in (example, wanted))
    shown = f"{_colours(world, example, phrasing)} {first[0].text}"
    return [Text(shown), *first[1:], Text(_colours(world, wanted, phrasing))], second


# Sources: one pass each, in the order of the items; the packer shuffles.

def draw(world: World, rng: np.random.Generator) -> Iterator[Document]:
    for item, lang in _mostly_english(world, _names(world, "train"), rng):
        if rng.random() < PLAIN_SHARE:
            yield [Text(_name(world, item, lang)), world.picture(item)]
        else:
            yield questions.turn(*ask_draw(world, item, lang, phrases.pick(phrases.DRAW[lang], rng)))


def name(world: World, rng: np.random.Generator) -> Iterator[Document]:
    """A picture is dear and its names are cheap: each is asked about in English and one more language.

    Only the first answer has to come from the picture; the next can be translated. So English is first mostly.
    """
    for item in range(len(world.items)):
        langs = _shuffled(world.languages_of(item), rng)
        if not langs:
            continue
        langs.sort(key=lambda lang: lang != "en" or rng.random() > NAME_ENGLISH_FIRST)
        langs = langs[:2]
        if rng.random() < PLAIN_SHARE:
            yield [world.picture(item), Text(_name_list(world, item, langs))]
            continue
        question, answer = ask_name(world, item, langs[0], phrases.pick(phrases.NAME[langs[0]], rng))
        document = questions.turn(question, answer)
        for lang in langs[1:]:
            question, answer = ask_name(world, item, lang, phrases.pick(phrases.NAME[lang], rng))
            document += questions.turn(question[1:], answer)   # the picture is already on the table
        yield document


def listen(world: World, rng: np.random.Generator) -> Iterator[Document]:
    for clip in world.clips_in("train"):
        yield questions.turn(*ask_listen(world, clip, phrases.pick(phrases.LISTEN[world.clips[clip].lang], rng)))


def speech_draw(world: World, rng: np.random.Generator) -> Iterator[Document]:
    for clip, lang in _mostly_english(world, [(clip, world.clips[clip].lang) for clip in world.clips_in("train")], rng):
        ask = phrases.pick(phrases.SPEECH_DRAW[lang], rng)
        yield questions.turn(*ask_speech_draw(world, clip, ask))


def translate(world: World, rng: np.random.Generator) -> Iterator[Document]:
    for item, wanted in _names(world, "train"):
        others = [lang for lang in world.languages_of(item) if lang != wanted]
        if others:
            known = others[int(rng.integers(len(others)))]
            ask = phrases.pick(phrases.TRANSLATE[wanted], rng)
            yield questions.turn(*ask_translate(world, item, known, wanted, ask))


def motion(world: World, rng: np.random.Generator) -> Iterator[Document]:
    for shot, seen in enumerate(world.shots):
        if seen.split == "train":
            lang = _language(world.languages_of(seen.item), rng)
            yield questions.turn(*ask_motion(world, shot, lang, phrases.pick(phrases.WATCH[lang], rng)))


def digits(world: World, rng: np.random.Generator) -> Iterator[Document]:
    for digit in world.digits.indices("train"):
        label, kind = int(world.digits.labels[digit]), rng.random()
        lang = _language(world.config.languages, rng)
        if kind < 0.5:
            yield questions.turn(*ask_digit(world, digit, phrases.pick(phrases.DIGIT_ASK[lang], rng)))
        elif kind < 0.75:
            ask = phrases.pick(phrases.WORD_ASK[lang], rng)
            yield questions.turn([world.digit(digit), Text(ask)], [Text(phrases.digit_word(label, lang))])
        else:
            shown = str(label) if rng.random() < 0.5 else phrases.digit_word(label, lang)
            ask = phrases.pick(phrases.DIGIT_DRAW[lang], rng).format(digit=shown)
            yield questions.turn([Text(ask)], [world.digit(digit)])


def interleaved(world: World, rng: np.random.Generator) -> Iterator[Document]:
    """For each training name a list to draw, two pictures to name, two sounds to draw, or sound and picture.

    Lists are the most, and of up to four things: to copy each name is what takes longest to learn.
    """
    by_lang: dict[str, list[int]] = {}
    for item, lang in _names(world, "train"):
        by_lang.setdefault(lang, []).append(item)
    spoken = _clips_of(world)

    for item, lang in _mostly_english(world, _names(world, "train"), rng):
        other = _one_of(by_lang[lang], rng)
        if other == item:
            continue
        sounds = [_one_of(spoken[i, lang], rng) for i in (item, other) if (i, lang) in spoken]
        kind = max(0, int(rng.integers(-2, 4 if len(sounds) == 2 else 2)))
        names = [_name(world, i, lang) for i in (item, other)]
        both = f"{names[0]} {phrases.AND[lang]} {names[1]}"
        if kind == 0:
            more = [_one_of(by_lang[lang], rng) for _ in range(int(rng.integers(3)))]
            yield questions.turn(*ask_list(world, [item, other, *more], lang))
        elif kind == 1:
            ask = phrases.pick(phrases.BOTH[lang], rng)
            yield questions.turn([world.picture(item), world.picture(other), Text(ask)], [Text(both)])
        elif kind == 2:
            ask = [world.sound(sounds[0]), Text(phrases.AND[lang]), world.sound(sounds[1])]
            yield questions.turn(ask, _list(world, [item, other], lang))
        else:
            same = rng.random() < 0.5
            yes, no = phrases.YES_NO[lang]
            ask = [world.picture(item), world.sound(sounds[0 if same else 1]),
                   Text(phrases.pick(phrases.SAME[lang], rng))]
            yield questions.turn(ask, [Text(f"{yes}: {names[0]}" if same else f"{no}: {both}")])


def one_shot(world: World, rng: np.random.Generator) -> Iterator[Document]:
    cells = _colour_cells(world)
    for _ in range(NUM_ONE_SHOT):
        example, wanted = _draw_ideas(cells, rng, "train")
        yield questions.turn(*ask_ideas(world, example, wanted, phrases.pick(phrases.IDEAS, rng)))


def chat(world: World, rng: np.random.Generator) -> Iterator[Document]:
    """Unrelated questions in one document: what was drawn or said before is not what is asked now."""
    spoken = _clips_of(world)
    asked = _shuffled(list(_mostly_english(world, _names(world, "train"), rng)), rng)
    while len(asked) >= CHAT_TURNS[0]:
        turns = []
        for item, lang in asked[: int(rng.integers(CHAT_TURNS[0], CHAT_TURNS[1] + 1))]:
            kind = rng.random()
            if kind > CHAT_NAMED and (item, lang) in spoken:
                turns.append(ask_listen(world, _one_of(spoken[item, lang], rng), phrases.pick(phrases.LISTEN[lang], rng)))
            elif kind > CHAT_DRAWN:
                turns.append(ask_name(world, item, lang, phrases.pick(phrases.NAME[lang], rng)))
            else:
                turns.append(ask_draw(world, item, lang, phrases.pick(phrases.DRAW[lang], rng)))
        asked = asked[len(turns):]
        yield questions.chat(turns)


def prose(world: World, rng: np.random.Generator) -> Iterator[Document]:
    yield from ([Text(text)] for split, text, _ in world.prose if split == "train")


def code(world: World, rng: np.random.Generator) -> Iterator[Document]:
    yield from ([Text(text)] for split, text, _ in world.code if split == "train")


def long_text(world: World, rng: np.random.Generator) -> Iterator[Document]:
    """What was cut to pieces, put together again: code and prose of many pages; packing cuts it where a row ends."""
    yield from ([Text(text)] for text in pages(world, "train"))


def pages(world: World, split: str) -> list[str]:
    """Code and prose of one split, the pieces of each joined in their order, up to LONG_CHARS each."""
    texts, text = [], ""
    for source in (world.code, world.prose):
        for piece in (piece for of, piece, _ in source if of == split):
            if len(text) + len(piece) > LONG_CHARS:
                texts.append(text)
                text = ""
            text += f"\n\n{piece}" if text else piece
        texts += [text] * bool(text)
        text = ""
    return texts


def names(world: World, rng: np.random.Generator) -> Iterator[Document]:
    for item in range(len(world.items)):
        langs = _shuffled(world.languages_of(item), rng)
        if len(langs) > 1:
            yield [Text(_name_list(world, item, langs))]


def captions(world: World, rng: np.random.Generator) -> Iterator[Document]:
    for item, lang in _names(world, "train"):
        english, other = _name(world, item, "en"), _name(world, item, lang)
        if lang != "en":
            written = phrases.pick(phrases.WRITTEN, rng)
            yield [Text(written.format(Name=_capital(english), name=english, other=other,
                                       language=phrases.LANGUAGE_NAMES[lang]))]
        elif world.items[item].group:
            about = phrases.pick(phrases.ABOUT, rng)
            yield [Text(about.format(Name=_capital(english), name=english, group=world.items[item].group))]


SOURCES: dict[str, Callable[[World, np.random.Generator], Iterator[Document]]] = {
    "draw": draw, "name": name, "listen": listen, "speech_draw": speech_draw, "translate": translate,
    "motion": motion, "digits": digits, "interleaved": interleaved, "one_shot": one_shot, "chat": chat,
    "prose": prose, "code": code, "long_text": long_text, "names": names, "captions": captions,
}


# Evaluation: the canonical phrasing of each task.

def _draw_examples(world: World, split: str) -> Iterator[questions.Example]:
    for item, lang in _names(world, split):
        yield questions.example(*ask_draw(world, item, lang, phrases.DRAW[lang][0]), item, lang)


def _name_examples(world: World, split: str) -> Iterator[questions.Example]:
    for item, lang in _names(world, split):
        yield questions.example(*ask_name(world, item, lang, phrases.NAME[lang][0]), item, lang)


def _listen_examples(world: World, split: str) -> Iterator[questions.Example]:
    for clip in world.clips_in(split):
        item, lang = world.clips[clip].item, world.clips[clip].lang
        yield questions.example(*ask_listen(world, clip, phrases.LISTEN[lang][0]), item, lang)


def _speech_draw_examples(world: World, split: str) -> Iterator[questions.Example]:
    for clip in world.clips_in(split):
        item, lang = world.clips[clip].item, world.clips[clip].lang
        yield questions.example(*ask_speech_draw(world, clip, phrases.SPEECH_DRAW[lang][0]), item, lang)


def _translate_examples(world: World, split: str) -> Iterator[questions.Example]:
    for item, lang in _names(world, split):
        if lang != "en" and "en" in world.items[item].names:
            yield questions.example(*ask_translate(world, item, "en", lang, phrases.TRANSLATE[lang][0]), item, lang)


def _motion_examples(world: World, split: str) -> Iterator[questions.Example]:
    for shot, seen in enumerate(world.shots):
        if seen.split == split:
            yield questions.example(*ask_motion(world, shot, "en", phrases.WATCH["en"][0]), seen.item, "en")


def _digit_examples(world: World, split: str) -> Iterator[questions.Example]:
    for digit in world.digits.indices(split):
        yield questions.example(*ask_digit(world, digit, phrases.DIGIT_ASK["en"][0]), digit, "en")


def _interleaved_examples(world: World, split: str) -> Iterator[questions.Example]:
    for lang in world.config.languages:
        items = [item for item, other in _names(world, split) if other == lang]
        items = sorted(items, key=lambda i: splits.bucket(f"list {lang} {world.items[i].chars}", 1 << 32))
        for pair in zip(items[::2], items[1::2]):
            yield questions.example(*ask_list(world, list(pair), lang), pair[0], lang)


def _one_shot_examples(world: World, split: str) -> Iterator[questions.Example]:
    """seen: pairs of colours asked for in training; valid and test_compose: pairs never asked for."""
    cells = _colour_cells(world)
    rng = np.random.default_rng(splits.bucket(f"one shot {split}", 1 << 32))
    if split in ("train", "valid", "test_compose"):
        for _ in range(NUM_QUESTIONS):
            example, wanted = _draw_ideas(cells, rng, split)
            if split.startswith("test") and not world.shows(" ".join(sorted(world.items[item].cell[2] for item in wanted))):
                continue
            yield questions.example(*ask_ideas(world, example, wanted, phrases.IDEAS[0]), wanted[0], "en")


def _chat_examples(world: World, split: str) -> Iterator[questions.Example]:
    """A drawing, asked for after one of another thing."""
    known = [item for item, lang in _names(world, "train") if lang == "en"]
    for item, lang in _names(world, split):
        other = known[splits.bucket(f"before {world.items[item].chars}", len(known))]
        if lang == "en" and other != item:
            turns = [ask_draw(world, each, lang, phrases.DRAW[lang][0]) for each in (other, item)]
            yield questions.last(turns, item)


TASKS: dict[str, Callable[[World, str], Iterator[questions.Example]]] = {
    "draw": _draw_examples, "name": _name_examples, "listen": _listen_examples,
    "speech_draw": _speech_draw_examples, "translate": _translate_examples, "motion": _motion_examples,
    "digits": _digit_examples, "interleaved": _interleaved_examples, "one_shot": _one_shot_examples,
    "chat": _chat_examples,
}


def colour_pair_split(first: str, second: str) -> str:
    """train, valid or test_compose: which pairs of colours one_shot asks for where."""
    chance = splits.bucket("colours " + " ".join(sorted((first, second))))
    if chance < HELD_PAIR_PERCENT:
        return "test_compose"
    return "valid" if chance < HELD_PAIR_PERCENT + VALID_PAIR_PERCENT else "train"


def _clips_of(world: World) -> dict[tuple[int, str], list[int]]:
    """Clips of the training split by (item, language)."""
    spoken: dict[tuple[int, str], list[int]] = {}
    for clip in world.clips_in("train"):
        spoken.setdefault((world.clips[clip].item, world.clips[clip].lang), []).append(clip)
    return spoken


def _name(world: World, item: int, lang: str) -> str:
    return world.items[item].names[lang]


def _names(world: World, split: str) -> list[tuple[int, str]]:
    """(item, language) of all names in a split, in the world's languages."""
    return [(item, lang) for item in range(len(world.items)) for lang in world.languages_of(item, split)]


def _mostly_english(world: World, asked: list[tuple[int, str]], rng: np.random.Generator) -> Iterator[tuple[int, str]]:
    """(item or clip, language) of what is drawn: a name is bound to its picture by repetition alone, so mostly in one."""
    other_share = DRAW_OTHERS / max(1, len(world.config.languages) - 1)
    return ((which, lang) for which, lang in asked if lang == "en" or rng.random() < other_share)


def _name_list(world: World, item: int, langs: list[str]) -> str:
    return "\n".join(f"{lang}: {_name(world, item, lang)}" for lang in langs)


def _list(world: World, items: list[int], lang: str) -> Document:
    """Text and picture of each item in turn."""
    return [part for item in items for part in (Text(_name(world, item, lang)), world.picture(item))]


def _colour_cells(world: World) -> dict[tuple[str, str], int]:
    """{(shape, colour): item} of the training split."""
    return {(item.cell[1], item.cell[2]): index for index, item in enumerate(world.items)
            if item.cell[:1] == ("colour",) and item.split == "train"}


def _draw_ideas(cells: dict, rng: np.random.Generator, split: str) -> tuple[list[int], list[int]]:
    """Two shapes, two colours for the worked example and two others (a pair of `split`) for the answer."""
    while True:
        shapes = [str(shape) for shape in rng.choice(pictures.SHAPES, 2, replace=False)]
        colours = [str(colour) for colour in rng.choice(pictures.COLOURS, 4, replace=False)]
        ideas = list(zip(shapes * 2, colours))
        if (all(idea in cells for idea in ideas) and colour_pair_split(*colours[:2]) == "train"
                and colour_pair_split(*colours[2:]) == split):
            found = [cells[idea] for idea in ideas]
            return found[:2], found[2:]


def _ideas(world: World, items: list[int]) -> Document:
    return [part for number, item in enumerate(items, 1)
            for part in (Text(f"{number}. {phrases.article(_name(world, item, 'en'))}"), world.picture(item))]


def _colours(world: World, items: list[int], phrasing: str) -> str:
    first, second = (world.items[item].cell[2] for item in items)
    return phrasing.format(first=first, second=second)


def _language(langs, rng: np.random.Generator) -> str:
    """Mostly English, otherwise one of the others."""
    others = [lang for lang in langs if lang != "en"]
    return _one_of(others, rng) if others and rng.random() < OTHER_LANGUAGE_SHARE else "en"


def _one_of(values, rng: np.random.Generator):
    return values[int(rng.integers(len(values)))]


def _shuffled(values: list, rng: np.random.Generator) -> list:
    return [values[i] for i in rng.permutation(len(values))]


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]
