"""Train the classifier that judges drawings, on a world's real training pictures, a class for each.

Pictures are moved, disturbed and blurred, so that a drawing that is a little off is still recognised. Nothing
of the decoder or its tokenizers is used.
Next: ../evals/classifier.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int32, PRNGKeyArray, UInt8

from gemini_mini import files, nn
from gemini_mini.evals import classifier
from gemini_mini.tasks import image_tokenizer
from gemini_mini.train import hosts

MOST_MOVED = 2  # pixels
NOISE = 16      # levels of 255
WHITE = 255


class Batch(NamedTuple):
    pixels: UInt8[Array | np.ndarray, "B height width 3"]
    labels: Int32[Array | np.ndarray, "B"]


@dataclass(frozen=True)
class TrainPictureClassifier:
    """`world` is a folder built by data_prep/emoji_world.py."""

    world: str
    batch_pictures: int = 128

    @cached_property
    def data(self) -> image_tokenizer.Pictures:
        return image_tokenizer.read_world(self.world)

    def inputs(self) -> dict:
        return {"world": files.read_json(Path(self.world) / "built.json")["content"]}

    def init(self, rngs: nnx.Rngs) -> classifier.Classifier:
        return classifier.Classifier(len(self.data.train), rngs)

    def batches(self, steps: int, seed: int) -> Callable[[int], Batch]:
        def batch(step: int) -> Batch:
            rng = np.random.default_rng((seed, step))
            labels = rng.integers(0, len(self.data.train), self.batch_pictures).astype(np.int32)
            return Batch(np.stack([disturb(self.data.train[label], rng) for label in labels]), labels)

        return batch

    def loss(
        self, module: classifier.Classifier, batch: Batch, key: PRNGKeyArray | None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        scores = module(batch.pixels.astype(jnp.float32) / 255)
        nats = optax.softmax_cross_entropy_with_integer_labels(scores, batch.labels).mean()
        return nats, {"accuracy": jnp.mean(jnp.argmax(scores, axis=1) == batch.labels)}

    def evals(self, module: classifier.Classifier) -> dict[str, float]:
        """Disturbed pictures, trained on and never seen, that are found again among all real ones."""
        module = hosts.small(module)
        rng, real = np.random.default_rng(0), np.concatenate([self.data.train, self.data.valid])
        disturbed = np.stack([disturb(picture, rng) for picture in real])
        found = classifier.nearest(classifier.features_of(module, disturbed), classifier.features_of(module, real))
        is_right, num_train = found == np.arange(len(real)), len(self.data.train)
        return {"train/found": float(is_right[:num_train].mean()),
                **({"valid/found": float(is_right[num_train:].mean())} if len(self.data.valid) else {})}

    def export(self, module: classifier.Classifier, folder: Path) -> None:
        """Write classifier.safetensors."""
        classifier.save(module, folder / "classifier.safetensors")

    def reads(self, n: int, steps: int, seed: int) -> dict[str, float]:
        return {}

    def batch_tokens(self) -> int:
        """Pictures in a batch."""
        return self.batch_pictures

    def batch_flops(self) -> int:
        shapes = nn.weights(jax.eval_shape(lambda: self.init(nnx.Rngs(0))))
        return 6 * self.batch_pictures * sum(weight.size for weight in shapes.values())


def disturb(picture: UInt8[np.ndarray, "height width 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "height width 3"]:
    """Moved a little over white, blurred by pairs of pixels in half of the cases, with noise."""
    height, width, _ = picture.shape
    down, right = rng.integers(-MOST_MOVED, MOST_MOVED + 1, 2)
    moved = np.pad(picture, ((MOST_MOVED,) * 2, (MOST_MOVED,) * 2, (0, 0)), constant_values=WHITE)
    moved = moved[MOST_MOVED + down :, MOST_MOVED + right :][:height, :width].astype(np.float64)
    if rng.random() < 0.5:
        moved = moved.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3)).repeat(2, axis=0).repeat(2, axis=1)
    return np.clip(np.rint(moved + rng.normal(0, NOISE, moved.shape)), 0, 255).astype(np.uint8)
