"""The decoder of `make demo`: 4.5 million parameters on the demo world, minutes on 2 cores.

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

TEXT = {"prose": 0.02, "code": 0.02, "names": 0.01, "captions": 0.01, "translate": 0.01}
PAIRS = {"draw": 0.42, "name": 0.14, "listen": 0.08, "speech_draw": 0.01, "digits": 0.01, "interleaved": 0.01}
STAGES = (
    # Each modality by itself and in its plainest pairs.
    mixture.Stage("foundations", 0.15, {"draw": 0.44, "name": 0.14, "listen": 0.1, "motion": 0.16, "digits": 0.02,
                                        "prose": 0.05, "code": 0.05, "names": 0.04}),
    # Every pairing, and documents in which they mix.
    mixture.Stage("paired", 0.7, TEXT | PAIRS | {"motion": 0.14, "one_shot": 0.12}),
    # What the demo is asked for, while the learning rate falls.
    mixture.Stage("annealing", 1.0, PAIRS | {"motion": 0.14, "one_shot": 0.15, "prose": 0.01, "code": 0.01}),
)


def config() -> config_lib.Experiment:
    return config_lib.Experiment(
        task=pretrain.Pretrain(
            rows="data/demo/rows", text_tokenizer="data/demo/text/text.model",
            image_tokenizer="runs/demo-image/image.safetensors", audio_tokenizer="runs/demo-audio/audio.safetensors",
            stages=STAGES, model=decoder.DecoderConfig(depth=4, aspect=64, shortcuts=True), batch_rows=9,
            hide_images=1.0, user_share=0.1, answer_text_weight=4.0,
        ),
        optim=optim.OptimConfig(kind="muon", lr=4e-3, muon_lr=2e-2, decay=0.4),
        run=loop.RunConfig(folder="runs/demo", steps=1000, max_minutes=10.5, eval_every=500, save_every=100),
    )
