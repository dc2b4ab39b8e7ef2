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

TEXT = {"prose": 0.04, "code": 0.04, "names": 0.03, "captions": 0.02, "translate": 0.03}
STAGES = (
    # Each modality by itself and in its plainest pairs.
    mixture.Stage("foundations", 0.15, {"draw": 0.35, "name": 0.2, "listen": 0.15, "motion": 0.06, "digits": 0.04,
                                        "prose": 0.08, "code": 0.06, "names": 0.06}),
    # Every pairing and interleaved documents.
    mixture.Stage("paired", 0.7, TEXT | {"draw": 0.4, "name": 0.14, "listen": 0.12, "speech_draw": 0.03, "motion": 0.05,
                                         "digits": 0.02, "interleaved": 0.03, "one_shot": 0.05}),
    # What the demo is asked to do, while the learning rate falls.
    mixture.Stage("annealing", 1.0, {"draw": 0.5, "name": 0.16, "listen": 0.12, "speech_draw": 0.03, "motion": 0.05,
                                     "digits": 0.02, "interleaved": 0.03, "one_shot": 0.05, "translate": 0.01,
                                     "prose": 0.015, "code": 0.015}),
)


def config() -> config_lib.Experiment:
    return config_lib.Experiment(
        task=pretrain.Pretrain(
            rows="data/demo/rows", text_tokenizer="data/demo/text/text.model",
            image_tokenizer="runs/demo-image/image.safetensors", audio_tokenizer="runs/demo-audio/audio.safetensors",
            stages=STAGES, model=decoder.DecoderConfig(depth=4, aspect=64, context_tokens=1024), batch_rows=8,
        ),
        optim=optim.OptimConfig(kind="muon", lr=2e-3, muon_lr=1e-2, decay=0.3),
        run=loop.RunConfig(folder="runs/demo", steps=1000, max_minutes=9.0, eval_every=250, save_every=100),
    )
