"""Pictures drawn: from names, from speech, several in turn; and what their codes can keep at all.

Facts: images generated natively, with no words in between (Gemini report, section 5.2.3).
"""

import numpy as np

from gemini_mini import stream
from gemini_mini.evals import baselines, judges, pictures, task

NUM_RECONSTRUCTED = 24


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


SUITE = task.Suite("pictures drawn", (
    task.Task("draw", "name → picture", judges.is_drawn, baselines.one_in_pictures, baselines.nearest_name,
              "the picture of the most similar other training name", languages="each"),
    task.Task("speech_draw", "speech → picture", judges.is_drawn, baselines.one_in_pictures, baselines.random_answer,
              "a random training picture", splits=("seen", "valid", "valid_speaker_language", "test_speaker_language"), share=0.25),
    task.Task("interleaved", "a list of names → names and pictures in turn", judges.is_drawn, baselines.one_in_pictures,
              baselines.random_answer, "a random training answer", splits=("seen", "valid", "valid_compose", "test_compose"), share=0.1),
    task.Measure("pictures", "image tokenizer: pictures after their codes", _reconstruct),
))
