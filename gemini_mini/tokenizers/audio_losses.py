"""How the audio tokenizer learns: hear what is masked, spell what is said, keep what is heard.

    masked log-mel -> encoder -> hidden --predict--> frozen random codes of what was masked (BEST-RQ)
                                   |--quantise--> codes --linear--> letters (CTC)
                                                        --convolution, MLP--> log-mel (reconstruction)

The letters are read from the quantised frames through a straight-through gradient, so a code is
worth what a reader can tell from it. The masks serve both: they are BEST-RQ's task and the
augmentation of CTC. Of the heads only that of the reconstruction is kept: it is the tokenizer's own.
Papers: BEST-RQ, arXiv 2202.01855; CTC, Graves et al. 2006; SpecAugment, arXiv 1904.08779.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from gemini_mini import nn
from gemini_mini.tokenizers import audio, conformer, logmel

BLANK = 0  # CTC's "nothing new here"; letters start at 1


@dataclasses.dataclass(frozen=True)
class AudioLossConfig:
    """Masks, targets and the weight of each part of the loss."""

    mask_start: float = 0.06  # chance that a span starts at a frame
    mask_frames: int = 3  # 120 ms
    num_targets: int = 256
    target_dim: int = 16
    best_rq: float = 0.1
    ctc: float = 1.0
    distance: float = 1.25  # between z and its code, as 1 - cosine
    commitment: float = 0.25  # how much of it moves z, against 1 for the code
    mel: float = 0.3


class AudioBatch(NamedTuple):
    """Clips, padded to one length, and their transcripts as letters from 1; 0 pads."""

    samples: Float[Array, "B samples"]
    num_samples: Int[Array, "B"]
    letters: Int[Array, "B T"]


def random_targets(mel: Float[Array, "B A mel"], config: AudioLossConfig) -> Int[Array, "B A"]:
    """BEST-RQ's targets: the nearest of frozen random vectors, after a frozen random projection."""
    projection = audio.frozen_normal(1, mel.shape[-1], config.target_dim) * mel.shape[-1] ** -0.5
    codebook = audio.frozen_normal(2, config.num_targets, config.target_dim)
    return jnp.argmax(audio.normalise(mel @ projection) @ audio.normalise(jnp.asarray(codebook)).T, -1)


def random_spans(key: PRNGKeyArray, valid: Bool[Array, "B A"], config: AudioLossConfig) -> Bool[Array, "B A"]:
    """Spans of `mask_frames` valid frames that start anywhere; they may overlap."""
    starts = jax.random.bernoulli(key, config.mask_start, valid.shape)
    spans = sum(conformer.neighbours(starts[..., None].astype(jnp.float32), config.mask_frames))
    return (spans[..., 0] > 0) & valid


class AudioTrainer(nnx.Module):
    """The tokenizer with the heads that teach it."""

    def __init__(self, tokenizer: audio.AudioTokenizerConfig, loss: AudioLossConfig, num_letters: int, rngs: nnx.Rngs):
        self.config = loss
        self.tokenizer = audio.AudioTokenizer(tokenizer, rngs)
        self.masked = nn.param(rngs, (audio.MEL_PER_CODE * logmel.NUM_MEL,), "M")
        self.target_head = nn.param(rngs, (tokenizer.width, loss.num_targets), "D V")
        self.letter_head = nn.param(rngs, (tokenizer.code_dim, num_letters + 1), "Z V", 10.0)
        self.letter_bias = nn.constant((num_letters + 1,), "V", 0.0)

    def letter_logits(self, quantised: Float[Array, "B A Z"]) -> Float[Array, "B A V"]:
        """What each code spells."""
        return nn.linear(quantised, self.letter_head) + self.letter_bias[...][None, None]

    def read(self, samples: Float[Array, "B samples"], num_samples: Int[Array, "B"]):
        """(codes, best letter of each frame, valid): CTC's greedy reading of the codes alone."""
        mel, valid, _, _ = audio.features(samples, num_samples, self.tokenizer.config.around)
        codes = self.tokenizer.nearest(self.tokenizer.directions(self.tokenizer.hidden(mel, valid)))
        return codes, jnp.argmax(self.letter_logits(self.tokenizer.codebook()[codes]), -1), valid

    def loss(self, batch: AudioBatch, key: PRNGKeyArray) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The joint loss, and its parts as means over what they are about."""
        config = self.config
        mel, valid, _, _ = audio.features(batch.samples, batch.num_samples, self.tokenizer.config.around)
        masked = random_spans(key, valid, config)
        hidden = self.tokenizer.hidden(jnp.where(masked[..., None], self.masked[...][None, None], mel), valid)
        frames = valid.sum()

        log_target = jax.nn.log_softmax(nn.linear(hidden, self.target_head))
        target = random_targets(mel, config)
        best_rq = -jnp.take_along_axis(log_target, target[..., None], -1)[..., 0]
        best_rq = jnp.sum(best_rq * masked) / jnp.maximum(masked.sum(), 1)

        z = self.tokenizer.directions(hidden)
        chosen = self.tokenizer.codebook()[self.tokenizer.nearest(z)]
        hold = jax.lax.stop_gradient
        near = jnp.sum(hold(z) * chosen + config.commitment * z * hold(chosen), -1) / (1 + config.commitment)
        distance = jnp.sum((1 - near) * valid) / frames
        quantised = z + hold(chosen - z)  # straight through: the codes forward, z backward

        # Spelt twice, from z and from its code: z alone leads the way while the codes are young.
        logits = jnp.concatenate([self.letter_logits(z), self.letter_logits(quantised)])
        letters, past_end = jnp.tile(batch.letters, (2, 1)), jnp.tile(1.0 - valid, (2, 1))
        ctc = optax.ctc_loss(logits, past_end, letters, 1.0 * (letters == BLANK))
        is_letter = letters != BLANK  # what has no transcript is heard, not spelt
        ctc = jnp.sum(ctc * is_letter.any(1)) / jnp.maximum(is_letter.sum(), 1)

        drawn = self.tokenizer.draw(quantised * valid[..., None])
        mel_error = jnp.sum((drawn - mel) ** 2 * valid[..., None]) / (frames * mel.shape[-1])

        total = (config.best_rq * best_rq + config.ctc * ctc + config.distance * distance
                 + config.mel * mel_error)
        return total, {"best_rq": best_rq, "ctc": ctc, "distance": distance, "mel": mel_error}
