"""The image tokenizer's card: how sharp each split comes back, which codes are used, and pictures side by side."""

import numpy as np
from jaxtyping import Int32, UInt8

from data_prep import emoji_world
from gemini_mini.cards import card
from gemini_mini.decode import page
from gemini_mini.evals import pictures
from gemini_mini.tokenizers import image

SPLITS = {"train": "seen", "valid": "valid", "test_concept": "test_concept"}
NUM_SHOWN, SHOWN_WIDTH = 18, 84


def make(tokenizer: image.ImageTokenizer, world: emoji_world.World) -> card.Card:
    """Figures of every picture that `world` shows of each split; codes are counted on those seen."""
    rows, sheets, counts = [], [], np.zeros(tokenizer.config.num_codes, np.int64)
    for split, name in SPLITS.items():
        real = np.asarray(world.pictures[world.items_in(split)])
        if not len(real):
            continue
        codes = image.encode_many(tokenizer, real)
        again = image.decode_many(tokenizer, codes)
        here = np.bincount(codes.ravel(), minlength=len(counts))
        counts += here * (split == "train")
        rows.append([name, str(len(real)), f"{pictures.psnr(real, again):.2f}", f"{pictures.ssim(real, again).mean():.3f}",
                     f"{np.count_nonzero(here)}", f"{card.perplexity(here):.0f}"])
        sheets.append((f"Original above, its codes below: {name}", _sheet(real, again, codes)))
    patch, size = tokenizer.config.patch, world.pictures.shape[1]
    facts = [(f"{tokenizer.config.num_codes}", "codes"), (f"{patch} × {patch}", "pixels a code"),
             (f"{(size // patch) ** 2}", f"codes a picture of {size} × {size}"),
             (f"{np.count_nonzero(counts)} of {len(counts)}", "codes in use on pictures seen"),
             (f"{card.perplexity(counts):.0f}", "perplexity there")]
    header = ("split", "pictures", "PSNR, dB", "SSIM", "codes used", "perplexity")
    return card.Card("Images", facts, [card.Table("What comes back", header, rows)],
                     [("Use of the codes", card.usage_chart(counts, "codes of pictures seen")), *sheets])


def _sheet(
    real: UInt8[np.ndarray, "B height width 3"], again: UInt8[np.ndarray, "B height width 3"], codes: Int32[np.ndarray, "B Y X"]
) -> str:
    """The same few of each split, evenly spread over it; each with its own PSNR and number of different codes."""
    shown = np.unique(np.linspace(0, len(real) - 1, NUM_SHOWN).round().astype(int))
    return "".join(page.figure(
        page.picture(np.concatenate([real[i], again[i]]), "original and reconstruction", SHOWN_WIDTH),
        f"{pictures.psnr(real[i : i + 1], again[i : i + 1]):.1f} dB, {len(np.unique(codes[i]))} codes") for i in shown)
