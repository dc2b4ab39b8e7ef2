"""Answers from a model: one prefill, one compiled loop, one cache through all modalities.

Every row of the batch carries its own state: its place in the grammar, its position, its budget
and its key. One turn of the loop, for all rows at once, whatever each is in the middle of:

    last token -> model, cache -> logits -> grammar's mask -> sample -> advance

Prompts are padded on the right. A padded slot of the cache is never seen: a query looks at slots
up to its own position, and the row overwrites each slot as it gets there. The first turn feeds
the last token of the prompt again, so that prefill needs no sampling of its own.

A row's answer depends on its prompt, the seed and its index alone, not on the rows beside it.
With a callback the same loop runs in short blocks, and text streams to the reader.
Next: sample.py, where a person calls this.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, Key

from gemini_mini import errors, stream, vocab as vocabulary
from gemini_mini.decode import grammar, sampling
from gemini_mini.model import attention, decoder
from gemini_mini.vocab import Vocab

STREAM_TOKENS = 8  # between two calls of the callback
PROMPT_TOKENS = 32  # prompts are padded to 32, 64, 128, ... tokens: few shapes, few compilations
CACHE_MULTIPLE = 64


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to answer."""

    text: sampling.Sampling = sampling.Sampling()  # also borders and sizes of parts
    image: sampling.Sampling = sampling.Sampling()  # image codes
    rules: grammar.Rules = grammar.Rules()
    max_tokens: int = 512  # per answer, EOS included
    seed: int = 0
    batch_rows: int = 64  # decoded at once; does not change the answers

    def __post_init__(self):
        if self.max_tokens < 1 or self.batch_rows < 1:
            raise errors.InputError("sampling: max_tokens and batch_rows must be at least 1, "
                                    f"got {self.max_tokens} and {self.batch_rows}")
        if not 0 <= self.seed < 2**32:
            raise errors.InputError(f"sampling: seed must be from 0 to 2^32 - 1, got {self.seed}")


class Answer(NamedTuple):
    """What follows the prompt, up to and with EOS.

    `logprobs` are the model's own, under the grammar but before temperature and cuts; 0 where
    the grammar left no choice.
    """

    tokens: Int32[np.ndarray, "T"]
    logprobs: Float32[np.ndarray, "T"]


class State(NamedTuple):
    """The loop's whole state; every answer starts in column 0."""

    cache: tuple[attention.LayerCache, ...]
    grammar: grammar.GrammarState
    token: Int32[Array, "B"]  # the last one, not yet in the cache
    position: Int32[Array, "B"]  # of that token
    budget: Int32[Array, "B"]  # tokens that may still be written
    keys: Key[Array, "B"]
    tokens: Int32[Array, "B T"]  # the answers, PAD after EOS
    logprobs: Float32[Array, "B T"]
    num_tokens: Int32[Array, ""]  # columns written

    @property
    def is_done(self) -> Bool[Array, "B"]:
        return self.grammar.mode == stream.DONE


def generate(
    model: decoder.Decoder,
    vocab: Vocab,
    prompts: Sequence[Int32[np.ndarray, "_"]],
    settings: Settings = Settings(),
    on_tokens: Callable[[int, Int32[np.ndarray, "_"]], None] | None = None,
) -> list[Answer]:
    """Answer every prompt; `on_tokens(index of the prompt, new tokens)` is called every few tokens.

    Prompts of like length are decoded together. Raises: InputError when a prompt breaks the
    grammar or leaves no room for an answer.
    """
    rules = grammar.Grammar(vocab, settings.rules)
    # The longest first: what is too long or too large fails at once, not at the end.
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    answers: dict[int, Answer] = {}
    for first in range(0, len(prompts), settings.batch_rows):
        indices = by_length[first : first + settings.batch_rows]
        if first:  # the last batch is filled up, so that one compiled program serves them all
            indices += indices[-1:] * (settings.batch_rows - len(indices))
        state = _begin(model, rules, [prompts[i] for i in indices], indices, settings)
        state = _finish(model, rules, state, indices, settings, on_tokens)
        for index, tokens, logprobs in zip(indices, np.asarray(state.tokens), np.asarray(state.logprobs)):
            length = int(np.argmax(tokens == vocabulary.EOS)) + 1
            answers[index] = Answer(tokens[:length], logprobs[:length])
    return [answers[index] for index in range(len(prompts))]


def _begin(model, rules, prompts, indices, settings) -> State:
    """Check one batch of prompts, read them into a fresh cache and place every row."""
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    context = model.config.context_tokens
    padded = PROMPT_TOKENS
    while padded < lengths.max():
        padded *= 2
    tokens = np.zeros((len(prompts), padded), np.int32)
    for row, prompt in zip(tokens, prompts):
        row[: len(prompt)] = prompt
    budgets = np.minimum(settings.max_tokens, context - lengths).astype(np.int32)
    places = _place(rules, tokens, lengths)
    modes, needs = np.asarray(places.mode), np.asarray(rules.need(places))
    for index, length, budget, mode, need in zip(indices, lengths, budgets, modes, needs):
        if length == 0 or mode in (grammar.REJECTED, stream.DONE):
            raise errors.InputError(f"prompt {index}: must be the beginning of a document, BOS first and no EOS; "
                                    "make it with stream.render(parts, vocab, is_prompt=True)")
        if need > budget:
            raise errors.InputError(
                f"prompt {index}: the answer needs at least {need} tokens, but the prompt has {length} of the "
                f"model's {context} and max_tokens is {settings.max_tokens}; shorten the prompt or raise max_tokens")
    columns = int(budgets.max())
    slots = max(padded, min(padded + columns, context))
    cache = _prefill(model, tokens, -(-slots // CACHE_MULTIPLE) * CACHE_MULTIPLE)
    batch = len(prompts)
    return State(
        cache, places, jnp.asarray(tokens[np.arange(batch), lengths - 1]), jnp.asarray(lengths - 1),
        jnp.asarray(budgets), _keys(jax.random.key(settings.seed), jnp.asarray(indices)),
        jnp.zeros((batch, columns), jnp.int32), jnp.zeros((batch, columns)), jnp.int32(0))


def _finish(model, rules, state, indices, settings, on_tokens) -> State:
    """Run the loop until every row is done: in one piece, or in short ones to stream."""
    if on_tokens is None:
        return _decode(model, state, np.int32(settings.max_tokens), rules, settings.text, settings.image)
    while not np.all(state.is_done):
        start = int(state.num_tokens)
        limit = np.int32(start + STREAM_TOKENS if start else 1)  # the first one at once
        state = _decode(model, state, limit, rules, settings.text, settings.image)
        rows = np.asarray(state.tokens)[:, start : int(state.num_tokens)]
        for index, row in dict(zip(indices, rows)).items():
            if (new := row[row != vocabulary.PAD]).size:
                on_tokens(index, new)
    return state


@functools.partial(jax.jit, static_argnames="rules")
def _place(rules: grammar.Grammar, tokens: Int32[Array, "B T"], lengths: Int32[Array, "B"]) -> grammar.GrammarState:
    """Where the grammar stands at the end of each prompt."""

    def read(state: grammar.GrammarState, column: tuple[Array, Array]) -> tuple[grammar.GrammarState, None]:
        tokens, position = column
        after = rules.advance(state, tokens)
        return jax.tree.map(lambda new, old: jnp.where(position < lengths, new, old), after, state), None

    columns = (tokens.T, jnp.arange(tokens.shape[1]))
    return jax.lax.scan(read, grammar.start(tokens.shape[0]), columns)[0]


@functools.partial(jax.jit, static_argnames="slots")
def _prefill(model: decoder.Decoder, tokens: Int32[Array, "B T"], slots: int) -> tuple[attention.LayerCache, ...]:
    """A cache of `slots` positions that has read the prompts. Attends within them, then grows."""
    batch, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
    _, cache = model.step(tokens, positions, model.init_cache(batch, length))
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, slots - length), (0, 0), (0, 0))), cache)


@jax.jit
def _keys(key: Key[Array, ""], indices: Int32[Array, "B"]) -> Key[Array, "B"]:
    """One key per prompt, the same in any batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def _with_one_end(logits: Float32[Array, "B V"]) -> Float32[Array, "B V"]:
    """An answer ends where the document does or where the user speaks next: EOS gets the odds of both."""
    either = jnp.logaddexp(logits[:, vocabulary.EOS], logits[:, vocabulary.USER])
    return logits.at[:, vocabulary.EOS].set(either)


@functools.partial(jax.jit, static_argnames=("rules", "text", "image"), donate_argnames="state")
def _decode(
    model: decoder.Decoder, state: State, limit: Int32[Array, ""], rules: grammar.Grammar,
    text: sampling.Sampling, image: sampling.Sampling,
) -> State:
    """Turn until `limit` columns are written or every row is done."""

    def turn(state: State) -> State:
        hidden, cache = model.step(state.token[:, None], state.position[:, None], state.cache)
        allowed = rules.allowed(state.grammar, state.budget)
        logits = jnp.where(allowed, _with_one_end(model.logits(hidden)[:, 0]), -jnp.inf)
        keys = jax.vmap(jax.random.fold_in)(state.keys, state.position)
        token = sampling.sample(logits, keys, text)
        if image != text:
            in_image = state.grammar.mode == stream.CODE
            token = jnp.where(in_image, sampling.sample(logits, keys, image), token)
        logprob = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=1)
        is_open = ~state.is_done
        return State(
            cache, rules.advance(state.grammar, token), token, state.position + is_open, state.budget - is_open,
            state.keys, state.tokens.at[:, state.num_tokens].set(token),
            state.logprobs.at[:, state.num_tokens].set(logprob[:, 0]), state.num_tokens + 1)

    return jax.lax.while_loop(lambda state: (state.num_tokens < limit) & ~jnp.all(state.is_done), turn, state)
