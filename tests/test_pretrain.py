"""Pretraining and the run folder it leaves: what is hidden, what is exported, what is refused."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax import nnx

import events
import test_loop
from gemini_mini import alone as alone_lib, config, errors, files, nn, parallel, release, run, stream, vocab as vocabulary
from gemini_mini.data import loader, mixture, packing, rows
from gemini_mini.decode import engine, grammar, sampling
from gemini_mini.evals import album
from gemini_mini.model import decoder, ring
from gemini_mini.tasks import pretrain
from gemini_mini.tokenizers import audio, bundle, image, text
from gemini_mini.train import hosts, loop, metrics, optim
from tests import processes


RED, BLUE = np.zeros((2, 16, 16, 3), np.uint8) + np.array([[200, 0, 0], [0, 0, 200]], np.uint8)[:, None, None]
SOUND = stream.Audio(np.sin(np.arange(4000, dtype=np.float32)))
DOCUMENTS = [[stream.Role("user"), stream.Text(f"draw a {name} square"), SOUND, stream.Role("model"), stream.Image(pixels)]
             for name, pixels in (("red", RED), ("blue", BLUE))] * 4


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Three untrained tokenizers and the rows of two pictures with captions, sounds among them."""
    folder = tmp_path_factory.mktemp("world")
    texts = text.train(["draw a red square", "a blue one", "say it again"] * 30, 300)
    files.write_bytes(folder / "text.model", texts.model_proto)
    image.save(image.ImageTokenizer(image.ImageTokenizerConfig(width=80, hidden=16, num_codes=32), nnx.Rngs(0)), folder / "i.st")
    audio.save(audio.AudioTokenizer(audio.AudioTokenizerConfig(width=16, layers=1, hidden=16, num_codes=16), nnx.Rngs(0)),
               folder / "a.st")
    tokenizers = bundle.load(folder / "text.model", folder / "i.st", folder / "a.st")
    render = lambda found: [stream.render(parts, tokenizers.vocab) for parts in tokenizers.encode_documents(found)]
    written = [[stream.Text(f"a red square and a blue one, say it {n} times")] for n in range(30)]
    for split in ("train", "valid"):
        (folder / "rows" / split).mkdir(parents=True)
        rows.write(folder / "rows" / split, {"draw": render(DOCUMENTS), "words": render(written)}, 128, tokenizers.vocab.fingerprint)
    files.write_json(folder / "rows" / "built.json", {"key": "k"})
    return folder


def experiment(world: Path, folder: Path) -> config.Experiment:
    task = pretrain.Pretrain(
        rows=str(world / "rows"), text_tokenizer=str(world / "text.model"), image_tokenizer=str(world / "i.st"),
        audio_tokenizer=str(world / "a.st"), stages=(mixture.Stage("all", 1.0, {"draw": 1.0}),),
        model=decoder.DecoderConfig(depth=1, aspect=32, head_dim=16), batch_rows=8, hide_images=0.5, hide_prompts=0.1)
    return config.Experiment(task, optim.OptimConfig(kind="muon", lr=1e-2), loop.RunConfig(str(folder), steps=30))


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    e = experiment(world, folder)
    loop.run(e.task, e.optim, e.run, config.to_json(e))
    return folder


@pytest.mark.parametrize("shape", [(0, 4, 2, 1), (0, 2, 1, 4)])
def test_a_mesh_gives_one_devices_valid_losses(world, tmp_path, shape, monkeypatch):
    """Under that mesh, or a TPU's kernel would refuse it."""
    model = decoder.DecoderConfig(depth=1, aspect=32, head_dim=16, attention="blockwise")
    task, seen, attend = dataclasses.replace(experiment(world, tmp_path).task, model=model), [], ring.attend
    module, mesh = task.init(nnx.Rngs(0)), parallel.mesh(shape)
    alone = task.valid_losses(module)
    monkeypatch.setattr(ring, "attend", lambda *given: seen.append(parallel.current()) or attend(*given))
    cut = task.valid_losses(nn.with_weights(module, jax.device_put(nn.weights(module), parallel.shardings(nn.weights(module), nn.axes(module), mesh))))
    assert seen and set(seen) == {mesh.abstract_mesh}
    assert cut.keys() == alone.keys()
    np.testing.assert_allclose(list(cut.values()), list(alone.values()), rtol=1e-5)

def to_its_end(world: str, folder: str) -> dict:
    """What a run of two steps over a mesh of all devices says at its end; of two processes each calls this."""
    e = experiment(Path(world), Path(folder))
    loop.run(e.task, e.optim, dataclasses.replace(e.run, steps=2, mesh=(0, 2, 1, 1)), {})
    hosts.meet("done")
    return files.read_json(Path(folder) / "done.json")


@pytest.mark.slow
def test_several_processes_end_a_run_with_one_processs_figures_and_weights(world, tmp_path):
    """The weights are never whole on a device."""
    together = processes.together(2, "test_pretrain.to_its_end", [str(world), str(tmp_path / "two")], tmp_path)
    alone = to_its_end(str(world), str(tmp_path / "one"))
    assert together[0] == together[1] and together[0].keys() == alone.keys() and len(alone) > 2
    assert max(abs(together[0][name] - value) for name, value in alone.items()) < 1e-4
    weights = [files.load_arrays(tmp_path / name / "model.safetensors")[0] for name in ("one", "two")]
    assert all(np.abs(weights[0][name] - weights[1][name]).max() < 1e-4 for name in weights[0])


def through_two_stages(world: str, folder: str, dies_at: int) -> None:
    """A run with all that reads a key or the step; it kills itself at that step, and comes back to it when called again with -1."""
    e, deal = experiment(Path(world), Path(folder)), loader.Loader.batch
    stages = mixture.Stage("first", 0.5, {"draw": 1.0}), mixture.Stage("then", 1.0, {"draw": 0.5, "words": 0.5})
    task = dataclasses.replace(e.task, stages=stages, model=dataclasses.replace(e.task.model, shortcuts=True), user_share=0.5)

    def dying(self, step, *parts):
        if step == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return deal(self, step, *parts)

    loader.Loader.batch = dying
    loop.run(task, e.optim, dataclasses.replace(e.run, save_every=5), config.to_json(e))


@pytest.mark.slow
def test_a_killed_pretraining_goes_on_to_the_same_bits(world, tmp_path):
    """In its second stage, on the way to the next checkpoint."""
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import conftest, test_pretrain; test_pretrain.through_two_stages"
    for name, dies_at, code in (("whole", -1, 0), ("killed", 18, -signal.SIGKILL), ("killed", -1, 0)):
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", f"{script}({str(world)!r}, {str(tmp_path / name)!r}, {dies_at})"],
                              cwd=Path(__file__).parent.parent, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert ((tmp_path / name) / "done.json").is_file() == (code == 0)
    test_loop.assert_same(tmp_path / "whole", tmp_path / "killed")


def test_training_learns_its_rows_and_the_run_loads(trained):
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    losses = [r["loss"] for r in records if "loss" in r]
    assert losses[-1] < 0.5 * losses[0]
    assert {"loss/text", "loss/image", "loss/audio", "tokens_per_s", "mfu"} <= set(records[0]) and records[0]["mixture/draw"] == 1
    good = [(r["productive_s"], r["goodput"]) for r in records if "loss" in r]
    assert good == sorted(good) and 0 < good[0][0] and 0 < good[0][1] < good[-1][1] < 1, "the start is lost, and no more"
    loaded = run.load(trained)
    assert loaded.model.config.vocab_size == loaded.tokenizers.vocab.size
    ids = jnp.ones((1, 4), jnp.int32)
    assert np.isfinite(loaded.model.logits(loaded.model(ids, ids, ids))).all()


def test_a_trained_run_is_released_with_its_card_and_pictures(trained, tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(errors.InputError, match="run: python -m gemini_mini.evals"):
        release.release(trained, tmp_path / "small.safetensors")
    kept = album.Album()
    example = {"prompt": kept.add([stream.Text("Draw: red square")]), "truth": [], "is_right": False,
               "answer": kept.add([stream.Image(np.zeros((32, 32, 3), np.uint8))])}
    cell = {"value": 0.0, "low": 0.0, "high": 0.9, "n": 1, "chance": 0.0, "majority": None, "baseline": 0.0,
            "sampling": "greedy", "samples": 1, "shots": 0, "examples": [example]}
    (trained / "evals").mkdir()
    album.save(kept, trained / "evals" / "examples.safetensors")
    files.write_json(trained / "evals_detail.json", {
        "half": "dev", "model": run.weights_hash(trained), "pictures": 2, "image_temperature": 0.0, "guidance": 1.5, "limit": 1, "seed": 0,
        "is_valid_only": False, "tasks": {"draw": {"unit": "accuracy", "splits": {"seen": cell}}}})
    with pytest.raises(errors.InputError, match="run: python -m gemini_mini.evals.scan"):
        release.release(trained, tmp_path / "small.safetensors")
    counts = {"n": 7, "pair": 0, "media": 0, "text": 0, "near": 0}
    files.write_json(trained / "scan.json", {"rows": [files.read_json(trained / "run.json")["inputs"]["rows"]], "documents": 40, "ngram": 13,
                                             "found": {"draw": {"valid": counts}}})
    losses = release.release(trained, tmp_path / "small.safetensors")
    assert losses.keys() == {"draw", "words"} and all(0 < abs(after / before - 1) < 0.02 for before, after in losses.values())
    drawn = run.load(tmp_path / "small.safetensors")
    assert drawn.model.config == run.load(trained).model.config and drawn.settings["task"]["row_tokens"] == 128
    assert PIL.Image.open(tmp_path / "small.png").width > 900 and PIL.Image.open(tmp_path / "small_failures.png").height > 60
    assert all(f"({name})" in (tmp_path / "small.md").read_text() for name in ("small.png", "small_failures.png"))
    assert "of 7 questions" in (tmp_path / "small.md").read_text()


def test_tensorboard_shows_every_number_of_the_metrics(trained):
    shown, records = events.read(trained), metrics.read(trained)
    assert {"loss/text", "loss/image", "loss/audio", "mixture/draw", "valid/draw/loss/image"} <= shown.keys()
    for record in records:
        for name in record.keys() - {"step"}:
            assert shown[name][record["step"]] == pytest.approx(record[name], rel=1e-6), name


@pytest.mark.slow
def test_tensorboard_shows_the_stages_and_pictures_over_time(world, tmp_path):
    e = experiment(world, tmp_path)
    stages = (mixture.Stage("first", 0.5, {"draw": 3.0, "words": 1.0}), mixture.Stage("last", 1.0, {"words": 1.0}))
    loop.run(dataclasses.replace(e.task, stages=stages), e.optim, dataclasses.replace(e.run, steps=20, eval_every=5, log_every=2), {})
    shown = events.read(tmp_path)
    for name, first, last in (("draw", 0.75, 0.0), ("words", 0.25, 1.0)):
        assert [shown[f"mixture/{name}"][step] for step in (2, 8, 14, 20)] == [first, first, last, last]
    assert list(shown["wanted_and_drawn"]) == [5, 10, 15, 20] == list(shown["valid/draw/loss"]) == list(shown["valid/words/loss"])
    assert set(shown["loss/image"]) == set(shown["loss/text"]) == set(range(2, 21, 2))


def test_tensorboard_shows_what_was_asked_for_above_what_the_sampler_draws(world, trained):
    ((step, shown),) = events.read(trained)["wanted_and_drawn"].items()
    assert step == 30
    loaded = run.load(trained)
    documents = [loaded.tokenizers.encode_documents([document])[0] for document in DOCUMENTS[:2]]
    wanted = [loaded.tokenizers.decode_parts([document[-1]])[0].pixels for document in documents]
    prompts = [stream.render(document[:-1], loaded.tokenizers.vocab, is_prompt=True) for document in documents]
    settings = engine.Settings(sampling.GREEDY, sampling.GREEDY, rules=grammar.Rules(has_text=False),
                               max_tokens=3 + 4 * 5 + 2, batch_rows=2)
    answers = engine.generate(loaded.model, loaded.tokenizers.vocab, prompts, settings)
    lower = np.full((16, 32, 3), 255, np.uint8)
    for place, answer in enumerate(answers):
        parts = stream.parse(np.append(np.int32(vocabulary.BOS), answer.tokens), loaded.tokenizers.vocab)
        for picture in loaded.tokenizers.decode_parts(parts[:1]):
            lower[: len(picture.pixels), 16 * place : 16 * place + picture.pixels.shape[1]] = picture.pixels
    both = np.concatenate([np.concatenate(wanted, axis=1), lower])
    np.testing.assert_array_equal(shown, np.tile(both, (1, 2, 1)))  # train and valid hold the same
    assert (lower != 255).any(), "nothing was drawn"


@pytest.mark.slow
def test_ten_times_the_learning_rate_stays_finite(world, tmp_path):
    """Ten times the demo's rates: query-key norm, z-loss and skipped steps have to hold."""
    e = experiment(world, tmp_path)
    hot = optim.OptimConfig(kind="muon", lr=4e-2, muon_lr=2e-1)
    loop.run(e.task, hot, dataclasses.replace(e.run, log_every=1), config.to_json(e))
    records = [r for r in metrics.read(tmp_path) if "loss" in r]
    assert len(records) == 30 and all(np.isfinite([r["loss"], r["grad_norm"]]).all() for r in records)
    assert records[-1]["loss"] < records[0]["loss"]
    assert all(np.isfinite(w).all() for w in files.load_arrays(tmp_path / "model.safetensors")[0].values())


def test_encoding_and_decoding_a_document(world):
    tokenizers = bundle.load(world / "text.model", world / "i.st", world / "a.st")
    pixels = np.full((8, 12, 3), 255, np.uint8)
    frames = np.stack([pixels, pixels])
    document = [stream.Text("a red one"), stream.Image(pixels), stream.Video(frames, np.array([0, 61], np.float32)),
                stream.Audio(np.zeros(16_000, np.float32))]
    encoded = tokenizers.encode_documents([document])[0]
    assert encoded[1].codes.shape == (2, 3) and len(encoded[3].codes) == 25
    assert [tokenizers.text.decode(t) for t in encoded[2].times] == ["00:00", "01:01"]
    known = {}
    alike = lambda other: all(jax.tree.leaves(jax.tree.map(np.array_equal, encoded, other)))
    assert alike(tokenizers.encode_documents([document], known)[0]) and len(known) == 2, "the frames are the picture"
    for key, part in known.items():
        known[key] = part._replace(codes=part.codes * 0 + 7)
    again = tokenizers.encode_documents([document], known)[0]
    assert (again[1].codes == 7).all() and (again[3].codes == 7).all(), "what is known is not encoded again"
    again = tokenizers.decode_parts(stream.parse(stream.render(encoded, tokenizers.vocab), tokenizers.vocab))
    assert again[0] == document[0] and again[1].pixels.shape == pixels.shape


def test_only_image_codes_are_hidden_and_in_a_share_that_varies_by_row(world):
    task = dataclasses.replace(experiment(world, Path("x")).task, hide_images=1.0)
    vocab = task.tokenizers.vocab
    tokens = np.tile(np.arange(vocab.size, dtype=np.int32), (64, 1))
    is_user = np.arange(64)[:, None] % 8 == np.zeros_like(tokens)
    hidden = np.asarray(task._hide(jnp.array(tokens), jnp.where(is_user, packing.USER, packing.NOBODY), jax.random.key(0)))
    is_image = np.asarray(vocab.modality_of(tokens)) == vocabulary.IMAGE
    assert (hidden[::8] == tokens[::8]).all(), "a picture the user shows stays whole"
    hidden, tokens, is_image = (np.delete(x, np.s_[::8], axis=0) for x in (hidden, tokens, is_image))
    assert (hidden[~is_image] == tokens[~is_image]).all()
    changed = hidden != tokens
    assert (hidden[changed] == vocabulary.PAD).all()
    share = changed.sum(1) / is_image.sum(1)
    assert share.min() < 0.2 and share.max() > 0.8 and 0.4 < share.mean() < 0.6


def test_a_null_prompt_hides_what_the_user_says_in_whole_documents_that_draw(world, monkeypatch):
    task = experiment(world, Path("x")).task
    word, code = task.tokenizers.vocab.text_start, task.tokenizers.vocab.image_start
    bos, eos, user, model = vocabulary.BOS, vocabulary.EOS, vocabulary.USER, vocabulary.MODEL
    picture = [vocabulary.BOI, vocabulary.size_id(1), vocabulary.size_id(1), code, vocabulary.EOL, vocabulary.EOI]
    draws = [bos, user, word, *picture, model, word, user, word + 1, model, *picture, eos]
    tells, plain = [bos, user, *picture, word, model, word, eos], [bos, word, *picture, eos]
    row = np.array(draws + tells + draws + plain + [vocabulary.PAD] * 3, np.int32)
    batch = jax.tree.map(jnp.asarray, packing.batch_of(np.tile(row, (64, 1))))

    shown, scales = [], []
    monkeypatch.setattr(decoder.Decoder, "__call__", lambda self, tokens, *_: shown.append(np.asarray(tokens)))
    monkeypatch.setattr(pretrain.loss, "next_token", lambda *given: (scales.append(np.asarray(given[4])), (jnp.zeros(()), {}))[1])
    module = task.init(nnx.Rngs(0))

    def hidden(share):
        dataclasses.replace(task, hide_images=0.0, hide_prompts=share).loss(module, batch, jax.random.key(0))
        return shown[-1]

    first, second = len(draws), len(draws) + len(tells)
    expected = row.copy()
    for start in (0, second):  # of each drawing document all but the roles and what the model says
        expected[[start + i for i in (*range(2, 9), 12)]] = vocabulary.PAD
    assert (hidden(1.0) == expected).all() and (hidden(0.0) == row).all()
    is_word = np.asarray(task.vocab.modality_of(batch.targets[0])) == vocabulary.TEXT
    is_blind = np.isin(np.arange(len(row)), [*range(first - 1), *range(second, second + first - 1)])
    assert (scales[0] == np.where(is_word & is_blind, 0, scales[1])).all() and (is_word & is_blind).any(), "no word is learned from nothing"
    prompt = np.array(draws[: draws.index(model, 12) + 1], np.int32)
    np.testing.assert_array_equal(engine.null_prompt(prompt), expected[: len(prompt)])  # the sampler hides the same
    some = hidden(0.3)
    for start in (0, second):
        part, whole = some[:, start : start + first], row[start : start + first]
        is_hidden = (part == expected[start : start + first]).all(1)
        assert (is_hidden | (part == whole).all(1)).all() and 0.1 < is_hidden.mean() < 0.5


def test_a_target_counts_by_who_speaks_and_an_answers_end_as_its_words(world):
    task = dataclasses.replace(experiment(world, Path("x")).task, user_share=0.25, answer_text_weight=5.0)
    word, code = task.tokenizers.vocab.text_start, task.tokenizers.vocab.image_start
    bos, eos, user, model, boi, eoi = (vocabulary.BOS, vocabulary.EOS, vocabulary.USER, vocabulary.MODEL,
                                       vocabulary.BOI, vocabulary.EOI)
    size = vocabulary.size_id(1)
    # Each id and the weight of predicting it: a question, an answer with a picture, a question, an answer, plain text.
    wanted = [(bos, None), (user, 1), (word, 0.25), (model, 0.25), (word, 5), (boi, 1), (size, 1), (size, 1), (code, 1),
              (vocabulary.EOL, 1), (eoi, 1), (word, 5), (user, 5), (word, 0.25), (model, 0.25), (word, 5), (eos, 5),
              (bos, None), (word, 1), (eos, 1)]
    ids, weights = zip(*wanted)
    batch = packing.batch_of(np.array([ids], np.int32))
    scale = np.asarray(task._scale(jax.tree.map(jnp.asarray, batch)))[0]
    assert [w for w, counts in zip(scale, batch.has_target[0]) if counts] == [w for w in weights if w is not None]


def test_of_what_the_user_says_a_share_counts_and_of_all_else_everything(world, monkeypatch):
    task = dataclasses.replace(experiment(world, Path("x")).task, user_share=0.25, hide_images=0.0, hide_prompts=0.0)
    word, bos, eos, user, model = task.tokenizers.vocab.text_start, vocabulary.BOS, vocabulary.EOS, vocabulary.USER, vocabulary.MODEL
    row = np.array([bos, user, *[word] * 20, model, *[word] * 8, eos], np.int32)
    batch = jax.tree.map(jnp.asarray, packing.batch_of(np.tile(row, (64, 1))))
    scales = []
    monkeypatch.setattr(decoder.Decoder, "__call__", lambda self, tokens, *_: None)
    monkeypatch.setattr(pretrain.loss, "next_token", lambda *given: (scales.append(np.asarray(given[4])), (jnp.zeros(()), {}))[1])
    for key in (jax.random.key(0), jax.random.key(1), None):
        task.loss(task.init(nnx.Rngs(0)), batch, key)
    said, plain = np.asarray(batch.speaker) == packing.USER, np.asarray(task._scale(batch))
    for scale in scales[:2]:
        assert (scale[~said] == plain[~said]).all() and np.isin(scale[said], [0, 1]).all() and abs(scale[said].mean() - 0.25) < 0.05
    assert (scales[0] != scales[1]).any() and (scales[2] == plain).all(), "chosen anew at every step; without a key as much in all"
    with pytest.raises(errors.InputError, match="user_share: is a share"):
        dataclasses.replace(task, user_share=2.0)


def test_flops_are_of_logits_where_a_target_counts_and_an_empty_source_says_nothing(world):
    task = dataclasses.replace(experiment(world, Path("x")).task, user_share=0.25, batch_rows=1, stages=(mixture.Stage("all", 1.0, {"said": 0.5, "none": 0.5}),))
    row = np.array([[vocabulary.BOS, vocabulary.USER, *[50] * 8, vocabulary.MODEL, *[50] * 4, vocabulary.EOS]], np.int32)  # 9 targets are the user's, 6 not
    task.__dict__["train_rows"] = rows.Rows("", 16, {"said": row, "none": row[:0]})
    model = dataclasses.replace(task.model, vocab_size=task.vocab.size)
    speaker, counting = packing.batch_of(row).speaker, packing.batch_of(row).has_target > 0
    share = (0.25 * (counting & (speaker == packing.USER)).sum() + (counting & (speaker != packing.USER)).sum()) / 16
    assert 0.3 < share < 0.7
    assert task.batch_flops() == pytest.approx(16 * (model.flops_per_token(16) - (1 - share) * 6 * model.vocab_size * model.width), rel=1e-6)


def test_a_run_folder_must_be_one_finished_and_whole(trained, tmp_path):
    with pytest.raises(errors.InputError, match="is no run folder"):
        run.load(tmp_path)
    (tmp_path / "run.json").write_bytes((trained / "run.json").read_bytes())
    with pytest.raises(errors.InputError, match="has no finished model"):
        run.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(errors.InputError, match="no such tokenizer"):
        run.load(tmp_path)
    (tmp_path / "tokenizers").mkdir()
    for path in (trained / "tokenizers").iterdir():
        (tmp_path / "tokenizers" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(errors.InputError, match="is damaged"):
        run.load(tmp_path)


def test_another_vocabulary_is_refused_by_run_and_rows(trained, world, tmp_path):
    for path in trained.rglob("*"):
        if path.is_file() and "checkpoints" not in path.parts and "tensorboard" not in path.parts:
            files.write_bytes(tmp_path / path.relative_to(trained), path.read_bytes())
    other = text.train(["another text altogether, with other pieces"] * 30, 280)
    files.write_bytes(tmp_path / "tokenizers" / "text.model", other.model_proto)
    with pytest.raises(errors.InputError, match="same three tokenizers"):
        run.load(tmp_path)
    files.write_bytes(tmp_path / "other.model", other.model_proto)
    e = experiment(world, tmp_path / "r")
    task = dataclasses.replace(e.task, text_tokenizer=str(tmp_path / "other.model"))
    with pytest.raises(errors.InputError, match="same three tokenizers"):
        loop.run(task, e.optim, e.run, config.to_json(e))


def test_a_run_begins_with_the_weights_of_another(trained, world, tmp_path):
    task = experiment(world, tmp_path).task
    longer = dataclasses.replace(task, start_from=str(trained), model=dataclasses.replace(task.model, context_tokens=4096, rope_base=4e4))
    weights = files.load_arrays(trained / "model.safetensors")[0]
    begun = nn.weights(longer.init(nnx.Rngs(1)))
    assert all(np.array_equal(w, weights[name]) for name, w in begun.items()) and begun.keys() == weights.keys()
    assert nn.weights(jax.eval_shape(lambda: longer.init(nnx.Rngs(1)))).keys() == weights.keys(), "as a mesh makes it"
    inputs = longer.inputs()
    changed = dataclasses.replace(longer)
    changed.__dict__["first_weights"] = {**weights, "norm.scale": weights["norm.scale"] + 1}
    assert inputs.items() > task.inputs().items() and changed.inputs() != inputs, "a run is of the weights it began with"
    with pytest.raises(errors.InputError, match="must have shape"):
        dataclasses.replace(longer, model=dataclasses.replace(task.model, aspect=64)).init(nnx.Rngs(1))
    with pytest.raises(errors.InputError, match="task.model.key_offset: must be that of task.start_from=.*, False, got True"):
        dataclasses.replace(longer, model=dataclasses.replace(longer.model, key_offset=True)).inputs()
    with pytest.raises(errors.InputError, match="no such file"):
        dataclasses.replace(longer, start_from=str(tmp_path)).init(nnx.Rngs(1))


def test_valid_losses_are_of_targets_and_not_of_batches(world):
    """Pictures stand in the first batch alone; a mean of batches would halve them."""
    task = experiment(world, Path("x")).task
    sources = task.train_rows.sources
    pictures, texts = sources["draw"][:3], sources["words"][:5]
    mixed = rows.Rows("", 128, {"mixed": np.concatenate([pictures, texts]), "words": texts})
    few, all_at_once = (dataclasses.replace(task, batch_rows=n) for n in (3, 8))
    for each in (few, all_at_once):
        each.__dict__["valid_rows"] = mixed
    module = task.init(nnx.Rngs(0))
    found, wanted = few.valid_losses(module), all_at_once.valid_losses(module)
    assert found == pytest.approx(wanted, rel=1e-5) and "valid/mixed/loss/image" in found
    assert "valid/words/loss/text" in found and "valid/words/loss/image" not in found, "of what never occurs there is no figure"


def test_a_run_alone_reads_what_the_whole_run_reads_of_it(world, tmp_path):
    (tmp_path / "c.py").write_text(f"""
import dataclasses, test_pretrain
from pathlib import Path
from gemini_mini.data import mixture

def config():
    e = test_pretrain.experiment(Path({str(world)!r}), Path({str(tmp_path / 'run')!r}))
    stages = (mixture.Stage("first", 0.4, {{"draw": 1.0}}), mixture.Stage("last", 1.0, {{"draw": 0.5, "words": 0.5}}))
    return dataclasses.replace(e, task=dataclasses.replace(e.task, stages=stages))
""")
    whole = config.load(str(tmp_path / "c.py"), ["run.steps=40", "run.seed=3"])
    files.write_json(tmp_path / "run" / "run.json", {"steps": 40, "settings": config.to_json(whole)})
    alone = alone_lib.of_run(tmp_path / "run")
    assert alone.task.sources == ("words",) and alone.run.folder == f"{tmp_path}/run-text"
    rows = lambda e, steps: np.concatenate([e.task.batches(steps, e.run.seed)(step).tokens for step in range(steps)])
    read = rows(whole, 40)
    words = read[~(whole.task.vocab.modality_of(read) == vocabulary.IMAGE).any(axis=1)]
    assert alone.run.steps == len(words) // 8 > 8
    np.testing.assert_array_equal(rows(alone, alone.run.steps), words[: alone.run.steps * 8])
    again = alone.task.batches(alone.run.steps, 3)(alone.run.steps + 1).tokens
    assert again.shape == (8, 128) and not (whole.task.vocab.modality_of(again) == vocabulary.IMAGE).any(), "a roll-back asks for more"
    small = alone_lib.of_run(tmp_path / "run", batch_rows=2)
    assert small.run.steps == len(words) // 2 and small.run.folder == f"{tmp_path}/run-text-2-rows"
    np.testing.assert_array_equal(rows(small, small.run.steps), words[: small.run.steps * 2])
    for folder, loss in (("run", 2.0), ("run-text", 1.5)):
        files.write_json(tmp_path / folder / "done.json", {"valid/words/loss": loss, "valid/words/loss/text": 8.0, "valid/draw/loss": 9.0, "valid/draw_compose/loss": 2 * loss})
    assert alone_lib.compare(tmp_path / "run", alone) == [("words", 2.0, 1.5)]
    drawing = alone_lib.of_run(tmp_path / "run", ["draw"])
    assert drawing.run.folder == f"{tmp_path}/run-draw" and drawing.run.steps == (320 - len(words)) // 8
    files.write_json(tmp_path / "run-draw" / "done.json", {"valid/words/loss": 7.0, "valid/draw/loss": 1.0, "valid/draw_compose/loss": 2.5})
    assert alone_lib.compare(tmp_path / "run", drawing) == [("draw", 9.0, 1.0), ("draw_compose", 4.0, 2.5)]
    with pytest.raises(errors.InputError, match="--sources: must be some of .*words.*, got dram"):
        alone_lib.of_run(tmp_path / "run", ["dram"])
    with pytest.raises(errors.InputError, match="goes on from the weights of runs/other"):
        begun = config.load(str(tmp_path / "c.py"), ["task.start_from=runs/other"])
        files.write_json(tmp_path / "run" / "run.json", {"steps": 40, "settings": config.to_json(begun)})
        alone_lib.of_run(tmp_path / "run")
    with pytest.raises(errors.InputError, match="no batch of text alone"):
        files.write_json(tmp_path / "run" / "run.json", {"steps": 3, "settings": config.to_json(whole)})
        alone_lib.of_run(tmp_path / "run")
    with pytest.raises(errors.InputError, match="c.py has changed since"):
        files.write_json(tmp_path / "run" / "run.json", {"steps": 40, "settings": config.to_json(whole) | {"task": {}}})
        alone_lib.of_run(tmp_path / "run")
    with pytest.raises(errors.InputError, match="must be a decoder's run"):
        other = config.to_json(config.load("configs/image_tokenizer.py", []))
        files.write_json(tmp_path / "run" / "run.json", {"steps": 3, "settings": other})
        alone_lib.of_run(tmp_path / "run")


def test_rows_longer_than_the_context_are_refused(world, tmp_path):
    e = experiment(world, tmp_path)
    task = dataclasses.replace(e.task, model=dataclasses.replace(e.task.model, context_tokens=64))
    with pytest.raises(errors.InputError, match="rows of 128 ids exceed"):
        loop.run(task, e.optim, e.run, config.to_json(e))
