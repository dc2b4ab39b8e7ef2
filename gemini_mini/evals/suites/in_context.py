"""Learning from the prompt alone: worked examples, with no change of the weights.

Facts: one-shot interleaved generation (Gemini report, section 5.2.3, figure 6); a new language from its
grammar and dictionary in the prompt (Gemini 1.5 Pro).
"""

from gemini_mini.evals import baselines, judges, task

SUITE = task.Suite("learning in context", (
    task.Task("one_shot", "one worked example → two pictures in the asked colours", judges.is_in_colours,
              baselines.one_in_colours, baselines.copy_pictures, "the pictures of the example, copied", share=0.2),
))
