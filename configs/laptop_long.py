"""The laptop's decoder goes on: rows four times as long, and all else that the suites ask for; half an hour on 2 cores.

    python -m data_prep.pack data/laptop/world --config configs/laptop_long.py --row-tokens 2048 --text data/laptop/text/text.model \
        --image runs/laptop-image/image.safetensors --audio runs/laptop-audio/audio.safetensors --out data/laptop/rows-long
    python train.py configs/laptop_long.py
    python -m gemini_mini.evals runs/laptop-long --suite all --guidance 1.5

A quarter of what it reads is what it has learned before, so that it does not forget. As in demo_long.py the rotary base is
four times as large.
Paper: Xiong et al. 2023, "Effective Long-Context Scaling of Foundation Models", arXiv 2309.16039.
"""

from gemini_mini import config as config_lib
from gemini_mini.data import mixture
from gemini_mini.model import decoder
from gemini_mini.tasks import pretrain
from gemini_mini.train import loop, optim

LONG = {"long_text": 0.04, "retrieval": 0.08, "video_needle": 0.05, "audio_needle": 0.05}
PICTURES = {"number_16": 0.04, "number_8": 0.03, "number_4": 0.01, "word_16": 0.02, "word_8": 0.02, "bars_16": 0.03, "bars_8": 0.03,
            "bars_4": 0.01, "table_16": 0.02, "table_8": 0.01, "count": 0.02, "colour": 0.02, "larger": 0.01, "side": 0.02, "same": 0.02}
OTHERS = {"analogy": 0.02, "film": 0.02, "watch": 0.02, "messages": 0.01, "speech_translate": 0.02, "invented": 0.06, "sums": 0.05,
          "programs": 0.04}
KNOWN = {"draw": 0.08, "name": 0.05, "listen": 0.04, "motion": 0.01, "one_shot": 0.01, "interleaved": 0.02, "chat": 0.02}


def config() -> config_lib.Experiment:
    return config_lib.Experiment(
        task=pretrain.Pretrain(
            rows="data/laptop/rows-long", text_tokenizer="data/laptop/text/text.model",
            image_tokenizer="runs/laptop-image/image.safetensors", audio_tokenizer="runs/laptop-audio/audio.safetensors",
            stages=(mixture.Stage("long", 1.0, LONG | PICTURES | OTHERS | KNOWN),),
            model=decoder.DecoderConfig(depth=4, aspect=64, shortcuts=True, key_offset=True, context_tokens=2048, rope_base=40_000.0),
            batch_rows=3,
            start_from="runs/laptop", hide_images=1.0, hide_prompts=0.1, user_share=0.1, answer_text_weight=4.0,
        ),
        optim=optim.OptimConfig(kind="muon", lr=2e-3, muon_lr=1e-2, decay=0.6),
        run=loop.RunConfig(folder="runs/laptop-long", steps=2000, max_minutes=30.0, save_every=100),
    )
