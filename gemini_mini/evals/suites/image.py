"""Pictures understood: what they show and what is written in them.

Facts: image understanding, zero-shot, greedy, with no reader of letters beside the model (Gemini report, section 5.2.1).
"""

from gemini_mini.evals import baselines, judges, task

SUITE = task.Suite("pictures understood", (
    task.Task("name", "picture → English name", judges.is_same_text, baselines.one_in_answers, baselines.nearest_picture,
              "the name of the nearest other training picture", languages="en"),
    task.Task("digits", "handwritten digit → number", judges.is_same_text, baselines.one_in_answers,
              baselines.nearest_picture, "the label of the nearest other training digit", share=0.5),
))
