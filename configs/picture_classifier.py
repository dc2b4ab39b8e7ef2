"""A classifier of the demo world's real pictures, to judge drawings with: about a minute on one core.

    python -m data_prep.emoji_world --size demo --out data/demo/world
    python train.py configs/picture_classifier.py
    python -m gemini_mini.evals runs/demo --suite generation

Paper: FID on a classifier's features, arXiv 1706.08500.
"""

from gemini_mini import config as config_lib
from gemini_mini.tasks import picture_classifier
from gemini_mini.train import loop, optim


def config() -> config_lib.Experiment:
    return config_lib.Experiment(
        task=picture_classifier.TrainPictureClassifier(world="data/demo/world", batch_pictures=64),
        optim=optim.OptimConfig(lr=2e-3, decay=0.6),
        run=loop.RunConfig(folder="runs/demo-classifier", steps=400, max_minutes=3.0, save_every=200),
    )
