"""A released file answers as the run does, is small, and says what it is."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gemini_mini
from gemini_mini import api, errors, files, nn, parallel, quant, release, run, stream
from gemini_mini.evals import __main__ as command, answerer, suite
from gemini_mini.model import decoder
from gemini_mini.tokenizers import audio, audio_io, image

SETTINGS = {"batch_rows": 8, "user_share": 0.1, "answer_text_weight": 4.0, "rows": "nowhere",
            "stages": [{"name": "all", "until": 1.0, "weights": {"draw": 3.0, "name": 1.0}}]}


def test_every_weight_is_within_half_a_step_of_its_channel():
    rng = np.random.default_rng(0)
    weights = {"embed": rng.normal(size=(7, 5)), "w": rng.normal(size=(5, 3)) * [1, 100, 1e-4], "norm": rng.normal(size=5), "zero": np.zeros((2, 2))}
    weights = {name: w.astype(np.float32) for name, w in weights.items()}
    axes = {"embed": "V D", "w": "D F", "norm": "D", "zero": "D F"}
    packed = quant.pack(weights, axes)
    assert packed["w"].dtype == np.int8 and packed["embed#scale"].shape == (7, 1) and packed["w#scale"].shape == (1, 3)
    found = quant.unpack(packed)
    assert found.keys() == weights.keys() and np.array_equal(found["norm"], weights["norm"]) and not found["zero"].any()
    for name, axis in (("embed", 1), ("w", 0)):
        step = np.maximum(np.abs(weights[name]).max(axis=axis, keepdims=True) / 127, 2.0**-14)
        assert (np.abs(found[name] - weights[name]) <= step * 0.501).all(), "a scale for each channel, not one for all"
    again = quant.pack(found, axes)
    assert all(np.array_equal(again[name], array) for name, array in packed.items()), "what is rounded once stays"


@pytest.fixture(scope="module")
def released(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / "tiny.safetensors"
    run.save_released(model.run, path, "# card")
    return path


def test_a_released_file_answers_as_its_rounded_weights_do(model, released):
    loaded = run.load(released)
    assert loaded.tokenizers.vocab == model.run.tokenizers.vocab, "ids mean the same"
    ids = jnp.arange(24, dtype=jnp.int32)[None] % 290 + 1
    segments = jnp.ones_like(ids)

    def logits(module: decoder.Decoder):
        return np.asarray(module.logits(module(ids, ids * 0, segments)), np.float64)

    exact, small = logits(model.run.model), logits(loaded.model)
    assert 0 < np.abs(small - exact).max() < 0.1 * exact.std()
    weights, found = (nn.weights(r.model) for r in (model.run, loaded))
    for name, w in weights.items():
        step = np.abs(w).max() / 127
        assert np.abs(np.asarray(found[name]) - np.asarray(w)).max() <= step * 0.501
    assert loaded.tokenizers.text.decode(loaded.tokenizers.text.encode("a cat 🐈")) == "a cat 🐈"
    assert loaded.tokenizers.image.config == model.run.tokenizers.image.config


def test_the_image_tokenizer_is_read_out_of_it(model, released):
    for found in (image.load(released), run.load(released).tokenizers.image):
        found, trained = nn.weights(found), nn.weights(model.run.tokenizers.image)
        assert found.keys() == trained.keys() and all(np.array_equal(found[name], w) for name, w in trained.items())


def test_the_audio_tokenizer_is_read_out_of_it(model, released, tmp_path):
    found, trained = (nn.weights(t) for t in (audio.load(released), model.run.tokenizers.audio))
    assert found.keys() == trained.keys()
    for name, w in trained.items():
        assert np.array_equal(found[name], w), name
    audio_io.write_wav(tmp_path / "in.wav", np.sin(np.arange(8_000) / 9).astype(np.float32))
    audio.listen(tmp_path / "in.wav", tmp_path / "out.wav", released)
    assert len(audio_io.read_audio(tmp_path / "out.wav")) > 7_000


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
def test_weights_that_stay_in_8_bits_answer_as_they_do_in_32(released, run_folder):
    wide, small = run.load(released), run.load(released, eight_bit=True)
    kept = nn.weights(small.model)
    assert {type(w) for name, w in kept.items() if name.split(".")[-1] not in {"scale", "kept", "again", "before"}} == {quant.Codes}
    assert sum(a.nbytes for a in jax.tree.leaves(kept)) < 0.3 * sum(w.nbytes for w in nn.weights(wide.model).values())
    ids = jnp.arange(24, dtype=jnp.int32)[None] % 290 + 1
    made, expected = (r.model.logits(r.model(ids, ids * 0, jnp.ones_like(ids))) for r in (small, wide))
    np.testing.assert_allclose(made, expected, atol=1e-3 * float(jnp.std(expected)))
    how = {"temperature": 1.0, "max_tokens": 60, "modalities": ("text",)}  # greedily these weights write nothing
    alone, expected = (api.Model(r).generate(["a cat"], **how).tokens for r in (small, wide))
    beside = api.Model(small).generate_many([["a cat"], ["draw them: a cat and a dog"]], **how)[0].tokens
    assert alone.tolist() == expected.tolist() == beside.tolist() and len(alone) > 9
    with pytest.raises(errors.InputError, match="--eight-bit: is for one device"):
        run.load(run_folder, parallel.mesh((0, 1, 1, 1)), eight_bit=True)


def test_a_tokenizer_of_more_bits_is_not_released(model, tmp_path):
    tokenizers = model.run.tokenizers
    fine = audio.AudioTokenizer(tokenizers.audio.config, nnx.Rngs(1))
    with pytest.raises(errors.InputError, match="its audio tokenizer has more than 8 bits"):
        run.save_released(model.run._replace(tokenizers=tokenizers._replace(audio=fine)), tmp_path / "fine.safetensors", "")
    assert not list(tmp_path.iterdir())


def test_a_file_of_before_is_read(released, tmp_path):
    """Its scales had 32 bits, its tokenizers 16 and no scales; its decoder knew no shortcuts."""
    arrays, meta = files.load_arrays(released)
    newer = ("token_values", f"token_values{quant.SCALE}", "again", "kept", "before")
    older = {name: a.astype(np.float32) if name.endswith(quant.SCALE) else a for name, a in arrays.items()
             if name.startswith("decoder") and not name.endswith(newer)}
    older["text"] = arrays["text"]
    for kind in ("image", "audio"):
        older |= {f"{kind}/{name}": w.astype(np.float16) for name, w in quant.under(kind, arrays).items()}
    settings = json.loads(meta["settings"])
    del settings["task"]["model"]["shortcuts"]
    files.save_arrays(tmp_path / "older.safetensors", older, meta | {"settings": json.dumps(settings)})
    found, wanted = run.load(tmp_path / "older.safetensors"), run.load(released)
    assert all(np.array_equal(w, nn.weights(wanted.model)[name]) for name, w in nn.weights(found.model).items())
    picture = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    assert image.encode_many(found.tokenizers.image, picture).shape == (1, 4, 4)


def test_all_matrices_have_8_bits(released):
    arrays, _ = files.load_arrays(released)
    assert all(array.dtype == (np.float16 if name.endswith(quant.SCALE) else np.int8) for name, array in arrays.items() if array.ndim > 1)
    assert {name.split("/")[0] for name, array in arrays.items() if array.dtype == np.int8} == {"decoder", "image", "audio"}


def test_a_released_file_is_a_quarter_of_the_run_and_holds_no_code(released, run_folder):
    decoder_bytes = (run_folder / "model.safetensors").stat().st_size
    arrays, meta = files.load_arrays(released)
    held = sum(a.nbytes for name, a in arrays.items() if name.startswith("decoder/"))
    assert held < 0.3 * decoder_bytes and json.loads(meta["card"]) == "# card"
    assert {str(a.dtype) for a in arrays.values()} <= {"int8", "uint8", "float16", "float32"}


def test_other_files_are_refused_with_a_reason(run_folder, released, tmp_path, monkeypatch):
    with pytest.raises(errors.InputError, match="no released model"):
        run.load(run_folder / "model.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(released.read_bytes()[:-9])
    with pytest.raises(errors.InputError, match="damaged"):
        run.load(tmp_path / "torn.safetensors")
    with pytest.raises(errors.InputError, match="gemini_mini.evals"):
        release.release(run_folder, tmp_path / "out.safetensors")
    monkeypatch.setattr(release.chart, "matplotlib", None)
    with pytest.raises(errors.InputError, match="need the package 'matplotlib'"):
        release.release(run_folder, tmp_path / "out.safetensors")


def test_a_released_file_is_evaluated_where_it_is_told(released, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evals", str(released)])
    with pytest.raises(errors.InputError, match="give --world and --out"):
        command.main()
    monkeypatch.setattr(sys, "argv", ["evals", str(tmp_path), "--out", "elsewhere"])
    with pytest.raises(errors.InputError, match="--out: is for a released file"):
        command.main()
    asked = []
    monkeypatch.setattr(command.worlds, "embedded", lambda path: SimpleNamespace(config=SimpleNamespace(name="w"), only=lambda half: half))
    monkeypatch.setattr(command, "evaluate", lambda found, half, settings, name, out: asked.append((half, name, out)))
    for suites, names in (("text", ["text"]), ("all", list(suite.SUITES))):
        monkeypatch.setattr(sys, "argv", ["evals", str(released), "--world", "somewhere", "--out", str(tmp_path), "--suite", suites])
        command.main()
        assert asked == [("dev", name, tmp_path) for name in names]
        asked.clear()
    assert answerer.RunAnswerer(run.load(released)._replace(settings={"task": {"row_tokens": 64}})).row_tokens == 64


def test_a_card_says_data_licences_figures_and_failures(model, tmp_path):
    cell = {"value": 0.25, "low": 0.1, "high": 0.5, "n": 4, "chance": 0.0, "majority": None, "baseline": 0.1,
            "sampling": "greedy text, pictures at guidance 1.5", "samples": 1, "shots": 0, "examples": [
        {"prompt": [{"role": "user"}, {"text": "Draw: cat"}], "answer": [{"image": "x"}], "truth": [{"image": "y"}], "is_right": False}]}
    detail = {"tasks": {"draw": {"unit": "accuracy", "splits": {"test_compose": cell}}}, "limit": 9, "image_temperature": 0.0,
              "guidance": 1.5, "pictures": 5, "is_valid_only": False, "seed": 0}
    trained = model.run._replace(settings={"task": {**model.run.settings["task"], **SETTINGS}})
    found = {"n": 9, "pair": 0, "media": 2, "text": 1, "near": 0}
    scanned = {"documents": 1234, "ngram": 13, "found": {"draw": {"valid": found, "test": found | {"n": 3}}, "text": {"valid: prose": found}}}
    text = release.card(trained, {"steps": 20}, detail, scanned, None, [], {"draw": (1.0, 1.25), "name": (2.0, 2.25)})
    for words in ("CC BY-SA 4.0", "draw 75%", "guidance 1.5", "1.5000 in 32 bits, 1.7500 in 8", "| draw (accuracy) | test_compose | 4 | 25% | 10% to 50% | 0.0% |  | 10% |",
                  "`Draw: cat` → [image], not [image]", "was not opened",
                  "of 21 questions and texts", "0 stand with their answer in one of the 1,234 training documents; 6 show", "3 share 13 words"):
        assert words in text, words
    opened = [{"when": "2026-01-01", "model": "m"}]
    half = release.card(trained, {"steps": 20}, detail | {"is_valid_only": True}, scanned, None, opened, {"draw": (1.0, 1.0)})
    assert "was opened 1 time(s), first at 2026-01-01; its figures are not here" in half and "test splits left alone" in half
    found = release.card(trained, {"steps": 20}, detail, scanned, detail, opened, {"draw": (1.0, 1.0)}, "drawn.png")
    assert "opened 1 time(s), first at 2026-01-01" in found and "![pictures](drawn.png)" in found and "![" not in text


def test_a_card_never_shows_figures_of_other_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"these")
    for model in ("others", run.weights_hash(tmp_path)):
        files.write_json(tmp_path / "evals_detail.json", {"half": "dev", "model": model})
        if model == "others":
            with pytest.raises(errors.InputError, match="these very weights"):
                release.figures(tmp_path, tmp_path)
    assert release.figures(tmp_path, tmp_path)["half"] == "dev"
    for there in (None, {"rows": []}, {"rows": ["others", "these"]}):
        if there:
            files.write_json(tmp_path / "scan.json", there)
        with pytest.raises(errors.InputError, match="scan of the very rows"):
            release.scan_of(tmp_path, "these")
    files.write_json(tmp_path / "scan.json", {"rows": ["these"], "documents": 3})
    assert release.scan_of(tmp_path, "these")["documents"] == 3


def test_the_model_released_here_is_small_has_its_card_and_draws():
    path = Path(__file__).parent.parent / "released" / "laptop.safetensors"
    assert path.stat().st_size < 10e6
    _, meta = files.load_arrays(path)
    assert json.loads(meta["card"]) == path.with_suffix(".md").read_text(encoding="utf-8")
    answer = gemini_mini.load(path).generate(["Draw: red heart"])
    (picture,) = [part.pixels for part in answer if isinstance(part, stream.Image)]
    red = np.all(np.abs(picture.astype(int) - [210, 50, 50]) < 60, axis=-1)
    assert picture.shape == (32, 32, 3) and 0.15 < red.mean() < 0.8, "a red thing on white"
