"""Ablations: what is tried, what is recommended, and that a second start repeats nothing."""

import ast
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gemini_mini import ablate, config, errors, files
from gemini_mini.data import mixture
from gemini_mini.tasks import pretrain

STAGES = (mixture.Stage("one", 0.5, {"draw": 0.6, "name": 0.2, "prose": 0.2}), mixture.Stage("two", 1.0, {"draw": 1.0}))


def test_a_doubled_source_is_read_twice_as_often_against_each_other():
    first, second = ablate.doubled(STAGES, "name")
    assert first.weights["name"] / first.weights["draw"] == pytest.approx(2 * 0.2 / 0.6)
    assert first.weights["draw"] / first.weights["prose"] == pytest.approx(3)
    assert sum(first.weights.values()) == pytest.approx(1) and second.weights == {"draw": 1.0}
    assert [s.until for s in (first, second)] == [0.5, 1.0]


def test_the_most_useful_source_is_doubled_and_the_most_harmful_halved():
    found = ablate.factors(2.0, {"draw": 2.0 * 0.9, "name": 2.0 / 0.9, "prose": 2.0, "code": 2.0 * 0.9**0.5})
    assert found["draw"] == pytest.approx(2) and found["name"] == pytest.approx(0.5) and found["prose"] == 1
    assert found["code"] == pytest.approx(2**0.5)
    noisy = ablate.factors(2.0, {"draw": 2.02, "name": 1.0}, noise=0.02)
    assert noisy == {"draw": 1.0, "name": pytest.approx(2)}
    assert ablate.factors(2.0, {"draw": 2.02}, noise=0.02) == {"draw": 1.0}, "within the noise nothing is recommended"


def results_of(base: list[float], doubled: dict[str, float]) -> list[ablate.Result]:
    names = ["base", *[f"base-seed{n}" for n in range(1, len(base))]]
    losses = {"draw": 1.0, "name_compose": 1.0, "listen": 1.0}  # what is held out; of "prose" nothing
    return [ablate.Result(name, losses, total) for name, total in
            [*zip(names, base, strict=True), *((f"{source}-x2", total) for source, total in doubled.items())]]


@pytest.mark.parametrize("base, expected, why", [
    ([2.0], 1.0, "noise not measured"),
    ([2.0, 2.1, 1.95, 2.05], 1.0, "and no source changes the loss by more"),
    ([2.0, 2.002, 1.999, 2.001], pytest.approx(2), "by chance alone a doubling changes the loss by up to 0.")])
def test_no_change_is_recommended_within_the_noise_or_without_knowing_it(base, expected, why):
    doubled = {"draw": 1.9, "name": 2.001, "prose": 2.5}
    found, said = ablate.recommended(results_of(base, doubled), list(doubled), len(base))
    assert found == {"draw": expected, "name": 1.0, "prose": 1.0} and why in said


@pytest.mark.parametrize("seeds", [2, 4])
def test_where_nothing_matters_few_tables_are_changed(seeds):
    rng, sources, changed = np.random.default_rng(0), ["draw", "name", "listen"], 0
    for _ in range(1500):
        base, doubled = np.exp(rng.normal(0, 0.01, seeds)), np.exp(rng.normal(0, 0.01, len(sources)))
        found, _ = ablate.recommended(results_of(list(base), dict(zip(sources, doubled))), sources, seeds)
        changed += any(factor != 1 for factor in found.values())
    assert 0.02 < changed / 1500 < 0.065


def test_the_recommended_table_is_python_that_a_config_takes():
    source = ablate.as_source(ablate.scaled(STAGES, {"prose": 0.5}))
    expected = ablate.scaled(STAGES, {"prose": 0.5})
    (table,) = [node.value for node in ast.parse(source).body]
    read = tuple(mixture.Stage(*map(ast.literal_eval, call.args)) for call in table.elts)
    assert [s.name for s in read] == ["one", "two"] and read[0].weights["prose"] == pytest.approx(expected[0].weights["prose"], rel=1e-2)


def test_what_is_tried():
    planned = ablate.tries(["draw"], ["optim.lr=2e-3"], seeds=2)
    assert [each.name for each in planned] == ["base", "base-seed1", "draw-x2", "optim.lr=2e-3"]
    assert planned[1].seed == 1 and planned[2].doubled == "draw" and planned[3].overrides == ("optim.lr=2e-3",)


def test_all_read_the_same_number_of_ids(tmp_path, monkeypatch):
    steps = {}
    monkeypatch.setattr(pretrain.Pretrain, "batch_tokens", lambda self: self.batch_rows * 10)
    monkeypatch.setattr(pretrain.Pretrain, "valid_losses", lambda self, model: {"valid/draw/loss": 2.0})
    monkeypatch.setattr(ablate.run_lib, "load", lambda path: SimpleNamespace(model=None))

    def train(task, optim, settings, told):
        steps[Path(settings.folder).name] = settings.steps
        files.write_json(Path(settings.folder) / "done.json", {"valid/draw/loss": 2.0})

    monkeypatch.setattr(ablate.loop, "run", train)
    base = config.load("configs/demo.py", ["task.batch_rows=8"])
    ablate.run(base, ablate.tries([], ["task.batch_rows=32", "optim.lr=1e-3"], seeds=1), 100, tmp_path)
    assert steps == {"base": 100, "task.batch_rows=32": 25, "optim.lr=1e-3": 100}
    monkeypatch.setattr("sys.argv", ["ablate", "configs/demo.py", "--set", "run.seed=5"])
    with pytest.raises(errors.InputError, match="--set: must be .* got run.seed=5"):
        ablate.main()


def test_a_table_shows_the_change_of_every_source():
    base, other = ablate.Result("base", {"draw": 2.0}, 2.0), ablate.Result("draw-x2", {"draw": 1.8}, 1.9)
    lines = ablate.table([base, other], base).splitlines()
    assert lines[-1] == "| draw-x2 | 1.9000 | -5.0% | -10.0% |" and len(lines) == 4
