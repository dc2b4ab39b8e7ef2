"""How well a picture's codes are foreseen: a small decoder, the project's own, over the codes of one picture.

What it does not foresee is what a range coder writes, and what a language model must learn.
Next: image_codecs.py, which sets the bytes beside those of picture codecs.
"""

import constriction
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

Categorical = constriction.stream.model.Categorical
BATCH_PICTURES = 64
VARIED = 0.9  # share of training pictures that are mirrored, turned and moved


class Prior:
    """Next-code prediction within one picture, row by row, from a start mark."""

    def __init__(self, tokenizer: image.ImageTokenizer):
        self.tokenizer, self.start = tokenizer, tokenizer.config.num_codes
        self.model = decoder.Decoder(decoder.DecoderConfig(vocab_size=self.start + 1, depth=3), nnx.Rngs(0))
        self.weights = nn.weights(self.model)
        self._chances = jax.jit(lambda weights, codes, place: jax.nn.softmax(self._logits(weights, codes, place)))

    def train(self, pictures: UInt8[np.ndarray, "N height width 3"], steps: int, seed: int = 0) -> None:
        """Learn the codes of `pictures`, each drawn `steps` × 64 / N times in some position."""
        settings = optim.OptimConfig(kind="muon", lr=3e-3, muon_lr=1e-2, decay=0.6)
        optimizer = optim.make(settings, nn.axes(self.model), steps)

        @jax.jit
        def step(weights, state, codes):
            value, gradient = jax.value_and_grad(lambda w: jnp.mean(self._nats(w, codes)))(weights)
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

    def write(self, codes: Int[np.ndarray, "N Y X"]) -> list[bytes]:
        """A range coder's stream of each picture, each code by the chance that was given to it."""
        streams = []
        for start in range(0, len(codes), BATCH_PICTURES):
            part = codes[start : start + BATCH_PICTURES].reshape(-1, codes[0].size)
            models = zip(*(self._models(part, place) for place in range(part.shape[1])))
            streams += [_stream(row, models_of_row) for row, models_of_row in zip(part.tolist(), models, strict=True)]
        return streams

    def read(self, streams: list[bytes], shape: tuple[int, int]) -> Int[np.ndarray, "N Y X"]:
        """What `write` was given, from the streams and the shape of a picture alone."""
        decoders = [_decoder(stream) for stream in streams]
        codes = np.zeros((len(streams), shape[0] * shape[1]), np.int32)
        for start in range(0, len(codes), BATCH_PICTURES):
            part, here = codes[start : start + BATCH_PICTURES], decoders[start : start + BATCH_PICTURES]
            for place in range(part.shape[1]):
                part[:, place] = [decoder.decode(model) for decoder, model in zip(here, self._models(part, place), strict=True)]
        return codes.reshape(-1, *shape)

    def _models(self, codes: Int[np.ndarray, "B A"], place: int) -> list[Categorical]:
        """The range coder's model of every picture's code at `place`.

        It reads the codes before and no other, and one program serves all batches: so the reader, for whom the
        rest are still zeros, is given the writer's chances to the last bit.
        """
        before = np.where(np.arange(codes.shape[1]) < place, codes, 0)
        filled = np.pad(before, ((0, BATCH_PICTURES - len(codes)), (0, 0)))
        chances = np.asarray(self._chances(self.weights, filled, place))[: len(codes)]
        return [Categorical(row, perfect=False) for row in chances]

    def _logits(self, weights: dict[str, Array], codes: Int[Array, "B A"], place: int | Array | None = None) -> Float[Array, "B ... V"]:
        """Logits of every code, or of those at `place` alone."""
        given = jnp.concatenate([jnp.full((len(codes), 1), self.start), codes[:, :-1]], axis=1)
        model = nn.with_weights(self.model, weights)
        hidden = model(given, jnp.broadcast_to(jnp.arange(given.shape[1])[None], given.shape), jnp.ones_like(given))
        return model.logits(hidden if place is None else hidden[:, place])

    def _nats(self, weights: dict[str, Array], codes: Int[np.ndarray, "B Y X"]) -> Float[Array, "B Y*X"]:
        flat = jnp.reshape(codes, (len(codes), -1))
        return optax.softmax_cross_entropy_with_integer_labels(self._logits(weights, flat), flat)


def _stream(codes: list[int], models: tuple[Categorical, ...]) -> bytes:
    """The fewest bytes which, whatever zeros follow, are read as these codes."""
    encoder = constriction.stream.queue.RangeEncoder()
    for code, model in zip(codes, models, strict=True):
        encoder.encode(code, model)
    whole = encoder.get_compressed().astype(">u4").tobytes()
    for size in range(max(0, len(whole) - 8), len(whole)):
        for more in (0, 1):  # a point of the last interval: cut off, or rounded up
            shorter = (int.from_bytes(whole[:size], "big") + more).to_bytes(size + 1, "big")[1:]
            reader = _decoder(shorter)
            if all(reader.decode(model) == code for code, model in zip(codes, models)):
                return shorter
    return whole


def _decoder(stream: bytes) -> constriction.stream.queue.RangeDecoder:
    return constriction.stream.queue.RangeDecoder(np.frombuffer(stream.ljust(-(-len(stream) // 4) * 4 + 8, b"\0"), ">u4").astype(np.uint32))
