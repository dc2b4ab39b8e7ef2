"""How well a picture's codes are foreseen: a small decoder, the project's own, over the codes of one picture.

What it does not foresee is what an arithmetic coder must write, and what a language model must learn.
Next: image_codecs.py, which sets the bytes beside those of picture codecs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from gemini_mini import nn, progress
from gemini_mini.model import decoder
from gemini_mini.tasks import image_tokenizer as task
from gemini_mini.tokenizers import image
from gemini_mini.train import optim

BATCH_PICTURES = 64
VARIED = 0.9  # share of training pictures that are mirrored, turned and moved


class Prior:
    """Next-code prediction within one picture, row by row, from a start mark."""

    def __init__(self, tokenizer: image.ImageTokenizer):
        self.tokenizer, self.start = tokenizer, tokenizer.config.num_codes
        self.model = decoder.Decoder(decoder.DecoderConfig(vocab_size=self.start + 1, depth=3), nnx.Rngs(0))
        self.weights = nn.weights(self.model)
        self._nats = jax.jit(self._nats_of)

    def train(self, pictures: UInt8[np.ndarray, "N height width 3"], steps: int, seed: int = 0) -> None:
        """Learn the codes of `pictures`, each drawn `steps` × 64 / N times in some position."""
        settings = optim.OptimConfig(kind="muon", lr=3e-3, muon_lr=1e-2, decay=0.6)
        optimizer = optim.make(settings, nn.axes(self.model), steps)

        @jax.jit
        def step(weights, state, codes):
            value, gradient = jax.value_and_grad(lambda w: jnp.mean(self._nats_of(w, codes)))(weights)
            updates, state = optimizer.update(gradient, state, weights)
            return optax.apply_updates(weights, updates), state, value

        rng, state = np.random.default_rng(seed), optimizer.init(self.weights)
        with progress.bar("entropy coder", steps, "steps") as bar:
            for _ in range(steps):
                shown = pictures[rng.integers(0, len(pictures), BATCH_PICTURES)]
                for index in np.flatnonzero(rng.random(BATCH_PICTURES) < VARIED):
                    shown[index] = task.vary(shown[index], self.tokenizer.config.patch, rng)
                codes = image.encode_many(self.tokenizer, shown)
                self.weights, state, value = step(self.weights, state, codes)
                bar.info.update(bits=float(value) / np.log(2))
                bar.advance()

    def bits(self, codes: Int[np.ndarray, "N Y X"]) -> Float[np.ndarray, "N Y*X"]:
        """-log2 of the chance that was given to every code."""
        parts = [codes[start : start + BATCH_PICTURES] for start in range(0, len(codes), BATCH_PICTURES)]
        return np.concatenate([np.asarray(self._nats(self.weights, part)) for part in parts]) / np.log(2)

    def _nats_of(self, weights: dict[str, Array], codes: Int[Array | np.ndarray, "B Y X"]) -> Float[Array, "B Y*X"]:
        flat = jnp.reshape(codes, (len(codes), -1))
        given = jnp.concatenate([jnp.full((len(flat), 1), self.start), flat[:, :-1]], axis=1)
        model = nn.with_weights(self.model, weights)
        hidden = model(given, jnp.broadcast_to(jnp.arange(given.shape[1])[None], given.shape), jnp.ones_like(given))
        return optax.softmax_cross_entropy_with_integer_labels(model.logits(hidden), flat)
