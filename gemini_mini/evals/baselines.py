"""What a figure is compared with: what a guess is right in, and the best answers without a model.

A chance is a number; a baseline answers the questions, and its answers are judged as a model's.
Next: suites/.
"""

from collections.abc import Callable

import numpy as np

from gemini_mini import stream
from gemini_mini.evals import judges, metrics, pictures, scores, task

# Chances


def one_in_pictures(context: task.Context, examples: task.Examples) -> float:
    """A guess among all pictures, for each that is asked for."""
    size = len(context.world.items)
    return float(np.mean([size ** -len(task.images(e.answer)) for e in examples], dtype=np.float64))


def one_in_answers(context: task.Context, examples: task.Examples) -> float:
    """A guess among all distinct training answers in the languages of these, and these."""
    langs = {example.lang for example in examples}
    return 1 / len({task.words(example.answer) for example in (*context.train, *examples) if example.lang in langs})


def one_in_motions(context: task.Context, examples: task.Examples) -> float:
    """A guess among the motions of training."""
    return 1 / len({task.words(example.answer).split()[-1] for example in context.train})


def one_in_colours(context: task.Context, examples: task.Examples) -> float:
    """A guess among the colours of each asked shape."""
    chances = [np.prod([1 / len(palette) for _, palette in judges.asked_colours(context, e)]) for e in examples]
    return float(np.mean(chances))


def random_transcript(context: task.Context, examples: task.Examples) -> float:
    """Error rate of a transcription drawn from training at random."""
    return task.figure(judges.spelling(context, examples, random_answer(context, examples)), is_ratio=True)["value"]


def random_name(context: task.Context, examples: task.Examples) -> float:
    """How often an English training name drawn at random shares a word."""
    english = context._replace(train=[e for e in context.train if e.lang == "en"])
    return task.figure(judges.shares_a_word(english, examples, random_answer(english, examples)), is_ratio=False)["value"]


def random_words(context: task.Context, examples: task.Examples) -> float:
    """Word error rate of a training answer drawn at random."""
    return task.figure(scores.word_errors(context, examples, random_answer(context, examples)), is_ratio=True)["value"]


def random_chrf(context: task.Context, examples: task.Examples) -> float:
    """Mean chrF of a training answer drawn at random."""
    return task.figure(scores.sentence_chrf(context, examples, random_answer(context, examples)), is_ratio=True)["value"]


def one_in_answers_to_it(context: task.Context, examples: task.Examples) -> float:
    """A guess among the distinct answers to the same kind of question, in training and these."""
    known: dict[str, set[str]] = {}
    for example in (*context.train, *examples):
        known.setdefault(_question(example), set()).add(task.words(example.answer))
    return float(np.mean([1 / len(known[_question(example)]) for example in examples]))


# Baselines


def random_answer(context: task.Context, examples: task.Examples) -> list[stream.Document]:
    """A training answer drawn at random, in the language of the question."""
    def draw(train: task.Examples, asked: task.Examples) -> list[stream.Document]:
        return [train[i].answer for i in np.random.default_rng(0).integers(len(train), size=len(asked))]

    return task.by_language(context.train, examples, draw)


def nearest_picture(context: task.Context, examples: task.Examples) -> list[stream.Document]:
    """The training answer to the nearest other training picture (or clip)."""
    train = [e for e in context.train if e.lang == "en"]
    known = pictures.Gallery(np.stack([_pixels(e.prompt) for e in train]))
    distances = known.distances(np.stack([_pixels(e.prompt) for e in examples]))
    distances[distances == 0] = np.inf  # the very same picture: to look it up is no baseline
    return [train[i].answer for i in np.argmin(distances, axis=1)]


def nearest_in_language(context: task.Context, examples: task.Examples) -> list[stream.Document]:
    """As `nearest_picture`, among the training examples in the language of the question."""
    return _nearest_alike(context, examples, lambda e: e.lang)


def nearest_asked(context: task.Context, examples: task.Examples) -> list[stream.Document]:
    """As `nearest_picture`, among the training examples that ask the very question, or where there is none, its kind, whatever they name."""
    asked = {task.words(e.prompt) for e in context.train}
    very = _nearest_alike(context, [e for e in examples if task.words(e.prompt) in asked], lambda e: task.words(e.prompt))
    like = _nearest_alike(context, [e for e in examples if task.words(e.prompt) not in asked], _question)
    very, like = iter(very), iter(like)
    return [next(very if task.words(e.prompt) in asked else like) for e in examples]


def _nearest_alike(
    context: task.Context, examples: task.Examples, kind: Callable[[task.Example], str]
) -> list[stream.Document]:
    """Of each kind by itself; nothing is answered where training has none of it."""
    answers: list[stream.Document] = [[] for _ in examples]
    for alike in sorted({kind(e) for e in examples}):
        places = [i for i, e in enumerate(examples) if kind(e) == alike]
        train = [e._replace(lang="en") for e in context.train if kind(e) == alike]
        if train:
            for i, answer in zip(places, nearest_picture(context._replace(train=train), [examples[i] for i in places])):
                answers[i] = answer
    return answers


def _question(example: task.Example) -> str:
    """What kind of thing is asked, names and colours left out: all of a short question, or its first two words."""
    said = task.words(example.prompt).split()
    return " ".join(said if len(said) <= 3 else said[:2])


def copy_question(context: task.Context, examples: task.Examples) -> list[stream.Document]:
    """What is to be translated, untranslated: the prompt after its colon."""
    return [[stream.Text(task.words(e.prompt).replace("：", ":").partition(":")[2].strip())] for e in examples]


def copy_last_picture(context: task.Context, examples: task.Examples) -> list[stream.Document]:
    """The last picture of the prompt again."""
    return [[[part for part in e.prompt if isinstance(part, stream.Image)][-1]] for e in examples]


def _pixels(prompt: stream.Document) -> np.ndarray:
    """The picture asked about; a clip as its frames one below the other."""
    part = next(part for part in prompt if isinstance(part, stream.Image | stream.Video))
    return part.pixels if isinstance(part, stream.Image) else np.concatenate(part.frames)


def nearest_name(context: task.Context, examples: task.Examples) -> list[stream.Document]:
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


def best_constant(context: task.Context, examples: task.Examples) -> list[stream.Document]:
    """The training answer with the fewest edits to a sample of the others in its language: what a deaf model should say."""
    def constant(train: task.Examples, asked: task.Examples) -> list[stream.Document]:
        truths = sorted({task.words(e.answer) for e in train})
        sample = [truths[i] for i in np.random.default_rng(0).permutation(len(truths))[:200]]
        return [[stream.Text(min(sample, key=lambda text: int(metrics.edits(text, sample).sum())))]] * len(asked)

    return task.by_language(context.train, examples, constant)


def copy_pictures(context: task.Context, examples: task.Examples) -> list[stream.Document]:
    """The pictures of the prompt again."""
    return [[part for part in e.prompt if isinstance(part, stream.Image)] for e in examples]


def copy_name(context: task.Context, examples: task.Examples) -> list[stream.Document]:
    """The English name of what is asked about."""
    return [[stream.Text(context.world.items[e.item].names["en"])] for e in examples]
