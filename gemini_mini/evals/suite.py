"""All suites, and how their tasks are asked.

    python -m gemini_mini.evals --list

Next: task.py, suites/, __main__.py, ../report.py.
"""

import time

import numpy as np

from data_prep import emoji_world, messages, speech, spoken
from gemini_mini.evals import album as album_lib, answerer as answerer_lib, pictures, task
from gemini_mini.evals.suites import audio, generation, image, in_context, long_context, multilingual, reasoning, text, video

SUITES = {
    "long_context": long_context.SUITE, "image": image.SUITE, "multilingual": multilingual.SUITE, "audio": audio.SUITE, "video": video.SUITE,
    "generation": generation.SUITE, "in_context": in_context.SUITE, "reasoning": reasoning.SUITE, "text": text.SUITE,
}
TASKS = {found.name: found for suite in SUITES.values() for found in suite.tasks}

# What is asked where nothing is named, and shown by the report.
REPORTED = ("draw", "name", "name_word", "listen", "speech_draw", "motion", "one_shot", "interleaved", "chat", "translate", "digits", "text", "pictures")


def outside() -> list[str]:
    """What questions are also made of: recordings that were fetched, eSpeak and Django's catalogues where they are installed."""
    recordings = sorted(f"{file} {file.stat().st_size}" for file in spoken.RECORDINGS.rglob("*") if file.is_file())
    return [*recordings, f"eSpeak: {speech.espeak.espeakng_loader is not None}", f"Django: {messages.folder()}"]


def run(
    world: emoji_world.World, model: answerer_lib.Answerer, settings: task.Settings = task.Settings()
) -> tuple[dict, album_lib.Album]:
    """Ask everything, and print what is left out. Returns the detail as JSON values, and the pictures and sounds it names."""
    tasks, gallery = {}, pictures.Gallery(np.asarray(world.pictures))
    exam = task.Exam(world, model, gallery, album_lib.Album(), settings, {})
    for name in settings.tasks or REPORTED:
        begin = time.perf_counter()
        found = TASKS[name].find(exam)
        found["splits"] = {split: {"majority": None, "also": {}} | cell for split, cell in found["splits"].items()}
        if found["splits"]:
            tasks[name] = {"title": TASKS[name].title, **found, "axes": TASKS[name].axes, "seconds": round(time.perf_counter() - begin, 1)}
        else:
            print(f"  {name} is left out: {found['why'] if 'why' in found else 'this world has no examples that could be asked'}")
    return tasks, exam.album


def summary(tasks: dict) -> dict[str, dict[str, float]]:
    """{task: {split: value}} of the detail. The only test split of a task is also called "test"."""
    values = {name: {split: found["value"] for split, found in task["splits"].items()} for name, task in tasks.items()}
    for splits in values.values():
        tests = [split for split in splits if split.startswith("test")]
        if len(tests) == 1:
            splits["test"] = splits[tests[0]]
    return values
