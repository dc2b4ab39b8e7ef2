"""The Python API: parts of any kind in, parts that show themselves out."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from data_prep import phrases
from gemini_mini import api, errors, stream, vocab as vocabulary
from gemini_mini.decode import page, reading

SHORT = {"max_tokens": 24, "image_size": "8x8", "temperature": 1.0}


@pytest.fixture
def read_tokens(monkeypatch):
    """How many tokens were prefilled."""
    counts, read = [], reading._read

    def counted(model, tokens, positions, cache, slots):
        counts.append(int((tokens != 0).sum()))
        return read(model, tokens, positions, cache, slots)

    monkeypatch.setattr(reading, "_read", counted)
    return counts


def test_parts_of_any_kind_are_read(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "black.png")
    samples = np.zeros(4000, np.float32)
    given = ["draw", "this:", tmp_path / "black.png", str(tmp_path / "black.png"), pixels, PIL.Image.fromarray(pixels),
             "like", stream.Image(pixels[:4, :4]), samples, stream.Video(pixels[None, :4, :4], np.zeros(1, np.float32))]
    parts = api.read(given, patch=4)
    assert parts[0] == stream.Text("draw this:") and parts[5] == stream.Text("like")
    assert all(part.pixels.shape == (16, 32, 3) for part in parts[1:5]) and parts[6].pixels.shape == (4, 4, 3)
    assert parts[7].samples is samples and isinstance(parts[8], stream.Video)
    for bad, sentence in ((3, "got int"), (np.zeros((4, 4)), r"an array \(4, 4\) of float64"), ("gone.png", "no such file")):
        with pytest.raises(errors.InputError, match=sentence):
            api.read([bad], patch=4)
    with pytest.raises(errors.InputError, match=r"write \['draw'\]"):
        api.read("draw", patch=4)


def test_answers_are_parts_that_show_themselves(model):
    drawn = (model.generate(["draw a cat"], modalities=("image", "audio"), seed=seed, **SHORT) for seed in range(30))
    answer = next(parts for parts in drawn if {type(part) for part in parts} == {api.Picture, api.Sound})
    assert all(part.pixels.shape == (8, 8, 3) for part in answer if isinstance(part, stream.Image))
    assert all(len(part.samples) >= 400 and np.isfinite(part.samples).all() for part in answer if isinstance(part, stream.Audio))
    for part in answer:
        assert part._repr_html_() == page.part(part) and part._repr_html_() in answer._repr_html_()
    assert answer.logprob == pytest.approx(answer.logprobs.sum()) and len(answer.tokens) == len(answer.logprobs) <= 24


def test_best_of_is_the_likeliest_of_those_samples(model, read_tokens):
    prompts = [["one"], ["two"]]
    drawn = model.generate_many([p for p in prompts for _ in range(2)], **SHORT)
    read_tokens.clear()
    best = model.generate_many(prompts, best_of=2, **SHORT)
    for first, answer in zip((0, 2), best):
        likeliest = max(drawn[first : first + 2], key=lambda a: a.logprob)
        np.testing.assert_array_equal(answer.tokens, likeliest.tokens)
    assert sum(read_tokens) == sum(len(model.encode(p)) - 1 for p in prompts), "samples of one prompt share its prefill"
    heard = []
    stopped = model.generate_many(prompts, lambda index, tokens: bool(heard.append((index, len(tokens))) or len(heard) == 4), best_of=2, **SHORT)
    assert sorted(heard) == [(0, 0), (0, 0), (1, 0), (1, 0)], "of drafts nothing is heard, but they can be stopped"
    assert len(stopped) == 2 and all(len(answer.tokens) <= 2 for answer in stopped)


def test_named_is_the_picture_that_the_model_itself_would_call_so(model):
    assert api.WHAT == phrases.NAME["en"][0]
    vocab, encode = model.run.tokenizers.vocab, model.run.tokenizers.text.encode
    how = {**SHORT, "modalities": ("image",)}
    every = model.generate_many([["draw"]] * 6, **how)
    drawn = [answer for answer in every if len(answer) == 1]
    assert 2 < len(drawn)

    def likely(answer: api.Answer) -> float:  # by a forward pass over the whole question
        called = [*encode("cat") + vocab.text_start, vocabulary.EOS]
        ids = np.concatenate([model.encode([stream.Image(answer[-1].pixels), "What is it?"]), called])
        ids = jnp.asarray(ids[None], jnp.int32)
        logits = np.asarray(model.run.model.logits(model.run.model(ids, jnp.arange(ids.shape[1])[None], jnp.ones_like(ids))), np.float64)[0]
        logits[:, vocabulary.EOS] = np.logaddexp(logits[:, vocabulary.EOS], logits[:, vocabulary.USER])
        may = [vocabulary.EOS, vocabulary.BOI, *range(vocab.text_start, vocab.image_start)]
        return sum(logits[at - 1, ids[0, at]] - np.logaddexp.reduce(logits[at - 1, may]) for at in range(ids.shape[1] - len(called), ids.shape[1]))

    best = model.generate(["draw"], best_of=6, named="cat", **how)
    np.testing.assert_array_equal(best.tokens, max(drawn, key=likely).tokens)
    assert best.logprob != max(answer.logprob for answer in every), "another than the likeliest"
    assert likely(best) > likely(min(drawn, key=likely))
    with pytest.raises(errors.InputError, match="named: is of one prompt, got 2"):
        model.generate_many([["draw"], ["draws"]], best_of=6, named="cat", **how)
    with pytest.raises(errors.InputError, match="named: must be a name, at most"):
        model.generate(["draw"], best_of=6, named="cat " * 99, **how)
    words = model.generate(["draw"], best_of=2, named="cat", **{**SHORT, "modalities": ("text",)})
    assert isinstance(words[0], stream.Text), "without a picture it is the likeliest"


def test_a_choice_is_scored_as_it_would_be_written(model):
    picture = np.zeros((8, 8, 3), np.uint8)
    scored = model.score(["a cat"], ["dog", "cat", ["a ", picture]])
    assert [s.text for s in scored] == ["dog", "cat", "a "] and isinstance(scored[2][1], api.Picture)
    vocab, tokenizers = model.run.tokenizers.vocab, model.run.tokenizers
    prompt = model.encode(["a cat"])
    for answer, text in zip(scored, ("dog", "cat")):  # a forward pass over the whole document says the same
        pieces = tokenizers.text.encode(text) + vocab.text_start
        np.testing.assert_array_equal(answer.tokens, [*pieces, vocabulary.EOS])
        ids = jnp.asarray(np.concatenate([prompt, pieces])[None], jnp.int32)
        forward = model.run.model.logits(model.run.model(ids, jnp.arange(ids.shape[1])[None], jnp.ones_like(ids)))
        logits = np.asarray(forward, np.float64)[0, len(prompt) - 1 :]
        logits[:, vocabulary.EOS] = np.logaddexp(logits[:, vocabulary.EOS], logits[:, vocabulary.USER])
        may = [vocabulary.EOS, vocabulary.BOI, *range(vocab.text_start, vocab.image_start)]
        expected = logits[range(len(pieces) + 1), answer.tokens] - np.logaddexp.reduce(logits[:, may], axis=1)
        np.testing.assert_allclose(answer.logprobs, expected, atol=1e-4)


def test_a_chat_reads_what_is_new_and_forgets_the_oldest_turn(model, read_tokens):
    chat = model.chat(**SHORT)
    for turn in range(3):
        read_tokens.clear()
        answer = chat.send(["and now"])
        question = len(model.encode(["and now"])) - 1
        assert sum(read_tokens) == question - 1 + (turn == 0)
        assert len(chat.turns) == turn + 1 and list(chat.document[-len(answer):]) == list(answer)
    room = model.run.model.config.context_tokens - 24
    while 1 + sum(map(len, chat.turns)) + question <= room:
        chat.send(["and now"])
    turns = list(chat.turns)
    chat.send(["and now"])
    assert len(chat.turns) < len(turns) + 1 and chat.turns[-2] is turns[-1]
    assert "body {" not in chat._repr_html_(), "the notebook keeps its own style"
    assert chat._repr_html_().count('class="turn user"') == len([p for p in chat.document if p == stream.Role("user")])


def test_guidance_needs_null_prompts(model):
    with pytest.raises(errors.InputError, match="train it with task.hide_prompts=0.1"):
        model.generate(["draw"], guidance=2.0, **SHORT)
    taught = dataclasses.replace(model, run=model.run._replace(settings={"task": {"hide_prompts": 0.1}}))
    taught.generate(["draw"], guidance=2.0, **SHORT)
