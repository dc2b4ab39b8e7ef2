"""What an evaluation is made of: questions, what counts as right, and what a figure must be compared with.

A task asks every example of some splits and judges each answer against the true one. A baseline
is only another way to answer, judged by the same function:

    prompts ──answerer──▶ answers ─┐
    prompts ──baseline──▶ answers ─┴▶ judge(example, answer) = (score, weight) ▶ sum / sum

A measure has no questions of this kind, and finds its cells in its own way. A cell is one figure with
its interval, what it is compared with, and how it was come by: shots, sampling, samples, prompt.

Splits: `seen` is what was trained on; `valid*` is for tuning; `test_*` hold out a thing, a
combination, a name, a voice or a motion (data_prep/splits.py) and are looked at last.
Next: judges.py, baselines.py, suites/, suite.py.
"""

import collections
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from data_prep import documents, emoji_world, questions
from gemini_mini import files, progress, stream
from gemini_mini.evals import album as album_lib, answerer as answerer_lib, metrics, pictures

SPLITS = ("seen", "valid", "valid_compose", "valid_speaker_language", "valid_motion", "test_compose", "test_concept", "test_lang", "test_speaker_language", "test_motion", "test")
ROOM_TOKENS = 8  # an answer may be this much longer than the longest true one
SHARES = ("accuracy", "character error rate", "word error rate", "word error rate, of characters where words are not split", "mean chrF")  # units of figures from 0 to 1

Example = questions.Example
Examples, Documents = Sequence[Example], Sequence[stream.Document]


class Judged(NamedTuple):
    """One answer: an accuracy has score 0 or 1 and weight 1, an error rate edits and characters."""

    score: float
    weight: float


class Context(NamedTuple):
    """What judges and baselines may look at."""

    world: emoji_world.World
    train: list[Example]  # of this task; their sounds are left out where none is shown as an example
    gallery: pictures.Gallery  # all pictures of the world, by item


@dataclass(frozen=True)
class Settings:
    """What is asked. `limit` is the most examples of a split; a further language gets a quarter."""

    limit: int = 200
    tasks: tuple[str, ...] = ()  # () asks what the report shows
    is_valid_only: bool = False
    seed: int = 0
    temperature: float = 0.0  # of image codes; text is greedy where a task does not say otherwise
    guidance: float = 1.0  # of image codes; 1 is none
    classifier: str = ""  # the file that judges drawings; "": they are judged by pixels alone

    def allows(self, split: str) -> bool:
        """Whether the examples of a split may be looked at."""
        return not (self.is_valid_only and split.startswith("test"))

    @property
    def held_out(self) -> str:
        """The split of a measure that asks one alone."""
        return "valid" if self.is_valid_only else "test"


class Exam(NamedTuple):
    """Who is asked about what, and where its answers are kept."""

    world: emoji_world.World
    model: answerer_lib.Answerer
    gallery: pictures.Gallery
    album: album_lib.Album
    settings: Settings
    known: dict[str, stream.Document]  # answers so far: several tasks judge the same ones


@dataclass(frozen=True)
class Task:
    """One kind of question."""

    name: str
    title: str
    judge: Callable[[Context, Examples, Documents], list[Judged]]
    chance: Callable[[Context, Examples], float]
    baseline: Callable[[Context, Examples], list[stream.Document]]
    baseline_title: str
    majority: Callable[[Examples], stream.Document] | None = None  # one answer to all, where it is not `most_frequent`
    kind: str = ""  # its name in data_prep/documents.py, where it is not `name`
    is_error: bool = False  # a rate of errors: less is better
    unit: str = ""  # of scores that are neither right nor wrong; "" where they are, or errors
    also: tuple[tuple[str, Callable[[Examples, Documents], float]], ...] = ()  # more figures of the same answers
    # each: English, and what was seen in each other language; apart: a cell for each, of every split
    languages: Literal["all", "en", "each", "apart"] = "all"
    splits: tuple[str, ...] = SPLITS
    share: float = 1.0  # of the limit: long answers are asked for less often
    shots: int = 0  # training examples in the prompt, with their answers
    more: Callable[[emoji_world.World, int], dict[str, list[Example]]] | None = None  # further splits, up to a limit
    axes: tuple[str, ...] = ()

    def find(self, exam: Exam) -> dict:
        """Ask all splits at once; judge model and baseline alike. Returns JSON values."""
        columns, is_ratio = self.columns(exam), self.is_error or bool(self.unit)
        examples = [example for found in columns.values() for example in found]
        prompts = answers = judged = easy = common = []
        if examples:
            train = documents.examples(exam.world, self.kind or self.name, "seen", is_heard=self.shots > 0)
            context = Context(exam.world, train, exam.gallery)
            prompts = [few_shot(example, train, self.shots) for example in examples]
            room = max(exam.model.lengths([example.answer for example in examples])) + ROOM_TOKENS
            with progress.bar(self.name, len(examples), "questions") as bar:
                answers = _answers(exam, prompts, room, bar.advance)
            judged = self.judge(context, examples, answers)
            easy = self.judge(context, examples, self.baseline(context, examples))
            common = self.judge(context, examples, by_language(train, examples, lambda known, asked: [(self.majority or most_frequent)(known)] * len(asked)))
        splits, at = {}, 0
        for split, found in columns.items():
            here = slice(at, at := at + len(found))
            splits[split] = {
                **cell(judged[here], is_ratio, self.chance(context, found), figure(easy[here], is_ratio)["value"],
                       in_words(prompts[here][0]), shots=self.shots, sampling=how_sampled(exam.settings), about=[e.item for e in found]),
                "majority": figure(common[here], is_ratio)["value"],
                "also": {name: measure(found, answers[here]) for name, measure in self.also},
                "examples": [answered(exam.album, e._replace(prompt=p), a, j, self.is_error)
                             for e, p, a, j in zip(found, prompts[here], answers[here], judged[here], strict=True)],
            }
        return {"baseline_title": self.baseline_title, "is_error": self.is_error,
                "unit": self.unit or ("character error rate" if self.is_error else "accuracy"), "splits": splits}

    def columns(self, exam: Exam) -> dict[str, list[Example]]:
        """The examples of each split: the first of documents.py's hash order, a fair sample."""
        limit = math.ceil(exam.settings.limit * self.share)
        columns: dict[str, list[Example]] = {}
        for split in filter(exam.settings.allows, self.splits):
            found = documents.examples(exam.world, self.kind or self.name, split, limit)
            if self.languages == "all" or self.languages == "each" and split == "test_lang":
                columns[split] = found[:limit]
                continue
            columns[split] = [e for e in found if e.lang == "en"][:limit]
            if self.languages == "apart" or self.languages == "each" and split == "seen":
                for lang in exam.world.config.languages[1:]:
                    columns[f"{split}_{lang}"] = [e for e in found if e.lang == lang][: math.ceil(limit / 4)]
        if self.more and not exam.settings.is_valid_only:
            columns |= {split: found for split, found in self.more(exam.world, limit).items() if exam.settings.allows(split)}
        return {split: found for split, found in columns.items() if found}


@dataclass(frozen=True)
class Measure:
    """Figures that are not shares of right answers; `find` returns the values that Task.find does."""

    name: str
    title: str
    find: Callable[[Exam], dict]
    axes: tuple[str, ...] = ()  # values of its cells that a chart lays them out by: one for a line, two for a map


class Suite(NamedTuple):
    """Tasks that are asked and shown together."""

    title: str
    tasks: tuple[Task | Measure, ...]


def cell(
    judged: Sequence[Judged], is_ratio: bool, chance: float, baseline: float, prompt: str,
    shots: int = 0, sampling: str = "greedy", samples: int = 1, about: Sequence[int] = (),
) -> dict:
    """A figure, what it is compared with, and the protocol of its questions; `samples` are those of one question."""
    return {**figure(judged, is_ratio, about), "chance": chance, "baseline": baseline,
            "prompt": prompt, "shots": shots, "sampling": sampling, "samples": samples}


def figure(judged: Sequence[Judged], is_ratio: bool, about: Sequence[int] = ()) -> dict[str, float]:
    """Value, 95 % interval and number of examples.

    Questions about one thing (`about` names it) are right and wrong together, so the interval is of as many as there are things.
    """
    scores, weights = (np.array(column, np.float64) for column in zip(*judged))
    value, (_, thing) = metrics.ratio(scores, weights), np.unique(about or range(len(judged)), return_inverse=True)
    of_things = np.bincount(thing, scores), np.bincount(thing, weights)
    low, high = metrics.bootstrap(*of_things) if is_ratio else metrics.wilson(value, len(of_things[0]))
    return {"value": value, "low": low, "high": high, "n": len(judged), "things": len(of_things[0])}


def answered(album: album_lib.Album, example: Example, answer: stream.Document, judged: Judged, is_error: bool) -> dict:
    """An example and its answer as JSON values; what they show and sound like goes into the album."""
    return {"lang": example.lang, "prompt": album.add(example.prompt), "truth": album.add(example.answer),
            "answer": album.add(answer), "score": judged.score, "weight": judged.weight,
            "is_right": judged.score == (0 if is_error else 1)}


def _answers(exam: Exam, prompts: Sequence[stream.Document], room: int, on_answers: Callable[[int], None]) -> list[stream.Document]:
    """An answer to each prompt; what was asked before, with as much room, is not asked again."""
    keys = [files.hash_json([exam.album.add(prompt), room]) for prompt in prompts]
    new = {key: prompt for key, prompt in zip(keys, prompts) if key not in exam.known}
    if new:
        exam.known.update(zip(new, exam.model.answer(list(new.values()), room, on_answers), strict=True))
    return [exam.known[key] for key in keys]


def by_language(train: Examples, examples: Examples, answer: Callable[[Examples, Examples], Documents]) -> list[stream.Document]:
    """What `answer(train, examples)` says to the questions of each language: from its own training examples, or all where it has none."""
    answers: list[stream.Document] = [[] for _ in examples]
    for lang in sorted({e.lang for e in examples}):
        places = [i for i, e in enumerate(examples) if e.lang == lang]
        known = [e for e in train if e.lang == lang] or train
        for i, found in zip(places, answer(known, [examples[i] for i in places]), strict=True):
            answers[i] = found
    return answers


def most_frequent(train: Examples) -> stream.Document:
    """The answer that most of the training examples have; of equals, the last, for the first are those that are asked."""
    contents = [(words(e.answer), *(pixels.tobytes() for pixels in images(e.answer))) for e in train]
    return train[contents.index(collections.Counter(reversed(contents)).most_common(1)[0][0])].answer


def few_shot(example: Example, train: Examples, shots: int) -> stream.Document:
    """The prompt after the first `shots` training examples about other items in its language, with their answers."""
    known = [e for e in train if e.lang == example.lang and e.item != example.item][:shots]
    return [part for e in known for part in [*e.prompt, *e.answer]] + example.prompt


def wrong(found: dict) -> list[tuple[str, dict]]:
    """(split, example) of all wrong answers of a task, in their order, the splits taking turns."""
    columns = [[(split, e) for e in cell["examples"] if not e["is_right"]] for split, cell in found["splits"].items()]
    return [each for row in itertools.zip_longest(*columns) for each in row if each]


def how_sampled(settings: Settings) -> str:
    """How answers are drawn, in words."""
    drawn = [f"{name} {value:g}" for name, value, plain in
             (("temperature", settings.temperature, 0.0), ("guidance", settings.guidance, 1.0)) if value != plain]
    return f"greedy text, pictures at {' and '.join(drawn)}" if drawn else "greedy"


def protocols(detail: dict) -> list[str]:
    """How the tasks of an evaluation were asked, in sentences; which ones, where not all were asked alike."""
    names: dict[str, list[str]] = {}
    for name, found in detail["tasks"].items():
        asked: dict[tuple[str, int], set[int]] = {}
        for each in found["splits"].values():
            asked.setdefault((each["sampling"], each["samples"]), set()).add(each["shots"])
        for (sampling, samples), shots in asked.items():
            several = [f"{samples} samples of each question"] if samples > 1 else []
            worked = [f"{min(shots)} to {max(shots)} worked examples before it" if len(shots) > 1 else f"{max(shots)} worked examples before it"] if any(shots) else []
            about = detail | found.get("about", {})
            limit = f"at most {about['limit']} questions of a split"
            half = ["test splits left alone"] if about.get("is_valid_only") else []
            names.setdefault(", ".join([sampling, *several, *worked, limit, *half, f"seed {about['seed']}"]), []).append(name)
    return [f"{', '.join(tasks) if len(names) > 1 else 'All tasks'}: {how}." for how, tasks in names.items()]


def formatter(unit: str) -> Callable[[float], str]:
    """How to write a figure: shares as percent, everything else as it is."""
    if unit in SHARES:
        return lambda value: f"{value:.0%}" if value >= 0.0995 else f"{value:.1%}"
    return lambda value: f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def words(document: stream.Document) -> str:
    """All text of a document, stripped."""
    return "".join(part.text for part in document if isinstance(part, stream.Text)).strip()


def images(document: stream.Document) -> list[np.ndarray]:
    """The pixels of all pictures of a document, in order."""
    return [part.pixels for part in document if isinstance(part, stream.Image)]


def in_words(document: stream.Document) -> str:
    """A document as one line of text: its words, and what else stands where."""
    return " ".join(_part_in_words(part) for part in document)


def _part_in_words(part: stream.Part) -> str:
    match part:
        case stream.Role(name):
            return f"<{name}>"
        case stream.Text(text):
            return text
        case stream.Image(pixels):
            return f"[picture {pixels.shape[1]} x {pixels.shape[0]}]"
        case stream.Audio(samples):
            return f"[sound {len(samples) / stream.SAMPLE_RATE_HZ:.1f} s]"
        case stream.Video(frames, _):
            return f"[video {len(frames)} frames]"
    raise TypeError(f"evals: not a part: {type(part).__name__}")
