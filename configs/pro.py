"""A decoder of the order of Gemini Pro, 60 billion parameters: a shape that only ever compiles.

    python train.py configs/pro.py --plan v4:16x16x16    what a step needs on a superpod of 4,096 chips

Fact: the report gives no size for Pro, only that it is trained on a fraction of Ultra's chips, and that Ultra
takes several superpods of 4,096 TPU v4 (sections 2 and 3). The shape is ours.
"""

from gemini_mini import config as config_lib
from gemini_mini.data import mixture
from gemini_mini.model import decoder
from gemini_mini.tasks import pretrain
from gemini_mini.train import loop, optim

STAGES = (mixture.Stage("foundations", 1.0, {"draw": 0.3, "name": 0.2, "listen": 0.2, "prose": 0.2, "code": 0.1}),)


def config() -> config_lib.Experiment:
    model = decoder.DecoderConfig(depth=64, aspect=128, head_dim=128, hidden=32_768, context_tokens=32_768, rope_base=1_000_000.0, dtype="bfloat16",
                                  vocab_size=131_072, attention="splash", scan=True)
    return config_lib.Experiment(
        task=pretrain.Pretrain(
            rows="data/pro/rows", text_tokenizer="data/pro/text/text.model",
            image_tokenizer="runs/pro-image/image.safetensors", audio_tokenizer="runs/pro-audio/audio.safetensors",
            stages=STAGES, model=model, batch_rows=512,
        ),
        optim=optim.OptimConfig(lr=1e-4, weight_decay=0.1, warmup=0.01, decay=0.2),
        run=loop.RunConfig(folder="runs/pro", steps=100_000, save_every=1000, keep=3, mesh=(0, 128, 1, 8)),
    )
