"""The image tokenizer at sizes it was and was not trained on, and its speed.

    python -m benchmarks.image_sizes runs/laptop-image/image.safetensors data/laptop/world --split valid

Every picture of the split, of a test split those of its dev half, is drawn anew at each size; 64 × 32 is two pictures one above the other.
Between two sizes that it was trained on stands also how far a size is above the line through theirs.
Speed is of 1,024 pictures of 32 × 32 in batches, compiled before, and of that time the share which its matrix products would take at
the speed of one large product.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks import products
from data_prep import emoji_world, pictures
from gemini_mini import errors, nn
from gemini_mini.evals.pictures import psnr
from gemini_mini.tokenizers import image

SIZES = (16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 128)
TRAINED = (16, 32, 64)
TIMED = 1024


def again(tokenizer: image.ImageTokenizer, originals: np.ndarray) -> np.ndarray:
    return image.decode_many(tokenizer, image.encode_many(tokenizer, originals))


def speed(tokenizer: image.ImageTokenizer, originals: np.ndarray) -> None:
    """Print pictures a second each way, best of five, and the share of the time that matrix products must take."""
    codes, both = image.encode_many(tokenizer, originals), 0.0
    for name, work in (("encode", lambda: image.encode_many(tokenizer, originals)),
                       ("decode", lambda: image.decode_many(tokenizer, codes))):
        work()
        spent = []
        for _ in range(5):
            begin = time.perf_counter()
            work()
            spent.append(time.perf_counter() - begin)
        print(f"{name}: {len(originals) / min(spent):.0f} pictures/s")
        both += min(spent)
    flops = 2 * codes.size * sum(w.size for w in nn.weights(tokenizer).values())
    print(f"of both ways, products of matrices at the speed of a large one: {products.seconds(flops) / both:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description="An image tokenizer at many sizes, and its speed.")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("world", type=Path)
    parser.add_argument("--split", default="valid", choices=("valid", "test_concept"))
    args = parser.parse_args()
    tokenizer, world = image.load(args.tokenizer), emoji_world.load(args.world).only("dev")
    speed(tokenizer, np.asarray(world.pictures[:TIMED]))
    rows = world.items_in(args.split)
    drawn = {size: np.stack([pictures.render(world.items[row].chars, size) for row in rows]) for size in SIZES}
    sharpness = {size: psnr(originals, again(tokenizer, originals)) for size, originals in drawn.items()}
    for size, here in sharpness.items():
        line = np.interp(size, TRAINED, [sharpness[trained] for trained in TRAINED])
        print(f"{size} × {size}: {here:.2f} dB" + (f", {here - line:+.2f} from the line" if size < TRAINED[-1] and size not in TRAINED else ""))
    paired = np.asarray(world.pictures[rows[: len(rows) // 2 * 2]])
    paired = np.concatenate([paired[::2], paired[1::2]], axis=1)
    print(f"64 × 32: {psnr(paired, again(tokenizer, paired)):.2f} dB (n {len(rows)})")


if __name__ == "__main__":
    errors.run(main)
