"""The decoder on the whole world: 3,666 pictures, 14 languages, about 12 million parameters, two hours on 2 cores.

    make laptop

The command stops after two hours at most and continues when run again.
"""

from gemini_mini import config as config_lib
from gemini_mini.data import mixture
from gemini_mini.model import decoder
from gemini_mini.tasks import pretrain
from gemini_mini.train import loop, optim

PAIRS = {"draw": 0.36, "name": 0.2, "listen": 0.12, "speech_draw": 0.03, "motion": 0.06, "digits": 0.02,
         "interleaved": 0.04, "one_shot": 0.04}
STAGES = (
    mixture.Stage("foundations", 0.15, {"draw": 0.36, "name": 0.18, "listen": 0.14, "motion": 0.06, "digits": 0.03,
                                        "prose": 0.08, "code": 0.08, "names": 0.07}),
    mixture.Stage("paired", 0.7, PAIRS | {"translate": 0.03, "captions": 0.01, "names": 0.03, "prose": 0.03, "code": 0.03}),
    mixture.Stage("annealing", 1.0, PAIRS | {"translate": 0.02, "prose": 0.02, "code": 0.02}),
)


def config() -> config_lib.Experiment:
    return config_lib.Experiment(
        task=pretrain.Pretrain(
            rows="data/laptop/rows", text_tokenizer="data/laptop/text/text.model",
            image_tokenizer="runs/laptop-image/image.safetensors", audio_tokenizer="runs/laptop-audio/audio.safetensors",
            stages=STAGES, model=decoder.DecoderConfig(depth=6, aspect=64), batch_rows=18,
            hide_images=1.0, user_weight=0.1, answer_text_weight=4.0,
        ),
        optim=optim.OptimConfig(kind="muon", lr=3e-3, muon_lr=2e-2, decay=0.4),
        run=loop.RunConfig(folder="runs/laptop", steps=3000, max_minutes=110.0, eval_every=500, save_every=100),
    )
