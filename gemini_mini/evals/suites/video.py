"""Clips understood: objects seen before in motions never seen of them.

Facts: equally spaced frames of a video in the context (Gemini report, section 5.2.2).
"""

from gemini_mini.evals import baselines, judges, task

SUITE = task.Suite("video understood", (
    task.Task("motion", "video → caption: the motion", judges.is_same_motion, baselines.one_in_motions,
              baselines.nearest_picture, "the caption of the nearest other training clip", share=0.5),
))
