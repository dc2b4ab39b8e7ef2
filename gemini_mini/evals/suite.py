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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from data_prep import documents, emoji_world
from gemini_mini import progress, stream
from gemini_mini.evals import album as album_lib, answerer as answerer_lib, metrics, pictures

SPLITS = ("seen", "valid", "test_compose", "test_concept", "test_lang", "test_speaker_language", "test_motion", "test")
ROOM_TOKENS = 8  # an answer may be this much longer than the longest true one
TEXT_DOCUMENTS = 60  # of prose and of code
NUM_RECONSTRUCTED = 24
SHARES = ("accuracy", "character error rate")  # units of figures from 0 to 1

Example = documents.Example


class Judged(NamedTuple):
    """One answer: an accuracy has score 0 or 1 and weight 1, an error rate edits and characters."""

    score: float
    weight: float


class Context(NamedTuple):
    """What judges and baselines may look at."""

    world: emoji_world.World
    train: list[Example]  # of this task
    gallery: pictures.Gallery  # all pictures of the world, by item


Examples, Documents = Sequence[Example], Sequence[stream.Document]


@dataclass(frozen=True)
class Task:
    """One kind of question; `name` is its name in data_prep/documents.py too."""

    name: str
    title: str
    judge: Callable[[Context, Examples, Documents], list[Judged]]
    chance: Callable[[Context, Examples], float]
    baseline: Callable[[Context, Examples], list[stream.Document]]
    baseline_title: str
    is_error: bool = False  # a rate of errors: less is better
    languages: Literal["all", "en", "each"] = "all"  # each: English, and what was seen in each other one
    splits: tuple[str, ...] = SPLITS
    share: float = 1.0  # of the limit: long answers are asked for less often


@dataclass(frozen=True)
class Settings:
    """What is asked. `limit` is the most examples of a split; a further language gets a quarter."""

    limit: int = 200
    tasks: tuple[str, ...] = ()  # () asks all
    is_valid_only: bool = False
    seed: int = 0


def run(
    world: emoji_world.World, model: answerer_lib.Answerer, settings: Settings = Settings()
) -> tuple[dict, album_lib.Album]:
    """Ask everything. Returns the detail as JSON values, and the pictures and sounds it names."""
    album, tasks = album_lib.Album(), {}
    gallery = pictures.Gallery(np.asarray(world.pictures))
    for name in settings.tasks or NAMES:
        begin = time.perf_counter()
        if name == "text":
            found = _text(world, model, settings)
        elif name == "pictures":
            found = _pictures(world, model, album, settings)
        else:
            found = _ask(world, gallery, TASKS[name], model, album, settings)
        if found["splits"]:
            tasks[name] = {**found, "seconds": round(time.perf_counter() - begin, 1)}
    return tasks, album


def summary(tasks: dict) -> dict[str, dict[str, float]]:
    """{task: {split: value}} of the detail. The only test split of a task is also called "test"."""
    values = {name: {split: found["value"] for split, found in task["splits"].items()} for name, task in tasks.items()}
    for splits in values.values():
        tests = [split for split in splits if split.startswith("test")]
        if len(tests) == 1:
            splits["test"] = splits[tests[0]]
    return values


def formatter(unit: str) -> Callable[[float], str]:
    """How to write a figure: shares as percent, everything else as it is."""
    if unit in SHARES:
        return lambda value: f"{value:.0%}" if value >= 0.0995 else f"{value:.1%}"
    return lambda value: f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _columns(world: emoji_world.World, task: Task, settings: Settings) -> dict[str, list[Example]]:
    """The examples of each split: the first of documents.py's hash order, a fair sample."""
    limit = math.ceil(settings.limit * task.share)
    columns: dict[str, list[Example]] = {}
    for split in task.splits:
        if settings.is_valid_only and split not in ("seen", "valid"):
            continue
        found = documents.examples(world, task.name, split)
        if task.languages == "all" or task.languages == "each" and split == "test_lang":
            columns[split] = found[:limit]
            continue
        columns[split] = [e for e in found if e.lang == "en"][:limit]
        if task.languages == "each" and split == "seen":
            for lang in world.config.languages[1:]:
                columns[f"{split}_{lang}"] = [e for e in found if e.lang == lang][: math.ceil(limit / 4)]
    return {split: found for split, found in columns.items() if found}


def _ask(
    world: emoji_world.World, gallery: pictures.Gallery, task: Task, model: answerer_lib.Answerer,
    album: album_lib.Album, settings: Settings,
) -> dict:
    """Ask all splits of a task at once; judge model and baseline alike."""
    columns = _columns(world, task, settings)
    examples = [example for found in columns.values() for example in found]
    answers = judged = easy = []
    if examples:
        context = Context(world, documents.examples(world, task.name, "seen"), gallery)
        room = max(model.lengths([example.answer for example in examples])) + ROOM_TOKENS
        with progress.bar(task.name, len(examples), "questions") as bar:
            answers = model.answer([example.prompt for example in examples], room, bar.advance)
        judged = task.judge(context, examples, answers)
        easy = task.judge(context, examples, task.baseline(context, examples))
    splits, at = {}, 0
    for split, found in columns.items():
        here = slice(at, at := at + len(found))
        splits[split] = {
            **_figure(judged[here], task.is_error),
            "chance": task.chance(context, found),
            "baseline": _figure(easy[here], task.is_error)["value"],
            "examples": [
                {"lang": e.lang, "prompt": album.add(e.prompt), "truth": album.add(e.answer), "answer": album.add(a),
                 "score": j.score, "weight": j.weight, "is_right": j.score == (0 if task.is_error else 1)}
                for e, a, j in zip(found, answers[here], judged[here], strict=True)],
        }
    return {"title": task.title, "baseline_title": task.baseline_title, "is_error": task.is_error,
            "unit": "character error rate" if task.is_error else "accuracy", "splits": splits}


def _figure(judged: Sequence[Judged], is_ratio: bool) -> dict[str, float]:
    """Value, 95 % interval and number of examples."""
    scores, weights = (np.array(column, np.float64) for column in zip(*judged))
    low, high = metrics.bootstrap(scores, weights) if is_ratio else metrics.wilson(int(scores.sum()), len(scores))
    return {"value": metrics.ratio(scores, weights), "low": low, "high": high, "n": len(judged)}


def words(document: stream.Document) -> str:
    """All text of a document, stripped."""
    return "".join(part.text for part in document if isinstance(part, stream.Text)).strip()


def images(document: stream.Document) -> list[np.ndarray]:
    """The pixels of all pictures of a document, in order."""
    return [part.pixels for part in document if isinstance(part, stream.Image)]


# Judges


def is_drawn(context: Context, examples: Examples, answers: Documents) -> list[Judged]:
    """As many pictures as asked for; the nearest of all real ones to each is the asked one, in order."""
    drawn = [images(answer) for answer in answers]
    comparable = [p for found in drawn for p in found if p.shape == context.gallery.shape]
    # In one go: a product of two matrices instead of thousands of passes over all real pictures.
    nearest = iter(context.gallery.nearest(np.stack(comparable)) if comparable else ())
    judged = []
    for example, found in zip(examples, drawn, strict=True):
        asked = [context.gallery.index_of(p) for p in images(example.answer)]
        seen = [int(next(nearest)) if p.shape == context.gallery.shape else None for p in found]
        judged.append(Judged(float(asked == seen), 1.0))
    return judged


def is_same_text(context: Context, examples: Examples, answers: Documents) -> list[Judged]:
    """The very words, borders of white space apart."""
    return [Judged(float(words(a) == words(e.answer)), 1.0) for e, a in zip(examples, answers, strict=True)]


def is_same_motion(context: Context, examples: Examples, answers: Documents) -> list[Judged]:
    """English captions end in the motion: "the cat moves left", "the cat grows"."""
    return [Judged(float(words(a).split()[-1:] == words(e.answer).split()[-1:]), 1.0)
            for e, a in zip(examples, answers, strict=True)]


def spelling(context: Context, examples: Examples, answers: Documents) -> list[Judged]:
    """Edits to the true text, over its characters."""
    pairs = [(words(e.answer), words(a)) for e, a in zip(examples, answers, strict=True)]
    return [Judged(float(metrics.edits(truth, [said])[0]), float(len(truth))) for truth, said in pairs]


def is_in_colours(context: Context, examples: Examples, answers: Documents) -> list[Judged]:
    """Exactly the asked number of pictures, each nearest in colour to the asked one of its shape's colours.

    The shape itself is not judged: it is an idea.
    """
    judged = []
    for example, answer in zip(examples, answers, strict=True):
        asked, drawn = _asked_colours(context, example), images(answer)
        is_right = len(asked) == len(drawn) and all(
            not pictures.is_blank(pixels)
            and palette[pictures.nearest_colour(pixels, context.world.pictures[palette])] == item
            for pixels, (item, palette) in zip(drawn, asked))
        judged.append(Judged(float(is_right), 1.0))
    return judged


def _asked_colours(context: Context, example: Example) -> list[tuple[int, list[int]]]:
    """For each true picture: its item, and the items of the same shape in every colour."""
    asked = []
    for item in map(context.gallery.index_of, images(example.answer)):
        kind = context.world.items[item].cell[:2]  # ("colour", "heart")
        asked.append((item, [i for i, other in enumerate(context.world.items) if other.cell[:2] == kind]))
    return asked


# Chances


def _one_in_pictures(context: Context, examples: Examples) -> float:
    size = len(context.world.items)
    return float(np.mean([size ** -len(images(e.answer)) for e in examples], dtype=np.float64))


def _one_in_answers(context: Context, examples: Examples) -> float:
    """A guess among all distinct training answers and these."""
    return 1 / len({words(example.answer) for example in (*context.train, *examples)})


def _one_in_motions(context: Context, examples: Examples) -> float:
    return 1 / len({words(example.answer).split()[-1] for example in context.train})


def _one_in_colours(context: Context, examples: Examples) -> float:
    chances = [np.prod([1 / len(palette) for _, palette in _asked_colours(context, e)]) for e in examples]
    return float(np.mean(chances))


def _random_transcript(context: Context, examples: Examples) -> float:
    """Error rate of a transcription drawn from training at random."""
    return _figure(spelling(context, examples, _random_answer(context, examples)), is_ratio=True)["value"]


# Baselines


def _random_answer(context: Context, examples: Examples) -> list[stream.Document]:
    rng = np.random.default_rng(0)
    return [context.train[i].answer for i in rng.integers(len(context.train), size=len(examples))]


def _nearest_picture(context: Context, examples: Examples) -> list[stream.Document]:
    """The training answer to the nearest other training picture (or clip)."""
    train = [e for e in context.train if e.lang == "en"]
    known = pictures.Gallery(np.stack([_pixels(e.prompt) for e in train]))
    distances = known.distances(np.stack([_pixels(e.prompt) for e in examples]))
    distances[distances == 0] = np.inf  # the very same picture: to look it up is no baseline
    return [train[i].answer for i in np.argmin(distances, axis=1)]


def _pixels(prompt: stream.Document) -> np.ndarray:
    """The picture asked about; a clip as its frames one below the other."""
    part = next(part for part in prompt if isinstance(part, stream.Image | stream.Video))
    return part.pixels if isinstance(part, stream.Image) else np.concatenate(part.frames)


def _nearest_name(context: Context, examples: Examples) -> list[stream.Document]:
    """The picture of the most similarly spelled other training name, in any language."""
    items = context.world.items
    names = [items[e.item].names[e.lang] for e in context.train]
    asked = [(e.item, e.lang) for e in context.train]
    answers = []
    for example in examples:
        distance = metrics.edits(items[example.item].names[example.lang], names).astype(np.float64)
        if (example.item, example.lang) in asked:
            distance[asked.index((example.item, example.lang))] = np.inf
        answers.append(context.train[int(np.argmin(distance))].answer)
    return answers


def _best_constant(context: Context, examples: Examples) -> list[stream.Document]:
    """The training answer with the fewest edits to a sample of the others: what a deaf model should say."""
    truths = sorted({words(e.answer) for e in context.train})
    sample = [truths[i] for i in np.random.default_rng(0).permutation(len(truths))[:200]]
    best = min(sample, key=lambda text: int(metrics.edits(text, sample).sum()))
    return [[stream.Text(best)] for _ in examples]


def _copy_pictures(context: Context, examples: Examples) -> list[stream.Document]:
    return [[part for part in e.prompt if isinstance(part, stream.Image)] for e in examples]


def _copy_name(context: Context, examples: Examples) -> list[stream.Document]:
    return [[stream.Text(context.world.items[e.item].names["en"])] for e in examples]


TASKS = {task.name: task for task in (
    Task("draw", "name → picture", is_drawn, _one_in_pictures, _nearest_name,
         "the picture of the most similar other training name", languages="each"),
    Task("name", "picture → English name", is_same_text, _one_in_answers, _nearest_picture,
         "the name of the nearest other training picture", languages="en"),
    Task("listen", "speech → text", spelling, _random_transcript, _best_constant, "the best constant answer",
         is_error=True, share=0.5),
    Task("speech_draw", "speech → picture", is_drawn, _one_in_pictures, _random_answer, "a random training picture",
         splits=("seen", "valid", "test_speaker_language"), share=0.25),
    Task("motion", "video → caption: the motion", is_same_motion, _one_in_motions, _nearest_picture,
         "the caption of the nearest other training clip", share=0.5),
    Task("one_shot", "one worked example → two pictures in the asked colours", is_in_colours, _one_in_colours,
         _copy_pictures, "the pictures of the example, copied", share=0.2),
    Task("interleaved", "a list of names → names and pictures in turn", is_drawn, _one_in_pictures, _random_answer,
         "a random training answer", splits=("seen", "valid", "test_compose"), share=0.1),
    Task("translate", "English name → another language", is_same_text, _one_in_answers, _copy_name,
         "the English name, copied", splits=("seen", "valid", "test_lang"), share=0.5),
    Task("digits", "handwritten digit → number", is_same_text, _one_in_answers, _nearest_picture,
         "the label of the nearest other training digit", share=0.5),
)}
NAMES = (*TASKS, "text", "pictures")


# Figures without a question


def _text(world: emoji_world.World, model: answerer_lib.Answerer, settings: Settings) -> dict:
    """Bits per byte of text not trained on: English prose, code, and names of things in other languages."""
    kinds = {"en": world.prose, "code": world.code}
    held_out = ("valid",) if settings.is_valid_only else ("valid", "test_concept", "test_compose", "test_lang")
    for lang in world.config.languages[1:]:
        kinds[lang] = [("valid" if split in held_out else split, item.names[lang])
                       for item in world.items if (split := item.name_splits.get(lang))]
    splits = {}
    for kind, texts in kinds.items():
        held = [text for split, text in texts if split == "valid"]
        train = "".join(text for split, text in texts if split == "train").encode()
        held = [held[i] for i in np.random.default_rng(settings.seed).permutation(len(held))[:TEXT_DOCUMENTS]]
        if held:
            bits, num_bytes = model.bits(held)
            splits[kind] = {"value": bits / num_bytes, "low": None, "high": None, "n": len(held), "chance": 8.0,
                            "baseline": _byte_bits("".join(held).encode(), train), "examples": []}
    return {"title": "text never seen (en: prose; other languages: names)", "is_error": True, "unit": "bits per byte",
            "baseline_title": "frequencies of single bytes in training text", "splits": splits}


def _byte_bits(held: bytes, train: bytes) -> float:
    """Bits per byte under the training frequencies of single bytes, each counted once more."""
    counts = np.bincount(np.frombuffer(train, np.uint8), minlength=256) + 1
    surprise = np.log2(counts.sum()) - np.log2(counts)
    return float(np.mean(surprise[np.frombuffer(held, np.uint8)]))


def _pictures(
    world: emoji_world.World, model: answerer_lib.Answerer, album: album_lib.Album, settings: Settings
) -> dict:
    """What the image tokenizer keeps: PSNR of pictures after their codes."""
    splits = {}
    for split in ("seen", "valid", "test_concept")[: 2 if settings.is_valid_only else 3]:
        items = world.items_in("train" if split == "seen" else split)
        items = [items[i] for i in np.random.default_rng(settings.seed).permutation(len(items))[:NUM_RECONSTRUCTED]]
        if not items:
            continue
        real = [world.picture(item).pixels for item in items]
        kept, patch = model.reconstruct(np.stack(real)), model.patch
        judged = [Judged(pictures.psnr(a, b), 1.0) for a, b in zip(kept, real)]
        splits[split] = {
            **_figure(judged, is_ratio=True),
            "chance": float(np.mean([pictures.psnr(a, b) for a, b in zip(real, real[1:] + real[:1])])),
            "baseline": float(np.mean([pictures.psnr(pictures.mosaic(a, patch), a) for a in real])),
            "examples": [{"lang": "", "prompt": album.add([stream.Image(a)]), "truth": album.add([stream.Image(a)]),
                          "answer": album.add([stream.Image(b)]), "score": j.score, "weight": 1.0, "is_right": True}
                         for a, b, j in zip(real, kept, judged)]}
    return {"title": "image tokenizer: pictures after their codes", "is_error": False, "unit": "PSNR, dB",
            "baseline_title": "each patch as its mean colour", "splits": splits}
