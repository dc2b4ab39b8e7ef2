"""Which training signal makes codes that can be read? The audio tokenizer's quantisers side by side.

    python benchmarks/audio_quantisers.py --world data/demo/world            all of them, then the table
    python benchmarks/audio_quantisers.py --world data/demo/world --only joint

Each variant is the same tokenizer under the same budget with other weights of the same losses; `k_means`
has the encoder of `best_rq` and the means of what it hears in the training clips for codes, `mel_k_means`
those of log-mel itself: no learned encoder at all. The codes are then frozen and a probe, the same for all,
learns to spell from them by CTC; `log_mel` is the same probe on what the encoder hears, for as many steps as
encoder and probe together: the ceiling. The probe is what a reader makes of the codes: an
embedding, two Conformer blocks and a linear layer, trained on the training clips alone. With
`--decoder` the demo's decoder learns to write them down besides, and nothing else: its columns are nats
for each piece of what was said. Finished parts are reused. Columns end in the split;
valid_speaker_language has seen words said by voices that are new in their language, valid has words
that were never heard; `again` is what the probe reads once the codes were made to sound and encoded again.
"""

import argparse
import dataclasses
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Float32, Int
from rapidfuzz.distance import Levenshtein
from sklearn.cluster import MiniBatchKMeans

from data_prep import pack
from gemini_mini import config as config_lib
from gemini_mini import errors, files, nn, run
from gemini_mini.data import mixture
from gemini_mini.tasks import audio_tokenizer
from gemini_mini.tokenizers import audio, audio_losses, conformer, logmel
from gemini_mini.train import loop, optim

LOSSES = audio_losses.AudioLossConfig()
# Without a reader or a decoder nothing but the commitment moves z, and it would move all z together:
# in the first variant the projection stays as it is drawn and the codebook alone learns.
VARIANTS = {
    "best_rq": dataclasses.replace(LOSSES, best_rq=1.0, ctc=0.0, mel=0.0, commitment=0.0),
    "mel": dataclasses.replace(LOSSES, ctc=0.0, mel=1.0),
    "ctc": dataclasses.replace(LOSSES, mel=0.0),
    "joint": LOSSES,
    "no_best_rq": dataclasses.replace(LOSSES, best_rq=0.0),
}
CENTRES = "centres.safetensors"  # in the folder of the encoder whose k-means they are
MOST_FRAMES = 200_000  # that k-means reads
OPTIM = optim.OptimConfig(kind="muon", lr=3e-3, muon_lr=1e-2, decay=0.6, beta2=0.98, weight_decay=0.01)
WIDTH = 96
WINDOW = 64  # codes to either side: all of every clip
DECODER_ROW = 448  # ids


class Probe(nnx.Module):
    """Spells from codes, or from log-mel when there are none."""

    def __init__(self, inputs: int, num_letters: int, rngs: nnx.Rngs):
        self.embed = nn.param(rngs, (inputs, WIDTH), "V D", inputs**0.5)
        self.blocks = nnx.List([conformer.Block(WIDTH, 4, WINDOW, 5, 2 * WIDTH, rngs) for _ in range(2)])
        self.letters = nn.param(rngs, (WIDTH, num_letters + 1), "D V", 0.3)

    def __call__(self, x, valid, hidden):
        """Letter logits of codes [B A] or log-mel [B A mel]; frames in `hidden` are not seen."""
        x = self.embed[...][x] if x.ndim == 2 else nn.linear(x, self.embed) * self.embed.shape[0] ** -0.5
        x = jnp.where(hidden[..., None], 0.0, x)
        for block in self.blocks:
            x = block(x, valid)
        return nn.linear(x, self.letters)


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Codes are the nearest of some centres: in the hidden space of an encoder, or where there is none in that of log-mel."""

    encoder: audio.AudioTokenizer | None
    around: int
    centres: Float32[np.ndarray, "V D"]

    @classmethod
    def load(cls, folder: Path) -> "Clusters":
        encoder = audio.load(folder / "audio.safetensors") if (folder / "audio.safetensors").is_file() else None
        return cls(encoder, audio.AudioTokenizerConfig().around, files.load_arrays(folder / CENTRES)[0]["centres"])

    @property
    def num_codes(self) -> int:
        return len(self.centres)

    def encode(self, samples: Float[Array, "B samples"], num_samples: Int[Array, "B"]) -> Int[Array, "B A"]:
        hidden, _ = heard(self.encoder, self.around, samples, num_samples)
        return jnp.argmin(jnp.sum(self.centres**2, -1) - 2 * hidden @ self.centres.T, -1)


def heard(encoder: audio.AudioTokenizer | None, around: int, samples: Float[Array, "B samples"], num_samples: Int[Array, "B"]):
    """(what k-means sees of each code's time, valid frames)."""
    mel, valid, _, _ = audio.features(samples, num_samples, around)
    return encoder.hidden(mel, valid) if encoder else mel, valid


def cluster(task: audio_tokenizer.TrainAudioTokenizer, folder: Path, seed: int) -> None:
    """K-means, as HuBERT's (arXiv 2106.07447), of what a finished encoder makes of the training clips, or of their log-mel."""
    encoder = audio.load(folder / "audio.safetensors") if (folder / "audio.safetensors").is_file() else None
    hear = jax.jit(lambda samples, num_samples: heard(encoder, task.model.around, samples, num_samples))
    frames = [np.asarray(hidden)[np.asarray(valid)] for hidden, valid in (hear(b.samples, b.num_samples) for b in task.all_batches(("train",)))]
    some = np.random.default_rng(seed).permutation(np.concatenate(frames))[:MOST_FRAMES]
    found = MiniBatchKMeans(task.model.num_codes, batch_size=4096, n_init=3, random_state=seed).fit(some)
    files.save_arrays(folder / CENTRES, {"centres": found.cluster_centers_.astype(np.float32)}, {})


@dataclasses.dataclass(frozen=True)
class TrainProbe:
    """A loop.Task: a probe on the codes of the tokenizer or the centres in this file, or on log-mel when it is empty."""

    world: str
    tokenizer: str
    speeds: float = 0.0  # as of TrainAudioTokenizer, of the clips that the probe learns from

    @cached_property
    def source(self) -> audio_tokenizer.TrainAudioTokenizer:
        return audio_tokenizer.TrainAudioTokenizer(self.world, speeds=self.speeds)

    @cached_property
    def frozen(self) -> audio.AudioTokenizer | Clusters | None:
        path = Path(self.tokenizer)
        return Clusters.load(path.parent) if path.name == CENTRES else audio.load(path) if self.tokenizer else None

    def inputs(self) -> dict:
        return self.source.inputs() | {"tokenizer": self.tokenizer and files.hash_bytes(Path(self.tokenizer).read_bytes())}

    def init(self, rngs: nnx.Rngs) -> Probe:
        inputs = num_codes(self.frozen) if self.frozen else audio.MEL_PER_CODE * logmel.NUM_MEL
        return Probe(inputs, len(self.source.speech.letters), rngs)

    def batches(self, steps: int, seed: int):
        return self.source.batches(steps, seed)

    def heard(self, batch: audio_losses.AudioBatch):
        """(what the probe reads, valid frames)."""
        mel, valid, _, _ = audio.features(batch.samples, batch.num_samples, self.source.model.around)
        return (self.frozen.encode(batch.samples, batch.num_samples) if self.frozen else mel), valid

    def loss(self, module: Probe, batch: audio_losses.AudioBatch, key):
        x, valid = self.heard(batch)
        logits = module(x, valid, audio_losses.random_spans(key, valid, LOSSES))
        ctc = optax.ctc_loss(logits, 1.0 - valid, batch.letters, 1.0 * (batch.letters == audio_losses.BLANK))
        is_letter = batch.letters != audio_losses.BLANK  # a clip without transcript would teach silence
        loss = jnp.sum(ctc * is_letter.any(1)) / jnp.maximum(is_letter.sum(), 1)
        return loss, {"ctc": loss}

    def evals(self, module: Probe) -> dict[str, float]:
        """Character error rates; of the codes of `valid` made to sound and encoded again, too."""
        figures = {f"{split}/cer": self._misread(module, self.source.all_batches((split,), audio_tokenizer.EVAL_CLIPS))
                   for split in audio_tokenizer.EVAL_SPLITS}
        if isinstance(self.frozen, audio.AudioTokenizer):
            figures["valid/cer_again"] = self._misread(module, map(self._again, self.source.all_batches(("valid",), audio_tokenizer.EVAL_CLIPS)))
        return figures

    def recorded(self, folder: str, probe: Path) -> float:
        """Character error rate of a finished probe on a folder of recorded speech (audio_tokenizer.read_folder); how many were heard is printed."""
        module = nn.with_weights(self.init(nnx.Rngs(0)), jax.device_put(files.load_arrays(probe)[0]))
        clips = audio_tokenizer.read_folder(folder)
        batches = list(self.source.pad_all(clips))
        judged = sum(int((batch.letters != audio_losses.BLANK).any(1).sum()) for batch in batches)
        print(f"{folder}: {judged} of {len(clips)} recordings are judged; the others are too long, or hold what this world's letters cannot spell")
        return self._misread(module, batches)

    def _misread(self, module: Probe, batches) -> float:
        read = jax.jit(lambda module, x, valid: jnp.argmax(module(x, valid, jnp.zeros_like(valid)), -1))
        wrong = letters = 0
        for batch in batches:
            x, valid = self.heard(jax.tree.map(jnp.asarray, batch))
            for best, ok, wanted in zip(*map(np.asarray, (read(module, x, valid), valid)), batch.letters, strict=True):
                wanted = wanted[wanted != audio_losses.BLANK].tolist()
                if wanted:  # what is not spelt is not judged
                    wrong += Levenshtein.distance(audio_tokenizer.collapse(best[ok].tolist()), wanted)
                letters += len(wanted)
        return wrong / letters if letters else float("nan")

    def _again(self, batch: audio_losses.AudioBatch) -> audio_losses.AudioBatch:
        """The clips as `listen` makes them sound."""
        samples, count = np.zeros_like(batch.samples), np.zeros_like(batch.num_samples)
        for row in np.flatnonzero(batch.num_samples):
            codes = audio.encode_clip(self.frozen, batch.samples[row, : batch.num_samples[row]])
            made = audio.resynthesise(self.frozen, codes)[: samples.shape[1]]
            samples[row, : len(made)], count[row] = made, len(made)
        return audio_losses.AudioBatch(samples, count, batch.letters)

    def export(self, module: Probe, folder: Path) -> None:
        """The probe too: recordings are read by it after its training, and may come later."""
        files.save_arrays(folder / "probe.safetensors", {name: np.asarray(w) for name, w in nn.weights(module).items()}, {})
        files.write_json(folder / "figures.json", self.evals(module))

    def reads(self, done: float) -> dict[str, float]:
        return {}

    def batch_tokens(self) -> int:
        return self.source.batch_tokens()

    def batch_flops(self) -> int:
        shapes = nn.weights(jax.eval_shape(lambda: self.init(nnx.Rngs(0))))
        return 6 * self.batch_tokens() * sum(weight.size for weight in shapes.values())


def num_codes(frozen: audio.AudioTokenizer | Clusters) -> int:
    return frozen.num_codes if isinstance(frozen, Clusters) else frozen.config.num_codes


def train(task, folder: Path, steps: int, seed: int, optimizer: optim.OptimConfig = OPTIM) -> None:
    """One run of the one loop."""
    experiment = config_lib.Experiment(task, optimizer, loop.RunConfig(str(folder), steps=steps, save_every=250, seed=seed))
    loop.run(experiment.task, experiment.optim, experiment.run, config_lib.to_json(experiment))


def decoder_figures(world: str, tokenizers: tuple[Path, Path, Path], out: Path, steps: int, seed: int) -> dict[str, float]:
    """How well the demo's decoder, trained on transcripts alone, foresees those of valid from the codes."""
    pack.build(Path(world), tokenizers, DECODER_ROW, Path(f"{out}-rows"), ["listen"])
    demo = config_lib.load("configs/demo.py", [])
    task = dataclasses.replace(demo.task, rows=f"{out}-rows", stages=(mixture.Stage("listen", 1.0, {"listen": 1.0}),),
                               **dict(zip(("text_tokenizer", "image_tokenizer", "audio_tokenizer"), map(str, tokenizers), strict=True)))
    train(task, Path(f"{out}-decoder"), steps, seed, demo.optim)
    losses = dataclasses.replace(task, user_share=0.0).valid_losses(run.load(f"{out}-decoder").model)
    return {f"decoder, {split}": losses[f"valid/listen{split.removeprefix('valid')}/loss/text"] for split in ("valid", "valid_speaker_language")}


def code_figures(task: audio_tokenizer.TrainAudioTokenizer, tokenizer: audio.AudioTokenizer | Clusters) -> dict[str, float]:
    """How a finished tokenizer uses its codes on the training clips, and how far its log-mel is off on valid."""
    counts = np.zeros(num_codes(tokenizer), np.int64)
    encode = jax.jit(lambda batch: tokenizer.encode(batch.samples, batch.num_samples))
    for batch in task.all_batches(("train",)):
        for codes, samples in zip(np.asarray(encode(batch)), batch.num_samples, strict=True):
            counts += np.bincount(codes[: audio.num_frames(int(samples))], minlength=len(counts))

    shares = counts[counts > 0] / counts.sum()
    figures = {"used": float(np.mean(counts > 0)), "perplexity": float(np.exp(-np.sum(shares * np.log(shares))))}
    if isinstance(tokenizer, Clusters):
        return figures
    valid = [row[:n] for batch in task.all_batches(("valid",)) for row, n in zip(batch.samples, batch.num_samples) if n]
    return figures | {"mel_error": audio.mel_error(tokenizer, valid)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--world", default="data/demo/world")
    parser.add_argument("--out", default="runs/quantisers")
    parser.add_argument("--steps", type=int, default=500, help="of each tokenizer")
    parser.add_argument("--probe-steps", type=int, default=500)
    parser.add_argument("--probe-speeds", type=float, default=0.0, help="the probe hears clips faster and slower too, by this share at most")
    parser.add_argument("--recorded", default="", help="a folder of recorded speech with its transcripts.tsv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder", nargs=2, type=Path, metavar=("TEXT", "IMAGE"), help="a decoder reads too, beside these tokenizers")
    parser.add_argument("--decoder-steps", type=int, default=400)
    parser.add_argument("--tokenizer", type=Path, help="a finished one of this world's kind, for a row `given`")
    names = [*VARIANTS, "k_means", "mel_k_means", "log_mel"]
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    args = parser.parse_args()
    out, table = Path(args.out), {}
    for name in [*args.only, *(["given"] if args.tokenizer else [])]:
        figures, tokenizer, probe_steps = {}, args.tokenizer if name == "given" else "", args.probe_steps
        encoder = {"k_means": "best_rq"}.get(name, name)
        task = audio_tokenizer.TrainAudioTokenizer(args.world, losses=VARIANTS.get(encoder, LOSSES))
        if name == "log_mel":
            probe_steps += args.steps  # what stands behind the other codes has learnt for so long already
        elif name != "given":
            if encoder in VARIANTS:
                train(task, out / encoder, args.steps, args.seed)
            tokenizer = out / encoder / (CENTRES if name.endswith("k_means") else "audio.safetensors")
            if name.endswith("k_means") and not tokenizer.is_file():
                cluster(task, out / encoder, args.seed)
        probe = TrainProbe(args.world, str(tokenizer), args.probe_speeds)
        if probe.frozen:
            figures = code_figures(task, probe.frozen)
        train(probe, out / f"{name}-probe", probe_steps, args.seed)
        figures |= files.read_json(out / f"{name}-probe" / "figures.json")
        if args.decoder and isinstance(probe.frozen, audio.AudioTokenizer):
            figures |= decoder_figures(args.world, (*args.decoder, tokenizer), out / name, args.decoder_steps, args.seed)
        if args.recorded:
            figures["recorded/cer"] = probe.recorded(args.recorded, out / f"{name}-probe" / "probe.safetensors")
        table[name] = figures
    columns = ["train/cer", "valid/cer", "valid/cer_again", "valid_speaker_language/cer", "recorded/cer", "decoder, valid",
               "decoder, valid_speaker_language", "mel_error", "used", "perplexity"]
    print("| codes | " + " | ".join(columns) + " |\n|" + " --- |" * (len(columns) + 1))
    for name, row in table.items():
        print(f"| {name} | " + " | ".join(f"{row[c]:.3f}" if c in row else "–" for c in columns) + " |")


if __name__ == "__main__":
    errors.run(main)
