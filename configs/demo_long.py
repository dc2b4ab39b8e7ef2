"""Length extension of the demo's decoder: it goes on from runs/demo with rows four times as long, minutes on 2 cores.

    python -m data_prep.pack data/demo/world --config configs/demo_long.py --row-tokens 1792 --text data/demo/text/text.model \
        --image runs/demo-image/image.safetensors --audio runs/demo-audio/audio.safetensors --out data/demo/rows-long
    python train.py configs/demo_long.py
    python -m gemini_mini.evals runs/demo-long --suite long_context

A run of its own that begins with the weights of the first: the loop, the schedule and the sampler need not know of it.
The rotary base is four times as large: the slowest pairs turn no further over a long row than before over a short one.
Paper: Xiong et al. 2023, "Effective Long-Context Scaling of Foundation Models", arXiv 2309.16039 (a larger base, long
documents mixed with short ones).
"""

from gemini_mini import config as config_lib
from gemini_mini.data import mixture
from gemini_mini.model import decoder
from gemini_mini.tasks import pretrain
from gemini_mini.train import loop, optim

LONG = {"long_text": 0.2, "retrieval": 0.3, "video_needle": 0.08, "audio_needle": 0.08}
SHORT = {"draw": 0.14, "name": 0.05, "listen": 0.05, "motion": 0.05, "one_shot": 0.05}  # so that it does not forget


def config() -> config_lib.Experiment:
    return config_lib.Experiment(
        task=pretrain.Pretrain(
            rows="data/demo/rows-long", text_tokenizer="data/demo/text/text.model",
            image_tokenizer="runs/demo-image/image.safetensors", audio_tokenizer="runs/demo-audio/audio.safetensors",
            stages=(mixture.Stage("long", 1.0, LONG | SHORT),),
            model=decoder.DecoderConfig(depth=4, aspect=64, shortcuts=True, context_tokens=1792, rope_base=40_000.0), batch_rows=2,
            start_from="runs/demo", hide_images=1.0, user_share=0.1, answer_text_weight=4.0,
        ),
        optim=optim.OptimConfig(kind="muon", lr=1e-3, muon_lr=5e-3, decay=0.5),
        run=loop.RunConfig(folder="runs/demo-long", steps=200, max_minutes=4.0, save_every=100),
    )
