"""Image tokenizer for the whole world: 4,096 codes, an encoder that sees neighbours, pictures of 16 to 64 pixels.

    python -m data_prep.emoji_world --size laptop --out data/laptop/world
    python -m data_prep.large_pictures data/laptop/world --out data/laptop/large
    python train.py configs/image_tokenizer_laptop.py

An evaluation reads every picture that is trained on, half a minute of a core: it is made rarely.
Papers: VQ-VAE, arXiv 1711.00937; Muon, arXiv 2502.16982.
"""

from gemini_mini import config as config_lib
from gemini_mini.tasks import image_tokenizer
from gemini_mini.tokenizers import image
from gemini_mini.train import loop, optim


def config() -> config_lib.Experiment:
    return config_lib.Experiment(
        task=image_tokenizer.TrainImageTokenizer(
            world="data/laptop/world", large="data/laptop/large", batch_small=16, batch_large=5, varied=0.8,
            model=image.ImageTokenizerConfig(num_codes=4096, width=192, hidden=512, shifted=12, encoder_shifted=12),
        ),
        optim=optim.OptimConfig(kind="muon", lr=3e-3, muon_lr=8e-3, decay=0.6, beta2=0.99),
        run=loop.RunConfig(folder="runs/laptop-image", steps=2600, max_minutes=25.0, eval_every=1000, save_every=200),
    )
