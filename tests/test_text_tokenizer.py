"""The text tokenizer's laws: every string comes back, and many are encoded as one by one."""

import numpy as np
import pytest
from flax import nnx
from hypothesis import example, given, settings, strategies as st

from gemini_mini import errors, stream
from gemini_mini.tokenizers import audio, bundle, text

SAMPLE = ["def f(x):\n\treturn 12 * x  # twice\r\n", "un chat noir et un chien", "красное сердце", "  两 只 猫  ", "🐈\u200d⬛ e\u0301"] * 20
ODD = "\u2581\ufeff\x00\r\n\t \u00a0\u2028\ue000\U000f0000e\u0301\U0001f408\u200d\ufffd\U0010ffff"


@pytest.fixture(scope="module")
def tokenizer() -> text.TextTokenizer:
    return text.train(SAMPLE, 380)


@pytest.mark.parametrize("sample", [[], [""], ["", " "]])
def test_of_no_text_at_all_there_are_bytes(sample):
    tokenizer = text.train(sample, 2048, is_exact=False)
    for words in ("déjà vu", "a\tb \n"):
        assert tokenizer.decode(tokenizer.encode(words)) == words


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text(ODD + "ab"))
@example(ODD)
@example("\u2581")
@example(" \u2581 \u2581\u2581 ")
@example("<unk><0xE2><s>")
def test_every_string_comes_back(tokenizer, string):
    ids = tokenizer.encode(string)
    assert tokenizer.decode(ids) == string
    assert ids.dtype == np.int32 and ((0 <= ids) & (ids < tokenizer.num_pieces)).all()


def test_the_mark_of_a_space_is_its_utf8_bytes_and_a_space_is_not(tokenizer):
    pieces = [tokenizer.processor.id_to_piece(i) for i in tokenizer.encode("a\u2581a").tolist()]
    assert pieces == ["a", "<0xE2>", "<0x96>", "<0x81>", "a"]
    assert not np.array_equal(tokenizer.encode("a b"), tokenizer.encode("a\u2581b"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text() | st.text(ODD), max_size=8), st.integers(1, 4))
def test_many_are_encoded_as_one_by_one(tokenizer, strings, num_threads):
    many = tokenizer.encode_many(strings, num_threads)
    assert len(many) == len(strings)
    assert all(np.array_equal(a, tokenizer.encode(b)) for a, b in zip(many, strings))


def test_a_book_in_one_piece_is_learned_from():
    """SentencePiece leaves out what is longer than a million bytes without a word."""
    book = "it is a truth universally acknowledged that a man wants a wife. " * 20_000
    assert len(book) > 1 << 20
    trained = text.train(["Ω", book], 300)
    assert len(trained.encode("universally acknowledged")) < 18, "not a byte for each letter"


def test_a_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(errors.InputError, match="lone surrogate at character 2"):
        tokenizer.encode("ab\ud800")
    with pytest.raises(errors.InputError, match="text 1: .*character 0"):
        tokenizer.encode_many(["fine", "\udfff"])


@pytest.mark.slow
@pytest.mark.parametrize("around", ["{}", "a{}b", " {} ", "{0}{0}"])
def test_every_unicode_scalar_value_comes_back(tokenizer, around):
    strings = [around.format(chr(c)) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    assert len(strings) == 1_112_064
    ids = tokenizer.encode_many(strings)
    again = tokenizer.processor.decode([piece.tolist() for piece in ids])
    assert [hex(ord(a.strip(" ab")[0])) for a, b in zip(strings, again) if a != b] == []


def test_documents_keep_their_texts_in_order(tokenizer):
    three = bundle.Tokenizers(tokenizer, None, audio.AudioTokenizer(audio.AudioTokenizerConfig(layers=1), nnx.Rngs(0)), None)
    documents = [[stream.Role("user"), stream.Text("one"), stream.Role("model"), stream.Text("two")], [stream.Text("three")]]
    encoded = three.encode_documents(documents)
    assert [tokenizer.decode(part.ids) for parts in encoded for part in parts if isinstance(part, stream.Pieces)] == [
        "one", "two", "three"]
