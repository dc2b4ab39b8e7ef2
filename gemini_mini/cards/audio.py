"""The audio tokenizer's card: how many codes a second, which are used, and clips to hear with their codes."""

import numpy as np
from jaxtyping import Int32

from data_prep import emoji_world
from gemini_mini import stream
from gemini_mini.cards import card
from gemini_mini.decode import page
from gemini_mini.tokenizers import audio

NUM_HEARD = 6


def make(tokenizer: audio.AudioTokenizer, world: emoji_world.World) -> card.Card:
    """Figures over all clips of the valid split: names never trained on."""
    clips = world.clips_in("valid")
    sounds = [world.sound(clip).samples for clip in clips]
    codes = audio.encode_many(tokenizer, sounds)
    every = np.concatenate(codes)
    counts = np.bincount(every, minlength=tokenizer.config.num_codes)
    seconds = sum(map(len, sounds)) / stream.SAMPLE_RATE_HZ
    changes = np.mean(np.concatenate([np.diff(row) != 0 for row in codes]))
    facts = [(f"{tokenizer.config.num_codes}", "codes"), (f"{len(every) / seconds:.1f}", "codes a second"),
             (f"{np.count_nonzero(counts)} of {len(counts)}", "codes in use on valid clips"),
             (f"{card.perplexity(counts):.0f}", "perplexity there"), (f"{changes:.0%}", "of codes differ from the one before"),
             (f"{len(clips):,}", f"clips, {seconds / 60:.1f} minutes")]
    shown = np.unique(np.linspace(0, len(clips) - 1, NUM_HEARD).round().astype(int))
    heard = []
    for i in shown:
        clip = world.clips[clips[i]]
        heard.append([f"{page.escape(world.items[clip.item].names[clip.lang])} ({clip.lang})", page.sound(sounds[i]), _strip(codes[i])])
    return card.Card("Sound", facts, [], [
        ("Use of the codes", card.usage_chart(counts, "codes of valid clips")),
        ("To hear", '<div class="scroll">' + page.table(heard, ("says", "original", "its codes, a colour each")) + "</div>")])


def _strip(codes: Int32[np.ndarray, "A"]) -> str:
    """A bar per code; hues are spread so that neighbouring numbers differ."""
    bars = "".join(f'<rect x="{6 * i}" width="6" height="22" fill="hsl({code * 137.508 % 360:.0f} 65% 55%)"><title>{code}</title></rect>'
                   for i, code in enumerate(codes.tolist()))
    return f'<svg width="{6 * len(codes)}" height="22" role="img" aria-label="{len(codes)} codes">{bars}</svg>'
