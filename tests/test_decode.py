"""Laws of the sampler: whatever it writes parses, fits its budget and does not depend on the batch."""

import collections
import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gemini_mini import errors, nn, parallel, stream, vocab as vocabulary
from gemini_mini.decode import engine, grammar, reading, sampling, scoring
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
    state = engine.place(automaton, [np.array(prompt, np.int32) for prompt in prompts])
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


def numpy_kept(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
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
        weights[weights < min_p * weights.max()] = 0
        rows.append(weights / weights.sum())
    return np.array(rows)


CUTS = [sampling.Sampling(t, k, p, m) for t in (0.3, 1.0, 2.5) for k in (0, 1, 7, 500) for p in (1.0, 0.9, 0.31, 1e-6)
        for m in (0.0, 0.02, 0.4, 1.0)]
draw = jax.jit(sampling.sample)


def test_cuts_equal_sorting_and_every_row_has_its_own():
    rng = np.random.default_rng(1)
    logits = 3 * rng.normal(size=(4 * len(CUTS), 200)).astype(np.float32)
    logits[:, 3:60] = -np.inf
    got = np.asarray(jax.jit(sampling.kept)(logits, sampling.controls(CUTS * 4)))
    got = got / got.sum(-1, keepdims=True)
    expected = np.concatenate([numpy_kept(row[None], *dataclasses.astuple(how)[:4]) for row, how in zip(logits, CUTS * 4)])
    np.testing.assert_array_equal(got > 0, expected > 0)
    np.testing.assert_allclose(got, expected, atol=1e-5)  # float32 sums against float64


def test_ties_at_the_cut_are_kept():
    logits = jnp.log(jnp.array([[0.4, 0.2, 0.2, 0.2]] * 4))
    hows = [sampling.Sampling(top_k=2), sampling.Sampling(top_p=0.5), sampling.Sampling(top_p=0.3), sampling.Sampling(min_p=0.49)]
    kept = sampling.kept(logits, sampling.controls(hows)) > 0
    assert kept.tolist() == [[True] * 4, [True] * 4, [True, False, False, False], [True] * 4]


def test_frequencies_follow_the_distribution():
    logits = np.array([0.0, 1.0, -np.inf, 2.0, -1.0, -np.inf], np.float32)
    draws = 40_000
    keys = jax.vmap(jax.random.key)(jnp.arange(draws))
    for how in (sampling.Sampling(), sampling.Sampling(0.7, top_k=3), sampling.Sampling(1.5, top_p=0.8), sampling.Sampling(min_p=0.3)):
        tokens = draw(jnp.tile(logits, (draws, 1)), keys, sampling.controls([how] * draws))
        frequencies = np.bincount(tokens, minlength=6) / draws
        expected = numpy_kept(logits[None], *dataclasses.astuple(how)[:4])[0]
        np.testing.assert_array_equal(frequencies > 0, expected > 0)
        np.testing.assert_allclose(frequencies, expected, atol=5 * (0.25 / draws) ** 0.5)  # five sigma


def test_extreme_settings_stay_finite():
    hows = [sampling.GREEDY, sampling.Sampling(2e-38), sampling.Sampling(top_p=1e-9), sampling.Sampling(top_k=1),
            sampling.Sampling(min_p=1.0), sampling.Sampling(1e30)]
    keys = jax.vmap(jax.random.key)(jnp.arange(len(hows)))
    tokens = draw(jnp.array([[50.0, 49.0, -jnp.inf]] * len(hows)), keys, sampling.controls(hows))
    assert tokens[:-1].tolist() == [0] * (len(hows) - 1) and tokens[-1] in (0, 1)


def test_used_tokens_become_less_likely():
    logits = np.array([[2.0, -2.0, 0.0, 3.0, -np.inf]] * 3, np.float32)
    used = np.array([[True, True, True, False, True]] * 3)
    controls = sampling.controls([sampling.Sampling(repetition_penalty=p) for p in (2.0, 1.0, 0.5)])
    expected = [[1.0, -4.0, 0.0, 3.0, -np.inf], logits[0], [4.0, -1.0, 0.0, 3.0, -np.inf]]
    np.testing.assert_array_equal(sampling.penalise(jnp.asarray(logits), jnp.asarray(used), controls), expected)


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0},
                                 {"top_p": 1.5}, {"min_p": -0.1}, {"min_p": 1.1}, {"repetition_penalty": 0.0}])
def test_bad_settings_are_named(bad):
    with pytest.raises(errors.InputError, match=next(iter(bad))):
        sampling.Sampling(**bad)


# --- the engine, with a tiny real decoder ---------------------------------------------------


@pytest.fixture(scope="module")
def model():
    config = decoder.DecoderConfig(vocab_size=VOCAB.size, depth=2, aspect=16, head_dim=16, context_tokens=128, shortcuts=True, key_offset=True)
    return conftest.with_shortcuts(decoder.Decoder(config, nnx.Rngs(0)))


ROWS = [np.array(prompt, np.int32) for prompt in (
    (BOS, USER, PIECE, PIECE + 3, MODEL),
    (BOS, USER, PIECE + 1, PIECE + 7, MODEL, BOI, SIZE(3), SIZE(2), IMAGE_CODE),
    (BOS, USER, *range(PIECE, PIECE + 20), *range(PIECE, PIECE + 20), MODEL),
    (BOS, BOV, PIECE, BOI, SIZE(2), SIZE(2)),
    (BOS, USER, PIECE + 5, MODEL, BOA, AUDIO_CODE, AUDIO_CODE + 2),
)]
GREEDY = engine.Settings(text=sampling.GREEDY, image=sampling.GREEDY, audio=sampling.GREEDY, rules=OPEN_RULES, max_tokens=30)
WARM = engine.Settings(text=sampling.Sampling(1.2, top_k=30), image=sampling.Sampling(0.9, top_p=0.8),
                       rules=OPEN_RULES, max_tokens=30, seed=3)


def assert_same(answers, others):
    for one, other in zip(answers, others, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)  # sums in another order


@pytest.mark.parametrize("settings, rows", [(GREEDY, 3), (GREEDY, 1), (WARM, 1)])  # 3: the last batch is filled up
def test_answers_parse_and_do_not_depend_on_the_batch(model, settings, rows):
    together = engine.generate(model, VOCAB, ROWS, settings)
    for prompt, answer in zip(ROWS, together):
        stream.parse(np.concatenate([prompt, answer.tokens]), VOCAB)
        assert len(answer.tokens) <= settings.max_tokens
    assert_same(together, engine.generate(model, VOCAB, ROWS, dataclasses.replace(settings, batch_rows=rows)))


def test_seed_and_row_decide_the_draw(model):
    twins = [ROWS[2]] * 4
    first = engine.generate(model, VOCAB, twins, WARM)
    assert_same(first, engine.generate(model, VOCAB, twins, WARM))
    assert not np.array_equal(first[0].tokens, first[1].tokens)
    other = engine.generate(model, VOCAB, twins, dataclasses.replace(WARM, seed=2**32 - 1))
    assert not np.array_equal(first[0].tokens, other[0].tokens)


GUIDED = dataclasses.replace(
    GREEDY, text=sampling.Sampling(0.0, repetition_penalty=9.0), image=sampling.Sampling(0.0, repetition_penalty=3.0), guidance=9.0)


@pytest.mark.parametrize("settings", [GREEDY, GUIDED])
def test_greedy_tokens_are_those_of_full_forward_passes(model, settings):
    """At every position the token is the argmax of what forward passes without a cache say, in numpy from there."""
    automaton = grammar.Grammar(VOCAB, OPEN_RULES)
    allowed, advance = jax.jit(automaton.allowed), jax.jit(automaton.advance)
    positions = jnp.broadcast_to(jnp.arange(80), (2, 80))
    forward = jax.jit(lambda ids: model.logits(model(ids, positions, jnp.ones_like(ids))))
    answers = engine.generate(model, VOCAB, ROWS, settings)
    if settings is GUIDED:  # each of the three changes some answer
        for other in ({"text": sampling.GREEDY}, {"image": sampling.GREEDY}, {"guidance": 1.001}):
            others = engine.generate(model, VOCAB, ROWS, dataclasses.replace(settings, **other))
            assert any(not np.array_equal(a.tokens, b.tokens) for a, b in zip(answers, others)), other
    for prompt, answer in zip(ROWS, answers):
        ids, speaker = np.concatenate([prompt, answer.tokens]), None
        null = ids.copy()
        for at, token in enumerate(prompt):
            speaker = token if token in (USER, MODEL) else speaker
            null[at] = 0 if speaker == USER and token != USER else token
        both = np.asarray(forward(np.stack([np.pad(x, (0, 80 - len(ids))) for x in (ids, null)]))).astype(np.float64)
        state = grammar.start(1)
        for at, token in enumerate(ids):
            if at >= len(prompt):
                budget = jnp.array([settings.max_tokens - (at - len(prompt))], jnp.int32)
                may, is_code = np.asarray(allowed(state, budget)[0]), int(state.mode[0]) == stream.CODE
                scores, hidden = both[:, at - 1]
                wanted = scores + (settings.guidance - 1) * (scores - hidden) * is_code
                scores[EOS] = np.log(np.exp(scores[EOS]) + np.exp(scores[USER]))  # the user's turn ends an answer too
                wanted[EOS] = scores[EOS]
                for used in {t for t in ids[len(prompt) : at] if t >= PIECE}:
                    penalty = (settings.image if is_code else settings.text).repetition_penalty
                    wanted[used] *= 1 / penalty if wanted[used] > 0 else penalty
                assert np.argmax(np.where(may, wanted, -np.inf)) == token
                scores = np.where(may, scores, -np.inf)
                logprob = scores[token] - np.logaddexp.reduce(scores)
                np.testing.assert_allclose(answer.logprobs[at - len(prompt)], logprob, atol=1e-4)
            state = advance(state, jnp.array([token], jnp.int32))


def test_guidance_of_one_is_none_and_costs_nothing():
    rng = np.random.default_rng(0)
    logits, null = (jnp.asarray(rng.normal(size=(5, 90)), jnp.float32) for _ in range(2))
    np.testing.assert_array_equal(engine.guide(logits, null, jnp.float32(1)), logits)
    np.testing.assert_array_equal(engine.guide(logits, logits, jnp.float32(7)), logits)
    assert engine._with_null(ROWS[0], GREEDY) == [ROWS[0]], "nothing is computed twice without guidance"


@pytest.mark.slow
def test_every_modality_has_its_own_sampling(model):
    """Greedy codes in a hot text: they are what greedy sampling alone would write after the same ids."""
    rules = grammar.Rules(has_text=False, heights=(2,), widths=(3,))
    hot = engine.Settings(text=sampling.Sampling(3.0), image=sampling.GREEDY, rules=rules, max_tokens=30, seed=5)
    prompts = [np.array(p, np.int32) for p in ((BOS, MODEL), (BOS, BOI), (BOS, PIECE, MODEL), (BOS, USER, PIECE, MODEL))]
    for prompt, answer in zip(prompts, engine.generate(model, VOCAB, prompts, hot)):
        ids = np.concatenate([prompt, answer.tokens])
        cold = dataclasses.replace(hot, text=sampling.GREEDY)
        for at in np.flatnonzero((ids >= IMAGE_CODE) & (ids < AUDIO_CODE))[:2]:
            (again, *_) = engine.generate(model, VOCAB, [ids[:at]] * 4, cold)
            assert again.tokens[0] == ids[at]


def test_sounds_have_their_own_sampling(model):
    rows, hot = [ROWS[2], *[ROWS[4][:5]] * 4], sampling.Sampling(9.0)  # four begin a sound

    def sounds(**how):
        answers = engine.generate(model, VOCAB, rows, dataclasses.replace(GREEDY, **how))[1:]
        return [tokens[: np.flatnonzero(tokens == vocabulary.EOA)[0]].tolist() for tokens, *_ in answers]

    assert sounds(text=hot, image=hot) == sounds() != sounds(audio=hot) and all(sounds())


def test_streamed_tokens_are_the_answer(model):
    heard, whole = collections.defaultdict(list), {}

    def on_answer(row, answer):
        assert row not in whole and sum(map(len, heard[row])) >= len(answer.tokens) - engine.STREAM_TOKENS
        assert EOS not in heard[row][-1], "an answer is heard in the block where it ends, before the last of its tokens"
        whole[row] = answer

    streamed = engine.generate(
        model, VOCAB, ROWS, WARM, lambda row, tokens: heard[row].append(tokens), on_answer=on_answer)
    assert_same(streamed, [whole[row] for row in range(len(ROWS))])
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


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1, 1, 1), (2, 2, 2, 1)])
def test_a_mesh_gives_the_same_tokens(model, shape):
    mesh = parallel.mesh(shape[: len(parallel.MESH_AXES)])
    placed = jax.device_put(nn.weights(model), parallel.shardings(nn.weights(model), nn.axes(model), mesh))
    spread = nn.with_weights(model, placed)
    assert any(not w.sharding.is_fully_replicated for w in placed.values()) or shape[0] == 8
    rows, settings = ROWS + ROWS[:1] * 2, dataclasses.replace(WARM, guidance=2.0)
    state = engine._begin(spread, grammar.Grammar(VOCAB, OPEN_RULES), (ROWS * 2)[:8], range(8), settings, reading.Memory(), False)
    assert {x.sharding.shard_shape(x.shape)[0] for x in (state.token, state.index, state.cache.ids)} == {
        8 // reading.num_parts(spread), 16 // reading.num_parts(spread)}, "rows are dealt, not repeated"
    assert_same(engine.generate(spread, VOCAB, rows, settings), engine.generate(model, VOCAB, rows, settings))


# --- reading: shared, remembered, in chunks ---------------------------------------------------


@pytest.fixture
def read_calls(monkeypatch):
    """(rows, first position, tokens) of every chunk that is read."""
    calls, read = [], reading._read

    def counted(model, tokens, positions, cache, slots):
        calls.append((len(tokens), positions[:, 0].tolist(), int((tokens != vocabulary.PAD).sum())))
        return read(model, tokens, positions, cache, slots)

    monkeypatch.setattr(reading, "_read", counted)
    return calls


def test_one_prefill_through_all_switches_of_modality(model, read_calls):
    answers = engine.generate(model, VOCAB, ROWS, dataclasses.replace(WARM, seed=12))
    kinds = {int(kind) for answer in answers for kind in stream.class_of(VOCAB)[answer.tokens]}
    assert {TokenClass.PIECE, TokenClass.IMAGE_CODE, TokenClass.EOI, TokenClass.BOA, TokenClass.AUDIO_CODE, TokenClass.EOA} <= kinds
    assert len(read_calls) == 1 and read_calls[0][2] == sum(len(prompt) - 1 for prompt in ROWS)


def test_samples_of_one_prompt_share_its_prefill(model, read_calls):
    twins = [ROWS[2]] * 7
    shared = engine.generate(model, VOCAB, twins, dataclasses.replace(WARM, batch_rows=4))
    assert [(rows, tokens) for rows, _, tokens in read_calls] == [(1, len(ROWS[2]) - 1)]
    others = [ROWS[0], ROWS[1], *twins[2:4]]
    together = engine.generate(model, VOCAB, others, WARM)
    assert_same(shared[2:4], together[2:])


def test_next_turn_reads_only_what_is_new(model, read_calls):
    memory, settings = reading.Memory(), dataclasses.replace(GREEDY, max_tokens=24, guidance=2.0)
    ids, told = ROWS[0], []
    for turn in range(3):
        (answer,) = engine.generate(model, VOCAB, [ids], settings, memory=memory)
        known = [place for _, places, _ in read_calls for place in places][:2]
        assert_same([answer], engine.generate(model, VOCAB, [ids], settings, memory=reading.Memory()))
        assert known == [told[-1]] * 2 if told else [0, 0], "both of a guided pair continue"
        told.append(len(ids) + len(answer.tokens) - 1)
        read_calls.clear()
        ids = np.concatenate([ids, answer.tokens[:-1], [USER, PIECE + turn, MODEL]]).astype(np.int32)
    other = np.concatenate([ids[:4], [PIECE + 9, MODEL]]).astype(np.int32)  # branches off in the first question
    assert_same(engine.generate(model, VOCAB, [other], settings, memory=memory),
                engine.generate(model, VOCAB, [other], settings, memory=reading.Memory()))
    assert read_calls[0][1] == [4, 4]


def test_memory_forgets_the_oldest(model):
    memory = reading.Memory(max_slots=100)
    for first in range(4):
        memory.keep(np.array([first, 5, 6], np.int32), model.init_cache(1, 40), 0)
    assert [p.tokens[0] for p in memory.prefixes] == [2, 3]
    memory.keep(np.array([3, 5, 6, 7], np.int32), model.init_cache(1, 40), 0)
    assert [len(p.tokens) for p in memory.prefixes] == [3, 4], "a beginning of another is not kept besides"
    assert memory.longest(np.array([3, 5, 9], np.int32))[0] == 2 and memory.longest(np.array([8], np.int32)) == (0, None)


def test_chunks_read_as_one_piece_would(model, monkeypatch):
    rng = np.random.default_rng(0)
    prompts = [np.concatenate([[BOS], rng.integers(PIECE, IMAGE_CODE, n)]).astype(np.int32) for n in (99, 70, 33, 5)]
    whole = engine.generate(model, VOCAB, prompts, GREEDY)
    monkeypatch.setattr(reading, "READ_TOKENS", 32)
    assert_same(whole, engine.generate(model, VOCAB, prompts, GREEDY))


def test_long_prompts_are_read_in_memory_by_their_length():
    """The scores of one chunk: twice the prompt, twice the memory, and far from the square."""
    config = decoder.DecoderConfig(vocab_size=VOCAB.size, depth=1, aspect=32, head_dim=16, context_tokens=1 << 15)
    model = jax.eval_shape(lambda: decoder.Decoder(config, nnx.Rngs(0)))
    chunk = jax.ShapeDtypeStruct((1, reading.READ_TOKENS), jnp.int32)

    def scratch(slots):
        cache = jax.eval_shape(lambda: model.init_cache(1, slots))
        return reading._read.lower(model, chunk, chunk, cache, slots).compile().memory_analysis().temp_size_in_bytes

    at_16k, at_32k = scratch(1 << 14), scratch(1 << 15)
    whole_scores = 4 * config.heads * (1 << 15) ** 2
    assert at_32k < 2.2 * at_16k and at_32k < whole_scores / 40


READ_32K = """
import json, resource
import jax, numpy as np
from flax import nnx
from gemini_mini.decode import reading
from gemini_mini.model import decoder

config = decoder.DecoderConfig(vocab_size=512, depth=2, aspect=32, head_dim=32, context_tokens=1 << 15, attention="blockwise")
model = decoder.Decoder(config, nnx.Rngs(0))
ids = np.random.default_rng(0).integers(0, config.vocab_size, (1, 1 << 15)).astype(np.int32)
positions, peaks = np.arange(1 << 15, dtype=np.int32)[None], []
for length in (1 << 12, 1 << 15):
    cache = reading.read(model, [ids[0, :length]], length, reading.Memory())
    hidden, cache = jax.jit(decoder.Decoder.step)(model, ids[:, length - 1 : length], positions[:, length - 1 : length], cache)
    read = np.asarray(model.logits(hidden[0, 0]))
    peaks.append(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - sum(x.nbytes for x in jax.tree.leaves(cache)))
whole = jax.jit(lambda model, *row: model.logits(model(*row)[0, -1]))(model, ids, positions, np.ones_like(ids))
print(json.dumps([*peaks, float(abs(read - whole).max()), float(abs(whole).max())]))
"""


@pytest.mark.slow
def test_a_prompt_of_32k_is_read_in_bounded_memory_as_a_full_pass_reads_it():
    """Eight times the prompt, less than twice the process's memory beyond the cache; the scores of all at once would be 8.6 GB."""
    done = subprocess.run([sys.executable, "-c", READ_32K], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
                          env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""})
    at_4k, at_32k, off, largest = json.loads(done.stdout)
    print(f"peak {at_4k / 2**20:.0f} MB at 4k, {at_32k / 2**20:.0f} MB at 32k; logits differ by {off:.1e} of {largest:.2f}")
    assert at_32k < 2 * at_4k
    assert off < 1e-5 * largest  # float32, summed in another order


# --- forced tokens, stopping, scoring ---------------------------------------------------------


def test_forced_tokens_cost_no_draw(model, monkeypatch):
    draws, sample = [], sampling.sample

    def counted(logits, keys, controls):
        jax.debug.callback(lambda: draws.append(1))
        return sample(logits, keys, controls)

    monkeypatch.setattr(sampling, "sample", counted)
    rules = grammar.Rules(has_text=False, heights=(2,), widths=(3,))
    prompt = np.array([BOS, USER, PIECE, MODEL, BOI], np.int32)
    (answer,) = engine.generate(model, VOCAB, [prompt], engine.Settings(rules=rules, max_tokens=12))
    jax.effects_barrier()
    engine._decode.clear_cache()  # the program with the counter in it
    stream.parse(np.concatenate([prompt, answer.tokens]), VOCAB)
    assert len(answer.tokens) == 12 and len(draws) == 6, "sizes, ends of lines and of the picture, and EOS are forced"


def test_forced_is_the_only_allowed_id():
    rules = grammar.Rules(heights=(2, 3), widths=(3,), has_audio=True, has_video=True)
    automaton = grammar.Grammar(VOCAB, rules)
    spots = list(explore(rules)[0])
    state = grammar.GrammarState(*jnp.asarray(spots, jnp.int32).T)
    for budget in (1, 4, 30):
        budgets = jnp.full(len(spots), budget, jnp.int32)
        allowed = np.asarray(automaton.allowed(state, budgets))
        expected = np.where(allowed.sum(1) == 1, allowed.argmax(1), -1)
        np.testing.assert_array_equal(automaton.forced(automaton.open_groups(state, budgets)), expected)


def test_what_is_stopped_holds_whole_parts(model):
    heard = collections.defaultdict(list)

    def on_tokens(row, tokens):
        heard[row] += tokens.tolist()
        return len(heard[row]) > 12

    memory = reading.Memory()
    full = engine.generate(model, VOCAB, ROWS[:1] * 4, WARM, memory=reading.Memory())  # a memory: slots as in the other tests
    cut = engine.generate(model, VOCAB, ROWS[:1] * 4, WARM, on_tokens, memory)
    goes_on = [np.concatenate([ROWS[0], answer.tokens[:-1], [USER, PIECE, MODEL]]).astype(np.int32) for answer in cut]
    assert_same(engine.generate(model, VOCAB, goes_on, GREEDY, memory=memory), engine.generate(model, VOCAB, goes_on, GREEDY, memory=reading.Memory()))
    for answer, whole in zip(cut, full):
        stream.parse(np.concatenate([ROWS[0], answer.tokens]), VOCAB)
        np.testing.assert_array_equal(answer.tokens[:-1], whole.tokens[: len(answer.tokens) - 1])
    assert any(len(answer.tokens) < len(whole.tokens) for answer, whole in zip(cut, full))
    picture = [BOI, SIZE(2), SIZE(1), IMAGE_CODE, vocabulary.EOL, IMAGE_CODE + 1, vocabulary.EOL, vocabulary.EOI]
    said = np.array([PIECE, *picture, PIECE + 1, *picture[:5]], np.int32)
    kept = engine._cut(ROWS[0], said, np.arange(len(said), dtype=np.float32))
    assert kept.tokens.tolist() == [*said[:10], EOS] and kept.logprobs.tolist() == [*range(10), 0], "the text and the whole picture"


SMALL = grammar.Rules(heights=(2,), widths=(2,))


@pytest.mark.slow
def test_scores_of_what_was_written_are_its_logprobs(model, monkeypatch):
    monkeypatch.setattr(reading, "READ_TOKENS", 32)
    roomy = dataclasses.replace(WARM, max_tokens=60, rules=SMALL)  # so that the budget forces nothing
    prompts = ROWS[:3] + ROWS[:1]
    written = engine.generate(model, VOCAB, prompts, roomy)
    scored = scoring.score(model, VOCAB, prompts, [answer.tokens for answer in written], SMALL, batch_rows=4)
    assert_same([a for a in written if len(a.tokens) < 50], [s for a, s in zip(written, scored) if len(a.tokens) < 50])
    assert sum(len(a.tokens) < 50 for a in written) >= 2


@pytest.mark.slow
def test_chances_of_all_next_tokens_make_one(model):
    automaton = grammar.Grammar(VOCAB, SMALL)
    may = np.flatnonzero(automaton.allowed(engine.place(automaton, [ROWS[0]]), jnp.array([99])))
    given = [np.array([token], np.int32) for token in may]
    scored = scoring.score(model, VOCAB, [ROWS[0]] * len(may), given, SMALL, batch_rows=4)
    np.testing.assert_allclose(sum(np.exp(answer.logprob) for answer in scored), 1, atol=1e-5)
    for bad in ([USER], [PIECE, BOA, EOS]):
        with pytest.raises(errors.InputError, match="answer 0: token .* cannot follow"):
            scoring.score(model, VOCAB, ROWS[:1] * 4, [np.array(bad, np.int32)] * 4, SMALL)
    with pytest.raises(errors.InputError, match="answer 0: prompt and answer must have tokens, at most 128"):
        scoring.score(model, VOCAB, ROWS[:1], [np.full(125, PIECE, np.int32)])
