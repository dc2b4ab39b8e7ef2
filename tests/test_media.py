"""Laws of pictures of writing and charts, scenes, films, analogies, messages and of the scores they get."""

import gettext
import io
import struct

import jax
import numpy as np
import pytest
from flax import nnx

from data_prep import documents, drawn, films, messages, phrases, scenes, speech, spoken
from gemini_mini import errors, stream
from gemini_mini.evals import classifier, pictures, scores
from gemini_mini.evals import task as task_lib
from gemini_mini.evals.suites import audio
from gemini_mini.tasks import picture_classifier
from gemini_mini.tokenizers import audio_io


@pytest.fixture
def world(shapes_world):
    return shapes_world


def _drawn(world, name, number=20):
    """Questions of any split: in so small a world there are few of each."""
    made, rng = documents.GENERATORS[name], np.random.default_rng(0)
    return [documents.questions.last(made.show(world, made.draw(world, rng)), n) for n in range(number)]


def _pixels(document):
    return task_lib.images(document)[0]


# Writing and charts


@pytest.mark.parametrize("text", ["000", "WWW", "7"])
@pytest.mark.parametrize("place", [0.0, 1.0])
def test_writing_is_whole(text, place):
    """As much ink at a border as in the middle: nothing is cut off."""
    for font in range(len(drawn.FONTS)):
        ink = [int((255 - drawn.write(drawn.Writing(text, font, drawn.FONT_PIXELS[1], at, at)).astype(int)).sum()) for at in (place, 0.5)]
        assert ink[0] == pytest.approx(ink[1], rel=0.02) and ink[1] > 0


def test_sizes_show_the_same_problems_and_means_of_pixels(world):
    large, small = ({e.item: e for e in documents.examples(world, f"word_{codes}", "test")} for codes in (16, 4))
    assert {i: e.answer for i, e in large.items()} == {i: e.answer for i, e in small.items()} and len(large) == 80
    for number in list(large)[:5]:
        fine, coarse = _pixels(large[number].prompt).astype(float), _pixels(small[number].prompt)
        assert fine.shape == (64, 64, 3) and coarse.shape == (16, 16, 3)
        assert abs(coarse[3, 5].astype(float) - fine[12:16, 20:24].mean(axis=(0, 1))).max() <= 0.5


def test_what_training_reads_is_never_asked(world):
    train = {task_lib.words(d) for d in documents.source(world, "word_4", seed=0)}
    for split in ("valid", "test"):
        held = {task_lib.words(e.prompt + e.answer) for e in documents.examples(world, "word_16", split)}
        assert held and not held & train


def test_a_bar_is_as_high_as_its_answer(world):
    """Read off the pixels: the share of the axis, from its ground line to the top, that the asked bar fills."""
    colours, heights = ("red", "blue", "green"), (9, 1, 5)
    for asked, colour in enumerate(colours):
        ((question, answer),) = drawn.show_bars(16, world, drawn.Bars(colours, heights, asked))
        wanted = [int(drawn.BAR_COLOURS[colour][i : i + 2], 16) for i in (1, 3, 5)]
        rows = np.flatnonzero((np.abs(_pixels(question).astype(int) - wanted).sum(axis=2) < 30).any(axis=1))
        assert len(rows) / (0.9 * drawn.SIDE) * 10 == pytest.approx(int(task_lib.words(answer)), abs=0.45)
        assert colour in task_lib.words(question)


def test_a_table_is_asked_about_a_cell_that_it_shows(world):
    """Changing the answer changes the picture at the asked row and column alone."""
    for row, column in ((0, 0), (0, 1), (1, 0)):
        cells = [[1, 2], [3, 4]]
        ((before, answer),) = drawn.show_table(16, world, drawn.Table(("red", "blue"), tuple(map(tuple, cells)), row, column))
        assert task_lib.words(answer) == str(cells[row][column])
        assert task_lib.words(before) == f"What is in {('red', 'blue')[row]} {'AB'[column]}?"
        cells[row][column] = 8
        ((after, _),) = drawn.show_table(16, world, drawn.Table(("red", "blue"), tuple(map(tuple, cells)), row, column))
        down, right = np.nonzero((_pixels(before) != _pixels(after)).any(axis=2))
        third = drawn.SIDE / 3
        assert {int(d // third) for d in down} == {row + 1} and {int(r // third) for r in right} == {column + 1}


# Scenes


def _cell(pixels, place):
    top, left = (scenes.CELL * p for p in divmod(place, scenes.CELLS))
    return pixels[top : top + scenes.CELL, left : left + scenes.CELL]


def test_scenes_are_what_their_answers_say(world):
    thing = [p[::2, ::2] for p in world.pictures]  # of blocks of one colour, as good as means
    known = {item.names["en"]: i for i, item in enumerate(world.items)}
    for e in _drawn(world, "count"):
        name = task_lib.words(e.prompt).removeprefix("How many ").removesuffix("s?")
        shown = sum(np.array_equal(_cell(_pixels(e.prompt), place), thing[known[name]]) for place in range(4))
        assert str(shown) == task_lib.words(e.answer)
    for e in _drawn(world, "side"):
        row = 0 if _pixels(e.prompt)[:16].min() < 255 else 2
        left, right = (next(n for n, i in known.items() if np.array_equal(_cell(_pixels(e.prompt), row + x), thing[i])) for x in (0, 1))
        assert task_lib.words(e.answer) == (left if "left" in task_lib.words(e.prompt) else right)
    for e in _drawn(world, "larger"):
        ink = {name: int((_pixels(e.prompt) == thing[i][8, 8]).all(axis=2).sum()) for name, i in known.items()}
        assert task_lib.words(e.answer) == max(ink, key=ink.get)
    said = [task_lib.words(e.answer) for e in _drawn(world, "same", 200)]
    assert 0.4 < said.count("yes") / len(said) < 0.6
    for e in _drawn(world, "same"):
        things = [c for place in range(4) if (c := _cell(_pixels(e.prompt), place)).min() < 255]
        assert task_lib.words(e.answer) == ("yes" if np.array_equal(*things) else "no")
    for e in _drawn(world, "colour"):
        shape, colour = task_lib.words(e.prompt).split()[-1].strip("?"), task_lib.words(e.answer)
        assert any(np.array_equal(_cell(_pixels(e.prompt), place), thing[known[f"{colour} {shape}"]]) for place in range(4))


def test_an_analogy_changes_one_factor(world):
    for e in _drawn(world, "analogy"):
        a, b, c, d = (next(i.cell for i, p in zip(world.items, world.pictures) if np.array_equal(p, pixels))
                      for pixels in task_lib.images(e.prompt + e.answer))
        assert not task_lib.words(e.prompt) and a[:-2] == b[:-2] == c[:-2] == d[:-2] and len({a, b, c, d}) == 4
        factor = -1 if a[-1] != b[-1] else -2
        assert c[factor] == a[factor] and d[factor] == b[factor] and {a[-3 - factor], b[-3 - factor]} != {c[-3 - factor]}
        assert d[-3 - factor] == c[-3 - factor] and a[-3 - factor] == b[-3 - factor]


# Films


def test_spaced_frames_are_the_first_the_last_and_every_third():
    assert films.spaced(46, 16).tolist() == list(range(0, 46, 3)) and films.spaced(3, 2).tolist() == [0, 2]


def test_films_move_as_their_captions_say(world):
    for split in ("train", "test_motion"):
        for e in documents.examples(world, "film", split):
            clip = e.prompt[1]
            ink = 255 - clip.frames.min(axis=3).astype(float)
            assert clip.frames.shape == (16, 16, 16, 3) and clip.seconds[-1] == 15
            x, y = ((ink.sum(axis=axis) * np.arange(16)).sum(axis=1) / ink.sum(axis=(1, 2)) for axis in (1, 2))
            drift = {"left": x[0] - x[-1], "right": x[-1] - x[0], "up": y[0] - y[-1], "down": y[-1] - y[0],
                     "grows": (ink[-1].sum() - ink[0].sum()) / 1e3, "shrinks": (ink[0].sum() - ink[-1].sum()) / 1e3}
            motion = task_lib.words(e.answer).split()[-1]
            assert max(drift, key=drift.get) == motion and drift[motion] > 3


def test_no_film_of_training_shows_a_held_out_pair(world):
    held = {task_lib.words(e.answer) for e in documents.examples(world, "film", "test_motion")}
    train = {task_lib.words(d).removeprefix(phrases.WATCH["en"][0]) for d in documents.source(world, "film", seed=0)}
    assert held and train and not held & train


def test_questions_about_a_film_agree_with_its_shot(world):
    for shot, seen in enumerate(world.shots):
        found, name = dict(films.ask(world, shot)), world.items[seen.item].names["en"]
        assert found[films.WHAT] == name and found[films.WHERE] == seen.motion
        assert found[films.GROWS] == ("yes" if seen.motion in ("grows", "shrinks") else "no")
        assert found[next(q for q in found if q.startswith("Is it"))] == ("yes" if f"Is it the {name}?" in found else "no")


# Messages


def _mo(pairs, order):
    """A .mo file, as the manual of gettext says."""
    texts = [[t.encode() for t in column] for column in zip(*sorted(pairs.items()))]
    body, tables, at = b"", b"", 28 + 16 * len(pairs)
    for column in texts:
        for text in column:
            tables += struct.pack(f"{order}2I", len(text), at + len(body))
            body += text + b"\0"
    head = struct.pack(f"{order}7I", messages.MAGIC, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    return head + tables + body


@pytest.mark.parametrize("order", "<>")
def test_catalogues_are_read_as_gettext_reads_them(order):
    pairs = {"": "Content-Type: text/plain; charset=UTF-8\n", "Yes": "Sí", "No, thanks": "非", "%d day\0%d days": "%d día\0%d días"}
    found = messages.read_mo(_mo(pairs, order))
    known = gettext.GNUTranslations(io.BytesIO(_mo(pairs, order)))
    assert found == {"Yes": "Sí", "No, thanks": "非"} == {text: known.gettext(text) for text in found}
    with pytest.raises(errors.InputError, match="mark of a .mo file"):
        messages.read_mo(b"no catalogue, but long enough")


def test_messages_of_a_split_are_held_out_in_both_directions(world, monkeypatch):
    table = {f"word {n}": f"字{n}" for n in range(300)}
    monkeypatch.setattr(messages, "catalogue", lambda lang: table)
    whole, *halves = ({task_lib.words(e.answer) for e in messages.examples(w, "test")} for w in (world, world.only("dev"), world.only("assurance")))
    assert all(halves) and not halves[0] & halves[1] and halves[0] | halves[1] == whole
    held = {task_lib.words(e.answer) for split in ("valid", "test") for e in messages.examples(world, split)}
    back = {task_lib.words(e.answer) for split in ("valid", "test") for e in messages.examples_to_english(world, split)}
    said = {text.text for d in messages.messages(world, np.random.default_rng(0)) for text in d if isinstance(text, stream.Text)}
    assert len(held) == len(back) > 30 and not (held | back) & said
    assert {table[english] for english in back} == held


# Voices


def test_new_voices_are_new_and_heard(world):
    pytest.importorskip("espeakng_loader")
    assert not set(spoken.NEW_VOICES) & set(speech.SPEAKERS)
    dev, assurance = ({e.item for e in spoken.new_voices(world.only(half), 99)} for half in ("dev", "assurance"))
    assert dev and not dev & assurance
    for e in spoken.new_voices(world, 3):
        loud = np.abs(e.prompt[1].samples)
        assert 0.1 < loud.max() <= 1 and 3_000 < len(loud) < 100_000
        assert task_lib.words(e.answer) == world.items[e.item].names[e.lang]


def test_recordings_are_found_beside_their_texts(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(spoken, "new_voices", lambda world, limit: [])
    monkeypatch.setattr(spoken, "RECORDINGS", tmp_path / "none")
    assert audio.voices(world, 5) == {}
    assert "recorded speech is left out" in capsys.readouterr().out
    wave = np.sin(np.arange(8000) / 10).astype(np.float32) / 2
    audio_io.write_wav(tmp_path / "cat.es.wav", wave)
    (tmp_path / "cat.es.txt").write_text("el gato\n")
    monkeypatch.setattr(spoken, "RECORDINGS", tmp_path)
    (found,) = audio.voices(world, 5)["test_recorded"]
    assert task_lib.words(found.answer) == "el gato" and found.lang == "es"
    assert task_lib.words(found.prompt) == phrases.LISTEN["es"][0] and len(found.prompt[1].samples) == 8000
    for name in ("cat.de", *(f"thing {n}.en" for n in range(9))):
        audio_io.write_wav(tmp_path / f"{name}.wav", wave)
        (tmp_path / f"{name}.txt").write_text(name.split(".")[0])
    (tmp_path / "cat.es.txt").write_text("cat")
    whole, *halves = ([task_lib.words(e.answer) for e in audio.voices(w, 99)["test_recorded"]] for w in (world, world.only("dev"), world.only("assurance")))
    assert all(halves) and not set(halves[0]) & set(halves[1]) and sorted(sum(halves, [])) == sorted(whole) and whole.count("cat") == 2


# Scores


def _asked(text, lang="en"):
    return documents.questions.example([stream.Text("?")], [stream.Text(text)], 0, lang)


@pytest.fixture
def context(world) -> task_lib.Context:
    return task_lib.Context(world, [], pictures.Gallery(world.pictures))


def test_errors_are_of_words_or_of_characters(context):
    pytest.importorskip("jiwer")
    examples = [_asked("a red cat sat"), _asked("一二三四", "zh"), _asked("one")]
    answers = [[stream.Text("a cat sat down")], [stream.Text("一三四")], []]
    assert scores.word_errors(context, examples, answers) == [(2.0, 4.0), (1.0, 4.0), (1.0, 1.0)]
    assert scores.character_error_rate(examples[2:], answers[2:]) == 1
    assert scores.word_error_rate(examples, answers) == pytest.approx(3 / 5), "of words alone"
    assert np.isnan(scores.word_error_rate(examples[1:2], answers[1:2]))
    english = _asked("the cat sat", "zh")  # of a question in Chinese
    assert scores.word_errors(context, [english], [[stream.Text("the dog sat")]]) == [(1.0, 3.0)]
    assert [scores.is_unsplit(_asked(text, "zh")) for text in ("one o’clock", "piñata", "T恤", "ひ")] == [False, False, True, True]


def test_bleu_and_chrf_are_of_their_definitions(context):
    pytest.importorskip("sacrebleu")
    names = [_asked("red heart"), _asked("cat")]
    assert scores.bleu(names, [e.answer for e in names]) == pytest.approx(100), "no name has four words"
    assert scores.bleu(names, [names[0].answer, [stream.Text("dog")]]) == pytest.approx(100 * (2 / 3 * 1) ** 0.5, rel=1e-6)
    example = _asked("the cat sat on the mat now")
    assert scores.bleu([example], [example.answer]) == pytest.approx(100) and scores.chrf([example], [example.answer]) == 100
    # All four n-gram precisions are 1 of a text of 5 of 7 words: only the brevity penalty exp(1 - 7/5) is left.
    assert scores.bleu([example], [[stream.Text("the cat sat on the")]]) == pytest.approx(100 * np.exp(1 - 7 / 5), rel=1e-6)
    chinese = _asked("一二三四五六七", "zh")  # its characters are its tokens
    assert scores.bleu([chinese], [[stream.Text("一二三四五")]]) == pytest.approx(100 * np.exp(1 - 7 / 5), rel=1e-6)
    mixed = scores.bleu([chinese, _asked("DVD", "zh")], [[stream.Text("一二三四五")], [stream.Text("DVD")]])
    assert mixed == pytest.approx(100 * np.exp(1 - 8 / 6), rel=1e-6), "another right name in Latin letters"
    english = example._replace(lang="ja")  # of a question in Japanese
    assert scores.bleu([english], [[stream.Text("the cat sat on the")]]) == pytest.approx(100 * np.exp(1 - 7 / 5), rel=1e-6)
    assert scores.sentence_chrf(context, [example, example], [example.answer, []]) == [(1.0, 1.0), (0.0, 1.0)]


# The classifier


def test_frechet_distance_of_a_stretched_cloud():
    """b = m + s a has the distance |mean - mean|^2 + (1 - s)^2 tr cov(a)."""
    a = np.random.default_rng(0).normal(size=(400, 5)) @ np.diag([1, 2, 3, 1, 0.5])
    assert classifier.frechet(a, a) == pytest.approx(0, abs=1e-6)
    b = 2 * a + 3
    expected = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2) + np.trace(np.cov(a, rowvar=False))
    assert classifier.frechet(a, b) == pytest.approx(expected, rel=1e-9) == pytest.approx(classifier.frechet(b, a))


def test_nearest_is_by_angle():
    real = np.array([[1.0, 0], [10, 10], [0, 1]])
    assert classifier.nearest(np.array([[1.2, 0.9], [0.1, 7]]), real).tolist() == [1, 2]


def test_classifier_survives_saving(tmp_path):
    module = classifier.Classifier(3, nnx.Rngs(0))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    classifier.save(module, tmp_path / "c.safetensors")
    found = classifier.features_of(classifier.load(tmp_path / "c.safetensors"), pixels)
    np.testing.assert_array_equal(found, classifier.features_of(module, pixels))
    white = module.features(jax.numpy.ones((1, 32, 32, 3)))
    assert not np.asarray(white).any()


def test_a_disturbed_picture_is_moved_whole():
    page = np.full((32, 32, 3), 255, np.uint8)
    page[8:16, 8:16] = 0
    for seed in range(8):
        found = picture_classifier.disturb(page, np.random.default_rng(seed))
        ink = (255 - found.astype(float)).clip(60).sum() - 60 * found.size
        assert found.shape == page.shape and ink == pytest.approx((255 - 60) * 64 * 3, rel=0.2)
