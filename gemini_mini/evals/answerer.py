"""Who answers the questions: a trained run, behind an interface that a test can fake.

The suite knows documents only. Here they become ids, the sampler answers, ids become documents:
texts and pictures, which are all it may write.
Next: suite.py.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32

from gemini_mini import files, run as run_lib, stream
from gemini_mini.data import packing
from gemini_mini.decode import engine, grammar, sampling, scoring
from gemini_mini.model import decoder
from gemini_mini.tokenizers import image

TEXT_TOKENS, TEXT_ROW_TOKENS = 4096, 512  # read at once; of a row


@runtime_checkable
class Answerer(Protocol):
    """Whoever answers prompts: a trained run, or a stand-in whose answers are known."""

    @property
    def patch(self) -> int:
        """Pixels on a side of what one image code stands for."""

    @property
    def row_tokens(self) -> int:
        """Ids of the longest document in training."""

    @property
    def context_tokens(self) -> int:
        """Ids of the longest document it can read."""

    @property
    def num_pieces(self) -> int:
        """Pieces of text it can choose from."""

    def lengths(self, documents: Sequence[stream.Document]) -> list[int]:
        """How many ids it takes to write each document."""

    def answer(
        self, prompts: Sequence[stream.Document], max_tokens: int, on_answers: Callable[[int], None], temperature: float | None = None
    ) -> list[stream.Document]:
        """An answer to each prompt, text and pictures at `temperature` where it is given; `on_answers(n)` is called when n more are there."""

    def scores(self, prompts: Sequence[stream.Document], answers: Sequence[stream.Document], is_whole: bool = False) -> list[float]:
        """Log-likelihood of each answer after its prompt, of its end too where it is the whole answer."""

    def nats(self, texts: Sequence[str], window_tokens: int) -> list[np.ndarray]:
        """Surprise of each piece of each text, in nats, up to the end of the context; reading begins anew at each window."""

    def bits(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """(bits of surprise, UTF-8 bytes) of each text, read alone; in any order."""

    def reconstruct(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures [n, height, width, 3] after the image tokenizer: to codes and back."""


@dataclass(frozen=True)
class RunAnswerer:
    """A trained run. Text is greedy unless asked otherwise; pictures are drawn at `temperature`."""

    run: run_lib.Run
    temperature: float = 0.0
    seed: int = 0
    guidance: float = 1.0  # of image codes, by a null prompt
    batch_rows: int = 64  # questions answered at once

    @property
    def patch(self) -> int:
        return self.run.tokenizers.image.config.patch

    @property
    def row_tokens(self) -> int:
        settings = self.run.settings["task"]  # a released file says it itself: its rows are elsewhere
        return settings.get("row_tokens") or files.read_json(Path(settings["rows"]) / "train" / "rows.json")["row_tokens"]

    @property
    def context_tokens(self) -> int:
        return self.run.model.config.context_tokens

    @property
    def num_pieces(self) -> int:
        return self.run.tokenizers.text.num_pieces

    def lengths(self, documents: Sequence[stream.Document]) -> list[int]:
        return [len(ids) - 1 for ids in self._render(documents, is_prompt=False)]  # BOS is the prompt's

    def answer(
        self, prompts: Sequence[stream.Document], max_tokens: int, on_answers: Callable[[int], None], temperature: float | None = None
    ) -> list[stream.Document]:
        tokenizers, ids = self.run.tokenizers, self._render(prompts, is_prompt=True)
        settings = engine.Settings(
            text=sampling.Sampling(temperature or 0.0), image=sampling.Sampling(self.temperature if temperature is None else temperature), guidance=self.guidance,
            rules=grammar.Rules(), max_tokens=max_tokens, seed=self.seed, batch_rows=self.batch_rows)
        answers: dict[int, list[stream.EncodedPart]] = {}
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))  # what is too long fails at once
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

    def scores(self, prompts: Sequence[stream.Document], answers: Sequence[stream.Document], is_whole: bool = False) -> list[float]:
        begun, said = self._render(prompts, is_prompt=True), [ids[1 : len(ids) - (not is_whole)] for ids in self._render(answers, is_prompt=False)]
        found = scoring.score(self.run.model, self.run.tokenizers.vocab, begun, said, batch_rows=self.batch_rows)
        return [answer.logprob for answer in found]

    def bits(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """Each text is read as a document of its own; its end mark is not counted."""
        tokenizers, vocab = self.run.tokenizers, self.run.tokenizers.vocab
        row_tokens = min(TEXT_ROW_TOKENS, self.run.model.config.context_tokens)
        pieces = [tokenizers.text.encode(text)[: row_tokens - 2] for text in texts]  # BOS and EOS
        rows = packing.pack([stream.render([stream.Pieces(ids)], vocab) for ids in pieces], row_tokens)
        found = []
        for ids, nats, segments in zip(rows, self._nats(rows).astype(np.float64), packing.batch_of(rows).segments, strict=True):
            for here in (segments == document for document in range(1, segments.max() + 1)):
                written = ids[here][1:-1] - vocab.text_start
                found.append((nats[here].sum() / math.log(2), len(tokenizers.text.decode(written).encode())))
        return found

    def nats(self, texts: Sequence[str], window_tokens: int) -> list[np.ndarray]:
        tokenizers, found = self.run.tokenizers, []
        for text in texts:
            pieces = tokenizers.text.encode(text)[: self.context_tokens - 1]
            cuts = [pieces[first : first + window_tokens - 1] for first in range(0, len(pieces), window_tokens - 1)]
            rows = np.zeros((len(cuts), window_tokens), np.int32)
            for row, ids in zip(rows, cuts):
                row[: len(ids) + 1] = stream.render([stream.Pieces(ids)], tokenizers.vocab, is_prompt=True)
            read = self._nats(rows)
            found.append(np.concatenate([line[: len(ids)] for line, ids in zip(read, cuts)]))
        return found

    def _nats(self, rows: Int32[np.ndarray, "R T"]) -> Float32[np.ndarray, "R T"]:
        """Surprise of each next piece of text, 0 where something else is next."""
        vocab, (count, length) = self.run.tokenizers.vocab, rows.shape
        at_once, found = max(1, TEXT_TOKENS // length), []
        for first in range(0, count, at_once):
            tokens = np.zeros((at_once, length), np.int32)
            tokens[: count - first] = rows[first : first + at_once]
            batch = packing.batch_of(tokens)
            is_text = (batch.targets >= vocab.text_start) & (batch.targets < vocab.image_start)
            found.append(np.asarray(_surprise(self.run.model, batch, vocab.text_start, vocab.image_start)) * is_text * batch.has_target)
        return np.concatenate(found)[:count].astype(np.float32)

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


@functools.partial(jax.jit, static_argnums=(2, 3))
def _surprise(model: decoder.Decoder, batch: packing.Batch, first: int, end: int) -> Float32[Array, "B T"]:
    """-log p of the targets, given that they are ids from `first` to before `end`: what else could stand there costs n-grams nothing."""
    logits = model.logits(model(batch.tokens, batch.positions, batch.segments))[..., first:end]
    chosen = jnp.take_along_axis(logits, jnp.clip(batch.targets - first, 0, end - first - 1)[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def _after_prompt(parts: list[stream.EncodedPart]) -> list[stream.EncodedPart]:
    """What follows the last role mark: the model may not write one."""
    last = max((i for i, part in enumerate(parts) if isinstance(part, stream.Role)), default=-1)
    return parts[last + 1 :]
