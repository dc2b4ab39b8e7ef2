"""Speech to be translated, and voices and recordings that no world holds.

    speech_translate    a name said in one language -> its name in another
    new_voices          eSpeak's other variants say names of training: persons never heard in any language
    recordings          a person's own recordings with what is said, as data_prep/own.py finds them

Next: speech.py, espeak.py.
"""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from data_prep import own_check, own_files, phrases, questions, recorded, speech, splits
from data_prep.emoji_world import World
from gemini_mini import errors
from gemini_mini.stream import Audio, Document, Text
from gemini_mini.tokenizers import audio_io

NEW_VOICES = ("+m1", "+f3", "+m5", "+f1")   # none of speech.SPEAKERS
RECORDINGS = Path("data/recordings")
LEVELS = 32_768


def ask(world: World, clip: int, wanted: str, phrasing: str) -> tuple[Document, Document]:
    said = world.clips[clip]
    return [world.sound(clip), Text(phrasing.format(name="").strip())], [Text(world.items[said.item].names[wanted])]


def speech_translate(world: World, rng: np.random.Generator) -> Iterator[Document]:
    """Into English or from it, for each clip."""
    for clip in world.clips_in("train"):
        said = world.clips[clip]
        others = [lang for lang in world.languages_of(said.item) if lang != said.lang]
        if said.lang != "en" and "en" in others:
            others = ["en"]
        if others:
            wanted = others[int(rng.integers(len(others)))]
            yield questions.turn(*ask(world, clip, wanted, phrases.TRANSLATE[wanted][0]))


def translate_examples(world: World, split: str) -> Iterator[questions.Example]:
    """Into English; `lang` is what is spoken."""
    for clip in world.clips_in(split):
        said = world.clips[clip]
        if said.lang != "en" and "en" in world.items[said.item].names:
            yield questions.example(*ask(world, clip, "en", phrases.TRANSLATE["en"][0]), said.item, said.lang)


def new_voices(world: World, limit: int) -> list[questions.Example]:
    """Names of training said by voices that no clip has, `limit` over all languages that have a voice; none without eSpeak.

    A concept is in one half of this test split, in all its languages.
    """
    if speech.espeak.espeakng_loader is None:
        return []
    known = sorted(((item, lang) for item, half in enumerate(world.halves("new voice ")) if world.half in ("both", half)
                    for lang in world.languages_of(item) if lang in speech.VOICES),
                   key=lambda pair: splits.bucket(f"new voice {world.items[pair[0]].chars} {pair[1]}", 1 << 32))[:limit]
    lines = [(speech.VOICES[lang] + NEW_VOICES[place % len(NEW_VOICES)], world.items[item].names[lang])
             for place, (item, lang) in enumerate(known)]
    found = zip(known, _speak(lines), strict=True)
    return [_heard(Audio(samples), world.items[item].names[lang], item, lang)
            for (item, lang), samples in found if len(samples)]


def recordings(world: World, folder: Path, limit: int) -> list[questions.Example]:
    """Recordings beside texts of their names (cat.en.wav, cat.en.txt); none where there is no such folder.

    At most `limit`, spread over all of them: names in their order may be one speaker, or one word, for long.
    A speaker, or a name that tells none, is in one half of this test split in all languages.
    They are read as own.py reads them; one that it would leave out is left out here, and said.
    """
    if not folder.is_dir():
        return []
    found = []
    for number, document in enumerate(own_files.find(folder)[0]):
        if not world.shows(recorded.half_key(document.name)):
            continue
        texts = {part.lang: part.value for part in document.parts if part.kind == "text"}
        found += [(number, part, texts.get(part.lang, texts.get(""))) for part in document.parts
                  if part.kind == "audio" and (part.lang in texts or "" in texts)]
    chosen = sorted(found, key=lambda each: splits.bucket(f"recording {own_files.shown(each[1].value.name)}", 1 << 32))[:limit]
    if found:
        print(f"  recorded speech: {len(chosen):,} of {len(found):,} recordings in {folder}")
    asked = []
    for number, part, text in chosen:
        try:
            sound = Audio(audio_io.even_loudness(audio_io.read_audio(part.value, recorded.MOST_S)))
            asked.append(_heard(sound, own_check.clean(own_check.read_text(text)), number, part.lang or "en"))
        except errors.InputError as error:
            print(f"  {own_files.shown(part.value)} is left out: {error}")
    return asked


def _heard(sound: Audio, said: str, item: int, lang: str) -> questions.Example:
    phrasing = phrases.LISTEN[lang if lang in phrases.LISTEN else "en"][0]
    return questions.example([sound, Text(phrasing)], [Text(said)], item, lang)


def _speak(lines: list[tuple[str, str]]) -> list[Float32[np.ndarray, "samples"]]:
    """[voice, text] each, at 16 kHz in [-1, 1], without silence around; in a process of its own, as speech.say."""
    worker = subprocess.run([sys.executable, "-m", "data_prep.espeak"], input=json.dumps(lines).encode(), check=False,
                            capture_output=True, cwd=Path(__file__).resolve().parents[1])
    if worker.returncode:
        raise errors.InputError(f"eSpeak could not speak {len(lines)} names: {worker.stderr.decode(errors='replace').strip()[-200:]}")
    made = np.load(io.BytesIO(worker.stdout))
    clips = np.split(made["samples"].astype(np.float32), np.cumsum(made["lengths"])[:-1])
    return [_finish(clip) if len(clip) else clip for clip in clips]


def _finish(clip: Float32[np.ndarray, "samples"]) -> Float32[np.ndarray, "samples"]:
    """eSpeak's sound at our sample rate, in [-1, 1]; what is silent is said in levels of 16 bits."""
    return speech.trim(LEVELS * audio_io.resample(clip / LEVELS, speech.espeak.RATE_HZ)) / np.float32(LEVELS)


SOURCES = {"speech_translate": speech_translate}
TASKS = {"speech_translate": translate_examples}
