"""Answers from a model: one reading of the prompt, one compiled loop, one cache through all modalities.

Every row of the batch carries its own state: its place in the grammar, its position, its budget
and its key. One turn of the loop, for all rows at once, whatever each is in the middle of:

    last token -> model, cache -> logits -> grammar's mask -> sample -> advance

Where every row's next token is forced (the end of a line, a size that is given) the logits are
not even computed. A row's answer depends on its prompt, the seed and its index alone, not on the
rows beside it. With a callback the same loop runs in short blocks, and text streams to the reader.

With guidance each row has a twin in the same cache, which has read the same prompt with the user's
words hidden; image codes are drawn from cond + (scale - 1) (cond - null), so that what the words
change counts more. Paper: classifier-free guidance, Ho and Salimans 2022, arXiv 2207.12598.
Next: scoring.py, ../api.py, where a person calls this.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, Key, UInt32

from gemini_mini import errors, stream, vocab as vocabulary
from gemini_mini.data import packing
from gemini_mini.decode import grammar, reading, sampling
from gemini_mini.model import decoder
from gemini_mini.vocab import Vocab

STREAM_TOKENS = 8  # between two calls of the callback
CACHE_MULTIPLE = 64
CONVERSATION_SLOTS = 1024  # room of a conversation's cache, so that every turn runs the same program


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to answer."""

    text: sampling.Sampling = sampling.Sampling()  # also borders and sizes of parts
    image: sampling.Sampling = sampling.Sampling()  # image codes
    audio: sampling.Sampling = sampling.Sampling()  # audio codes, and where they end
    guidance: float = 1.0  # of image codes; 1 is none, and costs nothing
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
        if not 0 <= self.guidance < float("inf"):
            raise errors.InputError(f"sampling: guidance must be 0 or more, got {self.guidance}; 1 is none")


class Answer(NamedTuple):
    """What follows the prompt, up to and with EOS.

    `logprobs` are the model's own, under the grammar but before penalty, guidance, temperature and
    cuts; 0 where the grammar left no choice.
    """

    tokens: Int32[np.ndarray, "T"]
    logprobs: Float32[np.ndarray, "T"]

    @property
    def logprob(self) -> float:
        """The log-likelihood of the whole answer."""
        return float(self.logprobs.sum(dtype=np.float64))


class State(NamedTuple):
    """The loop's whole state; every answer starts in column 0. A guided cache holds the twins below the rows."""

    cache: reading.Cache
    grammar: grammar.GrammarState
    token: Int32[Array, "B"]  # the last one, not yet in the cache
    position: Int32[Array, "B"]  # of that token
    budget: Int32[Array, "B"]  # tokens that may still be written
    index: UInt32[Array, "B"]  # of the prompt: each has random keys of its own, the same in any batch
    is_used: Bool[Array, "B V"]  # ids of text, pictures and sounds that the answer holds
    tokens: Int32[Array, "B T"]  # the answers, PAD after EOS
    logprobs: Float32[Array, "B T"]
    num_tokens: Int32[Array, ""]  # columns written

    @property
    def is_done(self) -> Bool[Array, "B"]:
        return self.grammar.mode == stream.DONE


class How(NamedTuple):
    """The numbers of `Settings` as arrays: other numbers run the same program."""

    controls: sampling.Controls  # of text, image codes and audio codes
    guidance: Float32[Array, ""]
    seed: UInt32[Array, ""]


def generate(
    model: decoder.Decoder,
    vocab: Vocab,
    prompts: Sequence[Int32[np.ndarray, "_"]],
    settings: Settings = Settings(),
    on_tokens: Callable[[int, Int32[np.ndarray, "_"]], object] | None = None,
    memory: reading.Memory | None = None,
    on_answer: Callable[[int, Answer], object] | None = None,
) -> list[Answer]:
    """Answer every prompt; `on_tokens(index of the prompt, new tokens)` is called every few tokens.

    When it returns True all stops there, and answers hold the whole parts written so far.
    `on_answer(index, answer)` is called as soon as an answer ends by itself. What a `memory` holds
    is not read again, and it is given what is read and written here. Prompts of like length are
    decoded together, and a prompt that is given several times is read once. Where the weights are
    on a mesh, rows are dealt over it.

    Raises: InputError when a prompt breaks the grammar or leaves no room for an answer.
    """
    rules = grammar.Grammar(vocab, settings.rules)
    # The longest first: what is too long or too large fails at once, not at the end.
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), prompts[i].tobytes()))
    answers = [Answer(np.array([vocabulary.EOS], np.int32), np.zeros(1, np.float32))] * len(prompts)
    known, is_stopped = memory or reading.Memory(), False
    for first in range(0, len(prompts), settings.batch_rows):
        indices, later = order[first : first + settings.batch_rows], order[first + settings.batch_rows :]
        is_again = later and np.array_equal(prompts[later[0]], prompts[indices[-1]])
        if first:  # the last batch is filled up, so that one compiled program serves them all
            indices += indices[-1:] * (settings.batch_rows - len(indices))
        indices += indices[-1:] * (-len(indices) % reading.num_parts(model))
        batch = [prompts[i] for i in indices]
        state = _begin(model, rules, batch, indices, settings, known, memory is not None)
        state, is_stopped = _finish(model, rules, state, indices, settings, on_tokens, on_answer)
        tokens, logprobs = np.asarray(state.tokens)[:, : int(state.num_tokens)], np.asarray(state.logprobs)
        for row, index in enumerate(indices):
            answers[index] = _cut(prompts[index], tokens[row], logprobs[row])
            if memory is not None or is_again and row == len(indices) - 1:
                num_read = int(state.position[row])  # where it was stopped, its last token is not in the cache yet
                for twin, prompt in enumerate(_with_null(batch[row], settings)):
                    written = np.concatenate([prompt, answers[index].tokens[:-1]])[:num_read]
                    known.keep(written, state.cache, row + twin * len(batch))
        if is_stopped:
            break
    return answers


def null_prompt(prompt: Int32[np.ndarray, "T"]) -> Int32[np.ndarray, "T"]:
    """The same prompt with the user's words and pictures hidden, as in training with `hide_prompts`."""
    speaker = packing.batch_of(prompt[None]).speaker[0]
    return np.where(packing.is_said_by_user(prompt, speaker), vocabulary.PAD, prompt).astype(np.int32)


def with_one_end(logits: Float32[Array, "B V"]) -> Float32[Array, "B V"]:
    """An answer ends where the document does or where the user speaks next: EOS gets the odds of both."""
    either = jnp.logaddexp(logits[:, vocabulary.EOS], logits[:, vocabulary.USER])
    return logits.at[:, vocabulary.EOS].set(either)


def _with_null(prompt: Int32[np.ndarray, "T"], settings: Settings) -> list[Int32[np.ndarray, "T"]]:
    """The prompt and, with guidance, its twin."""
    return [prompt] if settings.guidance == 1 else [prompt, null_prompt(prompt)]


def _begin(model, rules, prompts, indices, settings, memory, is_conversation) -> State:
    """Check one batch of prompts, place every row and read them."""
    lengths, context = np.array([len(prompt) for prompt in prompts], np.int32), model.config.context_tokens
    budgets = np.minimum(settings.max_tokens, context - lengths).astype(np.int32)
    columns = min(settings.max_tokens, context)  # not by the prompts: one program for all lengths
    places = place(rules, prompts)
    for index, length, budget, mode, need in zip(indices, lengths, budgets, places.mode, rules.need(places)):
        if length == 0 or mode in (grammar.REJECTED, stream.DONE):
            raise errors.InputError(f"prompt {index}: must be the beginning of a document, BOS first and no EOS; "
                                    "make it with stream.render(parts, vocab, is_prompt=True)")
        if need > budget:
            raise errors.InputError(
                f"prompt {index}: the answer needs at least {need} tokens, but the prompt has {length} of the "
                f"model's {context} and max_tokens is {settings.max_tokens}; shorten the prompt or raise max_tokens")
    slots = num_slots(min(reading.padded(int(lengths.max())) + columns, context), context, is_conversation)
    twins = [_with_null(prompt, settings) for prompt in prompts]
    cache = reading.read(model, [prompt for half in zip(*twins) for prompt in half], slots, memory)
    shape = (len(prompts), columns)
    return reading.deal(State(
        cache, places, np.array([prompt[-1] for prompt in prompts]), lengths - 1, budgets, np.array(indices, np.uint32),
        np.zeros((len(prompts), rules.vocab.size), bool), np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.int32(0)), model)


def num_slots(needed: int, context: int, is_conversation: bool = False) -> int:
    """Room for `needed` positions, of few different sizes: at most four between a power of two and the next."""
    if is_conversation:
        needed = min(context, max(CONVERSATION_SLOTS, reading.power(needed)))
    step = max(CACHE_MULTIPLE, 1 << max(0, needed.bit_length() - 3))
    return -(-needed // step) * step


def _finish(model, rules, state, indices, settings, on_tokens, on_answer) -> tuple[State, bool]:
    """Run the loop until every row is done, in one piece or in short ones to stream; whether it was stopped."""
    how = How(sampling.controls([settings.text, settings.image, settings.audio]), np.float32(settings.guidance), np.uint32(settings.seed))
    if on_tokens is None and on_answer is None:
        return _decode(model, state, np.int32(settings.max_tokens), rules, how), False
    while not np.all(np.asarray(state.grammar.mode) == stream.DONE):
        start = int(state.num_tokens)
        limit = np.int32(start + STREAM_TOKENS if start else 1)  # the first one at once
        state = _decode(model, state, limit, rules, how)
        tokens, logprobs = np.asarray(state.tokens)[:, : int(state.num_tokens)], np.asarray(state.logprobs)
        for row, index in enumerate(indices):
            new = tokens[row, start:][tokens[row, start:] != vocabulary.PAD]
            if not new.size or index in indices[:row]:
                continue
            if on_answer and new[-1] == vocabulary.EOS:
                on_answer(index, _cut(new[:0], tokens[row], logprobs[row]))
            if on_tokens and on_tokens(index, new) is True:
                return state, True
    return state, False


def _cut(prompt: Int32[np.ndarray, "_"], tokens: Int32[np.ndarray, "T"], logprobs: Float32[np.ndarray, "_"]) -> Answer:
    """What a row wrote up to its EOS, or when it was stopped before: its whole parts, and an EOS."""
    if (ends := np.flatnonzero(tokens == vocabulary.EOS)).size:
        return Answer(tokens[: ends[0] + 1], logprobs[: ends[0] + 1])
    ids = np.concatenate([prompt, tokens])
    opens, closes = ((vocabulary.BOI, vocabulary.BOA, vocabulary.BOV), (vocabulary.EOI, vocabulary.EOA, vocabulary.EOV))
    is_whole = np.cumsum(np.isin(ids, opens).astype(int) - np.isin(ids, closes)) == 0
    length = max(0, int(np.flatnonzero(is_whole)[-1]) + 1 - len(prompt))
    return Answer(np.append(tokens[:length], vocabulary.EOS).astype(np.int32),
                  np.append(logprobs[:length], 0).astype(np.float32))


def place(rules: grammar.Grammar, prompts: Sequence[Int32[np.ndarray, "_"]]) -> grammar.GrammarState:
    """Where the grammar stands at the end of each prompt, as NumPy arrays.

    A piece of text after another changes nothing, so of a run of them only the first is read.
    """
    pieces = [stream.class_of(rules.vocab)[prompt] == stream.TokenClass.PIECE for prompt in prompts]
    read = [prompt[~(is_piece & np.append(False, is_piece)[:-1])] for prompt, is_piece in zip(prompts, pieces)]
    lengths, state = np.array([len(prompt) for prompt in read]), grammar.start(len(read))
    columns = np.stack([np.pad(prompt, (0, lengths.max() - len(prompt))) for prompt in read], axis=1)
    for position, tokens in enumerate(columns):
        state = jax.tree.map(lambda new, old: np.where(position < lengths, new, old), rules.advance(state, tokens), state)
    return state


@functools.partial(jax.jit, static_argnames="rules", donate_argnames="state")
def _decode(model: decoder.Decoder, state: State, limit: Int32[Array, ""], rules: grammar.Grammar, how: How) -> State:
    """Turn until `limit` columns are written or every row is done."""
    batch = state.token.shape[0]
    halves = state.cache.ids.shape[0] // batch  # two with guidance
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(how.seed), state.index)
    is_content = rules.vocab.modality_of(np.arange(rules.vocab.size)) > vocabulary.CONTROL

    def turn(state: State) -> State:
        feed = lambda x: jnp.tile(x, halves)[:, None]
        hidden, cache = model.step(feed(state.token), feed(state.position), state.cache)
        is_open = rules.open_groups(state.grammar, state.budget)
        forced = rules.forced(is_open)
        choose = lambda: _choose(model, hidden[:, 0], rules.spread(is_open), state, row_keys, how)
        skip = lambda: (forced, jnp.zeros(batch))
        token, logprob = jax.lax.cond(jnp.all(forced >= 0), skip, choose)
        is_alive = ~state.is_done
        is_new = jnp.asarray(is_content) & (jnp.arange(rules.vocab.size) == token[:, None])
        return State(
            cache, rules.advance(state.grammar, token), token, state.position + is_alive, state.budget - is_alive,
            state.index, state.is_used | is_new, state.tokens.at[:, state.num_tokens].set(token),
            state.logprobs.at[:, state.num_tokens].set(logprob), state.num_tokens + 1)

    return jax.lax.while_loop(lambda state: (state.num_tokens < limit) & ~jnp.all(state.is_done), turn, state)


def _choose(
    model: decoder.Decoder, hidden: Float[Array, "_ D"], allowed: Bool[Array, "B V"], state: State,
    row_keys: Key[Array, "B"], how: How,
) -> tuple[Int32[Array, "B"], Float32[Array, "B"]]:
    """The next token of each row, and its log-probability."""
    logits, *null = jnp.split(model.logits(hidden), hidden.shape[0] // allowed.shape[0])
    mode = state.grammar.mode
    is_code, is_sound = mode == stream.CODE, (mode == stream.SOUND) | (mode == stream.SOUND_START)
    controls = how.controls.of(jnp.select([is_code, is_sound], [1, 2], 0))
    wanted = with_one_end(logits)
    logprobs = jax.nn.log_softmax(jnp.where(allowed, wanted, -jnp.inf))
    if null:
        wanted = jnp.where(is_code[:, None], guide(logits, null[0], how.guidance), wanted)
    wanted = jnp.where(allowed, sampling.penalise(wanted, state.is_used, controls), -jnp.inf)
    keys = jax.vmap(jax.random.fold_in)(row_keys, state.position)
    token = sampling.sample(wanted, keys, controls)
    return token, jnp.take_along_axis(logprobs, token[:, None], axis=1)[:, 0]


def guide(
    logits: Float32[Array, "B V"], null: Float32[Array, "B V"], scale: Float32[Array, ""]
) -> Float32[Array, "B V"]:
    """Classifier-free guidance; exactly `logits` at a scale of 1."""
    return logits + (scale - 1) * (logits - null)
