"""Who answers the questions: a trained run, behind an interface that a test can fake.

The suite knows documents only. Here they become ids, the sampler answers, ids become documents:
texts and pictures, which are all it may write.
Next: suite.py.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from gemini_mini import run as run_lib, stream
from gemini_mini.data import packing
from gemini_mini.decode import engine, grammar, sampling
from gemini_mini.tokenizers import image

TEXT_ROWS, TEXT_ROW_TOKENS = 8, 512


@runtime_checkable
class Answerer(Protocol):
    """Whoever answers prompts: a trained run, or a stand-in whose answers are known."""

    @property
    def patch(self) -> int:
        """Pixels on a side of what one image code stands for."""

    def lengths(self, documents: Sequence[stream.Document]) -> list[int]:
        """How many ids it takes to write each document."""

    def answer(
        self, prompts: Sequence[stream.Document], max_tokens: int, on_answers: Callable[[int], None]
    ) -> list[stream.Document]:
        """An answer to each prompt; `on_answers(n)` is called when n more are there."""

    def bits(self, texts: Sequence[str]) -> tuple[float, int]:
        """(bits of surprise, UTF-8 bytes) of the texts, each alone."""

    def reconstruct(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures [n, height, width, 3] after the image tokenizer: to codes and back."""


@dataclass(frozen=True)
class RunAnswerer:
    """A trained run. Text is greedy; pictures are drawn at `temperature`."""

    run: run_lib.Run
    temperature: float = 0.0
    seed: int = 0
    batch_rows: int = 64  # questions answered at once

    @property
    def patch(self) -> int:
        return self.run.tokenizers.image.config.patch

    def lengths(self, documents: Sequence[stream.Document]) -> list[int]:
        return [len(ids) - 1 for ids in self._render(documents, is_prompt=False)]  # BOS is the prompt's

    def answer(
        self, prompts: Sequence[stream.Document], max_tokens: int, on_answers: Callable[[int], None]
    ) -> list[stream.Document]:
        tokenizers, ids = self.run.tokenizers, self._render(prompts, is_prompt=True)
        settings = engine.Settings(
            text=sampling.GREEDY, image=sampling.Sampling(self.temperature), rules=grammar.Rules(),
            max_tokens=max_tokens, seed=self.seed, batch_rows=self.batch_rows)
        answers: dict[int, list[stream.EncodedPart]] = {}
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for first in range(0, len(order), self.batch_rows):
            chosen = order[first : first + self.batch_rows]
            # Always whole batches: one compiled program serves the last one too.
            whole = chosen + chosen[-1:] * (self.batch_rows - len(chosen))
            written = engine.generate(self.run.model, tokenizers.vocab, [ids[i] for i in whole], settings)
            for i, answer in zip(chosen, written):
                parts = stream.parse(np.concatenate([ids[i], answer.tokens]), tokenizers.vocab)
                answers[i] = _after_prompt(parts)
            on_answers(len(chosen))
        return self._decode([answers[i] for i in range(len(ids))])

    def bits(self, texts: Sequence[str]) -> tuple[float, int]:
        """Each text is read as a document of its own; its end mark is not counted."""
        tokenizers, vocab = self.run.tokenizers, self.run.tokenizers.vocab
        row_tokens = min(TEXT_ROW_TOKENS, self.run.model.config.context_tokens)
        pieces = [tokenizers.text.encode(text)[: row_tokens - 2] for text in texts]  # BOS and EOS
        num_bytes = sum(len(tokenizers.text.decode(ids).encode()) for ids in pieces)
        rows = packing.pack([stream.render([stream.Pieces(ids)], vocab) for ids in pieces], row_tokens)
        nats = 0.0
        for first in range(0, len(rows), TEXT_ROWS):
            tokens = np.zeros((TEXT_ROWS, row_tokens), np.int32)
            tokens[: len(rows) - first] = rows[first : first + TEXT_ROWS]
            batch = packing.batch_of(tokens)
            is_text = (batch.targets >= vocab.text_start) & (batch.targets < vocab.image_start)
            nats += float(_nats(self.run.model, batch, is_text * batch.has_target))
        return nats / math.log(2), num_bytes

    def reconstruct(self, pictures: np.ndarray) -> np.ndarray:
        codes = image.encode_many(self.run.tokenizers.image, pictures)
        return image.decode_many(self.run.tokenizers.image, codes)

    def _decode(self, answers: list[list[stream.EncodedPart]]) -> list[stream.Document]:
        """Documents of encoded parts, all pictures of one size drawn together."""
        by_shape: dict[tuple[int, int], list[stream.Grid]] = {}
        for part in (part for answer in answers for part in answer if isinstance(part, stream.Grid)):
            by_shape.setdefault(part.codes.shape, []).append(part)
        drawn = {}
        for grids in by_shape.values():
            pixels = image.decode_many(self.run.tokenizers.image, np.stack([grid.codes for grid in grids]))
            drawn |= {id(grid): stream.Image(picture) for grid, picture in zip(grids, pixels)}
        texts = self.run.tokenizers.text
        return [[drawn[id(part)] if isinstance(part, stream.Grid) else stream.Text(texts.decode(part.ids))
                 for part in answer if isinstance(part, stream.Grid | stream.Pieces)] for answer in answers]

    def _render(self, documents: Sequence[stream.Document], is_prompt: bool) -> list[np.ndarray]:
        tokenizers = self.run.tokenizers
        return [stream.render(parts, tokenizers.vocab, is_prompt)
                for parts in tokenizers.encode_documents(list(documents))]


@jax.jit
def _nats(model, batch: packing.Batch, weights) -> jax.Array:
    """-log p of the weighted targets, summed."""
    logits = model.logits(model(batch.tokens, batch.positions, batch.segments))
    chosen = jnp.take_along_axis(logits, batch.targets[..., None], axis=-1)[..., 0]
    return jnp.sum(weights * (jax.nn.logsumexp(logits, axis=-1) - chosen))


def _after_prompt(parts: list[stream.EncodedPart]) -> list[stream.EncodedPart]:
    """What follows the last role mark: the model may not write one."""
    last = max((i for i, part in enumerate(parts) if isinstance(part, stream.Role)), default=-1)
    return parts[last + 1 :]
