"""Image tokenizer: pictures -> a grid of codes -> pictures, by vector quantisation.

    pixels ─patches─▶ MLPs ─▶ z ─nearest code─▶ ids ─▶ vectors ─▶ mixing blocks ─▶ pixels

White is zero. Pixels enter as darkness (1 - value), no layer has a bias, and code 0 is the zero
vector. So a white patch is always code 0, and the zeros that a block sees beyond the border are
the white page around the picture: no size, position or border is known to the weights. Any
multiple of the patch works, and a picture on a larger white canvas keeps its codes.

Unless `encoder_shifted` says otherwise, a code depends on its own patch alone; only the decoder looks
at neighbours. The same patch is the same code wherever it stands, which is what a language model can
learn to predict. An encoder that sees neighbours draws sharper pictures with the same codes.

How latents become codes is `quantiser` (quantisers.py). By default the codebook learns by gradient
alone, from both sides: each patch pulls its nearest code (to the mean of its cell), and each code is
pulled to the nearest patch that is badly represented. Without the second, codes die where no patch
ever comes; without "badly", they die as doubles of patches that are everywhere (white, flat yellow).
A dead code costs the language model and draws nothing.
Papers: VQ-VAE, arXiv 1711.00937; shifted channels in place of convolutions, arXiv 2201.10801.
What differs: the pull from both sides, the zero code.
Next: quantisers.py; ../tasks/image_tokenizer.py, which trains it.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Int32, PRNGKeyArray, UInt8

from gemini_mini import errors, files, nn, quant
from gemini_mini.tokenizers import quantisers

NEIGHBOURS = tuple((y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1))
ENCODE_BATCH = 256


@dataclasses.dataclass(frozen=True)
class ImageTokenizerConfig:
    """Sizes of encoder, codebook and decoder, and what ties them together in training."""

    patch: int = 4
    num_codes: int = 512
    code_dim: int = 8
    width: int = 128
    hidden: int = 256
    encoder_layers: int = 2
    decoder_layers: int = 4
    shifted: int = 8  # channels a block of the decoder takes from each of the eight neighbours
    codebook_lr: float = 10.0  # the codebook is stored divided by it, which multiplies its learning rate
    commitment: float = 0.025  # pull of z to its code
    attraction: float = 0.1  # pull of the codebook to the patches, from both sides
    quantiser: quantisers.Kind = "pulled"
    levels: tuple[int, ...] = (8, 8, 8)  # of "fsq", which has as many values a code; num_codes is their product
    encoder_shifted: int = 0  # channels a block of the encoder takes from each of the eight neighbours

    def __post_init__(self):
        if min(self.patch, self.code_dim, self.width, self.hidden, self.decoder_layers) < 1 or self.num_codes < 2:
            raise errors.InputError("image tokenizer: sizes must be at least 1 and num_codes at least 2, "
                                    f"got {self}; raise them")
        if self.width <= max(self.shifted, self.encoder_shifted) * len(NEIGHBOURS):
            raise errors.InputError("image tokenizer: width must exceed 8 * shifted so that channels of the "
                                    f"patch itself remain, got width {self.width}, shifted {self.shifted}, {self.encoder_shifted}")
        if self.quantiser == "fsq" and (min(self.levels, default=0) < 2 or math.prod(self.levels) < self.num_codes):
            raise errors.InputError("image tokenizer: fsq needs levels of at least 2 each whose product is num_codes, "
                                    f"got levels {self.levels} and num_codes {self.num_codes}; set both")

    @property
    def values(self) -> int:
        """Values of a latent vector."""
        return len(self.levels) if self.quantiser == "fsq" else self.code_dim


class Block(nnx.Module):
    """x + MLP(normalise(x)); with `shifted` channels the MLP also sees the eight neighbours."""

    def __init__(self, config: ImageTokenizerConfig, rngs: nnx.Rngs, shifted: int):
        self.shifted = shifted
        self.up = nn.param(rngs, (config.width, config.hidden), "D F")
        self.down = nn.param(rngs, (config.hidden, config.width), "F D", 0.5)

    def __call__(self, x: Float[Array, "B Y X D"]) -> Float[Array, "B Y X D"]:
        hidden = normalise(look_around(x, self.shifted) if self.shifted else x)
        hidden = jax.nn.gelu(nn.linear(hidden, self.up))
        return x + nn.linear(hidden, self.down)


class ImageTokenizer(nnx.Module):
    """Encoder, codebook and decoder."""

    def __init__(self, config: ImageTokenizerConfig, rngs: nnx.Rngs):
        self.config = config
        values = 3 * config.patch**2
        self.embed = nn.param(rngs, (values, config.width), "P D")
        self.encoder = nnx.List([Block(config, rngs, config.encoder_shifted) for _ in range(config.encoder_layers)])
        self.to_code = nn.param(rngs, (config.width, config.values), "D Z")
        self.quantiser = quantisers.make(config.quantiser, config.num_codes, config.code_dim, config.levels,
                                         config.codebook_lr, rngs)
        self.from_code = nn.param(rngs, (config.values, config.width), "Z D")
        self.decoder = nnx.List([Block(config, rngs, config.shifted) for _ in range(config.decoder_layers)])
        self.to_pixels = nn.param(rngs, (config.width, values), "D P", 0.5)

    def encode(self, pixels: Float[Array, "B height width 3"]) -> Int32[Array, "B Y X"]:
        """The code of every patch; pixels in [0, 1].

        Raises: InputError when a side is not a multiple of the patch.
        """
        latents = self._latents(pixels)
        return quantisers.ids(self.quantiser, latents.reshape(-1, self.config.values)).reshape(latents.shape[:-1])

    def decode(self, codes: Int[Array | np.ndarray, "B Y X"]) -> Float[Array, "B height width 3"]:
        """Pixels in [0, 1] of a grid of codes."""
        return jnp.clip(self._draw(self.quantiser.vectors()[codes]), 0.0, 1.0)

    def loss(
        self, batches: Sequence[Float[Array, "_ _ _ 3"]], key: PRNGKeyArray | None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Squared error of the pixels, plus what ties patches and codes together; `key` is not used.

        `batches` are pictures in [0, 1] of one shape each: every patch and every pixel counts alike.
        """
        grids = [self._latents(pixels) for pixels in batches]
        latents = jnp.concatenate([grid.reshape(-1, self.config.values) for grid in grids])
        rounded, ties = self.quantiser.tie(latents)
        ends = np.cumsum([grid[..., 0].size for grid in grids])
        parts = jnp.split(rounded, ends[:-1])
        drawn = [self._draw(flat.reshape(grid.shape)) for flat, grid in zip(parts, grids, strict=True)]
        squares = sum(jnp.sum((a - b) ** 2) for a, b in zip(drawn, batches, strict=True))
        error = squares / sum(pixels.size for pixels in batches)
        total = error + sum(getattr(self.config, name) * value for name, value in ties.items())
        return total, {"psnr": -10 * jnp.log10(error), **ties}

    def _latents(self, pixels: Float[Array, "B height width 3"]) -> Float[Array, "B Y X Z"]:
        x = nn.linear(to_patches(2 * (1 - pixels), self.config.patch), self.embed)
        for block in self.encoder:
            x = block(x)
        return nn.linear(x, self.to_code)

    def _draw(self, vectors: Float[Array, "B Y X Z"]) -> Float[Array, "B height width 3"]:
        x = nn.linear(vectors, self.from_code)
        for block in self.decoder:
            x = block(x)
        return 1 - from_patches(nn.linear(x, self.to_pixels), self.config.patch) / 2


def to_patches(pixels: Float[Array, "B height width C"], patch: int) -> Float[Array, "B Y X P"]:
    """Cut into squares of `patch` pixels, each flattened.

    Raises: InputError when a side is not a multiple of the patch.
    """
    rows, height, width, channels = pixels.shape
    if height % patch or width % patch or not height or not width:
        raise errors.InputError(f"image tokenizer: both sides of a picture must be multiples of its patch of "
                                f"{patch} pixels, got {height}×{width}; resize it (image_io.read_image does)")
    grid = pixels.reshape(rows, height // patch, patch, width // patch, patch, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(rows, height // patch, width // patch, -1)


def from_patches(patches: Float[Array, "B Y X P"], patch: int) -> Float[Array, "B height width C"]:
    """The inverse of `to_patches`."""
    rows, height, width, _ = patches.shape
    grid = patches.reshape(rows, height, width, patch, patch, -1).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(rows, height * patch, width * patch, -1)


def look_around(x: Float[Array, "B Y X D"], channels: int) -> Float[Array, "B Y X D"]:
    """Replace the last 8 * `channels` channels by those of the eight neighbours, `channels` from each.

    Beyond the border there is zero. A convolution's reach for the price of a copy.
    """
    height, width, own = x.shape[1], x.shape[2], x.shape[3] - len(NEIGHBOURS) * channels
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [x[..., :own]]
    for n, (down, right) in enumerate(NEIGHBOURS):
        first = own + n * channels
        parts.append(padded[:, down : down + height, right : right + width, first : first + channels])
    return jnp.concatenate(parts, axis=-1)


def normalise(x: Float[Array, "B Y X D"]) -> Float[Array, "B Y X D"]:
    """x / rms(x), except that what is nearly zero (nearly white) stays so."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-3)


@jax.jit
def _encode(tokenizer: ImageTokenizer, pixels: UInt8[Array, "B height width 3"]) -> Int32[Array, "B Y X"]:
    return tokenizer.encode(pixels.astype(jnp.float32) / 255)


@jax.jit
def _decode(tokenizer: ImageTokenizer, codes: Int32[Array, "B Y X"]) -> UInt8[Array, "B height width 3"]:
    return jnp.round(tokenizer.decode(codes) * 255).astype(jnp.uint8)


def encode_many(
    tokenizer: ImageTokenizer, pictures: UInt8[np.ndarray, "B height width 3"]
) -> Int32[np.ndarray, "B Y X"]:
    """Codes of pictures of one shape, in batches of one compiled size."""
    return _in_batches(lambda batch: _encode(tokenizer, batch), pictures)


def decode_many(
    tokenizer: ImageTokenizer, codes: Int32[np.ndarray, "B Y X"]
) -> UInt8[np.ndarray, "B height width 3"]:
    """Pictures of grids of one shape, in batches of one compiled size."""
    return _in_batches(lambda batch: _decode(tokenizer, batch), codes)


def _in_batches(function: Callable, rows: np.ndarray) -> np.ndarray:
    size = min(ENCODE_BATCH, 1 << max(0, len(rows) - 1).bit_length())  # few sizes, so few compilations
    parts = []
    for start in range(0, max(1, len(rows)), size):
        part = rows[start : start + size]
        full = np.concatenate([part, np.zeros((size - len(part), *rows.shape[1:]), rows.dtype)])
        parts.append(np.asarray(function(full))[: len(part)])
    return np.concatenate(parts)


def keep_codes(tokenizer: ImageTokenizer, used: Int[np.ndarray, "V"]) -> ImageTokenizer:
    """A tokenizer with the codes `used` alone (code 0, white, must be the first of them)."""
    config = dataclasses.replace(tokenizer.config, num_codes=len(used))
    small = ImageTokenizer(config, nnx.Rngs(0))
    book = tokenizer.quantiser.codebook[...][used]
    return nn.with_weights(small, nn.weights(tokenizer) | {"quantiser.codebook": book})


def save(tokenizer: ImageTokenizer, path: str | Path) -> None:
    """Write weights, in 8 bits, and config, all that `load` needs."""
    files.save_arrays(path, nn.packed(tokenizer), {"config": json.dumps(dataclasses.asdict(tokenizer.config))})


def load(path: str | Path) -> ImageTokenizer:
    """Read what `save` wrote, or the same out of a released file. Raises: InputError when it is missing, damaged or of another shape."""
    return of_arrays(*quant.tokenizer("image", *files.load_arrays(path)), path)


def of_arrays(arrays: dict[str, np.ndarray], meta: dict[str, str], path: str | Path) -> ImageTokenizer:
    """The tokenizer of these weights and this config. Raises: InputError when they do not belong together."""
    try:
        values = json.loads(meta["config"])
        config = ImageTokenizerConfig(**values | {"levels": tuple(values["levels"])})
        if missing := dataclasses.asdict(config).keys() - values.keys():  # a default would make other codes of the same weights
            raise KeyError(", ".join(sorted(missing)))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise errors.InputError(f"{path}: is no image tokenizer of this version ({error}); "
                                "train it again") from None
    shape = ImageTokenizer(config, nn.Shapes())
    return nn.with_weights(shape, jax.device_put(arrays))
