"""The audio tokenizer's card: how many codes a second, which are used, and clips beside what their codes keep."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int32

from data_prep import emoji_world
from gemini_mini import stream
from gemini_mini.cards import card
from gemini_mini.decode import page
from gemini_mini.tokenizers import audio, logmel, vocoder

NUM_HEARD = 6
CODE_WIDTH = 8  # pixels on the page


def make(tokenizer: audio.AudioTokenizer, world: emoji_world.World, training: Mapping[str, float]) -> card.Card:
    """Figures over all clips of the valid split: names never trained on. `training` is what its training found at its end."""
    clips = world.clips_in("valid")
    if not clips:
        return card.Card("Sound", [("0", "clips in this world's valid split")], [], [])
    sounds = [world.sound(clip).samples for clip in clips]
    codes = audio.encode_many(tokenizer, sounds)
    every = np.concatenate(codes)
    counts = np.bincount(every, minlength=tokenizer.config.num_codes)
    seconds = sum(map(len, sounds)) / stream.SAMPLE_RATE_HZ
    changes = np.mean(np.concatenate([np.diff(row) != 0 for row in codes]))
    facts = [(f"{tokenizer.config.num_codes}", "codes"), (f"{len(every) / seconds:.1f}", "codes a second"),
             (f"{np.count_nonzero(counts)} of {len(counts)}", "codes in use on valid clips"),
             (f"{card.perplexity(counts):.0f}", "perplexity there"), (f"{changes:.0%}", "of codes differ from the one before"),
             (f"{len(clips):,}", f"clips, {seconds / 60:.1f} minutes"),
             (f"{audio.mel_error(tokenizer, sounds):.0%}", "of the variance of log-mel lost on valid clips")]
    facts += [(f"{value:.0%}", f"of letters misread from codes by CTC in training: {name.removesuffix('/cer')}")
              for name, value in training.items() if name.endswith("/cer")]
    shown = np.unique(np.linspace(0, len(clips) - 1, NUM_HEARD).round().astype(int))
    heard = []
    for i in shown:
        clip = world.clips[clips[i]]
        said = f"{page.escape(world.items[clip.item].names[clip.lang])} ({clip.lang})"
        heard.append([said, _both(tokenizer, sounds[i], codes[i])])
    return card.Card("Sound", facts, [], [
        ("Use of the codes", card.usage_chart(counts, "codes of valid clips")),
        ("To see and hear: log-mel energies, low tones below; a colour for each code", '<div class="scroll">'
         + page.table(heard, ("says", "original, its codes, and what they keep, made to sound by Griffin-Lim")) + "</div>")])


def _both(tokenizer: audio.AudioTokenizer, samples: Float32[np.ndarray, "samples"], codes: Int32[np.ndarray, "A"]) -> str:
    """The clip above what is made of its codes alone: as pictures whose times stand below each other, and as sounds."""
    mel = np.asarray(logmel.log_mel(jnp.asarray(samples[None])))[0]
    kept = np.asarray(tokenizer.decode(jnp.asarray(codes[None])))[0]
    mel = np.pad(mel, ((0, len(kept) - len(mel)), (0, 0)), constant_values=np.log(logmel.FLOOR))
    drawn, redrawn = (page.picture(logmel.picture(x), alt, CODE_WIDTH * len(codes))
                      for x, alt in ((mel, "log-mel of the original"), (kept, "log-mel of the codes")))
    return "<br>".join((page.sound(samples), drawn, _strip(codes), redrawn, page.sound(vocoder.from_log_mel(kept))))


def _strip(codes: Int32[np.ndarray, "A"]) -> str:
    """A bar per code; hues are spread so that neighbouring numbers differ."""
    bars = "".join(f'<rect x="{CODE_WIDTH * i}" width="{CODE_WIDTH}" height="22" fill="hsl({code * 137.508 % 360:.0f} 65% 55%)"><title>{code}</title></rect>'
                   for i, code in enumerate(codes.tolist()))
    return f'<svg width="{CODE_WIDTH * len(codes)}" height="22" role="img" aria-label="{len(codes)} codes">{bars}</svg>'
