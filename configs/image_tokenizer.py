"""Image tokenizer for the demo world: 4 x 4 patches, 512 codes.

    python -m data_prep.emoji_world --size demo --out data/demo/world
    python train.py configs/image_tokenizer.py

Papers: VQ-VAE, arXiv 1711.00937; Muon, arXiv 2502.16982.
"""

from gemini_mini import config as config_lib
from gemini_mini.tasks import image_tokenizer
from gemini_mini.train import loop, optim


def config() -> config_lib.Experiment:
    return config_lib.Experiment(
        task=image_tokenizer.TrainImageTokenizer(world="data/demo/world"),
        optim=optim.OptimConfig(kind="muon", lr=3e-3, muon_lr=8e-3, decay=0.6, beta2=0.99),
        run=loop.RunConfig(folder="runs/demo-image", steps=1000, max_minutes=2.0, eval_every=250, save_every=250),
    )
