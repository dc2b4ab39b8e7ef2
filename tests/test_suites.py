"""Laws of the suites that are made by rule: a model that knows everything is right everywhere, and doubt pays."""

import dataclasses
import itertools
import re
import sys

import numpy as np
import pytest

from data_prep import documents, emoji_world, invented, questions, reasoning, splits, text
from gemini_mini import errors, files, stream
from gemini_mini.evals import __main__ as command
from gemini_mini.evals import album, chart, suite, task
from gemini_mini.evals.suites import audio, long_context
from gemini_mini.evals.suites import reasoning as suite_reasoning


class Known:
    """Answers texts by `reply(text of the prompt, temperature, how often it was asked so)`; an id is two characters, or an "s"."""

    patch, row_tokens, context_tokens, num_pieces = 4, 300, 700, 300

    def __init__(self, reply):
        self.reply, self.asked = reply, []

    def lengths(self, documents):
        sizes = {stream.Text: lambda part: (len(part.text) + part.text.count("s")) // 2, stream.Video: lambda part: 20 * len(part.frames),
                 stream.Audio: lambda part: len(part.samples) // 640, stream.Role: lambda part: 1}
        return [sum(sizes[type(part)](part) for part in document) for document in documents]

    def answer(self, prompts, max_tokens, on_answers, temperature=None):
        self.asked += prompts
        seen, answers = {}, []
        for prompt in prompts:
            text = task.in_words(prompt)
            answers.append([stream.Text(self.reply(text, temperature, seen.setdefault(text, 0)))])
            seen[text] += 1
        return answers

    def nats(self, texts, window_tokens):
        """From 6 down to 3 at the end of the context; at the end of a window it is 5."""
        low = 3.0 if window_tokens == self.context_tokens else 5.0
        return [6 - (6 - low) * (np.arange(699) % window_tokens) / window_tokens for _ in texts]

    def scores(self, prompts, answers):
        """The more, the more of the answer's letters the prompt has."""
        return [float(sum(c in p[0].text for c in a[0].text)) for p, a in zip(prompts, answers)]

    def bits(self, texts):
        return [(2.0, len(text.encode())) for text in texts]

    def reconstruct(self, pictures):
        return pictures


def run(world, model, name, **settings):
    return suite.run(world, model, task.Settings(tasks=(name,), **settings))[0][name]


@pytest.mark.parametrize("kind", ["retrieval", "video_needle", "audio_needle"])
def test_needles_are_asked_for_at_each_depth_of_each_length_that_can_be_read(small_world, kind):
    pytest.importorskip("matplotlib")
    def find(text, *_):
        if kind == "retrieval":
            (word,) = re.findall(r"number of (\w+)\?", text)
            return re.findall(rf"^{word} \d+$", text, re.MULTILINE)[0]
        return "00:00"

    model = Known(find)
    found = run(small_world, model, kind, limit=100)
    cells = found["splits"].values()
    assert {cell["length"] for cell in cells} <= {75, 150, 300, 600} and max(cell["length"] for cell in cells) == 600
    assert {cell["depth"] for cell in cells} == set(long_context.DEPTHS)
    assert [cell["is_trained_length"] for cell in cells] == [cell["length"] <= 300 for cell in cells]
    lengths = {length: [] for length in (75, 150, 300, 600)}
    prompts = iter(model.lengths(model.asked))
    for cell in cells:
        lengths[cell["length"]] += [next(prompts) for _ in range(cell["n"])]
    for length, sizes in lengths.items():
        assert all(size + long_context.ROOM_TOKENS <= length for size in sizes)
        assert length < 300 or max(sizes) > 0.8 * length - long_context.ROOM_TOKENS, "filled"
    assert len({cell["n"] for cell in cells if cell["length"] >= 300}) == 1, "each problem is filled by itself: none is lost"
    if kind == "retrieval":
        assert all(cell["value"] == 1 for cell in cells) and 0 < np.mean([cell["baseline"] for cell in cells]) < 0.5
        place = {cell["depth"]: cell["prompt"].index("Remember") for cell in cells if cell["length"] == 600}
        assert place[0.0] < 20 and place == dict(sorted(place.items())) and place[1.0] > 700
    else:
        right = {depth: np.mean([c["value"] for c in cells if c["depth"] == depth]) for depth in long_context.DEPTHS}
        assert right[0.0] > 0.1 and right[0.75] == right[1.0] == 0, "the second 0 is right at depth 0 alone, and not always"
        assert right[0.0] < 1
    sheet = chart.draw({kind: found})
    assert len(sheet.axes[0].texts) == len(found["splits"])


def test_surprise_falls_with_position(small_world):
    pytest.importorskip("matplotlib")
    cells = list(run(small_world, Known(None), "position")["splits"].values())
    values = [cell["value"] for cell in cells]
    assert values == sorted(values, reverse=True) and len(values) == long_context.POSITIONS and values[-1] < 4
    assert all(5 < cell["baseline"] < 6.01 for cell in cells) and cells[0]["chance"] == pytest.approx(np.log(300))
    panel = chart.draw({"position": {**run(small_world, Known(None), "position")}}).axes[0]
    assert len(panel.lines) == 3
    model = Known(None)
    model.nats = lambda texts, window: [line[:400] * 0 if i else line for i, line in enumerate(Known.nats(model, [*texts, ""], window))]
    assert [cell["value"] for cell in run(small_world, model, "position")["splits"].values()] == values, "shorter texts are in no figure"


def test_the_true_continuation_is_chosen_where_it_is_the_likeliest(small_world):
    """Texts of one letter each, but for one: its continuation is of other letters, and no wrong one is likelier."""
    written = [*(letter * 300 for letter in "abcdefgh"), "i" * 150 + "j" * 150]
    texts = [text.Passage("test", held, "a") for held in written] + [text.Passage(split, "k" * 300, split) for split in ("train", "valid")]
    cells = run(small_world._replace(prose=texts), Known(None), "continuation")["splits"]
    assert set(cells) == {"test: prose"}
    (cell,) = cells.values()
    assert cell["n"] == 9 and cell["chance"] == 0.25 and cell["baseline"] < 1
    wrong = [e for e in cell["examples"] if not e["is_right"]]
    assert len(wrong) <= 1 and all(e["prompt"][0]["text"] == "i" * 150 for e in wrong)


@pytest.mark.parametrize("name", ["text", "continuation", "position"])
def test_text_is_foreseen_of_the_split_that_is_asked_alone(small_world, name):
    """Every text says in its words of which split and half it is; every question that is asked of the model is kept."""
    halves = {half: next(f"book {n}" for n in range(99) if splits.half(f"book {n}") == half) for half in ("dev", "assurance")}
    texts = [text.Passage(split, f"{split} {half} {n} " * 20, document) for split in ("train", "valid", "test")
             for half, document in halves.items() for n in range(6)]
    items = [item._replace(names={"en": "a", "es": f"{of} nombre"}, name_splits={"en": "train", "es": of})
             for item, of in zip(small_world.items, ("train", "valid", "valid_compose", "test_lang", "test_concept"))]
    config = dataclasses.replace(small_world.config, languages=("en", "es"))
    world = small_world._replace(prose=texts, code=texts, items=[*items, *small_world.items[len(items):]], config=config)
    for is_valid_only, half in itertools.product((False, True), halves):
        seen, split = [], "valid" if is_valid_only else "test"
        model = Known(None)
        model.bits = lambda texts: seen.extend(texts) or [(1.0, 1)]
        model.nats = lambda texts, window: seen.extend(texts) or Known.nats(model, texts, window)
        model.scores = lambda *documents: seen.extend(d[0].text for each in documents for d in each) or [0.0] * len(documents[0])
        cells = run(world.only(half), model, name, is_valid_only=is_valid_only)["splits"]
        assert cells and all(column.startswith(f"{split}: ") for column in cells)
        said = " ".join(seen)
        others = {"train", "valid", "test"} - {split}
        assert split in said and not any(re.search(rf"\b{other}(_\w+)? (dev|assurance|nombre)", said) for other in others)
        if not is_valid_only:
            assert half in said and {"dev": "assurance", "assurance": "dev"}[half] not in said


def test_a_vote_is_believed_where_enough_agree(small_world):
    """Half of the problems: all chains agree and are right. The others: half agree and are wrong, at once is right."""
    truth = {}
    for split in ("valid", "test"):
        for problem in questions.problems("sums", documents.GENERATORS["sums"], small_world, split):
            for is_in_steps in (False, True):
                question, answer = reasoning.ask_sum(problem, is_in_steps)
                truth[task.in_words([questions.USER, *question, questions.MODEL])] = answer[0].text

    def reply(text, temperature, times):
        right = truth[text]
        is_easy = int(reasoning.result_of(right)) % 2 == 0
        if not temperature:
            return right if ("Step" in text) == is_easy else "1000"
        return right if is_easy else f"so {3000 + times}" if times < 4 else "so 2000"

    for is_valid_only, split in ((False, "test"), (True, "valid")):
        found = run(small_world, Known(reply), "sums", limit=60, is_valid_only=is_valid_only)
        cells = {name.removeprefix(f"{split}: "): cell for name, cell in found["splits"].items()}
        assert set(cells) == {"at once", "chain", "majority of 8", "routed of 8"}
        values = {name: cell["value"] for name, cell in cells.items()}
        assert values["routed of 8"] == 1 and 0.3 < values["at once"] < 0.7
        assert values["majority of 8"] == values["chain"] == pytest.approx(1 - values["at once"])
        share = values["at once"]  # either is right where the other is not
        assert cells["routed of 8"]["also"]["above the better of the two"] == pytest.approx(min(share, 1 - share))
        assert cells["routed of 8"]["threshold"] == 1.0 and cells["majority of 8"]["samples"] == 8
        assert "Only the result" in cells["at once"]["prompt"] and cells["at once"]["baseline"] < 0.2
        assert f"{len(next(iter(cells.values()))['examples'])}" == "60"
        for name, cell in cells.items():
            for example in cell["examples"]:
                asked, true, said = ("".join(part["text"] for part in example[key] if "text" in part) for key in ("prompt", "truth", "answer"))
                is_easy = int(reasoning.result_of(true)) % 2 == 0
                assert example["is_right"] == (reasoning.result_of(said) == reasoning.result_of(true)), "the answer shown is the one judged"
                if name != "at once":
                    assert is_easy or said == {"chain": "1000", "majority of 8": "so 2000", "routed of 8": true}[name]
                assert ("Step" in asked) == (name != "at once" and (is_easy or name != "routed of 8")), "beside the question it answers"


def test_a_gain_is_of_the_same_problems_and_its_interval_says_what_chance_does():
    rng = np.random.default_rng(0)
    right = lambda share: (rng.random(400) < share).astype(float)
    worse, better = right(0.2), right(0.6)
    routed = np.where(np.arange(400) % 10 == 0, 1.0, better)  # a tenth is right whatever the better one says
    found = list(suite_reasoning.gain(routed, better, worse).values())
    assert found == list(suite_reasoning.gain(routed, worse, better).values())
    assert found[0] == pytest.approx(np.mean(routed - better)) and 0 < found[1] < found[0] < found[2] < 0.1
    assert list(suite_reasoning.gain(better, better, worse).values()) == [0, 0, 0]


def test_no_figure_has_errors_of_words_and_of_characters(shapes_world, monkeypatch):
    """Nine colours and shapes said in English and in Chinese, all heard as a red heart."""
    pytest.importorskip("jiwer")
    monkeypatch.setattr(audio.spoken, "new_voices", lambda *_: [])
    clips = [emoji_world.Clip(item, lang, 0, split) for item in range(9) for lang in ("en", "zh") for split in ("train", "valid")]
    sound = np.random.default_rng(0).integers(-9000, 9000, 900 * len(clips)).astype(np.int16)
    world = shapes_world._replace(clips=clips, shards=[sound], starts=900 * np.arange(len(clips)), stops=900 * np.arange(1, len(clips) + 1))
    cells = run(world, Known(lambda *_: "red heart"), "write_down")["splits"]
    assert {split: cell["n"] for split, cell in cells.items()} == dict.fromkeys(("seen", "seen_zh", "valid", "valid_zh"), 9)
    for split in ("seen", "valid"):
        assert cells[split]["value"] == pytest.approx((6 + 6) / (2 * 9)), "two of three colours are wrong, and two of three shapes"
        assert cells[f"{split}_zh"]["value"] == pytest.approx(9 / 2), "nine letters for two"


def test_the_threshold_is_the_best_on_what_it_is_chosen_on():
    rng = np.random.default_rng(0)
    for _ in range(50):
        truths, at_once = ([str(n) for n in rng.integers(3, size=20)] for _ in range(2))
        votes = [suite_reasoning.vote([str(n) for n in rng.integers(3, size=8)]) for _ in range(20)]
        score = lambda results: sum(a == b for a, b in zip(truths, results))
        chosen = suite_reasoning.route(at_once, votes, suite_reasoning.best_threshold(truths, at_once, votes))
        assert score(chosen) >= max(score(at_once), score([voted for voted, _ in votes]))
    assert suite_reasoning.vote(["3", "5", "5", "3"]) == ("3", 0.5)
    assert suite_reasoning.vote(["", "", "", "7"]) == ("7", 0.25) and suite_reasoning.vote(["", ""]) == ("", 1.0)


def test_an_invented_language_is_asked_after_more_and_more_examples(small_world):
    truth = {}
    for problem in questions.problems("invented", documents.GENERATORS["invented"], small_world, "test"):
        for shots in range(9):
            turns = invented.show(small_world, problem._replace(num_shots=shots, is_grammar_told=True))
            truth[task.in_words(questions.last(turns, 0).prompt)] = invented.say(problem, problem.asked), invented.word_for_word(problem)
    asked = list(itertools.islice(questions.problems("invented", documents.GENERATORS["invented"], small_world, "test"), 20))
    grammars = list(itertools.product(invented.ORDERS, (False, True)))
    right = [[invented.say(p._replace(order=order, is_adjective_last=last), p.asked) == invented.say(p, p.asked) for order, last in grammars]
             for p in asked]
    guessed = np.mean(right)  # a grammar drawn at random
    for which in (0, 1):
        cells = run(small_world, Known(lambda text, *_: truth[text][which]), "invented", limit=40)["splits"].values()
        assert [cell["shots"] for cell in cells] == [0, 1, 2, 4, 8] and {cell["n"] for cell in cells} == {20}
        assert [cell["prompt"].count("<user>") for cell in cells] == [1, 2, 3, 5, 9]
        assert all(cell["value"] == (cell["baseline"] if which else 1) for cell in cells)
        assert all(cell["baseline"] < 0.5 and cell["chance"] == pytest.approx(guessed) for cell in cells)
    untold = run(small_world, Known(lambda *_: "?"), "invented_untold", limit=2)["splits"].values()
    assert all("order" not in cell["prompt"] and cell["value"] == 0 for cell in untold)


def test_a_suite_is_written_as_figures_and_a_chart(small_world, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    tasks, kept = suite.run(small_world, Known(lambda *_: "?"), task.Settings(limit=4, tasks=("invented",)))
    command.save(tmp_path, tasks, kept, {"key": "k"}, "in_context")
    saved = files.read_json(tmp_path / "evals" / "in_context.json")
    assert saved["tasks"]["invented"]["splits"].keys() == tasks["invented"]["splits"].keys()
    assert (tmp_path / "evals" / "in_context.png").read_bytes().startswith(b"\x89PNG")
    example = saved["tasks"]["invented"]["splits"]["test: 1 shots"]["examples"][0]
    assert album.load(tmp_path / "evals" / "in_context.safetensors").document(example["answer"]) == [stream.Text("?")]
    assert not (tmp_path / "evals_detail.json").exists()
    monkeypatch.setattr(sys, "argv", ["evals", "--list"])
    command.main()
    listed = capsys.readouterr().out
    assert all(f"{name}:" in listed for name in suite.SUITES) and all(name in listed for name in suite.TASKS)
    for arguments, why in ((["--suite", "imagery"], "must be some of long_context"), (["--suite", "text", "--tasks", "draw"], "together")):
        monkeypatch.setattr(sys, "argv", ["evals", str(tmp_path), *arguments])
        with pytest.raises(errors.InputError, match=why):
            command.main()
