"""Fine reading, charts and scenes alone, to see whether the demo's decoder can learn them: minutes on one core.

    python -m data_prep.pack data/demo/world --row-tokens 896 --text data/demo/text/text.model \
        --image runs/demo-image/image.safetensors --audio runs/demo-audio/audio.safetensors \
        --config configs/reading.py --out data/demo/reading
    python train.py configs/reading.py
    python -m gemini_mini.evals runs/reading --suite image --world data/demo/world

The same questions at 4 x 4, 8 x 8 and 16 x 16 codes; EXPERIMENTS.md has the figures.
"""

from gemini_mini import config as config_lib
from gemini_mini.data import mixture
from gemini_mini.model import decoder
from gemini_mini.tasks import pretrain
from gemini_mini.train import loop, optim

STAGES = (mixture.Stage("reading", 1.0, {
    "number_16": 0.26, "number_8": 0.16, "number_4": 0.06, "bars_16": 0.12, "bars_8": 0.1, "bars_4": 0.04,
    "count": 0.06, "colour": 0.06, "larger": 0.04, "side": 0.05, "same": 0.05}),)


def config() -> config_lib.Experiment:
    return config_lib.Experiment(
        task=pretrain.Pretrain(
            rows="data/demo/reading", text_tokenizer="data/demo/text/text.model",
            image_tokenizer="runs/demo-image/image.safetensors", audio_tokenizer="runs/demo-audio/audio.safetensors",
            stages=STAGES, model=decoder.DecoderConfig(depth=4, aspect=64, shortcuts=True), batch_rows=5,
            user_share=0.02, answer_text_weight=4.0,
        ),
        optim=optim.OptimConfig(kind="muon", lr=4e-3, muon_lr=2e-2, decay=0.4),
        run=loop.RunConfig(folder="runs/reading", steps=500, max_minutes=12.0, eval_every=250, save_every=250),
    )
