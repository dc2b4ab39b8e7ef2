"""The image tokenizer: its laws with white paper, its codebook, its task, and picture files."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

from gemini_mini import errors, files, nn
from gemini_mini.tasks import image_tokenizer as task_lib
from gemini_mini.tokenizers import image, image_io

SMALL = image.ImageTokenizerConfig(num_codes=32, code_dim=4, width=24, hidden=32, encoder_layers=1, decoder_layers=2,
                                   shifted=2)
LAYERS_SEEN = SMALL.decoder_layers  # each looks one patch further


@pytest.fixture(scope="module")
def tokenizer() -> image.ImageTokenizer:
    return image.ImageTokenizer(SMALL, nnx.Rngs(0))


def noise(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).random((*shape, 3)), jnp.float32)


def on_canvas(picture: jax.Array, top: int, left: int, size: int) -> jax.Array:
    """The picture on a square white canvas."""
    rows, height, width, _ = picture.shape
    return jnp.ones((rows, size, size, 3)).at[:, top : top + height, left : left + width].set(picture)


# Laws of white: they hold for any weights, so random ones test them.


@pytest.mark.parametrize(("height", "width"), [(4, 4), (16, 16), (8, 24), (32, 32), (64, 12)])
def test_any_multiple_of_the_patch_works_and_ids_are_in_range(tokenizer, height, width):
    codes = tokenizer.encode(noise(2, height, width))
    drawn = tokenizer.decode(codes)
    assert codes.shape == (2, height // 4, width // 4) and codes.dtype == jnp.int32
    assert 0 <= int(codes.min()) and int(codes.max()) < SMALL.num_codes
    assert drawn.shape == (2, height, width, 3) and float(drawn.min()) >= 0 and float(drawn.max()) <= 1


@pytest.mark.parametrize(("top", "left"), [(0, 0), (8, 12), (16, 16)])
def test_a_picture_on_a_larger_canvas_keeps_its_codes_and_pixels(tokenizer, top, left):
    picture = noise(2, 16, 16)
    codes, large = tokenizer.encode(picture), tokenizer.encode(on_canvas(picture, top, left, 32))
    y, x = top // 4, left // 4
    np.testing.assert_array_equal(large[:, y : y + 4, x : x + 4], codes)
    outside = np.ones((8, 8), bool)
    outside[y : y + 4, x : x + 4] = False
    assert not np.asarray(large)[:, outside].any()  # white is code 0
    # Blocks add what little white neighbours say: nothing. Float sums may be ordered differently.
    drawn = tokenizer.decode(large)[:, top : top + 16, left : left + 16]
    assert len(np.unique(codes)) > 5
    np.testing.assert_allclose(drawn, halo_free(tokenizer, codes), atol=1e-5)


def halo_free(tokenizer: image.ImageTokenizer, codes: jax.Array) -> jax.Array:
    """Drawn with wide margins of code 0, then cut out: what the paper around a picture may not change."""
    margin = LAYERS_SEEN + 1
    padded = jnp.pad(codes, ((0, 0), (margin, margin), (margin, margin)))
    inside = slice(4 * margin, -4 * margin)
    return tokenizer.decode(padded)[:, inside, inside]
