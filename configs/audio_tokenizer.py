"""Audio tokenizer for the demo world: USM in small, 256 codes at 25 per second.

    python -m data_prep.emoji_world --size demo --out data/demo/world
    python train.py configs/audio_tokenizer.py

Papers: USM, arXiv 2303.01037; BEST-RQ, arXiv 2202.01855; Muon, arXiv 2502.16982.
"""

from gemini_mini import config as config_lib
from gemini_mini.tasks import audio_tokenizer
from gemini_mini.train import loop, optim


def config() -> config_lib.Experiment:
    return config_lib.Experiment(
        task=audio_tokenizer.TrainAudioTokenizer(world="data/demo/world"),
        optim=optim.OptimConfig(kind="muon", lr=3e-3, muon_lr=1e-2, decay=0.6, beta2=0.98, weight_decay=0.01),
        run=loop.RunConfig(folder="runs/demo-audio", steps=1000, max_minutes=2.0, eval_every=250, save_every=250),
    )
