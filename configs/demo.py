"""The decoder of `make demo`: about 4 million parameters on the demo world, minutes on 2 cores.

    make demo                          everything, in order
    python train.py configs/demo.py    this stage alone, once the rows are packed

Facts: one decoder for all modalities, multi-query attention, a mixture in stages that raises the
weight of the target domain near the end (Gemini report, sections 2 and 4).
"""

from gemini_mini import config as config_lib
from gemini_mini.data import mixture
from gemini_mini.model import decoder
from gemini_mini.tasks import pretrain
from gemini_mini.train import loop, optim

TEXT = {"prose": 0.02, "code": 0.02, "names": 0.02, "captions": 0.01, "translate": 0.02}
PAIRS = {"draw": 0.32, "name": 0.22, "listen": 0.09, "speech_draw": 0.02, "digits": 0.02, "interleaved": 0.02}
STAGES = (
    # Each modality by itself and in its plainest pairs.
    mixture.Stage("foundations", 0.15, {"draw": 0.36, "name": 0.2, "listen": 0.12, "motion": 0.1, "digits": 0.04,
                                        "prose": 0.07, "code": 0.07, "names": 0.04}),
    # Every pairing, and documents in which they mix.
    mixture.Stage("paired", 0.7, TEXT | PAIRS | {"motion": 0.13, "one_shot": 0.09}),
    # What the demo is asked for, while the learning rate falls.
    mixture.Stage("annealing", 1.0, PAIRS | {"motion": 0.16, "one_shot": 0.13, "prose": 0.01, "code": 0.01}),
)


def config() -> config_lib.Experiment:
    return config_lib.Experiment(
        task=pretrain.Pretrain(
            rows="data/demo/rows", text_tokenizer="data/demo/text/text.model",
            image_tokenizer="runs/demo-image/image.safetensors", audio_tokenizer="runs/demo-audio/audio.safetensors",
            stages=STAGES, model=decoder.DecoderConfig(depth=4, aspect=64), batch_rows=9,
            hide_images=1.0, user_weight=0.1, answer_text_weight=8.0,
        ),
        optim=optim.OptimConfig(kind="muon", lr=4e-3, muon_lr=2e-2, decay=0.4),
        run=loop.RunConfig(folder="runs/demo", steps=850, max_minutes=10.0, eval_every=300, save_every=100),
    )
