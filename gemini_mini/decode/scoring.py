"""How likely given answers are: multiple choice, and what a drawing would be called.

The same prompt is read once for all its answers; each answer is then read, not sampled, in chunks.
The figures are those that `engine.generate` returns for what it wrote: under the grammar, with the
user's next turn as an end.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32

from gemini_mini import errors
from gemini_mini.decode import engine, grammar, reading
from gemini_mini.model import decoder
from gemini_mini.vocab import Vocab

NO_LIMIT = 1 << 30  # a given answer needs no budget


def score(
    model: decoder.Decoder,
    vocab: Vocab,
    prompts: Sequence[Int32[np.ndarray, "_"]],
    answers: Sequence[Int32[np.ndarray, "_"]],
    rules: grammar.Rules = grammar.Rules(),
    batch_rows: int = 64,
) -> list[engine.Answer]:
    """Each answer with the log-probabilities of its tokens after its prompt.

    An answer without EOS is a beginning of one. Raises: InputError when an answer cannot follow its
    prompt under the grammar and the rules, or both do not fit in the model's context.
    """
    context = model.config.context_tokens
    for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        if not len(prompt) or not len(answer) or len(prompt) + len(answer) > context:
            raise errors.InputError(f"answer {index}: prompt and answer must have tokens, at most {context} together, "
                                    f"got {len(prompt)} and {len(answer)}; shorten them")
    automaton, memory, scored = grammar.Grammar(vocab, rules), reading.Memory(), {}
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), prompts[i].tobytes()))
    for first in range(0, len(order), batch_rows):
        indices = order[first : first + batch_rows]
        if first:  # whole batches after the first: one compiled program serves them
            indices += indices[-1:] * (batch_rows - len(indices))
        batch = [prompts[i] for i in indices]
        rows = [np.concatenate([prompts[i], answers[i]]) for i in indices]
        slots = engine.num_slots(max(map(len, rows)), context)
        cache = reading.read(model, batch, slots, memory)
        state, found = engine.place(automaton, batch), []
        for chunk in reading.chunks(rows, [len(prompt) - 1 for prompt in batch], slots):
            targets = [row[at + 1 :][: len(line)] for row, line, at in zip(rows, chunk.tokens, chunk.positions[:, 0])]
            targets = np.stack([np.pad(row, (0, chunk.tokens.shape[1] - len(row))) for row in targets])
            cache, state, logprobs = _score(
                model, chunk.tokens, chunk.positions, targets, cache, state, automaton, chunk.slots)
            found.append(np.asarray(logprobs))
        for index, row in zip(indices, np.concatenate(found, axis=1)):
            scored[index] = engine.Answer(answers[index], row[: len(answers[index])])
    for index, answer in sorted(scored.items()):
        if not np.isfinite(answer.logprobs).all():
            at = int(np.argmin(np.isfinite(answer.logprobs)))
            raise errors.InputError(f"answer {index}: token {at} ({answer.tokens[at]}) cannot follow under the grammar and "
                                    "the rules; make answers with stream.render, and allow what they hold")
    return [scored[index] for index in range(len(prompts))]


@functools.partial(jax.jit, static_argnames=("rules", "slots"), donate_argnames="cache")
def _score(
    model: decoder.Decoder, tokens: Int32[Array, "B T"], positions: Int32[Array, "B T"], targets: Int32[Array, "B T"],
    cache: reading.Cache, state: grammar.GrammarState, rules: grammar.Grammar, slots: int,
) -> tuple[reading.Cache, grammar.GrammarState, Float32[Array, "B T"]]:
    """Log-probabilities of the targets of one chunk; one position's logits are held at a time."""
    hidden, part = model.step(tokens, positions, reading.view(cache, slots))

    def column(state: grammar.GrammarState, at: tuple[Array, Array]) -> tuple[grammar.GrammarState, Array]:
        hidden, target = at
        allowed = rules.allowed(state, jnp.full_like(state.mode, NO_LIMIT))
        logits = jnp.where(allowed, engine.with_one_end(model.logits(hidden)), -jnp.inf)
        logprobs = jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=1)[:, 0]
        return rules.advance(state, target), logprobs

    state, logprobs = jax.lax.scan(column, state, (hidden.swapaxes(0, 1), targets.T))
    return reading.write_back(cache, part), state, logprobs.T
