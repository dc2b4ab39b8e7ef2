"""Laws of the questions made by rule: each answer follows from its question, worked out here in another way."""

import contextlib
import io
import itertools
import operator
import re

import numpy as np
import pytest
from scipy import ndimage

from data_prep import documents, invented, needles, pack, questions, reasoning, scenes, views
from gemini_mini import errors, files, stream, vocab as vocabulary
from gemini_mini.data import rows
from gemini_mini.tokenizers import bundle

def _drawn(name: str, world, count: int) -> list:
    rng = np.random.default_rng(1)
    return [documents.GENERATORS[name].draw(world, rng) for _ in range(count)]


def _content(document) -> list:
    """What a document says and shows; a `repr` would leave out most of a picture."""
    return [part.pixels.tobytes() if isinstance(part, stream.Image) else repr(part) for part in document]


@pytest.mark.parametrize("name", documents.GENERATORS)
def test_training_never_reads_what_is_asked(name, small_world, shapes_world):
    world = shapes_world if name in scenes.GENERATORS or name == "analogy" else small_world
    made = documents.GENERATORS[name]._replace(num_documents=60, num_questions=12)
    kind = made.family or name
    problems = {split: {repr(p) for p in questions.problems(kind, made, world, split)} for split in ("train", "valid", "test")}
    keys = {split: {str(made.key(p)) for p in questions.problems(kind, made, world, split)} for split in problems}
    assert not keys["train"] & (keys["valid"] | keys["test"]) and not keys["valid"] & keys["test"]
    assert problems["train"] and (problems["valid"] or problems["test"]), "a small world may have few squares"
    assert world is shapes_world or [len(found) for found in problems.values()] == [12, 12, 12]
    written = list(questions.documents(kind, made, world, questions.rng_of(kind, 0, 0)))
    assert not any(isinstance(a, stream.Text) and isinstance(b, stream.Text) for d in written for a, b in itertools.pairwise(d))
    read = [_content(document) for document in written]
    seen, *others = (questions.examples(kind, made, world, split) for split in problems)
    assert all(_content(e.prompt + e.answer) in read for e in seen), "the seen ones are the first that training reads"
    assert not any(_content(e.prompt + e.answer) in read for found in others for e in found)
    assert all(e.prompt[-1] == questions.MODEL and e.prompt[0] == questions.USER for found in (seen, *others) for e in found)


@pytest.mark.parametrize("name, few", [("bars_8", lambda rng: {"heights": (int(rng.integers(1, 10)), 2, 3)}),
                                       ("table_8", lambda rng: {"cells": ((int(rng.integers(10)), 2), (3, 4))})])
def test_a_chart_is_of_one_split_whatever_is_asked_about_it(name, few, small_world):
    """So few charts that each is drawn again and again."""
    made = documents.GENERATORS[name]
    made = made._replace(draw=lambda world, rng, draw=made.draw: draw(world, rng)._replace(**few(rng)), num_questions=60)
    shown = {split: [problem[:2] for problem in questions.problems(made.family, made, small_world, split)] for split in ("train", "valid", "test")}
    assert all(len(set(charts)) < len(charts) for charts in shown.values()), "several questions about one"
    assert not any(set(a) & set(b) for a, b in itertools.combinations(shown.values(), 2))


def test_the_number_of_a_word_stands_beside_it_as_deep_as_asked(small_world):
    for problem in _drawn("retrieval", small_world, 20):
        problem = needles.size_pairs(problem, 1_000, 0.25)
        (first, _), *_ = turns = needles.show_pairs(small_world, problem)
        text = first[0].text
        told = re.findall(r"^\w+ \d\d$", text, re.MULTILINE)
        assert len(set(told)) == len(problem.pairs) == len({line[-2:] for line in told}), "all numbers differ"
        if problem.is_recited:
            assert turns.pop() == ([stream.Text(needles.ASK_ALL)], [stream.Text("\n".join(told))])
        for question, (answer,) in turns:
            (word,) = re.findall(r"What is the number of (\w+)\?$", question[0].text)
            assert answer.text in told and answer.text.startswith(f"{word} ")
        before, after = text.index("Remember these"), text.index("What is the") - text.index(f"{problem.pairs[-1][0]} ")
        assert before == 250 + 2 and 750 <= after <= 750 + 30
        assert "Never seen" not in text
        assert needles.last_number(problem)[-2:] == told[-1][-2:]
    bare = [problem for problem in _drawn("retrieval", small_world, 40) if not problem.before + problem.after]
    assert 10 < len(bare) < 30 and all(sorted(p.asked) == list(range(len(p.pairs))) for p in bare)
    assert 0 < sum(p.is_recited for p in bare) < len(bare)


def test_two_frames_are_other_things_and_one_is_at_the_second_that_is_answered(small_world):
    pictured = {small_world.frames[i][0].tobytes(): small_world.items[shot.item].names["en"] for i, shot in enumerate(small_world.shots)}
    for problem in _drawn("video_needle", small_world, 20):
        ((clip, ask), answer), = needles.show_frames(small_world, needles.size_frames(problem, 24, 0.5))
        contents = [frame.tobytes() for frame in clip.frames]
        second, = [n for n in range(24) if answer == [stream.Text(f"00:{n:02d}")]]
        both = [n for n, content in enumerate(contents) if contents.count(content) == 1]
        assert clip.seconds.tolist() == list(range(24)) and abs(second - 11.5) <= 3.5 and len(both) == 2 and second in both
        odd = second
        assert ask.text == f"At which second is the {pictured[contents[odd]]}?"
        assert "teapot" not in (pictured[contents[odd]], pictured[contents[odd - 1]])


def test_the_word_that_is_asked_for_is_said_at_that_second(small_world):
    places = []
    for problem in _drawn("audio_needle", small_world, 12):
        problem = needles.size_words(problem, 17, 1.0)
        ((sound, ask), answer), = needles.show_words(small_world, problem)
        (word,) = re.findall(r"second is '(\w+)' said", ask.text)
        second = int(answer[0].text.removeprefix("00:"))
        spoken = [clip for clip, said in enumerate(small_world.clips) if small_world.items[said.item].names["en"] == word]
        here = sound.samples[second * stream.SAMPLE_RATE_HZ :]
        assert any(np.array_equal(here[: len(small_world.sound(c).samples)], small_world.sound(c).samples) for c in spoken)
        heard = [small_world.items[small_world.clips[c].item].names["en"] for c in problem.clips]
        assert len(heard) == 17 and heard.count(word) == 1 and "teapot" not in heard
        assert len(set(heard)) == min(17, len({c for c in (*problem.clips, *problem.more)})), "none comes again while there are others"
        places.append(problem.at)
    assert min(places) >= 14 and len(set(places)) > 1, "no one answer is right for all"


OPERATIONS = {"add": operator.add, "subtract": operator.sub, "multiply": operator.mul,
              "+": operator.add, "-": operator.sub, "*": operator.mul}


def test_sums_are_right_at_once_and_in_each_step(small_world):
    for problem in _drawn("sums", small_world, 200):
        (question,), (answer,) = reasoning.ask_sum(problem, False)
        value = int(re.match(r"Start with (\d+),", question.text)[1])
        for verb, number in re.findall(r"(add|subtract|multiply) (?:by )?(\d+)", question.text):
            value = OPERATIONS[verb](value, int(number))
            assert 0 <= value <= 999
        assert answer.text == str(value)
        (asked,), (chain,) = reasoning.ask_sum(problem, True)
        assert asked.text.replace("Step by step.", "Only the result.") == question.text
        _assert_steps(chain.text)
        assert reasoning.result_of(chain.text) == str(value)
    assert reasoning.result_of("no idea") == "" and reasoning.result_of("3, so -12.") == "-12"


def test_programs_print_what_is_answered(small_world):
    for problem in _drawn("programs", small_world, 100):
        (question,), (answer,) = reasoning.ask_program(problem, False)
        code = question.text.split("\nWhat does it print?")[0]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, {})
        assert printed.getvalue().strip() == answer.text
        chain = reasoning.ask_program(problem, True)[1][0].text
        _assert_steps(chain)
        assert reasoning.result_of(chain) == answer.text


def _assert_steps(chain: str) -> None:
    for first, sign, second, total in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", chain):
        assert OPERATIONS[sign](int(first), int(second)) == int(total)


def test_an_invented_sentence_follows_from_the_prompt_alone(small_world):
    orders = set()
    for problem in _drawn("invented", small_world, 60):
        turns = invented.show(small_world, problem._replace(is_grammar_told=True, num_shots=4))
        told, first = turns[0][0][0].text.split("\n")
        words = dict(re.findall(r"(\w+) = (\w+)", told))
        order = re.findall(r"The order is (\w+), (\w+), (\w+)\.", told)[0]
        is_last = "Adjectives follow" in told
        orders.add((order, is_last))
        assert len(turns) == 5 and len(set(words.values())) == len(words) == 8
        for english, (_, answer) in zip([first, *(question[0].text for question, _ in turns[1:])], turns, strict=True):
            subject, verb, thing = re.fullmatch(r"the (\w+(?: \w+)?) (\w+) the (\w+(?: \w+)?)", english).groups()
            phrase = {"verb": [words[verb]]}
            for role, noun in (("subject", subject), ("object", thing)):
                said = [words[word] for word in noun.split()]
                phrase[role] = said[::-1] if is_last else said
            assert answer[0].text == " ".join(word for role in order for word in phrase[role])
        asked = turns[-1][0][0].text
        assert invented.word_for_word(problem) == " ".join(words[word] for word in asked.split() if word != "the")
    assert len(orders) == invented.NUM_GRAMMARS
    silent = invented.show(small_world, problem._replace(is_grammar_told=False, num_shots=0))
    assert len(silent) == 1 and "order" not in silent[0][0][0].text


def test_only_what_is_asked_for_is_packed_and_long_texts_fill_their_rows(small_world, run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pack.worlds, "load", lambda folder: (documents, small_world))
    files.write_json(tmp_path / "world" / "built.json", {"key": "w"})
    paths = tuple(run_folder / "tokenizers" / name for name in ("text.model", "image.safetensors", "audio.safetensors"))
    pack.build(tmp_path / "world", paths, 128, tmp_path / "rows", ("prose", "long_text"))
    tokenizers = bundle.load(*paths)
    fingerprint = tokenizers.vocab.fingerprint
    train, valid = (rows.load(tmp_path / "rows" / split, fingerprint).sources for split in ("train", "valid"))
    assert set(train) == {"prose", "long_text"} and set(valid) == {"prose"} and len(valid["prose"]) == 1
    pieces, too_long = pack.render([[stream.Text("a cat and a dog\n" * 300)]], tokenizers, 128, {})
    assert too_long == 0 and len(pieces) > 9 and np.mean([len(ids) for ids in pieces]) > 0.85 * 128


def test_long_text_joins_what_was_cut(small_world):
    texts = [document[0].text for document in documents.source(small_world, "long_text", 0)]
    assert texts[0] == "x = 0\n\nx = 1\n\nx = 2" and len(texts) == 2
    assert "Never seen." not in texts[1] and texts[1].count("Sentence 7 ") == 9


def test_another_view_of_a_picture_is_moved_as_asked():
    """Against SciPy's own, by which a point of the result is looked up in the original."""
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.uniform(0, 255, (32, 48, 3)), (3, 3, 0))
    pixels = np.pad(smooth, ((8, 8), (8, 8), (0, 0)), constant_values=255).astype(np.uint8)
    for turn, size, down, right in ((0.0, 1.0, 0.0, 0.0), (0.2, 1.0, 0.0, 0.0), (0.0, 1.1, 0.0, 0.0), (-0.1, 0.8, 0.05, -0.08)):
        made = views.moved(pixels, turn, size, down, right)
        turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / size  # (y, x) of the result to the original
        middle = (np.array(pixels.shape[:2]) - 1) / 2
        start = middle - turned @ (middle + np.array([down, right]) * pixels.shape[:2])
        wanted = np.stack([ndimage.affine_transform(pixels[..., c].astype(float), turned, start, order=1, mode="constant", cval=255)
                           for c in range(3)], axis=-1)
        assert np.abs(made[10:-10, 10:-10] - wanted[10:-10, 10:-10]).mean() < 3, (turn, size, down, right)
        assert size != 1 or turn or down or np.array_equal(made, pixels)
    assert (views.moved(pixels, 0.0, 0.5, 0.0, 0.0)[:8] == 255).all()


def test_another_view_of_a_sound_is_faster_and_higher():
    second = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    for speed in (17, 20, 23):
        made = views.faster(second, speed)
        loudest = np.argmax(np.abs(np.fft.rfft(made * np.hanning(len(made)), 1 << 16))) * 16_000 / (1 << 16)
        assert len(made) == pytest.approx(16_000 * 20 / speed, abs=1) and loudest == pytest.approx(440 * speed / 20, abs=1)


def test_views_change_what_is_shown_in_most_documents_and_nothing_else():
    rng = np.random.default_rng(0)
    shown = [questions.USER, stream.Image(rng.integers(0, 255, (16, 16, 3), np.uint8)), stream.Audio(rng.normal(size=900).astype(np.float32)),
             stream.Text("What is it?"), questions.MODEL, stream.Text("cat"), *[stream.Image(rng.integers(0, 255, (16, 16, 3), np.uint8))] * 2]
    plain = shown[1:4]
    assert all(document is plain or all(a is b for a, b in zip(document, plain, strict=True))
               for document in views.varied([plain] * 50, np.random.default_rng(2))), "nobody shows it: it is learned as it is drawn"
    made = list(views.varied([shown] * 200, np.random.default_rng(1)))
    changed = [document for document in made if document is not shown]
    assert abs(len(changed) / len(made) - views.SHARE) < 0.1
    for document in changed:
        assert all(document[i] is shown[i] for i in (0, 3, 4, 5, 6, 7)), "what is drawn stays as it is"
        assert document[1].pixels.shape == (16, 16, 3) and (document[1].pixels != shown[1].pixels).any()
    assert len({len(document[2].samples) for document in changed}) == 7
    assert [d is shown for d in views.varied([shown] * 200, np.random.default_rng(1))] == [d is shown for d in made]


def test_only_training_is_packed_in_other_views(small_world, run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pack.worlds, "load", lambda folder: (documents, small_world))
    files.write_json(tmp_path / "world" / "built.json", {"key": "w"})
    paths = tuple(run_folder / "tokenizers" / name for name in ("text.model", "image.safetensors", "audio.safetensors"))
    vocab = bundle.load(*paths).vocab
    packed = {}
    for varied in ((), ("name",)):
        pack.build(tmp_path / "world", paths, 128, tmp_path / "rows", ("name", "listen"), varied)
        packed[varied] = {(split, name): np.concatenate(list(ids)) for split in ("train", "valid")
                          for name, ids in rows.load(tmp_path / "rows" / split, vocab.fingerprint).sources.items()}
    plain, other = packed.values()
    assert {key for key in plain if not np.array_equal(plain[key], other[key])} == {("train", "name")}
    before, after = plain["train", "name"], other["train", "name"]
    images = vocab.modality_of(before) == vocabulary.IMAGE
    assert images.any() and np.array_equal(before[~images], after[~images]) and (vocab.modality_of(after[images]) == vocabulary.IMAGE).all()
    with pytest.raises(errors.InputError, match="--views must be some of .*'listen', 'name'.*, got .'draw'"):
        pack.build(tmp_path / "world", paths, 128, tmp_path / "rows", ("name", "listen"), ("draw",))
