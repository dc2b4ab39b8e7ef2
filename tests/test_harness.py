"""The harness's interface: likelihoods obey the chain rule, and greedy is what greedy writes."""

import sys
import types

import numpy as np
import pytest

from gemini_mini import config, errors, files, run, stream, vocab as vocabulary
from gemini_mini.decode import engine, scoring
from gemini_mini.evals import harness


@pytest.fixture(scope="module")
def asked(run_folder) -> harness.HarnessModel:
    return harness.HarnessModel(run.load(run_folder))


def _requests(*arguments):
    return [types.SimpleNamespace(args=each) for each in arguments]


@pytest.mark.slow
def test_likelihoods_multiply_along_a_text(asked):
    (whole, _), (first, _), (second, _) = asked.loglikelihood(_requests(
        ("a cat", " and a dog"), ("a cat", " and"), ("a cat and", " a dog")))
    assert whole == pytest.approx(first + second, rel=1e-4) and whole < first < 0


@pytest.mark.slow
def test_a_likelihood_is_that_of_the_ids(asked):
    tokenizers = asked.run.tokenizers
    ids = stream.render([stream.Pieces(tokenizers.text.encode("a cat and a dog"))], tokenizers.vocab, is_prompt=True)
    cut = 1 + len(tokenizers.text.encode("a cat"))
    (known,) = scoring.score(asked.run.model, tokenizers.vocab, [ids[:cut]], [ids[cut:]])
    assert asked.loglikelihood(_requests(("a cat", " and a dog")))[0][0] == pytest.approx(known.logprob, rel=1e-5)
    (rolling,) = asked.loglikelihood_rolling(_requests(("a cat and a dog",)))
    (from_start,) = scoring.score(asked.run.model, tokenizers.vocab, [ids[:1]], [ids[1:]])
    assert rolling == pytest.approx(from_start.logprob, rel=1e-5)
    long, short = asked.loglikelihood_rolling(_requests(("a cat " * 90,), ("a cat " * 9,)))
    assert long < 5 * short, "longer than the context, all of it is counted"


@pytest.mark.parametrize("is_chat", [False, True])
def test_a_free_answer_is_what_was_written_after_the_question(asked, monkeypatch, is_chat):
    """Within a word too: the answer to "a ca" begins with "t"."""
    model, text = harness.HarnessModel(asked.run, is_chat), asked.run.tokenizers.text
    for context, wanted in (("a cat", " and a dog"), ("", "dog"), ("a cat " * 90, "dog")) + ((("a ca", "t and"),) if not is_chat else ()):
        _, answer = model._pair(context, wanted)
        written = np.append(answer, vocabulary.EOS).astype(np.int32)
        monkeypatch.setattr(engine, "generate", lambda *_: [engine.Answer(written, np.zeros(len(written), np.float32))])
        wanted = text.decode(answer - asked.run.tokenizers.vocab.text_start) if is_chat else wanted
        assert model.generate_until(_requests((context, {"max_gen_toks": 20}))) == [wanted]
        for until in ("o", ["zz", "o"]):
            assert model.generate_until(_requests((context, {"until": until}))) == [wanted.split("o")[0]]


@pytest.mark.slow
def test_what_is_no_answer_or_too_long_ends_nothing(asked):
    (empty, _), (long, is_greedy) = asked.loglikelihood(_requests(("a cat", ""), ("a cat", " and a dog" * 99)))
    assert empty == 0.0 and long < -100 and not is_greedy


def test_a_chat_asks_as_the_user_and_a_long_context_loses_its_beginning(asked):
    chat = harness.HarnessModel(asked.run, is_chat=True)
    prompt, answer = chat._pair("a cat " * 90, "dog")
    assert prompt[:2].tolist() == [vocabulary.BOS, vocabulary.USER] and prompt[-1] == vocabulary.MODEL
    assert len(prompt) + len(answer) < asked.context_tokens
    assert chat._pair("a cat", " dog")[1].tolist() == chat._pair("a cat", "dog")[1].tolist(), "as the harness has its choices"
    short, _ = chat._pair("a cat", "dog")
    assert short[2:-1].tolist() == (asked.run.tokenizers.text.encode("a cat") + asked.run.tokenizers.vocab.text_start).tolist()
    plain, rest = asked._pair("a cat", " and a dog")
    together = asked.run.tokenizers.text.encode("a cat and a dog") + asked.run.tokenizers.vocab.text_start
    assert np.concatenate([plain, rest]).tolist() == [vocabulary.BOS, *together]


def test_a_released_file_says_first_where_its_figures_go(asked, tmp_path, monkeypatch):
    """By the command's own path; the harness is a stub that counts how often it is started."""
    path, started = tmp_path / "model.safetensors", []
    run.save_released(asked.run._replace(settings={"task": {"model": config.to_json(asked.run.model.config)}}), path, "card")
    found = {"results": {"ours": 1}, "samples": {"ours": [1, 2]}}
    monkeypatch.setattr(harness, "lm_eval", types.SimpleNamespace(
        simple_evaluate=lambda *_, **__: started.append(1) or found, utils=types.SimpleNamespace(make_table=str)))
    monkeypatch.setattr(harness, "TaskManager", lambda include_path: None, raising=False)
    for target, out, why in ((path, [], "give --out"), (tmp_path, ["--out", str(tmp_path / "out")], "is for a released file")):
        monkeypatch.setattr(sys, "argv", ["harness", str(target), "--tasks", "ours", *out])
        with pytest.raises(errors.InputError, match=why):
            harness.main()
    assert not started
    monkeypatch.setattr(sys, "argv", ["harness", str(path), "--tasks", "ours", "--out", str(tmp_path / "out")])
    harness.main()
    assert files.read_json(tmp_path / "out" / "evals" / "harness.json")["samples"] == {"ours": 2} and len(started) == 1


@pytest.mark.slow
def test_the_harness_runs_it(asked, tmp_path):
    """Where it is installed: two questions of which the likelier answers are known."""
    lm_eval = pytest.importorskip("lm_eval")
    scores = {word: asked.loglikelihood(_requests(("a ", word)))[0][0] / len(word) for word in ("cat", "dog")}
    (tmp_path / "q.jsonl").write_text('{"q": "a ", "c": ["cat", "dog"], "a": %d}\n' % (scores["dog"] > scores["cat"]))
    task = {"task": "ours", "dataset_path": "json", "dataset_kwargs": {"data_files": str(tmp_path / "q.jsonl")}, "test_split": "train",
            "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "{{c}}", "doc_to_target": "a",
            "target_delimiter": "", "metric_list": [{"metric": "acc"}]}
    found = lm_eval.simple_evaluate(asked, tasks=[task], bootstrap_iters=10)
    assert found["results"]["ours"]["acc,none"] == 1.0
