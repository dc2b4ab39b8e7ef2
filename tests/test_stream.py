"""The stream's laws: what is rendered parses back, and nothing else parses."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from gemini_mini import errors, stream, vocab as vocabulary

VOCAB = vocabulary.Vocab(num_pieces=50, num_image_codes=16, num_audio_codes=8, tokenizers="test")


def ints(high: int, least: int = 1, most: int = 6):
    return st.lists(st.integers(0, high - 1), min_size=least, max_size=most).map(lambda x: np.array(x, np.int32))


@st.composite
def grids(draw):
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return stream.Grid(draw(ints(16, height * width, height * width)).reshape(height, width))


@st.composite
def clips(draw):
    frames = draw(st.integers(1, 3))
    return stream.Clip([draw(ints(50)) for _ in range(frames)], [draw(grids()) for _ in range(frames)])


PARTS = st.one_of(ints(50).map(stream.Pieces), grids(), ints(8).map(stream.Sound), clips(),
                  st.sampled_from([stream.Role("user"), stream.Role("model")]))


def canonical(parts):
    """Neighbouring texts are one text: the grammar has no border between them."""
    out = []
    for part in parts:
        if out and isinstance(part, stream.Pieces) and isinstance(out[-1], stream.Pieces):
            out[-1] = stream.Pieces(np.concatenate([out[-1].ids, part.ids]))
        else:
            out.append(part)
    return out


def same(a, b) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return np.array_equal(a, b)


@settings(max_examples=300, deadline=None)
@given(st.lists(PARTS, max_size=6))
def test_parse_inverts_render(parts):
    assert same(stream.parse(stream.render(parts, VOCAB), VOCAB), canonical(parts))


@settings(max_examples=200, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=3), st.data())
def test_a_changed_id_never_parses_to_the_same_document(parts, data):
    ids = stream.render(parts, VOCAB)
    at = data.draw(st.integers(0, len(ids) - 1))
    changed = ids.copy()
    changed[at] = (changed[at] + data.draw(st.integers(1, VOCAB.size - 1))) % VOCAB.size
    try:
        got = stream.parse(changed, VOCAB)
    except errors.InputError:
        return
    assert not same(got, canonical(parts))


def test_header_equals_grid_and_rows_end():
    ids = stream.render([stream.Grid(np.arange(6, dtype=np.int32).reshape(2, 3))], VOCAB)
    image = VOCAB.image_start
    assert ids.tolist() == [
        vocabulary.BOS, vocabulary.BOI, vocabulary.SIZE_1 + 1, vocabulary.SIZE_1 + 2,
        image, image + 1, image + 2, vocabulary.EOL, image + 3, image + 4, image + 5, vocabulary.EOL,
        vocabulary.EOI, vocabulary.EOS]


@pytest.mark.parametrize("ids", [[], [vocabulary.BOS], [vocabulary.EOS], [vocabulary.BOS, vocabulary.BOI, vocabulary.EOS],
                                 [vocabulary.BOS, vocabulary.EOS, vocabulary.BOS], [vocabulary.BOS, VOCAB.size]])
def test_ungrammatical_ids_are_refused(ids):
    with pytest.raises(errors.InputError, match="stream:"):
        stream.parse(np.array(ids, np.int32), VOCAB)


def test_every_id_has_one_modality_and_the_ranges_are_whole():
    modality = VOCAB.modality_of(np.arange(VOCAB.size))
    counts = np.bincount(modality, minlength=5)
    assert counts.tolist() == [vocabulary.NUM_CONTROL, 50, 16, 8, VOCAB.size - VOCAB.end]
    assert (np.diff(modality) >= 0).all() and VOCAB.size % vocabulary.MULTIPLE == 0


def test_fingerprint_covers_every_field():
    prints = {VOCAB.fingerprint} | {VOCAB._replace(**{f: 99}).fingerprint for f in VOCAB._fields[:3]}
    assert len(prints | {VOCAB._replace(tokenizers="other").fingerprint}) == 5
    with pytest.raises(errors.InputError, match="same three tokenizers"):
        vocabulary.check(VOCAB.fingerprint, "other", "rows")


@pytest.mark.parametrize("side", [0, 33])
def test_sides_out_of_range_are_refused(side):
    with pytest.raises(errors.InputError, match="1 to 32"):
        vocabulary.size_id(side)
