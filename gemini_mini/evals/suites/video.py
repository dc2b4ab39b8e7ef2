"""Clips understood: objects seen before in motions never seen of them.

The clips of training have 4 frames, the films 16 equally spaced ones of 46 (data_prep/films.py). A decoder
that never read a film is asked about them all the same: the source is "film" and "watch", for rows of 512 ids or more.
Facts: 16 equally spaced frames of a video in the context, captions and questions (Gemini report, section 5.2.2).
"""

from gemini_mini.evals import baselines, judges, task

SPLITS = ("seen", "valid", "valid_motion", "test_motion")

SUITE = task.Suite("video understood", (
    task.Task("motion", "video → caption: the motion", judges.is_same_motion, baselines.one_in_motions,
              baselines.nearest_picture, "the caption of the nearest other training clip", share=0.5),
    task.Task("motion_caption", "video of 4 frames → caption, every word", judges.is_same_text, baselines.one_in_answers,
              baselines.nearest_picture, "the caption of the nearest other training clip", kind="motion", share=0.5, splits=SPLITS),
    task.Task("film_motion", "video of 16 frames → caption: the motion", judges.is_same_motion, baselines.one_in_motions,
              baselines.nearest_picture, "the caption of the nearest other training film", kind="film", share=0.5, splits=SPLITS),
    task.Task("film", "video of 16 frames → caption, every word", judges.is_same_text, baselines.one_in_answers,
              baselines.nearest_picture, "the caption of the nearest other training film", share=0.5, splits=SPLITS),
    task.Task("watch", "video of 16 frames → answers to questions", judges.is_same_text, baselines.one_in_answers_to_it,
              baselines.nearest_asked, "the answer to the same question about the nearest other training film", share=0.5, splits=SPLITS),
))
