"""Laws of the sampler: whatever it writes parses, fits its budget and does not depend on the batch."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gemini_mini import errors, stream, vocab as vocabulary
from gemini_mini.decode import engine, grammar, sampling
from gemini_mini.model import decoder
from gemini_mini.stream import TokenClass
from gemini_mini.vocab import BOA, BOI, BOS, BOV, EOS, MODEL, USER

VOCAB = vocabulary.Vocab(20, 8, 4, "test")
PIECE, IMAGE_CODE, AUDIO_CODE = VOCAB.text_start, VOCAB.image_start, VOCAB.audio_start
SIZE = vocabulary.size_id
OPEN_RULES = grammar.Rules(has_audio=True, has_video=True)
PROMPTS = (
    (BOS, USER, PIECE, MODEL),
    (BOS, MODEL),
    (BOS, BOI),
    (BOS, BOI, SIZE(3)),
    (BOS, BOI, SIZE(3), SIZE(2), IMAGE_CODE),
    (BOS, BOV),
    (BOS, USER, BOV, PIECE, PIECE),
    (BOS, BOV, PIECE, BOI, SIZE(2), SIZE(2), IMAGE_CODE, IMAGE_CODE),
    (BOS, PIECE, BOA),
    (BOS, BOA, AUDIO_CODE),
)


# --- the grammar, against a second automaton written with plain tuples -----------------------


class Spot(collections.namedtuple("Spot", "mode height width row column video")):
    """One row's state, as the test sees it."""

    def after(self, token: int, kind: int) -> "Spot | None":
        to = stream.NEXT[self.mode, kind] if kind >= 0 else -1
        if to < 0:
            return None
        spot = self._replace(mode=int(to))
        if kind == TokenClass.BOV:
            return spot._replace(video=1)
        if kind == TokenClass.EOV:
            return spot._replace(video=0)
        if self.mode == stream.HEIGHT:
            return spot._replace(height=token - vocabulary.SIZE_1 + 1)
        if self.mode == stream.WIDTH:
            return spot._replace(width=token - vocabulary.SIZE_1 + 1, row=0, column=0)
        if self.mode == stream.CODE:
            spot = spot._replace(column=self.column + 1)
            return spot._replace(mode=stream.LINE_END) if spot.column == self.width else spot
        if self.mode == stream.LINE_END:
            spot = spot._replace(row=self.row + 1, column=0)
            return spot._replace(mode=stream.IMAGE_END) if spot.row == self.height else spot
        if self.mode == stream.IMAGE_END:
            return spot._replace(mode=stream.FRAME if self.video else stream.BODY, height=0, width=0, row=0, column=0)
        return spot


def successors(spot: Spot, rules: grammar.Rules) -> dict[int, Spot]:
    """The next spot for every id that the table and the rules let through, budget aside."""
    closed = {TokenClass.ROLE}
    for kind, is_open in ((TokenClass.PIECE, rules.has_text), (TokenClass.BOI, rules.has_images),
                          (TokenClass.BOA, rules.has_audio), (TokenClass.BOV, rules.has_video)):
        closed |= set() if is_open else {kind}
    sizes = {stream.HEIGHT: rules.heights, stream.WIDTH: rules.widths}.get(spot.mode)
    found = {}
    for token, kind in enumerate(stream.class_of(VOCAB).tolist()):
        after = spot.after(token, kind)
        if after is None or spot.mode == stream.BODY and kind in closed:
            continue
        if sizes is None or token - vocabulary.SIZE_1 + 1 in sizes:
            found[token] = after
    return found


def explore(rules: grammar.Rules) -> tuple[dict[Spot, dict[int, Spot]], dict[Spot, int]]:
    """All reachable spots with their successors, and the fewest tokens from each to DONE."""
    first = [Spot(stream.START, 0, 0, 0, 0, 0)]
    for prompt in PROMPTS:
        first.append(functools.reduce(lambda spot, t: spot.after(t, int(stream.class_of(VOCAB)[t])), prompt, first[0]))
    graph, todo = {}, first
    while todo:
        spot = todo.pop()
        if spot not in graph:
            graph[spot] = successors(spot, rules)
            todo.extend(graph[spot].values())
    before = collections.defaultdict(set)
    for spot, nexts in graph.items():
        for after in nexts.values():
            before[after].add(spot)
    done = [spot for spot in graph if spot.mode == stream.DONE]
    distance, todo = dict.fromkeys(done, 0), collections.deque(done)
    while todo:
        spot = todo.popleft()
        for previous in before[spot] - distance.keys():
            distance[previous] = distance[spot] + 1
            todo.append(previous)
    return graph, distance


@pytest.mark.parametrize("rules", [
    grammar.Rules(heights=(2, 3), widths=(1, 3), has_audio=True, has_video=True),
    grammar.Rules(heights=(2,), widths=(3,)),
    grammar.Rules(heights=(1, 4), widths=(2,), has_text=False),
    grammar.Rules(heights=(3,), widths=(3,), has_images=False),
])
def test_allowed_is_exactly_what_can_be_completed(rules):
    graph, distance = explore(rules)
    spots = list(graph)
    assert all(spot in distance for spot in spots) and len(spots) > 20
    automaton = grammar.Grammar(VOCAB, rules)
    state = grammar.GrammarState(*jnp.asarray(spots, jnp.int32).T)
    np.testing.assert_array_equal(automaton.need(state), [distance[spot] for spot in spots])
    allowed = jax.jit(automaton.allowed)
    for budget in range(0, max(distance.values()) + 4):
        expected = np.zeros((len(spots), VOCAB.size), bool)
        for row, spot in enumerate(spots):
            for token, after in graph[spot].items():
                expected[row, token] = 1 + distance[after] <= budget or spot.mode == stream.DONE
        np.testing.assert_array_equal(allowed(state, jnp.full(len(spots), budget, jnp.int32)), expected)


def test_advance_follows_every_edge_and_rejects_the_rest():
    graph, _ = explore(grammar.Rules(heights=(2, 3), widths=(1, 3), has_audio=True, has_video=True))
    spots = list(graph)
    state = grammar.GrammarState(*jnp.asarray(spots, jnp.int32).T)
    advance = jax.jit(grammar.Grammar(VOCAB).advance)
    fields = {stream.CODE: 6, stream.LINE_END: 6, stream.IMAGE_END: 3, stream.WIDTH: 2}
    for token, kind in enumerate(stream.class_of(VOCAB).tolist()):
        after = np.stack(advance(state, jnp.full(len(spots), token, jnp.int32)), 1)
        for spot, got in zip(spots, after.tolist()):
            expected = spot.after(token, kind)
            if expected is None:
                assert got[0] == grammar.REJECTED
                continue
            assert (got[0], got[5]) == (expected.mode, expected.video)
            count = fields.get(expected.mode, 1)  # counters mean something only inside an image
            assert got[:count] == list(expected)[:count]


def random_decodes(rules, prompts, budgets, seed):
    """Ids of documents whose answers are drawn from random logits under the grammar."""
    automaton = grammar.Grammar(VOCAB, rules)
    longest = int(budgets.max())
    width = max(map(len, prompts))
    padded = np.array([prompt + (0,) * (width - len(prompt)) for prompt in prompts], np.int32)
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    state = engine._place(automaton, jnp.asarray(padded), jnp.asarray(lengths))
    budgets = np.maximum(budgets, automaton.need(state)).astype(np.int32)
    longest = int(budgets.max())

    @jax.jit
    def decode(state, budget, key):
        def turn(carry, key):
            state, budget = carry
            # Logits of a different spread for each id, so that long pictures and texts both occur.
            logits = 4 * jax.random.normal(key, (len(prompts), VOCAB.size))
            tokens = jnp.argmax(jnp.where(automaton.allowed(state, budget), logits, -jnp.inf), -1).astype(jnp.int32)
            return (automaton.advance(state, tokens), budget - 1), tokens
        return jax.lax.scan(turn, (state, budget), jax.random.split(key, longest))[1].T

    answers = np.asarray(decode(state, jnp.asarray(budgets), jax.random.key(seed)))
    for prompt, answer, budget in zip(prompts, answers, budgets):
        assert answer[budget:].sum() == 0, "wrote past its budget"
        length = int(np.argmax(answer == EOS)) + 1
        yield np.array(prompt + tuple(answer[:length]), np.int32)


def check_random_decodes(count, seed):
    rng = np.random.default_rng(seed)
    prompts = [PROMPTS[i] for i in rng.integers(len(PROMPTS), size=count)]
    kinds = collections.Counter()
    small = grammar.Rules(heights=(1, 2, 3), widths=(1, 2, 4), has_audio=True, has_video=True)
    for rules in (OPEN_RULES, small, grammar.Rules(has_text=False)):
        for ids in random_decodes(rules, prompts, rng.integers(1, 60, size=count), seed):
            for part in stream.parse(ids, VOCAB):
                kinds[type(part).__name__] += 1
    assert all(kinds[name] > count // 50 for name in ("Pieces", "Grid", "Sound", "Clip")), kinds


def test_decodes_of_random_logits_parse():
    check_random_decodes(100, seed=0)


@pytest.mark.slow
def test_ten_thousand_decodes_of_random_logits_parse():
    for seed in range(4):
        check_random_decodes(850, seed)  # under three rules each: 10,200 in all


def test_rules_refuse_impossible_sizes():
    with pytest.raises(errors.InputError, match="heights must be sizes from 1 to 32"):
        grammar.Rules(heights=(33,))
    with pytest.raises(errors.InputError, match="widths"):
        grammar.Rules(widths=())


# --- sampling, against numpy --------------------------------------------------------------


def numpy_kept(logits, temperature, top_k, top_p):
    """The surviving distribution by sorting, one row at a time."""
    rows = []
    for row in logits.astype(np.float64):
        weights = np.exp((row - row.max()) / temperature)
        order = np.argsort(-weights, kind="stable")
        if top_k:
            weights[order[top_k:]] = 0
        weights /= weights.sum()
        before = np.cumsum(weights[order]) - weights[order]
        if top_p < 1:  # at 1, rounding would cut the tail
            weights[order[before >= top_p]] = 0
        rows.append(weights / weights.sum())
    return np.array(rows)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 7, 500])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.31, 1e-6])
def test_cuts_equal_sorting(temperature, top_k, top_p):
    rng = np.random.default_rng(1)
    logits = 3 * rng.normal(size=(16, 200)).astype(np.float32)
    logits[:, 3:60] = -np.inf
    got = np.asarray(sampling.kept(jnp.asarray(logits), sampling.Sampling(temperature, top_k, top_p)))
    got = got / got.sum(-1, keepdims=True)
    expected = numpy_kept(logits, temperature, top_k, top_p)
    np.testing.assert_array_equal(got > 0, expected > 0)
    np.testing.assert_allclose(got, expected, atol=1e-5)  # float32 sums against float64


def test_ties_at_the_cut_are_kept():
    logits = jnp.log(jnp.array([[0.4, 0.2, 0.2, 0.2]]))
    assert (sampling.kept(logits, sampling.Sampling(top_k=2))[0] > 0).all()
    assert (sampling.kept(logits, sampling.Sampling(top_p=0.5))[0] > 0).all()
    assert (sampling.kept(logits, sampling.Sampling(top_p=0.3))[0] > 0).tolist() == [True, False, False, False]


def test_frequencies_follow_the_distribution():
    logits = np.array([0.0, 1.0, -np.inf, 2.0, -1.0, -np.inf], np.float32)
    draws = 40_000
    keys = jax.vmap(jax.random.key)(jnp.arange(draws))
    for how in (sampling.Sampling(), sampling.Sampling(0.7, top_k=3), sampling.Sampling(1.5, top_p=0.8)):
        tokens = sampling.sample(jnp.tile(logits, (draws, 1)), keys, how)
        frequencies = np.bincount(tokens, minlength=6) / draws
        expected = numpy_kept(logits[None], how.temperature, how.top_k, how.top_p)[0]
        np.testing.assert_array_equal(frequencies > 0, expected > 0)
        np.testing.assert_allclose(frequencies, expected, atol=5 * (0.25 / draws) ** 0.5)  # five sigma


def test_extreme_settings_stay_finite():
    logits = jnp.array([[50.0, 49.0, -jnp.inf]])
    key = jax.random.key(0)[None]
    for how in (sampling.GREEDY, sampling.Sampling(2e-38), sampling.Sampling(top_p=1e-9), sampling.Sampling(top_k=1)):
        assert sampling.sample(logits, key, how)[0] == 0
    assert sampling.sample(logits, key, sampling.Sampling(1e30))[0] in (0, 1)


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0},
                                 {"top_p": 1.5}])
def test_bad_settings_are_named(bad):
    with pytest.raises(errors.InputError, match=next(iter(bad))):
        sampling.Sampling(**bad)


# --- the engine, with a tiny real decoder ---------------------------------------------------


@pytest.fixture(scope="module")
def model():
    config = decoder.DecoderConfig(vocab_size=VOCAB.size, depth=2, aspect=16, head_dim=16, context_tokens=128)
    return decoder.Decoder(config, nnx.Rngs(0))


ROWS = [np.array(prompt, np.int32) for prompt in (
    (BOS, USER, PIECE, PIECE + 3, MODEL),
    (BOS, BOI, SIZE(3), SIZE(2), IMAGE_CODE),
    (BOS, USER, *range(PIECE, PIECE + 20), *range(PIECE, PIECE + 20), MODEL),
    (BOS, BOV, PIECE, BOI, SIZE(2), SIZE(2)),
)]
GREEDY = engine.Settings(text=sampling.GREEDY, image=sampling.GREEDY, rules=OPEN_RULES, max_tokens=30)
WARM = engine.Settings(text=sampling.Sampling(1.2, top_k=30), image=sampling.Sampling(0.9, top_p=0.8),
                       rules=OPEN_RULES, max_tokens=30, seed=3)


def assert_same(answers, others):
    for one, other in zip(answers, others, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)  # sums in another order


@pytest.mark.parametrize("settings, rows", [(GREEDY, 3), (WARM, 1)])  # 3: the last batch is filled up
def test_answers_parse_and_do_not_depend_on_the_batch(model, settings, rows):
    together = engine.generate(model, VOCAB, ROWS, settings)
    for prompt, answer in zip(ROWS, together):
        stream.parse(np.concatenate([prompt, answer.tokens]), VOCAB)
        assert len(answer.tokens) <= settings.max_tokens
    assert_same(together, engine.generate(model, VOCAB, ROWS, dataclasses.replace(settings, batch_rows=rows)))


def test_seed_and_row_decide_the_draw(model):
    twins = [ROWS[0]] * 4
    first = engine.generate(model, VOCAB, twins, WARM)
    assert_same(first, engine.generate(model, VOCAB, twins, WARM))
    assert not np.array_equal(first[0].tokens, first[1].tokens)
    other = engine.generate(model, VOCAB, twins, dataclasses.replace(WARM, seed=2**32 - 1))
    assert not np.array_equal(first[0].tokens, other[0].tokens)


def test_cached_decode_equals_full_forward(model):
    """At every position the token is the argmax of a forward pass without a cache."""
    automaton = grammar.Grammar(VOCAB, OPEN_RULES)
    allowed, advance = jax.jit(automaton.allowed), jax.jit(automaton.advance)
    positions = jnp.arange(80)[None]
    forward = jax.jit(lambda ids: model.logits(model(ids, positions, jnp.ones_like(ids)))[0])
    for prompt, answer in zip(ROWS, engine.generate(model, VOCAB, ROWS, GREEDY)):
        ids = np.concatenate([prompt, answer.tokens])
        logits = np.asarray(forward(np.pad(ids, (0, 80 - len(ids)))[None]))
        state = grammar.start(1)
        for at, token in enumerate(ids):
            if at >= len(prompt):
                budget = jnp.array([GREEDY.max_tokens - (at - len(prompt))], jnp.int32)
                scores = logits[at - 1].astype(np.float64)
                scores[EOS] = np.log(np.exp(scores[EOS]) + np.exp(scores[USER]))  # the user's turn ends an answer too
                scores = np.where(allowed(state, budget)[0], scores, -np.inf)
                assert np.argmax(scores) == token
                logprob = scores[token] - np.logaddexp.reduce(scores)
                np.testing.assert_allclose(answer.logprobs[at - len(prompt)], logprob, atol=1e-4)
            state = advance(state, jnp.array([token], jnp.int32))


def test_streamed_tokens_are_the_answer(model):
    heard = collections.defaultdict(list)
    streamed = engine.generate(model, VOCAB, ROWS, WARM, lambda row, tokens: heard[row].append(tokens))
    assert_same(streamed, engine.generate(model, VOCAB, ROWS, WARM))
    for row, answer in enumerate(streamed):
        np.testing.assert_array_equal(np.concatenate(heard[row]), answer.tokens)
        assert len(heard[row][0]) == 1, "the first token must not wait for a block"


def test_prompts_without_room_or_sense_are_refused(model):
    full = np.array([BOS] + [PIECE] * 127, np.int32)
    with pytest.raises(errors.InputError, match="prompt 1: the answer needs at least 1 tokens.* 128 of the model's 128"):
        engine.generate(model, VOCAB, [full[:-1], full], GREEDY)
    in_image = np.array([BOS, BOI, SIZE(9), SIZE(9)], np.int32)
    with pytest.raises(errors.InputError, match="needs at least 92 tokens.*max_tokens is 30"):
        engine.generate(model, VOCAB, [in_image], GREEDY)
    for bad in ([], [PIECE], [BOS, EOS], [BOS, BOI, PIECE]):
        with pytest.raises(errors.InputError, match="prompt 0: must be the beginning of a document"):
            engine.generate(model, VOCAB, [np.array(bad, np.int32)], GREEDY)


def test_last_slot_of_the_context_is_used(model):
    """A prompt of 127 of 128 tokens still gets its one token, the end."""
    prompt = np.array([BOS] + [PIECE] * 126, np.int32)
    (answer,) = engine.generate(model, VOCAB, [prompt], GREEDY)
    assert answer.tokens.tolist() == [EOS] and answer.logprobs.tolist() == [0.0]
