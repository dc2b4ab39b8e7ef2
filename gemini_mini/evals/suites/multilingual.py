"""Other languages: names of things from one to the other.

Facts: translation and captions in many languages (Gemini report, sections 5.1.4 and 5.2.1).
"""

from gemini_mini.evals import baselines, judges, task

SUITE = task.Suite("many languages", (
    task.Task("translate", "English name → another language", judges.is_same_text, baselines.one_in_answers,
              baselines.copy_name, "the English name, copied", splits=("seen", "valid", "test_lang"), share=0.5),
))
