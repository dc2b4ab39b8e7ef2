"""Speech understood: written down, translated and drawn, by voices that were and were not heard before.

    valid, test_concept                 words never heard
    test_compose                        words that were heard, together for the first time
    test_speaker_language               a voice and a language that were heard, but never together
    test_voice                          a voice never heard in any language, made by eSpeak as it is asked
    test_recorded                       a person's recordings: files like cat.en.wav and cat.en.txt in data/recordings

Figures are errors of words; those of characters stand beside them. Where words are not split they stand instead of them,
each such language in a cell of its own: no sum has words and characters.
Facts: word and character error rates, speech translation (Gemini report, section 5.2.4).
Next: ../scores.py.
"""

from data_prep import emoji_world, questions, spoken
from gemini_mini.evals import baselines, judges, scores, task


def voices(world: emoji_world.World, limit: int) -> dict[str, list[questions.Example]]:
    """Voices that no world holds; says so where there are none."""
    found = {"test_voice": spoken.new_voices(world, limit), "test_recorded": spoken.recordings(world, spoken.RECORDINGS, limit)}
    if not found["test_voice"]:
        print("  new voices are left out: eSpeak is not installed (pip install 'gemini_mini[world]')")
    if not found["test_recorded"]:
        print(f"  recorded speech is left out: no recordings with texts of this half in {spoken.RECORDINGS}")
    return {split: examples for split, examples in found.items() if examples}


UNIT = "word error rate, of characters where words are not split"


class Transcription(task.Task):
    """Languages together, but each whose words are not split: valid and valid_zh."""

    def columns(self, exam: task.Exam) -> dict[str, list[questions.Example]]:
        columns: dict[str, list[questions.Example]] = {}
        for split, found in super().columns(exam).items():
            for example in found:
                columns.setdefault(f"{split}_{example.lang}" if scores.is_unsplit(example) else split, []).append(example)
        return columns


SUITE = task.Suite("speech understood", (
    task.Task("listen", "speech → text", judges.spelling, baselines.random_transcript, baselines.best_constant,
              "the best constant answer", is_error=True, share=0.5),
    Transcription("write_down", "speech → text, errors of words", scores.word_errors, baselines.random_words, baselines.best_constant,
                  "the best constant answer", kind="listen", is_error=True, unit=UNIT, share=0.5, more=voices,
                  also=(("character error rate", scores.character_error_rate),)),
    task.Task("heard", "speech → text, by language", scores.word_errors, baselines.random_words, baselines.best_constant,
              "the best constant answer", kind="listen", is_error=True, unit=UNIT, share=0.5, languages="apart",
              splits=("seen", "valid", "valid_speaker_language", "test_speaker_language"), also=(("character error rate", scores.character_error_rate),)),
    task.Task("speech_translate", "speech in another language → English text", scores.sentence_chrf, baselines.random_chrf,
              baselines.random_answer, "a random training answer", unit="mean chrF", share=0.5,
              also=(("BLEU", scores.bleu), ("word error rate", scores.word_error_rate))),
    task.Task("speech_draw", "speech → picture", judges.is_drawn, baselines.one_in_pictures, baselines.random_answer,
              "a random training picture", languages="each", splits=("seen", "valid", "valid_speaker_language", "test_speaker_language"),
              share=0.25),
))
