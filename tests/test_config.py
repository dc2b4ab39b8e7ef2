"""Settings: every config file builds, overrides are checked, sizes are the documents'."""

import dataclasses
import inspect
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from gemini_mini import config, errors, nn
from gemini_mini.model import decoder

CONFIGS = sorted(str(p) for p in Path(__file__).parent.parent.joinpath("configs").glob("*.py"))
DEMO = next(c for c in CONFIGS if c.endswith("/demo.py"))


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_builds_and_is_json(path):
    experiment = config.load(path, [])
    assert json.loads(json.dumps(config.to_json(experiment)))["run"]["folder"]
    if "original_and_decoded" in inspect.getsource(type(experiment.task)):  # how it learns is to be seen, as the README says
        assert 0 < experiment.run.eval_every <= experiment.run.steps / 2
    assert '"""' in Path(path).read_text()[:3], "a header says paper, command, expected time and score"


@pytest.mark.parametrize("name, billions", [("nano1", 1.8), ("nano2", 3.25)])
def test_nano_presets_have_the_reports_sizes(name, billions):
    experiment = config.load(str(Path(DEMO).parent / f"{name}.py"), [])
    model = dataclasses.replace(experiment.task.model, vocab_size=40_960)
    shapes = nn.weights(jax.eval_shape(lambda: decoder.Decoder(model, nnx.Rngs(0))))
    assert sum(w.size for w in shapes.values()) == model.num_params
    assert abs(model.num_params / 1e9 - billions) < 0.01 * billions
    assert model.kv_heads == 1 and model.context_tokens == 32_768


def test_overrides_reach_the_field_and_keep_the_rest():
    plain = config.load(DEMO, [])
    changed = config.load(DEMO, ["task.model.depth=6", "optim.lr=1", "run.folder=x y", "run.mesh=(1,2,4,1)", "optim.kind=adamw"])
    assert changed.task.model == dataclasses.replace(plain.task.model, depth=6)
    assert (changed.optim.lr, changed.optim.kind) == (1.0, "adamw") and isinstance(changed.optim.lr, float)
    assert (changed.run.folder, changed.run.mesh) == ("x y", (1, 2, 4, 1))


@pytest.mark.parametrize("override, message", [
    ("optim.learning_rate=1", "unknown setting 'learning_rate'"),
    ("optim.warmpu=1", "nearest: warmup"),
    ("optim.lr.x=1", "unknown setting 'x'"),
    ("optim.lr=fast", "must be of type float, got 'fast'"),
    ("run.steps=1.5", "must be of type int"),
    ("optim.kind=sgd", "must be one of adamw, muon"),
    ("optim.lr", "written name=value"),
    ("run.steps=__import__('os')", "must be of type int"),
])
def test_bad_overrides_are_refused(override, message):
    with pytest.raises(errors.InputError, match=message):
        config.load(DEMO, [override])


def test_a_missing_config_file_is_named():
    with pytest.raises(errors.InputError, match="nowhere.py: no such config file"):
        config.load("nowhere.py", [])


def test_model_settings_round_trip_through_json():
    model = decoder.DecoderConfig(vocab_size=np.int64(7).item(), depth=3)
    again = config.from_json(decoder.DecoderConfig, json.loads(json.dumps(config.to_json(model))), "run.json")
    assert again == model
    with pytest.raises(errors.InputError, match="another version"):
        config.from_json(decoder.DecoderConfig, {"depth": 3}, "run.json")


def test_a_host_of_a_pod_joins_the_others_before_it_reads_anything(monkeypatch):
    import train

    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda: joined.append(True))
    monkeypatch.setattr("sys.argv", ["train.py", "nowhere.py", "--pod", "run.steps=1"])
    with pytest.raises(errors.InputError, match="nowhere.py: no such config file"):
        train.main()
    assert joined == [True]
