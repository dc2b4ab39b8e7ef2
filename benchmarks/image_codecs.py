"""What the image tokenizer keeps of held-out pictures, and what JPEG, WebP and AVIF need for as much.

    python -m benchmarks.image_codecs runs/laptop-image/image.safetensors data/laptop/world    or released/laptop.safetensors

For each picture every codec is asked for our PSNR: its bytes stand on the line between the lowest quality that reaches it and
the one below (AVIF is told to look at PSNR, which by default it does not). Headers are left out: the bytes of an all-white picture's file, same size and settings, are subtracted. JPEG
uses its standard Huffman tables, so that they cancel. Ours is codes × log2(codebook) / 8, and beside it
the stream of a range coder, as codecs have entropy coders too: each picture is written by the chances of
image_prior.py's decoder, trained on the codes of training pictures, and read back. The weights of that decoder and of the
tokenizer are in no stream, as a codec's tables are in none. "best way": as AVIF at its slowest looks longest, each picture is
tried mirrored, turned and moved, and the way that keeps most for its bytes is written with it.
Photographs are those inside scikit-image's wheel, their shorter side shrunk to 256 pixels: the middle
128 × 128, whole and cut into tiles. The classifier tells the groups of emoji apart ("animal", "food", ...); it learns from
real training pictures and their shifted copies, and is asked about originals and their drawings. Of the test
split only the dev half is looked at.
"""

import argparse
import io
import math
import typing
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data, metrics
from sklearn import neural_network

from benchmarks import image_prior
from data_prep import emoji_world
from gemini_mini import errors, matmul
from gemini_mini.evals.pictures import psnr
from gemini_mini.tasks import image_tokenizer as task
from gemini_mini.tokenizers import image

SPLITS = ("valid", "test_concept")
CODECS = {"JPEG 4:2:0": ("JPEG", {"subsampling": 2}), "JPEG 4:4:4": ("JPEG", {"subsampling": 0}),
          "WebP": ("WEBP", {"method": 6}), "AVIF": ("AVIF", {"speed": 0, "advanced": {"tune": "psnr"}}),
          "AVIF 4:4:4": ("AVIF", {"speed": 0, "subsampling": "4:4:4", "advanced": {"tune": "psnr"}})}
PHOTOGRAPHS = (data.astronaut, data.coffee, data.chelsea, data.rocket, data.hubble_deep_field,
               data.immunohistochemistry, data.retina)
PHOTOGRAPH_PIXELS, TILE_PIXELS = 128, 32
BYTES_A_DB = 4.0  # of ours are worth a decibel: about what a quarter of AVIF's grow by


def photographs() -> np.ndarray:
    """The middle of every photograph, shrunk until its shorter side is twice as long."""
    found = []
    for load in PHOTOGRAPHS:
        picture = Image.fromarray(load()[..., :3])
        shrunk = 2 * PHOTOGRAPH_PIXELS / min(picture.size)
        size = round(picture.width * shrunk), round(picture.height * shrunk)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        left, top = (picture.width - PHOTOGRAPH_PIXELS) // 2, (picture.height - PHOTOGRAPH_PIXELS) // 2
        found.append(np.asarray(picture)[top : top + PHOTOGRAPH_PIXELS, left : left + PHOTOGRAPH_PIXELS])
    return np.stack(found)


def encoded(picture: np.ndarray, kind: str, options: dict, quality: int) -> tuple[int, float]:
    """Bytes above a white picture's, and PSNR."""
    files = io.BytesIO(), io.BytesIO()
    for file, shown in zip(files, (picture, np.full_like(picture, 255))):
        Image.fromarray(shown).save(file, kind, quality=quality, **options)
    again = np.asarray(Image.open(files[0]).convert("RGB"))
    return len(files[0].getvalue()) - len(files[1].getvalue()), psnr(picture, again)


def bytes_needed(picture: np.ndarray, wanted_db: float, kind: str, options: dict) -> float:
    """Bytes at `wanted_db`: between the lowest quality that reaches it, found by bisection, and the one below."""
    low, high = 0, 100
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if encoded(picture, kind, options, middle)[1] >= wanted_db else (middle + 1, high)
    size, reached = encoded(picture, kind, options, low)
    smaller, missed = encoded(picture, kind, options, max(0, low - 1))
    return float(np.interp(wanted_db, [missed, reached], [smaller, size])) if missed < reached else float(size)


def quality(name: str, pictures: np.ndarray, drawn: np.ndarray) -> None:
    """Print PSNR over all pixels, its mean over pictures, and SSIM (7 × 7 windows)."""
    each = [psnr(*pair) for pair in zip(pictures, drawn, strict=True)]
    similar = [metrics.structural_similarity(*pair, channel_axis=-1, data_range=255)
               for pair in zip(pictures, drawn, strict=True)]
    print(f"{name}: n {len(pictures)}, PSNR {psnr(pictures, drawn):.2f} dB over all pixels, {np.mean(each):.2f} "
          f"as the mean of pictures, SSIM {np.mean(similar):.3f}")


def codecs(name: str, pictures: np.ndarray, drawn: np.ndarray, our_bytes: float, coded: float) -> None:
    """Print the bytes each codec needs, mean over pictures, and how the best of them compares with ours."""
    wanted = [psnr(*pair) for pair in zip(pictures, drawn, strict=True)]
    sizes = {codec: np.array([bytes_needed(picture, db, *how) for picture, db in zip(pictures, wanted, strict=True)])
             for codec, how in CODECS.items()}
    best = np.min(list(sizes.values()), axis=0)
    print(f"{name}: ours {our_bytes:.0f} bytes, coded {coded:.0f} | "
          + " | ".join(f"{codec} {size.mean():.0f}" for codec, size in sizes.items())
          + f" | best of each picture {best.mean():.0f} = {best.mean() / our_bytes:.2f} × ours, {best.mean() / coded:.2f} × ours coded; "
          f"at least 4 × ours for {np.mean(best >= 4 * our_bytes):.0%} of pictures")


def coded_bytes(prior: image_prior.Prior, codes: np.ndarray, ways: np.ndarray) -> float:
    """Bytes a picture, each a stream of its own. Raises: RuntimeError unless they are read back the same."""
    streams = prior.write(codes, ways)
    if not all(map(np.array_equal, prior.read(streams, codes.shape[1]), (codes, ways))):
        raise RuntimeError("the codes read back from the range coder's streams are not those that were written")
    return float(np.mean([len(stream) for stream in streams]))


def looked_for(prior: image_prior.Prior, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and way of each picture: of all ways the one that keeps most for its bytes."""
    every = np.arange(prior.ways)
    chosen = []
    for picture in pictures:
        same = np.broadcast_to(picture, (len(every), *picture.shape))
        codes = prior.encode(same, every)
        kept = [psnr(picture, again) for again in prior.draw(codes, every, picture.shape[:2])]
        chosen.append(int(np.argmax(BYTES_A_DB * np.array(kept) - prior.costs(codes, every))))
    ways = np.array(chosen)
    return prior.encode(pictures, ways), ways


def recognition(world: emoji_world.World, split: str, tokenizer: image.ImageTokenizer) -> None:
    """Print how often a classifier of groups says the same of a drawing as of its original."""
    def labelled(split: str) -> tuple[np.ndarray, list[str]]:
        rows = [row for row in world.items_in(split) if world.items[row].group]
        return np.asarray(world.pictures[rows]), [world.items[row].group for row in rows]

    pictures, groups = labelled("train")
    moves = [(y, x, flip) for y in (-2, 0, 2) for x in (-2, 0, 2) for flip in (1, -1)]
    shifted = np.concatenate([np.roll(pictures, move[:2], (1, 2))[:, :, ::move[2]] for move in moves])
    flat = lambda pixels: 1 - pixels.reshape(len(pixels), -1).astype(np.float32) / 255
    model = neural_network.MLPClassifier((128,), alpha=1e-2, max_iter=20, random_state=0)
    model.fit(flat(shifted), groups * len(moves))
    everything = np.asarray(world.pictures[world.items_in(split)])
    drawn = image.decode_many(tokenizer, image.encode_many(tokenizer, everything))
    asked, truth = labelled(split)
    again = image.decode_many(tokenizer, image.encode_many(tokenizer, asked))
    print(f"{split}: classifier of {len(set(groups))} groups, {len(pictures)} training pictures: says the same of "
          f"{np.mean(model.predict(flat(everything)) == model.predict(flat(drawn))):.1%} of {len(everything)} drawings; "
          f"right on {np.mean(model.predict(flat(asked)) == truth):.1%} of {len(asked)} labelled originals and "
          f"{np.mean(model.predict(flat(again)) == truth):.1%} of their drawings")


def main() -> None:
    parser = argparse.ArgumentParser(description="Quality of an image tokenizer beside picture codecs.")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("world", type=Path)
    parser.add_argument("--sheet", type=Path, help="PNG of originals above drawings")
    parser.add_argument("--prior-steps", type=int, default=2400, help="training of the entropy coder")
    parser.add_argument("--products", choices=typing.get_args(matmul.Library), default="xla", help="of matrices, as run.products")
    args = parser.parse_args()
    matmul.use(args.products)
    tokenizer, world = image.load(args.tokenizer), emoji_world.load(args.world).only("dev")
    photos = photographs()
    tiles = image.to_patches(photos, TILE_PIXELS).reshape(-1, TILE_PIXELS, TILE_PIXELS, 3)
    our_bytes = (TILE_PIXELS // tokenizer.config.patch) ** 2 * math.log2(tokenizer.config.num_codes) / 8
    prior = image_prior.Prior(tokenizer)
    prior.train(np.asarray(world.pictures[world.items_in("train")]), args.prior_steps)
    held_out = [(split, np.asarray(world.pictures[world.items_in(split)])) for split in SPLITS]
    for name, originals in (*held_out, ("photographs", photos), ("tiles", np.asarray(tiles))):
        plain = np.zeros(len(originals), int)
        asked = [(name, prior.encode(originals, plain), plain)]
        if originals.shape[1] == TILE_PIXELS:
            asked.append((f"{name}, best way", *looked_for(prior, originals)))
        for title, codes, ways in asked:
            drawn = prior.draw(codes, ways, originals.shape[1:3])
            quality(title, originals, drawn)
            counts = np.bincount(codes.ravel(), minlength=tokenizer.config.num_codes)
            print(f"{title}: {np.mean(counts > 0):.1%} of {len(counts)} codes occur, perplexity {2 ** task.entropy_bits(counts):.0f}")
            if originals.shape[1] == TILE_PIXELS:
                codecs(title, originals, drawn, our_bytes, coded_bytes(prior, codes, ways))
        if args.sheet:
            few = np.linspace(0, len(originals) - 1, min(12, len(originals))).astype(int)
            sheet = np.concatenate([np.concatenate(list(p[few]), axis=1) for p in (originals, drawn)])
            Image.fromarray(sheet).resize((3 * sheet.shape[1], 3 * sheet.shape[0]), Image.Resampling.NEAREST).save(
                args.sheet.with_stem(f"{args.sheet.stem}-{name}"))
    for split in SPLITS:
        recognition(world, split, tokenizer)


if __name__ == "__main__":
    errors.run(main)
