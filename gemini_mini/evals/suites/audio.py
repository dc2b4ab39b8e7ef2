"""Speech understood: held-out voices and words.

Facts: word and character error rates of speech recognition (Gemini report, section 5.2.4).
"""

from gemini_mini.evals import baselines, judges, task

SUITE = task.Suite("speech understood", (
    task.Task("listen", "speech → text", judges.spelling, baselines.random_transcript, baselines.best_constant,
              "the best constant answer", is_error=True, share=0.5),
))
