"""A small classifier of the world's real pictures: another eye to judge drawings with, and features for FID.

Trained apart from the decoder and its tokenizers, on real pictures of the training split alone
(configs/picture_classifier.py). Patches that see their neighbours, joined by fours, a feature vector of FEATURES
numbers, a class for each training picture. Things never trained on are recognised by the nearest feature.
Paper: FID, Heusel et al. 2017, arXiv 1706.08500, with these features in place of Inception's: figures compare
only among themselves.
Next: suites/generation.py, ../tasks/picture_classifier.py.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from flax import nnx
from jaxtyping import Array, Float, Int64, UInt8

from gemini_mini import errors, files, nn
from gemini_mini.tokenizers import image

FEATURES, WIDTH, SIZE, PATCH = 64, 144, 32, 4
BATCH = 256


class Classifier(nnx.Module):
    """Pictures of SIZE pixels to features, and features to classes; products of matrices over patches alone."""

    def __init__(self, num_classes: int, rngs: nnx.Rngs):
        grid = SIZE // PATCH // 2
        self.embed = nn.param(rngs, (3 * PATCH**2, WIDTH), "P D", 2**0.5)
        self.mix = nn.param(rngs, (WIDTH, WIDTH), "D F", 2**0.5)
        self.join = nn.param(rngs, (4 * WIDTH, FEATURES), "F D", 2**0.5)
        self.to_features = nn.param(rngs, (grid**2 * FEATURES, FEATURES), "F D")
        self.to_classes = nn.param(rngs, (FEATURES, num_classes), "D V")

    def features(self, pixels: Float[Array, "B height width 3"]) -> Float[Array, "B features"]:
        """Pixels are 0 to 1."""
        x = image.to_patches(2 * (1 - pixels), PATCH)  # white is nothing
        x = jax.nn.relu(nn.linear(x, self.embed))
        x = jax.nn.relu(nn.linear(image.look_around(x, WIDTH // 12), self.mix))
        x = jax.nn.relu(nn.linear(image.to_patches(x, 2), self.join))
        x = x.reshape(len(x), -1)
        return nn.linear(x * jax.lax.rsqrt(jnp.mean(x * x, axis=1, keepdims=True) + 1e-3), self.to_features)

    def __call__(self, pixels: Float[Array, "B height width 3"]) -> Float[Array, "B classes"]:
        """A score for each class."""
        return nn.linear(self.features(pixels), self.to_classes)


@jax.jit
def _features(classifier: Classifier, pixels: Array) -> Array:
    return classifier.features(pixels.astype(jnp.float32) / 255)


def features_of(classifier: Classifier, pictures: UInt8[np.ndarray, "n height width 3"]) -> Float[np.ndarray, "n features"]:
    """Features of many pictures, in batches of one size."""
    found = []
    for start in range(0, len(pictures), BATCH):
        part = pictures[start : start + BATCH]
        full = np.concatenate([part, np.zeros((BATCH - len(part), *part.shape[1:]), part.dtype)])
        found.append(np.asarray(_features(classifier, full))[: len(part)])
    return np.concatenate(found).astype(np.float64)


def nearest(
    drawn: Float[np.ndarray, "n features"], real: Float[np.ndarray, "real features"]
) -> Int64[np.ndarray, "n"]:
    """The real picture with the smallest angle to each drawn one."""
    drawn, real = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) for x in (drawn, real))
    return np.argmax(drawn @ real.T, axis=1)


def frechet(a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "m features"]) -> float:
    """Fréchet distance of two clouds as normal laws: |mean - mean|^2 + tr(A + B - 2 (A B)^1/2). 0 for the same cloud."""
    A, B = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(A @ B)
    return float(np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2) + np.trace(A + B) - 2 * np.trace(root.real))


def save(classifier: Classifier, path: str | Path) -> None:
    """Write the weights, all that `load` needs."""
    files.save_arrays(path, {name: np.asarray(w) for name, w in nn.weights(classifier).items()}, {"what": "picture classifier"})


def load(path: str | Path) -> Classifier:
    """Read what `save` wrote. Raises: InputError when it is missing, damaged or of another shape."""
    arrays, _ = files.load_arrays(path)
    if "to_classes" not in arrays:
        raise errors.InputError(f"{path}: is no picture classifier; train one: python train.py configs/picture_classifier.py")
    shape = jax.eval_shape(lambda: Classifier(arrays["to_classes"].shape[1], nnx.Rngs(0)))
    return nn.with_weights(shape, jax.device_put(arrays))
