"""Train the audio tokenizer on a world's speech and its transcripts.

Batches hold clips of a like length, from few lengths, so few shapes are compiled. One epoch is a
keyed permutation: every step is a function of (seed, step). Only the clips the world trains on are
read; the evaluation reads the codes of others by CTC's own greedy rule: a lower bound on what a
language model can read from them.
Next: ../tokenizers/audio_losses.py.
"""

import collections
import dataclasses
import itertools
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float64, Int, Int16, UInt8
from rapidfuzz.distance import Levenshtein

from gemini_mini import errors, files, nn
from gemini_mini.tokenizers import audio, audio_io, audio_losses, logmel
from gemini_mini.train import hosts

EVAL_CLIPS = 256
SHEET_CLIPS = 4
EVAL_SPLITS = ("train", "valid", "valid_speaker_language")
RARE = 0.002  # a letter that fewer of the training clips hold is not spelt


class Spoken(NamedTuple):
    """A clip and what it says."""

    samples: Int16[np.ndarray, "samples"] | Float64[np.ndarray, "samples"]  # of 16 bits, whole or between
    text: str
    split: str


class Speech(NamedTuple):
    """What a world says, and the letters it is spelt with: those that enough training transcripts hold.

    Accents, and the sounds within a syllable of Hangul, are letters of their own. A code has few values, so it cannot
    learn thousands of characters that are rarely said: what is written in them is heard, and not spelt.
    """

    clips: list[Spoken]
    letters: str

    def spell(self, text: str) -> list[int]:
        """The numbers of its letters, from 1; none where it holds any other."""
        found = [1 + self.letters.find(letter) for letter in decompose(text)]
        return found if all(found) else []


class Bucket(NamedTuple):
    """Clips of at most `seconds` and `letters`, `clips` of them in a batch."""

    seconds: float
    letters: int
    clips: int


@dataclasses.dataclass(frozen=True)
class TrainAudioTokenizer:
    """`world` is a folder built by data_prep/emoji_world.py or own.py."""

    world: str
    model: audio.AudioTokenizerConfig = audio.AudioTokenizerConfig()
    losses: audio_losses.AudioLossConfig = audio_losses.AudioLossConfig()
    short: tuple[float, int, int] = (0.9, 24, 40)  # a Bucket
    long: tuple[float, int, int] = (2.4, 48, 16)
    # Of their speed, by so much at most clips are played faster or slower each time: codes are learned for what is said, not for the
    # voices that say it. Paper: Ko et al. 2015, "Audio Augmentation for Speech Recognition" (Interspeech).
    speeds: float = 0.15

    def __post_init__(self):
        if not 0 <= self.speeds < 1:
            raise errors.InputError(f"task.speeds: is a share of the speed, from 0 to below 1, got {self.speeds}")

    @property
    def buckets(self) -> tuple[Bucket, Bucket]:
        return Bucket(*self.short), Bucket(*self.long)

    @cached_property
    def speech(self) -> Speech:
        return read_world(self.world)

    def inputs(self) -> dict:
        return {"world": files.read_json(Path(self.world) / "built.json")["content"]}

    def init(self, rngs: nnx.Rngs) -> audio_losses.AudioTrainer:
        return audio_losses.AudioTrainer(self.model, self.losses, len(self.speech.letters), rngs)

    def batches(self, steps: int, seed: int) -> Callable[[int], audio_losses.AudioBatch]:
        sorted_clips = self._sort([clip for clip in self.speech.clips if clip.split == "train"])
        counts = [max(len(clips) // bucket.clips, min(1, len(clips))) for clips, bucket in zip(sorted_clips, self.buckets, strict=True)]  # of few, one not full
        if not sum(counts):
            raise errors.InputError(f"{self.world}: has no clip that fits a bucket; make them longer (task.short, task.long)")
        turns = np.repeat(np.arange(len(counts)), counts)

        def batch(step: int) -> audio_losses.AudioBatch:
            epoch, place = divmod(step, len(turns))
            rng = np.random.default_rng((seed, epoch))
            turn = rng.permutation(turns)
            orders = [rng.permutation(len(clips)) for clips in sorted_clips]
            which = turn[place]
            size = self.buckets[which].clips
            first = np.count_nonzero(turn[:place] == which) * size
            picked = [sorted_clips[which][i] for i in orders[which][first : first + size]]
            return self._pad([self._otherwise(clip, self.buckets[which].seconds, rng) for clip in picked], self.buckets[which])

        return batch

    def loss(
        self, module: audio_losses.AudioTrainer, batch: audio_losses.AudioBatch, key
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        return module.loss(batch, key)

    def evals(self, module: audio_losses.AudioTrainer) -> dict[str, float | np.ndarray]:
        """Character error rates of reading the codes alone, how the codes are used; a sheet of spectrograms."""
        module = nn.rounded(hosts.small(module))  # as it is exported
        figures, counts, changes, frames = {}, np.zeros(self.model.num_codes, np.int64), 0, 0
        for split in EVAL_SPLITS:
            wrong = letters = 0
            for batch in self.all_batches((split,), EVAL_CLIPS):
                results = [np.asarray(x) for x in _read(module, jnp.asarray(batch.samples), jnp.asarray(batch.num_samples))]
                for codes, best, valid, wanted in zip(*results, batch.letters, strict=True):
                    codes, wanted = codes[valid], wanted[wanted != audio_losses.BLANK]
                    if len(wanted):  # what is not spelt is not judged
                        wrong += Levenshtein.distance(collapse(best[valid].tolist()), wanted.tolist())
                    letters += len(wanted)
                    counts += np.bincount(codes, minlength=len(counts))
                    changes += np.count_nonzero(np.diff(codes))
                    frames += len(codes)
            if letters:
                figures[f"{split}/cer"] = wrong / letters
        shares = counts[counts > 0] / counts.sum()
        return figures | {"codes/used": float(np.mean(counts > 0)), "codes/changes": changes / frames,
                          "codes/perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
                          "original_and_decoded": self._sheet(module.tokenizer)}

    def _sheet(self, tokenizer: audio.AudioTokenizer) -> UInt8[np.ndarray, "height width 3"]:
        """Log-mel of the first clips, valid before train, above what their codes keep of it."""
        batch = next(self.all_batches(("valid", "train")))
        pairs = _beside(tokenizer, batch.samples[:SHEET_CLIPS], batch.num_samples[:SHEET_CLIPS])
        return np.concatenate([np.concatenate([logmel.picture(mel) for mel in np.asarray(mels)], axis=1) for mels in pairs])

    def export(self, module: audio_losses.AudioTrainer, folder: Path) -> None:
        """Write audio.safetensors, with the statistics of typical speech; the heads that taught it are dropped."""
        @jax.jit
        def measure(batch):
            _, valid, mean, spread = audio.features(batch.samples, batch.num_samples, self.model.around)
            return tuple(jnp.sum(x, (0, 1), where=valid[..., None]) for x in (mean, spread, jnp.ones_like(spread)))

        taken = [measure(jax.tree.map(jnp.asarray, batch)) for batch in self.all_batches(("train",))]
        mean, spread, count = (sum(parts) for parts in zip(*taken, strict=True))
        weights = nn.weights(module.tokenizer) | {"mel_mean": mean / count, "mel_spread": spread / count}
        audio.save(nn.with_weights(module.tokenizer, weights), folder / "audio.safetensors")

    def batch_tokens(self) -> int:
        """Codes in a batch, padding included, as the mean over the buckets."""
        sizes = [b.clips * audio.num_frames(round(b.seconds * logmel.SAMPLE_RATE_HZ)) for b in self.buckets]
        return round(np.mean(sizes))

    def batch_flops(self) -> int:
        shapes = jax.eval_shape(lambda: self.init(nnx.Rngs(0)))
        return 6 * self.batch_tokens() * sum(weight.size for weight in jax.tree.leaves(shapes))

    def reads(self, n: int, steps: int, seed: int) -> dict[str, float]:
        return {}

    def all_batches(self, splits: Sequence[str], most: int = sys.maxsize) -> Iterator[audio_losses.AudioBatch]:
        """At most `most` clips of each of some splits, evenly spread over it, as `pad_all`."""
        for split in splits:
            clips = [clip for clip in self.speech.clips if clip.split == split]
            yield from self.pad_all(spread(clips, most))

    def pad_all(self, clips: Iterable[Spoken]) -> Iterator[audio_losses.AudioBatch]:
        """These clips, once, in batches; rows without a clip are empty."""
        for bucket, group in zip(self.buckets, self._sort(clips), strict=True):
            for first in range(0, len(group), bucket.clips):
                yield self._pad(group[first : first + bucket.clips], bucket)

    def _sort(self, clips: Iterable[Spoken]) -> list[list[Spoken]]:
        """Clips by bucket; what is longer than the last, or has no room to be spelt out, is left out."""
        kept: list[list[Spoken]] = [[] for _ in self.buckets]
        for clip in clips:
            letters = self.speech.spell(clip.text)
            fits = [len(clip.samples) <= b.seconds * logmel.SAMPLE_RATE_HZ and len(letters) <= b.letters for b in self.buckets]
            if any(fits) and has_room(letters, len(clip.samples)):
                kept[fits.index(True)].append(clip)
        return kept

    def _otherwise(self, clip: Spoken, seconds: float, rng: np.random.Generator) -> Spoken:
        """The clip faster or slower, its voice higher or lower; as it is where it would fit no more."""
        if not self.speeds:
            return clip
        places = np.arange(0, len(clip.samples) - 1, 1 + rng.uniform(-self.speeds, self.speeds))
        if len(places) > seconds * logmel.SAMPLE_RATE_HZ or not has_room(self.speech.spell(clip.text), len(places)):
            return clip
        return clip._replace(samples=np.interp(places, np.arange(len(clip.samples)), clip.samples))

    def _pad(self, clips: Sequence[Spoken], bucket: Bucket) -> audio_losses.AudioBatch:
        """One batch; rows without a clip stay empty."""
        samples = np.zeros((bucket.clips, round(bucket.seconds * logmel.SAMPLE_RATE_HZ)), np.float32)
        num_samples = np.zeros(bucket.clips, np.int32)
        letters = np.zeros((bucket.clips, bucket.letters), np.int32)
        for row, clip in enumerate(clips):
            num_samples[row] = len(clip.samples)
            samples[row, : num_samples[row]] = clip.samples / np.float32(32768)
            spelt = self.speech.spell(clip.text)
            letters[row, : len(spelt)] = spelt
        return audio_losses.AudioBatch(samples, num_samples, letters)


_read = jax.jit(audio_losses.AudioTrainer.read)  # compiled once for all evaluations


@jax.jit
def _beside(
    tokenizer: audio.AudioTokenizer, samples: Float[Array, "B samples"], num_samples: Int[Array, "B"]
) -> tuple[Float[Array, "B frames M"], Float[Array, "B frames M"]]:
    """Log-mel, and what is decoded with the mean and spread that encoding took out; both as dark as can be past the end."""
    mel, valid, mean, spread = audio.features(samples, num_samples, tokenizer.config.around)
    kept = tokenizer.draw(tokenizer.codebook()[tokenizer.encode(samples, num_samples)])

    def restore(x: Float[Array, "B A mel"]) -> Float[Array, "B frames M"]:
        x = x.reshape(*x.shape[:2], -1, logmel.NUM_MEL) * spread[:, :, None] + mean[:, :, None]
        return jnp.where(valid[:, :, None, None], x, jnp.log(logmel.FLOOR)).reshape(len(x), -1, logmel.NUM_MEL)

    return restore(mel), restore(kept)


def read_world(folder: str | Path) -> Speech:
    """What the folder of a world says; a second of silence where nothing is said.

    Raises: InputError when the folder is no finished world.
    """
    folder = Path(folder)
    if not (folder / "built.json").is_file():
        raise errors.InputError(f"{folder}: holds no finished world; build it by "
                                "data_prep.emoji_world, or by data_prep.own from your own data (README)")
    shards = sorted(shard for shard in (folder / "speech").iterdir() if shard.name.isdigit())
    waves = [wave for shard in shards for wave in np.split(
        np.load(shard / "samples.npy", mmap_mode="r"), np.cumsum(np.load(shard / "lengths.npy"))[:-1])]
    if (folder / "speech" / "transcripts.json").is_file():  # own data
        said = files.read_json(folder / "speech" / "transcripts.json")
    else:
        items = files.read_json(folder / "pictures" / "items.json")
        said = [(items[item]["names"][lang], split)
                for item, lang, _, split in files.read_json(folder / "speech" / "clips" / "clips.json")]
    clips = [Spoken(wave, text, split) for wave, (text, split) in zip(waves, said, strict=True)]
    if not any(clip.split == "train" for clip in clips):  # its tokenizer is there and writes nothing
        clips.append(Spoken(np.zeros(logmel.SAMPLE_RATE_HZ, np.int16), "", "train"))
    taught = [set(decompose(clip.text)) for clip in clips if clip.split == "train"]
    counts = collections.Counter(itertools.chain.from_iterable(taught))
    return Speech(clips, "".join(sorted(letter for letter, count in counts.items() if count >= RARE * len(taught))))


def has_room(letters: Sequence[int], num_samples: int) -> bool:
    """Whether CTC can spell them: it puts a blank between equal neighbours, and one frame holds one letter at most."""
    return audio.num_frames(num_samples) >= max(1, len(letters) + sum(a == b for a, b in zip(letters, letters[1:])))


def spread(rows: Sequence, most: int) -> Sequence:
    """At most so many of some rows, evenly spread over them: worlds have their simplest things first."""
    return rows if len(rows) <= most else [rows[i] for i in np.linspace(0, len(rows) - 1, most).round().astype(int)]


def decompose(text: str) -> str:
    """Lower case, accents apart (Unicode's canonical decomposition)."""
    return unicodedata.normalize("NFD", text.lower())


def read_folder(folder: str | Path) -> list[Spoken]:
    """Recorded speech: `folder`/transcripts.tsv has lines of a sound file's name, a tab, and what it says.

    Raises: InputError when a line is not so, or a file cannot be read.
    """
    listing = Path(folder) / "transcripts.tsv"
    if not listing.is_file():
        raise errors.InputError(f"{listing}: no such file; list the recordings in it: name, tab, what is said")
    clips = []
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        name, tab, text = line.partition("\t")
        if not (tab and text.strip()):
            raise errors.InputError(f"{listing}: line {number} must be a file's name, a tab and what is said, got {line!r}")
        samples = audio_io.sixteen_bits(audio_io.read_audio(Path(folder) / name))
        clips.append(Spoken(samples, text.strip().lower(), "recorded"))
    return clips


def collapse(best: Sequence[int]) -> list[int]:
    """CTC's reading of the best letter of each frame: repeats are one, blanks are none."""
    return [int(letter) for letter, _ in itertools.groupby(best) if letter != audio_losses.BLANK]
