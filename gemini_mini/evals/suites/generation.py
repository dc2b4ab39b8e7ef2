"""Pictures drawn: from names, from speech, from pictures alone, several in turn; and what their codes can keep at all.

A drawing is right when the nearest of all real pictures is the asked one: nearest by pixels, and again by the
features of a classifier trained apart (configs/picture_classifier.py). On the same features stands FID, over
so few drawings that it compares only runs asked the same questions. Compositions are draw's test_compose; the
one-shot interleaved figure is in the suite in_context.
Facts: images generated natively, with no words in between, one-shot interleaved (Gemini report, section 5.2.3).
Next: ../classifier.py.
"""

import dataclasses
from pathlib import Path

import numpy as np

from data_prep import phrases, questions
from gemini_mini import progress, stream
from gemini_mini.evals import baselines, classifier, judges, pictures, task

NUM_RECONSTRUCTED = 24
SAMPLES, TEMPERATURE = 8, 1.0  # drawings to choose from


def _reconstruct(exam: task.Exam) -> dict:
    """What the image tokenizer keeps: PSNR of pictures after their codes."""
    world, splits = exam.world, {}
    for split in filter(exam.settings.allows, ("seen", "valid", "test_concept")):
        items = world.items_in("train" if split == "seen" else split)
        items = [items[i] for i in np.random.default_rng(exam.settings.seed).permutation(len(items))[:NUM_RECONSTRUCTED]]
        if not items:
            continue
        real = [world.picture(item) for item in items]
        pixels = [picture.pixels for picture in real]
        kept, patch = exam.model.reconstruct(np.stack(pixels)), exam.model.patch
        judged = [task.Judged(pictures.psnr(a, b), 1.0) for a, b in zip(kept, pixels)]
        chance = np.mean([pictures.psnr(a, b) for a, b in zip(pixels, pixels[1:] + pixels[:1])])
        baseline = np.mean([pictures.psnr(pictures.mosaic(a, patch), a) for a in pixels])
        splits[split] = {
            **task.cell(judged, True, float(chance), float(baseline), "[picture]", sampling="no decoder: to codes and back"),
            "examples": [{"lang": "", "prompt": exam.album.add([a]), "truth": exam.album.add([a]),
                          "answer": exam.album.add([stream.Image(b)]), "score": j.score, "weight": 1.0, "is_right": True}
                         for a, b, j in zip(real, kept, judged)]}
    return {"is_error": False, "unit": "PSNR, dB",
            "baseline_title": "each patch as its mean colour", "splits": splits}


def _chosen(exam: task.Exam) -> dict:
    """name -> picture, drawn several times; judged is the one that the model itself would most likely call by its name."""
    english = dataclasses.replace(DRAW, languages="en")
    columns, once, splits = english.columns(exam), english.find(exam)["splits"], {}
    with progress.bar("draw_chosen", SAMPLES * sum(map(len, columns.values())), "drawings") as bar:
        for split, examples in columns.items():
            room = max(exam.model.lengths([e.answer for e in examples])) + task.ROOM_TOKENS
            drawn = exam.model.answer([e.prompt for e in examples for _ in range(SAMPLES)], room, bar.advance, TEMPERATURE)
            names = [[stream.Text(exam.world.items[e.item].names["en"])] for e in examples for _ in range(SAMPLES)]
            asked = [[questions.USER, *map(stream.Image, task.images(answer)), stream.Text(phrases.NAME["en"][0]), questions.MODEL]
                     for answer in drawn]
            likely = np.array(exam.model.scores(asked, names, is_whole=True)).reshape(len(examples), SAMPLES)
            likely[np.reshape([len(task.images(answer)) != 1 for answer in drawn], likely.shape)] = -np.inf
            answers = [drawn[SAMPLES * i + which] for i, which in enumerate(np.argmax(likely, axis=1))]
            context = task.Context(exam.world, [], exam.gallery)
            judged = judges.is_drawn(context, examples, answers)
            splits[split] = {
                **task.cell(judged, False, DRAW.chance(context, examples), once[split]["value"], task.in_words(examples[0].prompt),
                            sampling=f"{SAMPLES} drawings at temperature {TEMPERATURE:g} and guidance {exam.settings.guidance:g}", samples=SAMPLES,
                            about=[e.item for e in examples]),
                "also": {f"one of {SAMPLES} is right": float(np.mean([
                    any(j.score for j in judges.is_drawn(context, [e] * SAMPLES, drawn[SAMPLES * i :][:SAMPLES])) for i, e in enumerate(examples)]))},
                "examples": [task.answered(exam.album, e, a, j, False) for e, a, j in zip(examples, answers, judged, strict=True)]}
    return {"is_error": False, "unit": "accuracy", "splits": splits, "baseline_title": "its drawing in the task draw"}


def _recognised(exam: task.Exam) -> dict:
    """name -> picture once more, judged by the classifier."""
    known = _classifier(exam)
    if known is None:
        return _without_classifier(exam)
    real = classifier.features_of(known, np.asarray(exam.world.pictures))

    def judge(context: task.Context, examples: task.Examples, answers: task.Documents) -> list[task.Judged]:
        drawn = [found[0] if len(found := task.images(answer)) == 1 and found[0].shape == context.gallery.shape else None
                 for answer in answers]
        comparable = [pixels for pixels in drawn if pixels is not None]
        nearest = iter(classifier.nearest(classifier.features_of(known, np.stack(comparable)), real) if comparable else ())
        return [task.Judged(float(pixels is not None and int(next(nearest)) == e.item), 1.0) for e, pixels in zip(examples, drawn)]

    return dataclasses.replace(DRAW, judge=judge, languages="en").find(exam)


def _fid(exam: task.Exam) -> dict:
    """Fréchet distance of drawings from the real pictures that were asked for."""
    known, splits = _classifier(exam), {}
    if known is None:
        return _without_classifier(exam)
    for split, cell in DRAW.find(exam)["splits"].items():
        truths, drawn = ([_picture(exam, example[key]) for example in cell["examples"]] for key in ("truth", "answer"))
        if len(drawn) < LEAST_FID:
            continue
        real, found, kept, flat = (classifier.features_of(known, np.stack(pixels)) for pixels in (
            truths, drawn, list(exam.model.reconstruct(np.stack(truths))), [pictures.mosaic(p, p.shape[0]) for p in truths]))
        splits[split] = {
            **cell, "value": classifier.frechet(found, real), "low": None, "high": None, "n": len(found),
            "baseline": classifier.frechet(kept, real), "chance": classifier.frechet(flat, real), "majority": None, "examples": []}
    if not splits:
        return {"splits": {}, "why": f"no split has {LEAST_FID} drawings"}
    return {"is_error": True, "unit": "Fréchet distance", "splits": splits,
            "baseline_title": "the real pictures after their codes; chance: each as its mean colour"}


def _picture(exam: task.Exam, told: list[dict]) -> np.ndarray:
    """The picture of a truth or an answer; white paper where there is none of that size, for what is not drawn counts as well."""
    found = [pixels for pixels in task.images(exam.album.document(told)) if pixels.shape == exam.gallery.shape]
    return found[0] if found else np.full(exam.gallery.shape, 255, np.uint8)


def _classifier(exam: task.Exam) -> classifier.Classifier | None:
    """What the settings name; None where it is not there."""
    path = Path(exam.settings.classifier)
    return classifier.load(path) if path.is_file() else None


def _without_classifier(exam: task.Exam) -> dict:
    return {"splits": {}, "why": f"there is no classifier ({exam.settings.classifier}): python train.py configs/picture_classifier.py (--classifier)"}


LEAST_FID = classifier.FEATURES + 1  # drawings: fewer have no covariance of full rank
DRAW = task.Task("draw", "name → picture", judges.is_drawn, baselines.one_in_pictures, baselines.nearest_name,
                 "the picture of the most similar other training name", languages="each")

SUITE = task.Suite("pictures drawn", (
    DRAW,
    task.Measure("draw_chosen", "name → picture, of eight the one it would itself call so", _chosen),
    task.Measure("draw_recognised", "name → picture, judged by the classifier", _recognised),
    task.Measure("fid", "name → picture, Fréchet distance on the classifier's features", _fid),
    task.Task("analogy", "pictures alone → picture, with no words", judges.is_drawn, baselines.one_in_pictures,
              baselines.copy_last_picture, "the last picture, copied", splits=("seen", "valid", "test"), share=0.25),
    task.Task("interleaved", "a list of names → names and pictures in turn", judges.is_drawn, baselines.one_in_pictures,
              baselines.random_answer, "a random training answer", languages="each", splits=("seen", "valid", "valid_compose", "test_compose"),
              share=0.1),
    task.Task("chat", "name → picture, after another name and its picture", judges.is_drawn, baselines.one_in_pictures, baselines.nearest_name,
              "the picture of the most similar other training name", splits=("seen", "valid", "valid_compose", "test_compose"), share=0.5),
    task.Measure("pictures", "image tokenizer: pictures after their codes", _reconstruct),
))
