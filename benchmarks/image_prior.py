"""How well a picture's codes are foreseen: a small decoder, the project's own, over the codes of one picture.

What it does not foresee is what a range coder writes, and what a language model must learn. As codecs look for the
cheapest way to write a picture, it can be asked in which of the tokenizer's ways (mirrored, turned, moved by less
than a patch) a picture is best kept; the way is written before the codes.
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
VARIED, RECOLOURED = 0.9, 0.3  # shares of training pictures that are mirrored, turned and moved, and whose colours are exchanged
HIDDEN = 0.12  # of the codes read in training are another: what is foreseen hangs on no single one
AVERAGED_STEPS = 500  # the weights that are used are the mean of about so many


class Prior:
    """Next-code prediction within one picture, row by row, from a mark that says in which way it is shown."""

    def __init__(self, tokenizer: image.ImageTokenizer):
        self.tokenizer, self.num_codes = tokenizer, tokenizer.config.num_codes
        self.ways = task.num_ways(tokenizer.config.patch)
        self.model = decoder.Decoder(decoder.DecoderConfig(vocab_size=self.num_codes + self.ways, depth=3, shortcuts=True), nnx.Rngs(0))
        self.weights = nn.weights(self.model)
        self._chances = jax.jit(lambda weights, ways, codes, place: jax.nn.softmax(self._logits(weights, ways, codes, place)))
        self._costs = jax.jit(lambda weights, ways, codes: jnp.sum(self._nats(weights, ways, codes, codes), -1) / np.log(2) / 8)

    def train(self, pictures: UInt8[np.ndarray, "N height width 3"], steps: int, seed: int = 0) -> None:
        """Learn the codes of `pictures`, each drawn `steps` × 64 / N times in some way."""
        settings = optim.OptimConfig(kind="muon", lr=3e-3, muon_lr=1e-2, decay=0.6)
        optimizer, weights = optim.make(settings, nn.axes(self.model), steps), self.weights

        @jax.jit
        def step(weights, mean, state, ways, given, codes, n):
            value, gradient = jax.value_and_grad(lambda w: jnp.mean(self._nats(w, ways, given, codes)))(weights)
            updates, state = optimizer.update(gradient, state, weights)
            weights = optax.apply_updates(weights, updates)
            old = jnp.minimum(1 - 1 / AVERAGED_STEPS, n / (n + 10))
            return weights, jax.tree.map(lambda a, b: old * a + (1 - old) * b, mean, weights), state, value

        rng, state = np.random.default_rng(seed), optimizer.init(weights)
        with progress.bar("entropy coder", steps, "steps") as bar:
            for n in range(steps):
                shown = pictures[rng.integers(0, len(pictures), BATCH_PICTURES)]
                for index in np.flatnonzero(rng.random(BATCH_PICTURES) < RECOLOURED):
                    shown[index] = shown[index][..., rng.permutation(3)]
                ways = np.where(rng.random(BATCH_PICTURES) < VARIED, rng.integers(0, self.ways, BATCH_PICTURES), 0)
                codes = self.encode(shown, ways)
                given = np.where(rng.random(codes.shape) < HIDDEN, rng.integers(0, self.num_codes, codes.shape), codes)
                weights, self.weights, state, value = step(weights, self.weights, state, ways, given, codes, n)
                bar.info.update(bits=float(value) / np.log(2))
                bar.advance()

    def encode(self, pictures: UInt8[np.ndarray, "N height width 3"], ways: Int[np.ndarray, "N"]) -> Int[np.ndarray, "N A"]:
        """Codes of each picture in its way."""
        shown = np.stack([task.vary(picture, self.tokenizer.config.patch, way) for picture, way in zip(pictures, ways.tolist(), strict=True)])
        return image.encode_many(self.tokenizer, shown).reshape(len(shown), -1)

    def draw(self, codes: Int[np.ndarray, "N A"], ways: Int[np.ndarray, "N"], sides: tuple[int, int]) -> UInt8[np.ndarray, "N height width 3"]:
        """Pictures of these sides, as they were before they were shown in these ways."""
        patch = self.tokenizer.config.patch
        drawn = image.decode_many(self.tokenizer, codes.reshape(-1, sides[0] // patch, sides[1] // patch))
        return np.stack([task.unvary(picture, patch, way) for picture, way in zip(drawn, ways.tolist(), strict=True)])

    def costs(self, codes: Int[np.ndarray, "N A"], ways: Int[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
        """Bytes that the codes of each picture take by the chances given to them."""
        parts = [self._costs(self.weights, *map(self._filled, (ways[i : i + BATCH_PICTURES], codes[i : i + BATCH_PICTURES])))
                 for i in range(0, len(codes), BATCH_PICTURES)]
        return np.concatenate([np.asarray(part) for part in parts])[: len(codes)]

    def write(self, codes: Int[np.ndarray, "N A"], ways: Int[np.ndarray, "N"]) -> list[bytes]:
        """A range coder's stream of each picture: its way, and each code by the chance that was given to it."""
        streams = []
        for i in range(0, len(codes), BATCH_PICTURES):
            part, here = codes[i : i + BATCH_PICTURES], ways[i : i + BATCH_PICTURES]
            models = zip(*(self._models(here, part, place) for place in range(part.shape[1])))
            streams += [_stream([way, *row], [self._any_way(), *of_row]) for way, row, of_row in zip(here.tolist(), part.tolist(), models, strict=True)]
        return streams

    def read(self, streams: list[bytes], num_codes: int) -> tuple[Int[np.ndarray, "N A"], Int[np.ndarray, "N"]]:
        """What `write` was given, from the streams and the number of codes alone."""
        readers = [_reader(stream) for stream in streams]
        ways = np.array([reader.decode(self._any_way()) for reader in readers])
        codes = np.zeros((len(streams), num_codes), np.int32)
        for i in range(0, len(codes), BATCH_PICTURES):
            part, here = codes[i : i + BATCH_PICTURES], slice(i, i + BATCH_PICTURES)
            for place in range(num_codes):
                part[:, place] = [reader.decode(model) for reader, model in zip(readers[here], self._models(ways[here], part, place), strict=True)]
        return codes, ways

    def _any_way(self) -> Categorical:
        return Categorical(np.full(self.ways, 1 / self.ways, np.float32), perfect=False)

    def _models(self, ways: Int[np.ndarray, "B"], codes: Int[np.ndarray, "B A"], place: int) -> list[Categorical]:
        """The range coder's model of every picture's code at `place`.

        It reads the codes before and no other, and one program serves all batches: so the reader, for whom the
        rest are still zeros, is given the writer's chances to the last bit.
        """
        before = np.where(np.arange(codes.shape[1]) < place, codes, 0)
        chances = np.asarray(self._chances(self.weights, self._filled(ways), self._filled(before), place))[: len(codes)]
        return [Categorical(row, perfect=False) for row in chances]

    def _filled(self, rows: np.ndarray) -> np.ndarray:
        return np.concatenate([rows, np.zeros((BATCH_PICTURES - len(rows), *rows.shape[1:]), rows.dtype)])

    def _logits(
        self, weights: dict[str, Array], ways: Int[Array, "B"], codes: Int[Array, "B A"], place: int | Array | None = None
    ) -> Float[Array, "B ... V"]:
        """Logits of every code, or of those at `place` alone."""
        given = jnp.concatenate([self.num_codes + ways[:, None], codes[:, :-1]], axis=1)
        model = nn.with_weights(self.model, weights)
        hidden = model(given, jnp.broadcast_to(jnp.arange(given.shape[1])[None], given.shape), jnp.ones_like(given))
        return model.logits(hidden if place is None else hidden[:, place])[..., : self.num_codes]

    def _nats(
        self, weights: dict[str, Array], ways: Int[Array, "B"], given: Int[Array, "B A"], codes: Int[Array, "B A"]
    ) -> Float[Array, "B A"]:
        return optax.softmax_cross_entropy_with_integer_labels(self._logits(weights, ways, given), codes)


def _stream(codes: list[int], models: list[Categorical]) -> bytes:
    """The fewest bytes which, whatever zeros follow, are read as these codes."""
    encoder = constriction.stream.queue.RangeEncoder()
    for code, model in zip(codes, models, strict=True):
        encoder.encode(code, model)
    whole = encoder.get_compressed().astype(">u4").tobytes()
    for size in range(max(0, len(whole) - 8), len(whole)):
        for more in (0, 1):  # a point of the last interval: cut off, or rounded up
            shorter = (int.from_bytes(whole[:size], "big") + more).to_bytes(size + 1, "big")[1:]
            if _says(shorter, codes, models):
                return shorter
    return whole


def _says(stream: bytes, codes: list[int], models: list[Categorical]) -> bool:
    reader = _reader(stream)
    try:
        return all(reader.decode(model) == code for code, model in zip(codes, models))
    except AssertionError:  # of constriction: no stream of these models
        return False


def _reader(stream: bytes) -> constriction.stream.queue.RangeDecoder:
    return constriction.stream.queue.RangeDecoder(np.frombuffer(stream.ljust(-(-len(stream) // 4) * 4 + 8, b"\0"), ">u4").astype(np.uint32))
