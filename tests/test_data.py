"""Packing, rows, mixture and loader: exact, whole, and functions of (config, step)."""

import collections
import math
import sys
from concurrent import futures

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from gemini_mini import config, errors, vocab as vocabulary
from gemini_mini.data import loader, mixture, packing, rows


def document(length: int, value: int = 50) -> np.ndarray:
    return np.array([vocabulary.BOS] + [value] * (length - 2) + [vocabulary.EOS], np.int32)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(2, 32), min_size=1, max_size=60))
def test_packing_keeps_every_document_whole(lengths):
    packed = packing.pack([document(n, 100 + i) for i, n in enumerate(lengths)], 32)
    found = collections.Counter()
    for row in packed:
        pieces = np.split(row, np.flatnonzero(row == vocabulary.BOS))
        assert len(pieces[0]) == 0
        for piece in pieces[1:]:
            body = piece[piece != vocabulary.PAD]
            assert body[-1] == vocabulary.EOS and len(set(body[1:-1].tolist())) <= 1
            found[len(body)] += 1
    assert found == collections.Counter(lengths)


def test_packing_is_tight():
    lengths = np.random.default_rng(0).integers(4, 300, 500)
    packed = packing.pack([document(n) for n in lengths], 512)
    assert lengths.sum() / packed.size > 0.97


def test_a_document_longer_than_a_row_is_refused():
    with pytest.raises(errors.InputError, match="33 ids, a row holds 32"):
        packing.pack([document(33)], 32)


def test_batch_of_against_a_walk_over_each_row():
    packed = packing.pack([document(n, 60 + i) for i, n in enumerate([5, 9, 3, 12, 7])], 16)
    batch = packing.batch_of(packed)
    for r, row in enumerate(packed.tolist()):
        segment, position = 0, -1
        for t, token in enumerate(row):
            segment, position = (segment + 1, 0) if token == vocabulary.BOS else (segment, position + 1)
            if token == vocabulary.PAD:
                assert batch.segments[r, t] == 0 and batch.has_target[r, t] == 0
                continue
            assert (batch.segments[r, t], batch.positions[r, t]) == (segment, position)
            has_target = token != vocabulary.EOS
            assert batch.has_target[r, t] == has_target
            if has_target:
                assert batch.targets[r, t] == row[t + 1]


def test_who_speaks_is_marked_document_by_document():
    user, model = vocabulary.USER, vocabulary.MODEL
    row = [vocabulary.BOS, 60, user, 61, 62, model, 63, user, 64, vocabulary.EOS, vocabulary.BOS, 65, vocabulary.EOS, 0]
    batch = packing.batch_of(np.array([row], np.int32))
    nobody, user, model = packing.NOBODY, packing.USER, packing.MODEL
    assert batch.speaker[0].tolist() == [nobody] * 2 + [user] * 3 + [model] * 2 + [user] * 3 + [nobody] * 4


STAGES = (mixture.Stage("one", 0.3, {"a": 1.0}), mixture.Stage("two", 0.8, {"a": 0.5, "b": 0.3, "c": 0.2}),
          mixture.Stage("three", 1.0, {"b": 1.0, "c": 3.0}))
SIZES = {"a": 37, "b": 11, "c": 8}


def test_shares_are_those_of_the_rows_dealt():
    total = 256_000
    mix = mixture.Mixture(STAGES, SIZES, total, seed=1)
    dealt = collections.Counter(mix.row(n)[0] for n in range(0, total, 7))
    shares = mixture.shares(STAGES)
    assert sum(shares.values()) == pytest.approx(1) and set(shares) == set(dealt)
    for name, share in shares.items():
        assert share == pytest.approx(dealt[name] / dealt.total(), abs=0.01)


@pytest.mark.parametrize("block", [1 << 20, 256])
def test_mixture_counts_are_exact_in_every_block_and_close_in_every_window(block, monkeypatch):
    monkeypatch.setattr(mixture, "BLOCK", block)
    total = 2560
    mix = mixture.Mixture(STAGES, SIZES, total, seed=1)
    names = [mix.row(n)[0] for n in range(total)]
    start = 0
    for stage in STAGES:
        end = round(stage.until * total)
        weight = {name: w / sum(stage.weights.values()) for name, w in stage.weights.items()}
        size = math.ceil((end - start) / math.ceil((end - start) / block))
        for at in range(start, end - size + 1, size):
            counts = collections.Counter(names[at : at + size])
            assert sum(counts.values()) == size
            assert all(abs(counts[name] - weight[name] * size) < 1 for name in weight)
            assert set(counts) <= set(weight)
        for length in (8, 50, 256):
            for at in range(start, end - length, 7):
                counts = collections.Counter(names[at : at + length])
                assert all(abs(counts[name] - weight[name] * length) <= len(SIZES) for name in weight)
        start = end


def test_what_is_logged_of_the_mixture_is_what_is_read():
    stages = (mixture.Stage("one", 0.25, {"a": 3.0, "b": 1.0, "d": 1.0}), mixture.Stage("two", 1.0, {"b": 2.0, "c": 2.0}))
    rows = mixture.Mixture(stages, {"a": 9, "b": 9, "c": 1, "d": 0}, 2048, seed=0, most_passes=100)
    for start, end in ((0, 512), (512, 2048)):
        read = [rows.row(n)[0] for n in range(start, end)]
        assert rows.parts(start) == rows.parts(end - 1) == {name: read.count(name) / len(read) for name in "abcd"}
    assert rows.parts(2048) == rows.parts(512), "past the end, the last"


@pytest.mark.parametrize("steps", [100, 1000, 5000])
def test_no_source_is_forgotten_or_read_too_often(steps):
    """The stages of your own data, where one source may have thousands of rows and another a single one."""
    stages = config.load("configs/own.py", []).task.stages
    sizes = dict.fromkeys(mixture.shares(stages), 0) | {"draw": 9000, "name": 7000, "listen": 300, "watch": 3, "documents": 1}
    mix = mixture.Mixture(stages, sizes, 8 * steps, 0, most_passes=30)
    dealt = collections.Counter(mix.row(n)[0] for n in range(8 * steps))
    for name, size in sizes.items():
        share = sum(stage.weights.get(name, 0) for stage in stages)
        assert dealt[name] <= 30 * size and (dealt[name] or not size), name
        if size and share * 8 * steps > 200 * size:
            assert dealt[name] >= 29 * size, name


def test_a_source_of_one_stage_has_all_its_passes_there():
    stages = (mixture.Stage("one", 0.8, {"a": 1.0}), mixture.Stage("two", 1.0, {"a": 0.6, "b": 0.4}))
    mix = mixture.Mixture(stages, {"a": 5000, "b": 100}, 10_240, 0, most_passes=10)
    assert sum(mix.row(n)[0] == "b" for n in range(10_240)) == pytest.approx(0.4 * 2048, abs=1)


def test_mixture_visits_every_row_once_a_pass_in_a_new_order():
    mix = mixture.Mixture(STAGES, SIZES, 2560, seed=1)
    visits = collections.defaultdict(list)
    for n in range(2560):
        name, row = mix.row(n)
        visits[name].append(row)
    for name, seen in visits.items():
        size = SIZES[name]
        passes = [tuple(seen[i : i + size]) for i in range(0, len(seen) - size, size)]
        assert all(sorted(p) == list(range(size)) for p in passes)
        assert len(set(passes)) > 0.9 * len(passes)


def test_mixture_needs_no_history():
    forward = mixture.Mixture(STAGES, SIZES, 2560, seed=1)
    rows_forward = [forward.row(n) for n in range(2560)]
    backward = mixture.Mixture(STAGES, SIZES, 2560, seed=1)
    assert [backward.row(n) for n in reversed(range(2560))][::-1] == rows_forward
    other = mixture.Mixture(STAGES, SIZES, 2560, seed=2)
    assert [other.row(n) for n in range(2560)] != rows_forward


@pytest.mark.parametrize("stages, message", [
    ((mixture.Stage("x", 1.0, {"z": 1.0}),), "sources must be among"),
    ((mixture.Stage("x", 1.0, {"a": 0.0}),), "sum to > 0"),
    ((mixture.Stage("x", 1.0, {"a": -1.0, "b": 2.0}),), "sum to > 0"),
    ((mixture.Stage("x", 0.5, {"a": 1.0}),), "the last at 1.0"),
    ((mixture.Stage("x", 0.5, {"a": 1.0}), mixture.Stage("y", 0.4, {"a": 1.0})), "in order"),
])
def test_bad_stages_are_refused(stages, message):
    with pytest.raises(errors.InputError, match=message):
        mixture.Mixture(stages, SIZES, 100, 0)


def stored(tmp_path, fingerprint="print"):
    rng = np.random.default_rng(0)
    docs = {name: [document(int(n), 50 + i) for n in rng.integers(4, 30, 40)] for i, name in enumerate("abc")}
    rows.write(tmp_path, docs, 32, fingerprint)


def test_a_batch_is_a_function_of_the_step(tmp_path):
    stored(tmp_path)
    deal = lambda: loader.Loader(rows.load(tmp_path, "print"), STAGES, 4, 50, seed=3)
    one, two = deal(), deal()
    first = [one.batch(step).tokens for step in range(50)]
    assert all(np.array_equal(two.batch(step).tokens, first[step]) for step in reversed(range(50)))
    assert not np.array_equal(first[0], first[1])
    parts = [one.batch(7, (numbers, 4)).tokens for numbers in ((1,), (0, 3), (2,))]
    assert np.array_equal(np.concatenate(parts), first[7][[1, 0, 3, 2]])  # what several processes read is together the batch


def test_a_batch_is_the_same_from_any_number_of_threads(tmp_path):
    stored(tmp_path)
    deal = lambda: loader.Loader(rows.load(tmp_path, "print"), STAGES, 64, 100, seed=3)  # many passes over each source
    alone, order, before = deal(), np.random.default_rng(0).permutation(100).tolist(), sys.getswitchinterval()
    wanted = [alone.batch(step) for step in range(100)]
    sys.setswitchinterval(1e-6)
    try:
        for threads in (1, 2, 8):
            with futures.ThreadPoolExecutor(threads) as pool:
                for step, batch in zip(order, pool.map(deal().batch, order), strict=True):
                    assert all(map(np.array_equal, batch, wanted[step])), (threads, step)
    finally:
        sys.setswitchinterval(before)


def test_rows_refuse_another_vocabulary_and_damage(tmp_path):
    stored(tmp_path)
    with pytest.raises(errors.InputError, match="same three tokenizers"):
        rows.load(tmp_path, "another")
    path = tmp_path / "a.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(errors.InputError, match="checksum differs"):
        rows.load(tmp_path, "print")
    path.write_bytes(bytes(data[:100]))
    with pytest.raises(errors.InputError, match="cannot be read"):
        rows.load(tmp_path, "print")
