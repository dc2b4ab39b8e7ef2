"""The laptop preset: the whole world (3,666 pictures, 14 languages), two hours and a half on 2 cores with its tokenizers.

    make laptop

Its decoder trains for at most 95 minutes, in fewer steps where those are slow, and goes on when run again. Its blocks are as small as
the demo's: in this time it can either be larger or see each picture often, and a name is bound to its
picture by repetition. Its keys bring half of the id before them: so it learns to look up what a prompt says.
"""

from gemini_mini import config as config_lib
from gemini_mini.data import mixture
from gemini_mini.model import decoder
from gemini_mini.tasks import pretrain
from gemini_mini.train import loop, optim

TEXT = {"prose": 0.02, "code": 0.02, "names": 0.01, "captions": 0.01, "translate": 0.03}
PAIRS = {"draw": 0.325, "name": 0.115, "listen": 0.15, "motion": 0.035, "one_shot": 0.015, "retrieval": 0.07,
         "speech_draw": 0.025, "digits": 0.015, "interleaved": 0.075, "chat": 0.085}
STAGES = (
    mixture.Stage("foundations", 0.12, {"draw": 0.38, "name": 0.16, "listen": 0.17, "motion": 0.05, "retrieval": 0.10, "digits": 0.02,
                                        "prose": 0.04, "code": 0.04, "names": 0.04}),
    mixture.Stage("paired", 0.7, TEXT | PAIRS),
    mixture.Stage("annealing", 1.0, PAIRS | {"draw": 0.345, "name": 0.13, "translate": 0.03, "prose": 0.01, "code": 0.01}),
)


def config() -> config_lib.Experiment:
    return config_lib.Experiment(
        task=pretrain.Pretrain(
            rows="data/laptop/rows", text_tokenizer="data/laptop/text/text.model",
            image_tokenizer="runs/laptop-image/image.safetensors", audio_tokenizer="runs/laptop-audio/audio.safetensors",
            stages=STAGES, model=decoder.DecoderConfig(depth=4, aspect=64, shortcuts=True, key_offset=True), batch_rows=12,
            hide_images=1.0, hide_prompts=0.1, user_share=0.1, answer_text_weight=4.0,
        ),
        optim=optim.OptimConfig(kind="muon", lr=4e-3, muon_lr=2e-2, decay=0.4),
        run=loop.RunConfig(folder="runs/laptop", steps=8000, max_minutes=95.0, eval_every=1000, save_every=100),
    )
