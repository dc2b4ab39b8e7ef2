"""The questions, what counts as right, and what a figure must be compared with.

A task asks every example of some splits and judges each answer against the true one. A baseline
is only another way to answer, judged by the same function:

    prompts ──answerer──▶ answers ─┐
    prompts ──baseline──▶ answers ─┴▶ judge(example, answer) = (score, weight) ▶ sum / sum

Splits: `seen` is what was trained on; `valid` is for tuning; `test_*` hold out a thing, a
combination, a name, a voice or a motion (data_prep/splits.py) and are looked at last.
Next: __main__.py, ../report.py.
"""

import math
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from data_prep import documents, emoji_world
from gemini_mini import progress, stream
from gemini_mini.evals import album as album_lib, answerer as answerer_lib, metrics, pictures

ROOM_TOKENS = 8  # an answer may be this much longer than the longest true one
TEXT_DOCUMENTS = 60  # of each kind of text

Example = documents.Example


class Judged(NamedTuple):
    """One answer: an accuracy has score 0 or 1 and weight 1, an error rate edits and characters."""

    score: float
    weight: float


class Split(NamedTuple):
    """A column of the table: which examples of the world it asks."""

    name: str
    examples: list[Example]


@dataclass(frozen=True)
class Task:
    """One kind of question. `source` is its name in data_prep/documents.py."""

    name: str
    source: str
    title: str
    judge: Callable[["Context", Example, stream.Document], Judged]
    chance: Callable[["Context", Sequence[Example]], float]
    baseline: Callable[["Context", Sequence[Example]], list[stream.Document]]
    baseline_title: str
    has_other_languages: bool = False
    is_error: bool = False  # a rate of errors: less is better


@dataclass(frozen=True)
class Settings:
    """What is asked. `limit` is the most examples of a split; other languages get a quarter."""

    limit: int = 200
    tasks: tuple[str, ...] = ()  # () asks all
    is_valid_only: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Context:
    """What judges and baselines may look at."""

    world: emoji_world.World
    train: list[Example]  # of this task
    real: np.ndarray = field(repr=False)  # all pictures of the world


def run(
    world: emoji_world.World, model: answerer_lib.Answerer, settings: Settings = Settings()
) -> tuple[dict, album_lib.Album]:
    """Ask everything. Returns the detail as JSON values, and the pictures and sounds it names."""
    album, tasks = album_lib.Album(), {}
    for task in TASKS:
        if settings.tasks and task.name not in settings.tasks:
            continue
        splits = _splits(world, task, settings)
        if splits:
            tasks[task.name] = _ask(world, task, splits, model, album)
    if not settings.tasks or "text" in settings.tasks:
        tasks["text"] = _text(world, model, settings)
    if not settings.tasks:
        tasks["reconstruct"] = _reconstruct(world, model, album, settings)
    return tasks, album


def summary(tasks: dict) -> dict[str, dict[str, float]]:
    """{task: {split: value}} of the detail."""
    return {name: {split: found["value"] for split, found in task["splits"].items()} for name, task in tasks.items()}


def _splits(world: emoji_world.World, task: Task, settings: Settings) -> list[Split]:
    """The columns of a task: a seeded sample of each, in random order."""
    rng = np.random.default_rng([settings.seed, zlib.crc32(task.name.encode())])
    columns = []
    for split in ("train", *documents.EVAL_SPLITS):
        if settings.is_valid_only and split not in ("train", "valid"):
            continue
        found = documents.examples(world, task.source, split)
        name = "seen" if split == "train" else split
        if split == "test_lang":
            columns.append((name, found, settings.limit))
            continue
        columns.append((name, [e for e in found if e.lang == "en"], settings.limit))
        if split == "train" and task.has_other_languages:
            for lang in world.config.languages[1:]:
                columns.append((f"{name}_{lang}", [e for e in found if e.lang == lang], settings.limit // 4))
    return [Split(name, [found[i] for i in rng.permutation(len(found))[:limit]])
            for name, found, limit in columns if found]


def _ask(
    world: emoji_world.World, task: Task, splits: list[Split], model: answerer_lib.Answerer, album: album_lib.Album
) -> dict:
    """Ask all splits of a task at once, judge model and baseline alike."""
    begin = time.perf_counter()
    context = Context(world, documents.examples(world, task.source, "train"), np.asarray(world.pictures))
    examples = [example for split in splits for example in split.examples]
    room = max(model.lengths([example.answer for example in examples])) + ROOM_TOKENS
    with progress.bar(task.name, len(examples), "questions") as bar:
        answers = model.answer([example.prompt for example in examples], room, bar.advance)
    easy = task.baseline(context, examples)
    found, at = {}, 0
    for split in splits:
        here = slice(at, at + len(split.examples))
        at = here.stop
        judged = [task.judge(context, e, a) for e, a in zip(examples[here], answers[here], strict=True)]
        baseline = [task.judge(context, e, a) for e, a in zip(examples[here], easy[here], strict=True)]
        found[split.name] = {
            **_figure(judged, task.is_error),
            "chance": task.chance(context, examples[here]),
            "baseline": _figure(baseline, task.is_error)["value"],
            "examples": [
                {"lang": e.lang, "prompt": album.add(e.prompt), "truth": album.add(e.answer), "answer": album.add(a),
                 "score": j.score, "weight": j.weight, "is_right": (j.score == 0) if task.is_error else (j.score == 1)}
                for e, a, j in zip(examples[here], answers[here], judged, strict=True)],
        }
    return {"title": task.title, "baseline_title": task.baseline_title, "is_error": task.is_error,
            "unit": "error rate" if task.is_error else "accuracy", "max_tokens": room,
            "seconds": round(time.perf_counter() - begin, 2), "splits": found}


def _figure(judged: Sequence[Judged], is_error: bool) -> dict[str, float]:
    """Value, 95 % interval and number of examples."""
    scores, weights = (np.array(column, np.float64) for column in zip(*judged))
    low, high = metrics.bootstrap(scores, weights) if is_error else metrics.wilson(scores.sum(), len(scores))
    return {"value": metrics.ratio(scores, weights), "low": low, "high": high, "n": len(judged)}


def words(document: stream.Document) -> str:
    """All text of a document, stripped."""
    return "".join(part.text for part in document if isinstance(part, stream.Text)).strip()


def images(document: stream.Document) -> list[np.ndarray]:
    return [part.pixels for part in document if isinstance(part, stream.Image)]


# Judges


def is_drawn(context: Context, example: Example, answer: stream.Document) -> Judged:
    """Of all real pictures, is the asked one the nearest to the first drawn one?"""
    drawn = images(answer)
    is_right = (bool(drawn) and drawn[0].shape == context.real.shape[1:]
                and pictures.nearest(drawn[0][None], context.real)[0] == example.item)
    return Judged(float(is_right), 1.0)


def is_same_text(context: Context, example: Example, answer: stream.Document) -> Judged:
    return Judged(float(words(answer) == words(example.answer)), 1.0)


def is_same_motion(context: Context, example: Example, answer: stream.Document) -> Judged:
    """English captions end in the motion: "the cat moves left", "the cat grows"."""
    return Judged(float(words(answer).split()[-1:] == words(example.answer).split()[-1:]), 1.0)


def spelling(context: Context, example: Example, answer: stream.Document) -> Judged:
    truth = words(example.answer)
    return Judged(float(metrics.edits(truth, [words(answer)])[0]), float(len(truth)))


def is_in_colours(context: Context, example: Example, answer: stream.Document) -> Judged:
    """As many pictures as asked for, each nearest in colour to the asked one of all colours of that shape."""
    asked, drawn = _asked_colours(context, example), images(answer)
    is_right = len(asked) == len(drawn) and all(
        palette[pictures.nearest_colour(pixels, context.real[palette])] == item
        for pixels, (item, palette) in zip(drawn, asked))
    return Judged(float(is_right), 1.0)


def _asked_colours(context: Context, example: Example) -> list[tuple[int, list[int]]]:
    """For each true picture: its item, and the items of the same shape in every colour."""
    items = context.world.items
    asked = []
    for truth in images(example.answer):
        item = int(pictures.nearest(truth[None], context.real)[0])
        kind = items[item].cell[:2]
        asked.append((item, [i for i, other in enumerate(items) if kind and other.cell[:2] == kind]))
    return asked


# Chances


def _one_in_pictures(context: Context, examples: Sequence[Example]) -> float:
    return 1 / len(context.real)


def _one_in_answers(context: Context, examples: Sequence[Example]) -> float:
    """A guess among all distinct training answers and these."""
    return 1 / len({words(example.answer) for example in (*context.train, *examples)})


def _one_in_motions(context: Context, examples: Sequence[Example]) -> float:
    return 1 / len({words(example.answer).split()[-1] for example in context.train if example.lang == "en"})


def _one_in_colours(context: Context, examples: Sequence[Example]) -> float:
    chances = [math.prod(1 / len(palette) for _, palette in _asked_colours(context, e)) for e in examples]
    return float(np.mean(chances))


def _random_transcript(context: Context, examples: Sequence[Example]) -> float:
    """Error rate of a transcription drawn from training at random."""
    rng = np.random.default_rng(0)
    drawn = [context.train[i].answer for i in rng.integers(len(context.train), size=len(examples))]
    judged = [spelling(context, e, answer) for e, answer in zip(examples, drawn)]
    return metrics.ratio(*zip(*judged))


# Baselines


def _nearest_picture(context: Context, examples: Sequence[Example]) -> list[stream.Document]:
    """The training answer to the nearest other training picture (or clip)."""
    train = [e for e in context.train if e.lang == "en"]
    known = np.stack([_pixels(e.prompt) for e in train])
    distances = pictures.distances(np.stack([_pixels(e.prompt) for e in examples]), known)
    distances[distances == 0] = np.inf  # the very same picture: looking it up is not a baseline
    return [train[i].answer for i in np.argmin(distances, axis=1)]


def _pixels(prompt: stream.Document) -> np.ndarray:
    """The picture asked about; a clip as its frames one below the other."""
    part = next(part for part in prompt if isinstance(part, stream.Image | stream.Video))
    return part.pixels if isinstance(part, stream.Image) else np.concatenate(part.frames)


def _nearest_name(context: Context, examples: Sequence[Example]) -> list[stream.Document]:
    """The picture of the most similarly spelled other training name."""
    names = [context.world.items[e.item].names[e.lang] for e in context.train]
    answers = []
    for example in examples:
        distance = metrics.edits(context.world.items[example.item].names[example.lang], names).astype(np.float64)
        own = [e.item == example.item and e.lang == example.lang for e in context.train]
        distance[own] = np.inf
        answers.append(context.train[int(np.argmin(distance))].answer)
    return answers


def _best_constant(context: Context, examples: Sequence[Example]) -> list[stream.Document]:
    """The one training answer with the fewest edits to a sample of the others: what a deaf model should say."""
    truths = sorted({words(e.answer) for e in context.train})
    sample = [truths[i] for i in np.random.default_rng(0).permutation(len(truths))[:200]]
    best = min(sample, key=lambda text: int(metrics.edits(text, sample).sum()))
    return [[stream.Text(best)] for _ in examples]


def _copy_prompt(context: Context, examples: Sequence[Example]) -> list[stream.Document]:
    """The pictures of the worked example, again."""
    return [[part for part in e.prompt if isinstance(part, stream.Image)] for e in examples]


TASKS = (
    Task("draw", "draw", "name → picture", is_drawn, _one_in_pictures, _nearest_name,
         "the picture of the most similar other training name", has_other_languages=True),
    Task("name", "name", "picture → English name", is_same_text, _one_in_answers, _nearest_picture,
         "the name of the nearest other training picture"),
    Task("listen", "listen", "speech → text", spelling, _random_transcript, _best_constant,
         "the best constant answer", is_error=True),
    Task("motion", "watch", "video → caption", is_same_motion, _one_in_motions, _nearest_picture,
         "the caption of the nearest other training clip"),
    Task("one_shot", "one_shot", "one example → two pictures in the asked colours", is_in_colours, _one_in_colours,
         _copy_prompt, "the pictures of the example, copied"),
    Task("digits", "digits", "handwritten digit → number", is_same_text, _one_in_answers, _nearest_picture,
         "the label of the nearest training digit"),
)
NAMES = (*(task.name for task in TASKS), "text")


# Text and pictures without a question


def _text(world: emoji_world.World, model: answerer_lib.Answerer, settings: Settings) -> dict:
    """Bits per byte of text not trained on, of each language and of code."""
    begin = time.perf_counter()
    kinds = {"en": world.prose, "code": world.code}
    found = {}
    for kind, texts in kinds.items():
        held = [text for split, text in texts if split == "valid"]
        held = [held[i] for i in np.random.default_rng(settings.seed).permutation(len(held))[:TEXT_DOCUMENTS]]
        train = "".join(text for split, text in texts if split == "train").encode()
        if not held or not train:
            continue
        bits, num_bytes = model.bits(held)
        found[kind] = {"value": bits / num_bytes, "low": None, "high": None, "n": len(held), "bytes": num_bytes,
                       "chance": 8.0, "baseline": _unigram_bits("".join(held).encode(), train), "examples": []}
    return {"title": "text, bits per byte", "baseline_title": "frequencies of single bytes in training text",
            "is_error": True, "unit": "bits per byte", "seconds": round(time.perf_counter() - begin, 2), "splits": found}


def _unigram_bits(held: bytes, train: bytes) -> float:
    """Bits per byte under the training frequencies of single bytes, each seen once more."""
    counts = np.bincount(np.frombuffer(train, np.uint8), minlength=256) + 1
    surprise = np.log2(counts.sum()) - np.log2(counts)
    return float(np.mean(surprise[np.frombuffer(held, np.uint8)]))
