"""The decoder for your own data: as small as the demo's, about ten minutes on 2 cores.

    make own DATA=photos               everything, in order
    python train.py configs/own.py     this stage alone, once the rows are packed

The weights are parts of all rows. A source that your data has nothing for, or too little, leaves its part to
the others: with documents in order alone, those are all that is read. What the sources are: data_prep/own_documents.py.
"""

from gemini_mini import config as config_lib
from gemini_mini.data import mixture
from gemini_mini.model import decoder
from gemini_mini.tasks import pretrain
from gemini_mini.train import loop, optim

STAGES = (
    mixture.Stage("together", 0.7, {"draw": 0.35, "name": 0.2, "listen": 0.15, "speech_draw": 0.03, "watch": 0.06,
                                    "translate": 0.03, "documents": 0.18}),
    mixture.Stage("annealing", 1.0, {"draw": 0.4, "name": 0.25, "listen": 0.15, "speech_draw": 0.03, "watch": 0.06,
                                     "translate": 0.01, "documents": 0.1}),
)


def config() -> config_lib.Experiment:
    return config_lib.Experiment(
        task=pretrain.Pretrain(
            rows="data/own/rows", text_tokenizer="data/own/text/text.model",
            image_tokenizer="runs/own-image/image.safetensors", audio_tokenizer="runs/own-audio/audio.safetensors",
            stages=STAGES, model=decoder.DecoderConfig(depth=4, aspect=64, shortcuts=True), batch_rows=8, most_passes=30,
            hide_images=1.0, user_share=0.1, answer_text_weight=4.0,
        ),
        optim=optim.OptimConfig(kind="muon", lr=4e-3, muon_lr=2e-2, decay=0.4),
        run=loop.RunConfig(folder="runs/own", steps=1000, max_minutes=10.5, eval_every=500, save_every=100),
    )
