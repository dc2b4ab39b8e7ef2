"""Train the image tokenizer on a world's pictures, video frames and digits.

Every step sees whole pictures and small ones (frames, digits) side by side, and large ones where
data_prep/large_pictures.py has drawn them, so the weights never learn a size. Only what the world
trains on is read; the export drops codes the training pictures never use, so that the language
model is not asked to learn ids without a meaning.
Next: ../tokenizers/image.py.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int32, PRNGKeyArray, UInt8
from PIL import Image

from gemini_mini import errors, files, nn
from gemini_mini.evals.pictures import psnr
from gemini_mini.tokenizers import image
from gemini_mini.train import hosts

EVAL_PICTURES = 1024
SHEET_PICTURES = 12
GREY = 128  # the picture of a world without one: its tokenizer is there and writes nothing
DIGITS_TRAINED = 3 / 4  # the first of them; the world holds out the last fifth
Batch = tuple[UInt8[Array | np.ndarray, "_ _ _ 3"], ...]  # pictures, small ones and, where there are any, large ones


class Pictures(NamedTuple):
    """What a world's folder holds, by use."""

    train: UInt8[np.ndarray, "B height width 3"]
    valid: UInt8[np.ndarray, "B height width 3"]
    small: UInt8[np.ndarray, "B _ _ 3"]  # frames of clips and digits, train only
    large: UInt8[np.ndarray, "B _ _ 3"] | None  # the pictures of `train`, drawn larger
    has_pictures: bool = True  # or `train` is one grey picture


@dataclass(frozen=True)
class TrainImageTokenizer:
    """`world` is a folder built by data_prep/emoji_world.py or own.py, `large` one by data_prep/large_pictures.py."""

    world: str
    model: image.ImageTokenizerConfig = image.ImageTokenizerConfig()
    batch_pictures: int = 32
    batch_small: int = 32
    varied: float = 0.5  # share of pictures that are mirrored, turned and moved
    large: str = ""
    batch_large: int = 0

    def __post_init__(self):
        if self.batch_large and not self.large:
            raise errors.InputError(f"image tokenizer: batch_large must be 0 without a folder of large pictures, got "
                                    f"{self.batch_large}; set task.large to what data_prep.large_pictures built")

        grid = math.prod(self.model.levels)
        if self.model.quantiser == "fsq" and grid != self.model.num_codes:
            raise errors.InputError(f"image tokenizer: fsq learns on the whole grid of its levels {self.model.levels}; set "
                                    f"task.model.num_codes={grid}, got {self.model.num_codes}")

    @cached_property
    def data(self) -> Pictures:
        return read_world(self.world, self.large)

    def inputs(self) -> dict:
        large = {"large": files.built_key(self.large)} if self.large else {}
        return {"world": files.read_json(Path(self.world) / "built.json")["content"], **large}

    def init(self, rngs: nnx.Rngs) -> image.ImageTokenizer:
        return image.ImageTokenizer(self.model, rngs)

    def batches(self, steps: int, seed: int) -> Callable[[int], Batch]:
        data = self.data

        def draw(pictures: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
            chosen = pictures[rng.integers(0, len(pictures), count)]
            for index in np.flatnonzero(rng.random(count) < self.varied):
                chosen[index] = vary(chosen[index], self.model.patch, int(rng.integers(num_ways(self.model.patch))))
            return chosen

        def batch(step: int) -> Batch:
            rng = np.random.default_rng((seed, step))
            small = (data.small[rng.integers(0, len(data.small), self.batch_small)],) if len(data.small) else ()
            if small and not data.has_pictures:
                return small
            pictures = draw(data.train, self.batch_pictures, rng)
            if not self.batch_large:
                return pictures, *small
            large = draw(data.large, self.batch_large, rng)
            for index in np.flatnonzero(rng.random(self.batch_large) < self.varied):
                large[index] = collage(draw(data.large, 4, rng), self.model.patch, rng)
            return pictures, *small, large

        return batch

    def loss(
        self, module: image.ImageTokenizer, batch: Batch, key: PRNGKeyArray | None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        return module.loss([pixels.astype(jnp.float32) / 255 for pixels in batch], key)

    def evals(self, module: image.ImageTokenizer) -> dict[str, float | np.ndarray]:
        """Sharpness of each set, how evenly codes are used, whether pictures are recognised; a sheet."""
        module = nn.rounded(hosts.small(module))  # as it is exported
        train = spread(self.data.train, EVAL_PICTURES)
        codes = image.encode_many(module, train)
        drawn = image.decode_many(module, codes)
        figures, sheets = {"train/psnr": psnr(train, drawn)}, [(train, drawn)]
        if len(valid := spread(self.data.valid, EVAL_PICTURES)):
            sheets.insert(0, (valid, _again(module, valid)))
            figures |= {"valid/psnr": psnr(*sheets[0]), "valid/psnr_of_each": float(np.mean([psnr(*pair) for pair in zip(*sheets[0])]))}
        if len(small := spread(self.data.small, EVAL_PICTURES)):
            figures["small/psnr"] = psnr(small, _again(module, small))
        counts = self._counts(module)
        if self.data.large is not None:
            large = spread(self.data.large, EVAL_PICTURES // 4)
            figures["large/psnr"] = psnr(large, _again(module, large))
        figures |= {"codes/used": float(np.mean(counts > 0)), "codes/perplexity": 2 ** entropy_bits(counts),
                    "codes/bits": entropy_bits(np.bincount(codes.ravel())),
                    "codes/bits_after_left": conditional_bits(codes[:, :, :-1], codes[:, :, 1:]),
                    "codes/bits_after_above": conditional_bits(codes[:, :-1], codes[:, 1:]),
                    "train/recognised": recognised(train, drawn)}
        figures["original_and_decoded"] = np.concatenate(
            [row for pair in sheets for row in _sheet(*pair)])
        return figures

    def export(self, module: image.ImageTokenizer, folder: Path) -> None:
        """Write image.safetensors, with the codes the training pictures use: those of the weights as they are written."""
        module = nn.rounded(module)
        used = np.flatnonzero(self._counts(module))
        image.save(image.keep_codes(module, np.union1d(0, used)), folder / "image.safetensors")

    def batch_tokens(self) -> int:
        """Patches in a batch."""
        counts = ((self.data.train, self.batch_pictures), (self.data.small, self.batch_small),
                  (self.data.large, self.batch_large))
        return sum(count * pixels[0, ..., 0].size for pixels, count in counts if count and len(pixels)) // self.model.patch**2

    def batch_flops(self) -> int:
        shapes = nn.weights(jax.eval_shape(lambda: self.init(nnx.Rngs(0))))
        return 6 * self.batch_tokens() * sum(weight.size for weight in shapes.values())

    def reads(self, n: int, steps: int, seed: int) -> dict[str, float]:
        return {}

    def _counts(self, module: image.ImageTokenizer) -> np.ndarray:
        """How often each code occurs on everything that is trained on."""
        sets = [pixels for pixels in (self.data.train, self.data.small, self.data.large) if pixels is not None and len(pixels)]
        codes = [image.encode_many(module, pixels).ravel() for pixels in sets]
        return np.bincount(np.concatenate(codes), minlength=module.config.num_codes)


def read_world(folder: str | Path, large: str = "") -> Pictures:
    """What the folder of a world holds; one grey picture where none is to train on.

    Raises: InputError when a folder is not finished or the two do not belong together.
    """
    folder = Path(folder)
    if not (folder / "built.json").is_file():
        raise errors.InputError(f"{folder}: holds no finished world; build it by "
                                "data_prep.emoji_world, or by data_prep.own from your own data (README)")
    splits = np.array([item["split"] for item in files.read_json(folder / "pictures" / "items.json")], str)
    filmed = np.array([split for *_, split in files.read_json(folder / "video" / "shots.json")], str)
    pictures = np.load(folder / "pictures" / "pictures.npy")
    frames = np.load(folder / "video" / "frames.npy")[filmed == "train"]
    small = [frames.reshape(-1, *frames.shape[2:])]
    if (folder / "digits").is_dir() and len(digits := np.load(folder / "digits" / "pictures.npy")):
        if digits.shape[1:] != small[0].shape[1:]:
            raise errors.InputError(f"{folder}: digits and frames must have one shape to share a batch, got "
                                    f"{digits.shape[1:]} and {small[0].shape[1:]}; build the world with equal sizes")
        small.append(digits[: int(DIGITS_TRAINED * len(digits))])
    train = pictures[splits == "train"]
    has_pictures = len(train) > 0
    if not has_pictures:
        train = np.full((1, *pictures.shape[1:]), GREY, np.uint8)
    larger = _read_large(Path(large), folder)[splits == "train"] if large else None
    return Pictures(train, pictures[splits == "valid"], np.concatenate(small), larger, has_pictures)


def _read_large(folder: Path, world: Path) -> UInt8[np.ndarray, "items _ _ 3"]:
    if not (folder / "built.json").is_file():
        raise errors.InputError(f"{folder}: holds no finished pictures; run: python -m data_prep.large_pictures "
                                f"WORLD --out {folder}")
    drawn = files.read_json(folder / "built.json")["inputs"]["items"]
    items = [item["chars"] for item in files.read_json(world / "pictures" / "items.json")]
    if drawn != items:  # else one that is held out could stand where one to train on does
        raise errors.InputError(f"{folder}: must hold the {len(items)} pictures of {world}, in their order, and holds {len(drawn)} others; "
                                f"run again: python -m data_prep.large_pictures {world} --out {folder}")
    return np.load(folder / "pictures.npy")


def num_ways(patch: int) -> int:
    """In how many ways `vary` shows a picture."""
    return 8 * patch**2


def vary(picture: UInt8[np.ndarray, "size size 3"], patch: int, way: int) -> UInt8[np.ndarray, "size size 3"]:
    """Mirrored, turned and moved by less than a patch, in way 0 not at all: other patches of the same drawing.

    The few hundred pictures of a small world do not show every way a line can cross a patch.
    """
    turn, down, right = way // patch**2, way // patch % patch, way % patch
    turned = np.rot90(picture[:, ::-1] if turn >= 4 else picture, turn)
    moved = np.full_like(picture, 255)
    moved[down:, right:] = turned[: len(picture) - down, : len(picture) - right]
    return moved


def unvary(picture: UInt8[np.ndarray, "size size 3"], patch: int, way: int) -> UInt8[np.ndarray, "size size 3"]:
    """The picture that `vary` has shown so; what it moved over the edge is white."""
    turn, down, right = way // patch**2, way // patch % patch, way % patch
    moved = np.full_like(picture, 255)
    moved[: len(picture) - down, : len(picture) - right] = picture[down:, right:]
    turned = np.rot90(moved, -turn)
    return turned[:, ::-1] if turn >= 4 else turned


def collage(
    pictures: UInt8[np.ndarray, "4 size size 3"], patch: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    """Four pictures on one sheet, cut at random into cells of at least a quarter of its side: pictures of every size.

    The weights know no border, so to them each is a picture of its own size.
    """
    size = pictures.shape[1]
    sheet = np.full_like(pictures[0], 255)
    down, right = (patch * rng.integers(size // 4 // patch, 3 * size // 4 // patch + 1) for _ in range(2))
    for picture, (top, left) in zip(pictures, itertools.product((0, down), (0, right)), strict=True):
        side = min(size - down if top else down, size - right if left else right)
        sheet[top : top + side, left : left + side] = Image.fromarray(picture).resize((side, side), Image.Resampling.BOX)
    return sheet


def entropy_bits(counts: np.ndarray) -> float:
    """Entropy of the distribution behind some counts."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def conditional_bits(given: Int32[np.ndarray, "..."], codes: Int32[np.ndarray, "..."]) -> float:
    """What a code still says once its neighbour is known, in bits: how hard it is to predict."""
    pairs = np.unique(np.stack([given.ravel(), codes.ravel()]), axis=1, return_counts=True)[1]
    return entropy_bits(pairs) - entropy_bits(np.bincount(given.ravel()))


def recognised(
    pictures: UInt8[np.ndarray, "B height width 3"], drawn: UInt8[np.ndarray, "B height width 3"]
) -> float:
    """How many drawings are nearer to their own picture than to any other, by pixels."""
    wanted, got = (p.reshape(len(p), -1).astype(np.float32) / 255 for p in (pictures, drawn))
    distances = np.sum(wanted**2, axis=1)[None] - 2 * got @ wanted.T
    return float(np.mean(np.argmin(distances, axis=1) == np.arange(len(got))))


def spread(pictures: UInt8[np.ndarray, "..."], most: int) -> UInt8[np.ndarray, "..."]:
    """At most so many, evenly spread over them: worlds have their simplest things first."""
    return pictures[np.unique(np.linspace(0, max(0, len(pictures) - 1), min(most, len(pictures))).round().astype(int))]


def _sheet(*sets: UInt8[np.ndarray, "B height width 3"]) -> list[UInt8[np.ndarray, "height width*12 3"]]:
    """For each set a row of the same few pictures, spread over all of them."""
    chosen = np.linspace(0, len(sets[0]) - 1, SHEET_PICTURES).round().astype(int)
    return [np.concatenate(list(pictures[chosen]), axis=1) for pictures in sets]


def _again(module: image.ImageTokenizer, pictures: np.ndarray) -> np.ndarray:
    return image.decode_many(module, image.encode_many(module, pictures))
