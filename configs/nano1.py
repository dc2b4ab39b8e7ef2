"""Nano-1 at the report's size, 1.8 billion parameters. On a laptop it only ever takes shape.

    python train.py configs/nano1.py --plan v5e:4x4    what a step needs on 16 chips, without them
    python train.py configs/nano1.py                    on those chips, rows packed as the README's "On a TPU" shows

Fact: Nano-1 has 1.8B parameters and multi-query attention over 32k positions (Gemini report, section 2).
"""

from gemini_mini import config as config_lib
from gemini_mini.data import mixture
from gemini_mini.model import decoder
from gemini_mini.tasks import pretrain
from gemini_mini.train import loop, optim

STAGES = (mixture.Stage("foundations", 0.3, {"draw": 0.3, "name": 0.2, "listen": 0.2, "prose": 0.2, "code": 0.1}),
          mixture.Stage("paired", 0.8, {"draw": 0.3, "name": 0.2, "listen": 0.1, "interleaved": 0.2, "prose": 0.1, "code": 0.1}),
          mixture.Stage("annealing", 1.0, {"draw": 0.4, "name": 0.3, "interleaved": 0.3}))


def config() -> config_lib.Experiment:
    model = decoder.DecoderConfig(depth=24, aspect=96, head_dim=128, hidden=8704, context_tokens=32_768, rope_base=1_000_000.0, dtype="bfloat16",
                                  vocab_size=40_960, attention="splash", scan=True)
    return config_lib.Experiment(
        task=pretrain.Pretrain(
            rows="data/nano/rows", text_tokenizer="data/nano/text/text.model",
            image_tokenizer="runs/nano-image/image.safetensors", audio_tokenizer="runs/nano-audio/audio.safetensors",
            stages=STAGES, model=model, batch_rows=16,
        ),
        optim=optim.OptimConfig(lr=3e-4, weight_decay=0.1, warmup=0.01, decay=0.2),
        run=loop.RunConfig(folder="runs/nano1", steps=100_000, save_every=1000, keep=3, mesh=(0, 16, 1, 1)),
    )
