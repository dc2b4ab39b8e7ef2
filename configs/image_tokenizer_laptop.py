"""Image tokenizer for the whole world: 4,096 codes, an encoder that sees neighbours, pictures of 16, 32 and 64.

    python -m data_prep.emoji_world --size laptop --out data/laptop/world
    python -m data_prep.large_pictures data/laptop/world --out data/laptop/large
    python train.py configs/image_tokenizer_laptop.py

Papers: VQ-VAE, arXiv 1711.00937; Muon, arXiv 2502.16982.
"""

from gemini_mini import config as config_lib
from gemini_mini.tasks import image_tokenizer
from gemini_mini.tokenizers import image
from gemini_mini.train import loop, optim


def config() -> config_lib.Experiment:
    return config_lib.Experiment(
        task=image_tokenizer.TrainImageTokenizer(
            world="data/laptop/world", large="data/laptop/large", batch_small=16, batch_large=3,
            model=image.ImageTokenizerConfig(num_codes=4096, encoder_shifted=8),
        ),
        optim=optim.OptimConfig(kind="muon", lr=3e-3, muon_lr=8e-3, decay=0.6, beta2=0.99),
        run=loop.RunConfig(folder="runs/laptop-image-4096", steps=2000, max_minutes=10.0, save_every=250),
    )
