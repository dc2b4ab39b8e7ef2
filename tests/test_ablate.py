"""Ablations: what is tried, what is recommended, and that a second start repeats nothing."""

import ast

import pytest

from gemini_mini import ablate, errors
from gemini_mini.data import mixture

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


@pytest.mark.parametrize("seeds, other_seed, expected, why", [
    (1, 2.0, {"draw": 1.0, "name": 1.0}, "noise not measured"),
    (2, 2.1, {"draw": 1.0, "name": 1.0}, "noise between seeds 4.88%, and no source"),
    (2, 2.02, {"draw": pytest.approx(2), "name": 1.0}, "noise between seeds 1.00%")])
def test_no_change_is_recommended_within_the_noise_or_without_knowing_it(seeds, other_seed, expected, why):
    results = [ablate.Result(name, {}, total) for name, total in
               (("base", 2.0), *[("base-seed1", other_seed)] * (seeds - 1), ("draw-x2", 1.95), ("name-x2", 2.01))]
    found, said = ablate.recommended(results, ["draw", "name"], seeds)
    assert found == expected and said.startswith(why)


def test_the_total_weighs_valid_sources_by_what_is_read():
    shares = {"draw": 0.75, "name": 0.25, "speech_draw": 0.0}
    losses = {"draw": 1.0, "draw_compose": 3.0, "name": 4.0, "sums": 100.0}
    assert ablate.total_loss(losses, shares) == pytest.approx(0.75 * 2 + 0.25 * 4)
    with pytest.raises(errors.InputError, match="draw, name"):
        ablate.total_loss({"sums": 1.0}, shares)


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


def test_a_table_shows_the_change_of_every_source():
    base, other = ablate.Result("base", {"draw": 2.0}, 2.0), ablate.Result("draw-x2", {"draw": 1.8}, 1.9)
    lines = ablate.table([base, other], base).splitlines()
    assert lines[-1] == "| draw-x2 | 1.9000 | -5.0% | -10.0% |" and len(lines) == 4
