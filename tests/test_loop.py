"""The loop's laws: exact to the bit through kills and resumes, and nothing lost on bad days."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import events
from gemini_mini import errors, files, nn, progress
from gemini_mini.data import mixture
from gemini_mini.train import checkpoint, goodput, loop, machine, metrics, optim, peers, preemption, recorder, setup, step as step_lib, trace


GRACE_S = 30  # from SIGTERM to the end of a preempted VM, on Google Cloud
STAGES = (mixture.Stage("first", 0.3, {"a": 1.0}), mixture.Stage("second", 1.0, {"a": 1.0, "b": 3.0}))  # border at step 6


class Line(nnx.Module):
    def __init__(self, rngs):
        self.w = nn.param(rngs, (8, 8), "D F")


@dataclasses.dataclass(frozen=True)
class FitLine:
    """Fits a linear map to rows of a staged mixture; is told to stop at `signal_at`; `poison`: step -> factor of its batch.

    `pause_s`: a step takes at least that long.
    """

    signal_at: int = -1
    pause_s: float = 0.0
    number: int = signal.SIGTERM
    data: str = "one"
    poison: tuple[tuple[int, float], ...] = ()

    def reads(self, n, steps, seed):
        return {}

    def batch_tokens(self):
        return 16

    def batch_flops(self):
        return 1

    def inputs(self):
        return {"data": self.data}

    def init(self, rngs):
        return Line(rngs)

    def batches(self, steps, seed):
        rows = mixture.Mixture(STAGES, {"a": 40, "b": 30}, steps * 16, seed)

        def batch(step):
            time.sleep(self.pause_s)
            if step == self.signal_at:
                os.kill(os.getpid(), self.number)
            places = [rows.row(n) for n in range(16 * step, 16 * step + 16)]
            x = [np.random.default_rng([ord(source), row]).normal(size=8) for source, row in places]
            return np.array(x, np.float32) * np.float32(dict(self.poison).get(step, 1.0))
        return batch

    def loss(self, module, batch, key):
        target = batch @ jnp.arange(64.0).reshape(8, 8) / 64
        noise = jax.random.normal(key, target.shape)
        loss = jnp.mean((nn.linear(batch, module.w) + 0.01 * noise - target) ** 2)
        return loss, {"loss/text": loss}

    def evals(self, module):
        return {"valid": float(jnp.sum(module.w[...])), "picture": np.zeros((4, 4, 3), np.uint8)}

    def export(self, module, folder):
        files.save_arrays(folder / "model.safetensors", {k: np.asarray(v) for k, v in nn.weights(module).items()}, {})


def train(folder, steps=20, settings=None, kind="adamw", lr=1e-2, run=None, **task):
    config = loop.RunConfig(**{"folder": str(folder), "steps": steps, "save_every": 3, "log_every": 2, "eval_every": 8} | (run or {}))
    loop.run(FitLine(**task), optim.OptimConfig(kind=kind, lr=lr, muon_lr=lr), config, settings or {"lr": 1})
    return files.load_arrays(folder / "model.safetensors")[0]["w"]


def test_a_model_is_written_before_it_is_judged(tmp_path, monkeypatch):
    def evals(self, module):
        raise MemoryError

    monkeypatch.setattr(FitLine, "evals", evals)
    with pytest.raises(MemoryError):
        train(tmp_path, steps=4)
    assert (tmp_path / "model.safetensors").is_file() and not (tmp_path / "done.json").exists()


def train_dying(folder, what, times):
    """Train until `what` is called for the so-manieth time, then die the way a power cut would."""
    if what == "saved":  # a batch, once no save is under way
        save = checkpoint.Saver.save
        checkpoint.Saver.save = lambda self, *args: (save(self, *args), self.wait())
    owner, name = {"batch": (FitLine, "batches"), "saved": (FitLine, "batches"), "replace": (os, "replace"), "result": (checkpoint.Saver, "_finish"),
                   "trace": (trace.Writer, "write")}[what]
    real, calls = getattr(owner, name), []

    def dying(*args):
        calls.append(1)
        if len(calls) == times:
            if what == "trace":
                args[0].file.write(b"half a row")
                args[0].file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    def dying_at(batch, step):
        if step == times:
            os.kill(os.getpid(), signal.SIGKILL)
        return batch(step)

    is_batch = name == "batches"
    setattr(owner, name, (lambda *args: functools.partial(dying_at, real(*args))) if is_batch else dying)
    train(folder)


def die_and_resume(folder, deaths):
    """For each (what, times): a run that dies so, then the same command again. One import serves all, by fork.

    Returns the names of the deaths that did happen.
    """
    script = f"""
import os, sys
import orbax.checkpoint, tensorboardX
sys.path.insert(0, {str(Path(__file__).parent)!r})
import conftest, test_loop
from pathlib import Path
for what, times in {deaths!r}:
    place = Path({str(folder)!r}) / f"{{what}}{{times}}"
    for dies in (True, False):
        if not os.fork():
            test_loop.train_dying(place, what, times) if dies else test_loop.train(place)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.wait()[1])
        assert code in ((0, -9) if dies else (0,)), code
        if dies and code == -9:
            print("died", what, times)
"""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
             "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, env=os.environ | cache)
    assert done.returncode == 0, done.stderr
    return [line.removeprefix("died ") for line in done.stdout.splitlines() if line.startswith("died")]


SPEED = {"tokens_per_s", "mfu", "productive_s", "goodput"}


def figures(folder):
    return [{k: v for k, v in r.items() if k not in SPEED} for r in metrics.read(folder)]


def assert_same(whole, other):
    """Batches, metrics, weights and optimizer of every step, what was logged, and what was exported."""
    assert len(trace.read(whole)[1]) > 10
    for name in ("trace.bin", "trace.json", "model.safetensors", "done.json"):
        assert (whole / name).read_bytes() == (other / name).read_bytes(), (other, name)
    assert figures(whole) == figures(other), other
    assert not list((other / "checkpoints").glob(".*")), other


def losses(folder):
    return [r["loss"] for r in metrics.read(folder) if "loss" in r]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


def test_killed_and_resumed_equals_uninterrupted_to_the_bit(whole, tmp_path):
    deaths = [("saved", 6), ("replace", 8)]  # at the border of two stages, and in the middle of a save
    assert len(die_and_resume(tmp_path, deaths)) == len(deaths)
    for what, times in deaths:
        assert_same(whole, tmp_path / f"{what}{times}")


@pytest.mark.slow
def test_killed_anywhere_and_resumed_equals_uninterrupted_to_the_bit(whole, tmp_path):
    deaths = [(what, n) for what, most in (("batch", 20), ("saved", 20), ("result", 7), ("replace", 30), ("trace", 20)) for n in range(0, most, 2)]
    assert len(die_and_resume(tmp_path, deaths)) > 35
    for what, times in deaths:
        assert_same(whole, tmp_path / f"{what}{times}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_saves_the_step_and_goes_on_to_the_same_bits(whole, tmp_path, number, capsys):
    before, begin = signal.getsignal(number), time.monotonic()
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path / "cut", signal_at=7, number=number)  # arrives while step 8 is prepared
    assert time.monotonic() - begin < GRACE_S
    assert stopped.value.code == 128 + number and "stopped after step 8 of 20 and saved step 8" in capsys.readouterr().err
    assert checkpoint.steps(tmp_path / "cut/checkpoints") == [6, 8] and signal.getsignal(number) is before
    train(tmp_path / "cut")
    assert_same(whole, tmp_path / "cut")


def told_in_an_evaluation(folder, step, monkeypatch, run):
    """A run whose evaluations last long gets a SIGTERM in the middle of that at `step`; the seconds until it is gone."""
    began, evals, done = [], FitLine.evals, iter(range(run["eval_every"], 99, run["eval_every"]))

    def slow(self, module):
        if next(done) == step:
            began.append(time.monotonic())
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
            time.sleep(60)
        return evals(self, module)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(FitLine, "evals", slow)
        train(folder, run=run)
    assert stopped.value.code == 128 + signal.SIGTERM
    return time.monotonic() - began[0]


@pytest.mark.parametrize("run", [
    {"eval_every": 8}, {"eval_every": 4, "save_every": 100, "keep": 1, "keep_best": "-valid"},
    {"eval_every": 4, "save_every": 100, "keep": 1, "keep_best": "valid"}], ids=["none", "highest", "lowest"])
def test_told_to_stop_in_an_evaluation_it_leaves_at_once_and_evaluates_first_when_it_goes_on(tmp_path, run, monkeypatch, capsys):
    train(tmp_path / "whole", run=run)
    for step in (8, 16):
        cut = tmp_path / f"cut{step}"
        assert told_in_an_evaluation(cut, step, monkeypatch, run) < 5
        assert f"stopped after step {step} of 20 and saved step {step}" in capsys.readouterr().err
        assert not [r for r in figures(cut) if r["step"] == step and "valid" in r]
        train(cut, run=run)
        assert_same(tmp_path / "whole", cut)
        kept = {folder: {p.name: files.read_json(p / "sums.json") for p in (folder / "checkpoints").iterdir()} for folder in (tmp_path / "whole", cut)}
        assert kept[cut] == kept[tmp_path / "whole"]


@pytest.mark.parametrize("is_agreed", [False, True])
def test_told_to_stop_before_an_evaluation_it_does_not_begin_it(tmp_path, is_agreed, monkeypatch):
    """By a signal, or by what several processes agreed on. Nor does it when it is told so again; then a third run evaluates once."""
    asked = []
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(FitLine, "evals", lambda self, module: asked.append(1) or {"valid": 1.0})
        if is_agreed:
            patch.setattr(preemption.Notice, "at", lambda self, step: signal.SIGTERM if step == 7 else None)
        train(tmp_path, signal_at=-1 if is_agreed else 7)
    assert not asked and checkpoint.steps(tmp_path / "checkpoints") == [6, 8]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(FitLine, "evals", lambda self, module: os.kill(os.getpid(), signal.SIGTERM))
        train(tmp_path)
    assert checkpoint.steps(tmp_path / "checkpoints") == [6, 8]
    train(tmp_path)
    assert [r["step"] for r in metrics.read(tmp_path) if "valid" in r] == [8, 16, 20]


def test_resumed_on_another_mesh_it_reads_the_same_data(whole, tmp_path):
    with pytest.raises(SystemExit):
        train(tmp_path, signal_at=7)
    weights = train(tmp_path, run={"mesh": (2, 4, 1, 1)})
    (leaves, rows), (_, other) = trace.read(whole), trace.read(tmp_path)
    assert (rows[:, leaves.index("batch")] == other[:, leaves.index("batch")]).all() and (rows[:8] == other[:8]).all()
    # Sums over rows are added in another order, so the weights are near and not the same.
    assert np.allclose(weights, files.load_arrays(whole / "model.safetensors")[0]["w"], atol=1e-4)


def test_a_finished_run_is_reused_and_another_is_refused(tmp_path, capsys):
    settings = lambda lr, **run: {"lr": lr, "run": {"seed": 0, "mesh": [0, 1, 1, 1], "eval_every": 8} | run}
    train(tmp_path, settings=settings(1))
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    train(tmp_path, settings=settings(1, mesh=[1, 8, 1, 1], eval_every=4))
    assert "reused" in capsys.readouterr().out and (tmp_path / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(errors.InputError, match="other settings .lr: 1 there, 2 now"):
        train(tmp_path, settings=settings(2))
    with pytest.raises(errors.InputError, match="other settings .run.seed: 0 there, 1 now"):
        train(tmp_path, settings=settings(1, seed=1))
    with pytest.raises(errors.InputError, match="other inputs .data: one there, two now"):
        train(tmp_path, settings=settings(1), data="two")


def test_a_bad_step_changes_nothing_but_the_count(tmp_path):
    """Not finite, or a gradient of a hundred times the mean: the weights go on as if that step had not been."""
    train(tmp_path, steps=12, poison=((5, np.nan), (8, 10.0)))
    leaves, rows = trace.read(tmp_path)
    weights = rows[:, leaves.index("state.weights['w']")]
    moments = rows[:, [i for i, name in enumerate(leaves) if name.startswith("state.opt_state")]]
    is_same = weights[1:] == weights[:-1]
    assert np.flatnonzero(is_same).tolist() == [4, 7] and (moments[1:] == moments[:-1])[is_same].all()
    assert [r["skipped"] for r in metrics.read(tmp_path) if "skipped" in r] == [0, 0, 1, 1, 2, 2]


def test_a_lasting_change_of_scale_is_followed_and_an_explosion_is_not():
    health = step_lib.Health(jnp.float32(jnp.inf), jnp.int32(0), jnp.int32(0))
    seen = []
    for norm in [5.0] * 10 + [200.0] * 20 + [1e9] * 20 + [200.0]:
        limit = 10 * max(float(health.norm), 1.0)
        health = step_lib._after(health, jnp.minimum(norm, limit), jnp.array(True), jnp.array(norm <= limit))
        seen.append(int(health.bad))
    assert max(seen[:30]) < 10 and seen[29] == 0 and seen[49] == 20 and seen[50] == 0


def test_after_so_many_bad_steps_it_rolls_back_says_why_and_leaves_their_data_out(tmp_path, capsys):
    bad = tuple((step, np.nan) for step in range(8, 12))
    train(tmp_path, poison=bad, run={"max_bad": 3})
    said = capsys.readouterr().err
    assert "3 bad steps in a row up to step 11 (loss nan" in said and "back to step 6" in said
    assert files.read_json(tmp_path / "rollbacks.json")[0] | {"why": ""} == {"at": 11, "to": 6, "why": ""}
    # The batch of step 11, still bad, is step 6 now; the others follow, five later than planned.
    leaves, rows = trace.read(tmp_path)
    batches = rows[:, leaves.index("batch")]
    task = FitLine(poison=bad)
    wanted = [int(trace.sums(jnp.asarray(task.batches(20, 0)(n)))[0]) for n in [*range(6), *range(11, 25)]]
    assert batches.tolist() == wanted
    assert metrics.read(tmp_path)[-2]["skipped"] == 1


def test_a_damaged_checkpoint_does_not_change_what_a_roll_back_leaves_out(tmp_path, monkeypatch, capsys):
    """The state is made again from the checkpoint before it, with the batches of the first time."""
    poison, run, restore = tuple((step, np.nan) for step in range(8, 12)), {"max_bad": 3}, checkpoint.restore

    def damaged(folder, template):
        if checkpoint.steps(folder) == [3, 6]:
            (folder / "00000006/sums.json").write_text("{}")
        return restore(folder, template)

    train(tmp_path / "whole", poison=poison, run=run)
    monkeypatch.setattr(checkpoint, "restore", damaged)
    train(tmp_path / "cut", poison=poison, run=run)
    said = capsys.readouterr()
    assert "00000006 is damaged" in said.err and f"continuing {tmp_path}/cut at step 3 of 20" in said.out
    assert_same(tmp_path / "whole", tmp_path / "cut")
    assert files.read_json(tmp_path / "whole/rollbacks.json") == files.read_json(tmp_path / "cut/rollbacks.json")


def test_a_run_that_never_recovers_ends_with_advice(tmp_path):
    with pytest.raises(errors.InputError, match="back to step 6 3 times and 3 bad steps .* a lower optim.lr"):
        train(tmp_path, steps=12, poison=tuple((step, np.nan) for step in range(8, 40)), run={"max_bad": 3})
    assert checkpoint.steps(tmp_path / "checkpoints") == [3, 6]


def test_training_reduces_the_loss_and_ten_times_the_rate_stays_finite(tmp_path):
    train(tmp_path / "a", steps=60, kind="muon", lr=0.3)
    first, *_, last = losses(tmp_path / "a")
    assert last < 0.2 * first
    config = loop.RunConfig(folder=str(tmp_path / "b"), steps=60)
    loop.run(FitLine(), optim.OptimConfig(lr=1e-1), config, {})
    assert all(np.isfinite(loss) for loss in losses(tmp_path / "b"))


def test_a_slow_machine_runs_fewer_steps_and_resumes_with_as_many(tmp_path, capsys, monkeypatch):
    config = loop.RunConfig(folder=str(tmp_path), steps=10_000_000, max_minutes=0.01, save_every=1000)
    monkeypatch.setattr(machine, "affordable_steps", lambda built, steps, max_minutes, where: 12)
    loop.run(FitLine(), optim.OptimConfig(), config, {})
    monkeypatch.undo()
    loop.run(FitLine(), optim.OptimConfig(), config, {})
    assert "trained, 12 steps" in capsys.readouterr().out
    config = dataclasses.replace(config, folder=str(tmp_path / "timed"), max_minutes=0.02)
    loop.run(FitLine(), optim.OptimConfig(), config, {})
    assert 1 < files.read_json(tmp_path / "timed/run.json")["steps"] < 100_000


@pytest.mark.parametrize("kind, tera", [("TPU v4", 275), ("TPU v5 lite", 197), ("TPU v5", 459), ("TPU v6 lite", 918)])
def test_the_peak_of_a_known_chip_is_the_published_one(kind, tera, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind=kind, platform="tpu")] * 16)
    assert machine.peak_flops() == 16 * tera * 1e12


@pytest.mark.parametrize("platform, size, dtype", [("cpu", 1024, "float32"), ("tpu", 8192, "bfloat16")])
def test_the_peak_of_another_device_is_that_of_a_large_product(platform, size, dtype, monkeypatch):
    made, clock = [], iter(range(100))
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind="TPU v99", platform=platform)] * 3)
    monkeypatch.setattr(nn, "product", lambda x, w: made.append((x.shape, w.shape, x.dtype)) or x)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: 0.5 * next(clock))
    assert machine.peak_flops() == 3 * 2 * size**3 / 0.5
    assert made == [((size, size), (size, size), dtype)]


def save(folder, step, state, keep=checkpoint.Keep(2), score=None):
    with checkpoint.Saver(folder, keep) as saver:
        saver.save(step, state, score)


def biggest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [flip_byte, lambda p: os.truncate(p, p.stat().st_size // 2), Path.unlink],
                         ids=["flipped", "truncated", "gone"])
def test_damage_is_found_and_the_checkpoint_before_it_used(tmp_path, capsys, damage):
    state = {"w": jnp.arange(4096.0), "step": jnp.int32(3)}
    for step in (3, 6, 9):
        save(tmp_path, step, {**state, "step": jnp.int32(step)})
    assert checkpoint.steps(tmp_path) == [6, 9]
    damage(biggest(tmp_path / "00000009"))
    step, restored = checkpoint.restore(tmp_path, state)
    assert step == 6 and int(restored["step"]) == 6
    warning = capsys.readouterr().err
    assert warning.startswith("warning: ") and "00000009 is damaged" in warning and "using the checkpoint before" in warning
    for path in (tmp_path / "00000006").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(errors.InputError, match="no checkpoint is intact"):
        checkpoint.restore(tmp_path, state)


def test_the_newest_the_best_and_every_so_many_are_kept(tmp_path):
    scores = {1: 5.0, 2: 3.0, 3: None, 4: 3.0, 5: 4.0, 6: 9.0, 7: None}
    with checkpoint.Saver(tmp_path, checkpoint.Keep(last=2, every=3, best=True)) as saver:
        for step, score in scores.items():
            saver.save(step, {"w": jnp.ones(4)}, score)
    assert checkpoint.best(tmp_path) == 4 and checkpoint.steps(tmp_path) == [3, 4, 6, 7]
    files.write_json(tmp_path / "00000003" / "sums.json", {"score": float("nan")})
    assert checkpoint.best(tmp_path) == 4, "what is no number is not the lowest"
    for damaged in ({"scope": 3.0}, {"score": [3.0]}, {"score": "3.0"}, [3.0]):
        files.write_json(tmp_path / "00000004" / "sums.json", damaged)
        assert checkpoint.best(tmp_path) == 6, "one whose score cannot be read is not the best, and stops no run"


def test_a_run_keeps_its_best_evaluation(tmp_path):
    train(tmp_path, run={"eval_every": 4, "save_every": 100, "keep": 1, "keep_best": "-valid"})
    values = {r["step"]: r["valid"] for r in metrics.read(tmp_path) if "valid" in r}
    assert values.keys() == events.read(tmp_path)["picture"].keys() == {4, 8, 12, 16, 20}
    del values[20]  # of the end, when nothing is chosen any more
    assert checkpoint.steps(tmp_path / "checkpoints") == sorted({max(values, key=values.get), 20})
    with pytest.raises(errors.InputError, match="run.keep_best: needs evaluations"):
        loop.RunConfig("x", 1, keep_best="valid")
    with pytest.raises(errors.InputError, match="run.keep_best: must be one of valid, got 'picture'"):
        train(tmp_path / "other", run={"eval_every": 4, "keep_best": "picture"})


def test_a_save_returns_before_it_is_written_and_what_is_written_is_the_state_then(tmp_path):
    step = jax.jit(lambda w: w * 2 + 1, donate_argnums=0)
    state = jnp.arange(1 << 20, dtype=jnp.float32)
    expected = np.array(state)
    with checkpoint.Saver(tmp_path, checkpoint.Keep(1)) as saver:
        saver.save(1, {"w": state})
        assert not checkpoint.steps(tmp_path)
        for _ in range(20):  # takes the state's memory, again and again
            state = step(state)
    found, restored = checkpoint.restore(tmp_path, {"w": state})
    assert found == 1 and (np.asarray(restored["w"]) == expected).all()


def test_a_full_disk_keeps_what_was_there(tmp_path):
    """A limit on file size stands for the full disk: both make a write fail half-way."""
    script = f"""
import resource, sys, signal
sys.path.insert(0, {str(Path(__file__).parent)!r})
import conftest, numpy as np, jax.numpy as jnp
from pathlib import Path
from gemini_mini import errors, files
from gemini_mini.train import checkpoint
folder = Path({str(tmp_path)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
noise = jnp.array(np.random.default_rng(0).normal(size=1 << 18).astype(np.float32))
with checkpoint.Saver(folder / "checkpoints", checkpoint.Keep(2)) as saver:
    saver.save(1, {{"w": noise}})
files.save_arrays(folder / "model.safetensors", {{"w": np.ones(4)}}, {{}})
def main():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    if sys.argv[1] == "checkpoint":
        with checkpoint.Saver(folder / "checkpoints", checkpoint.Keep(2)) as saver:
            saver.save(2, {{"w": noise}})
    else:
        files.save_arrays(folder / "model.safetensors", {{"w": np.asarray(noise)}}, {{}})
errors.run(main)
"""
    for what in ("checkpoint", "export"):
        done = subprocess.run([sys.executable, "-c", script, what], capture_output=True, text=True)
        assert done.returncode == errors.MACHINE_FAILED, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ") and "could not be written" in last and "Traceback" not in done.stderr
        assert checkpoint.steps(tmp_path / "checkpoints") == [1]
        assert not list((tmp_path / "checkpoints").glob(".*")) and not list(tmp_path.glob(".*"))
        assert files.load_arrays(tmp_path / "model.safetensors")[0]["w"].tolist() == [1] * 4
    with pytest.raises(errors.InputError, match="is a folder"):
        files.write_bytes(tmp_path, b"")


@pytest.mark.parametrize("field", ["steps", "log_every", "save_every", "keep", "max_bad"])
def test_counts_must_be_positive(field):
    with pytest.raises(errors.InputError, match=f"run.{field}: must be at least 1, got 0"):
        loop.RunConfig(**{"folder": "x", "steps": 5} | {field: 0})


def test_sums_are_those_of_a_walk_over_the_elements_and_know_every_bit_and_place():
    """Written again in Python's integers; the same on one device as cut over eight."""
    def wanted(bits):
        total = 0
        for place, x in enumerate(bits):
            x ^= place * 0x9E3779B1 % 2**32
            x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
            x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
            total += x ^ x >> 16
        return total % 2**32

    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(8, 3, 2)).astype(np.float32), rng.integers(0, 255, (16, 3), np.uint8), np.array([True, False] * 4),
              np.float32(3), rng.normal(size=8).astype(jnp.bfloat16)]
    words = [a.reshape(-1).view(f"u{a.itemsize}") if np.ndim(a) else a.view(np.uint32).reshape(1) for a in arrays]
    assert np.asarray(trace.sums(arrays)).tolist() == [wanted(w.tolist()) for w in words]
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = [jax.device_put(a, jax.sharding.NamedSharding(mesh, jax.P("x") if np.ndim(a) else jax.P())) for a in arrays]
    assert (np.asarray(trace.sums(cut)) == np.asarray(trace.sums(arrays))).all()
    base = arrays[0].view(np.uint32)
    flipped = [(base.reshape(-1) ^ (np.arange(48) == i) * np.uint32(1 << bit)).reshape(8, 3, 2) for i in (0, 47) for bit in range(32)]
    swapped = base[::-1].copy()
    found = {int(trace.sums(x)[0]) for x in [base, swapped, *flipped]}
    assert len(found) == 66


def test_nobody_trains_in_a_folder_where_another_does(tmp_path):
    """Another process, by a lock that ends with it; when it has ended, training goes on."""
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", f"""
import time
from pathlib import Path
from gemini_mini.train import folder
with folder.alone(Path({str(folder)!r})):
    print("there", flush=True)
    time.sleep(600)
"""], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "there\n"
    config = loop.RunConfig(folder=str(folder), steps=2)
    with pytest.raises(errors.InputError, match="another process trains in it"):
        loop.run(FitLine(), optim.OptimConfig(), config, {})
    holder.kill()
    holder.wait()
    loop.run(FitLine(), optim.OptimConfig(), config, {})
    assert (folder / "done.json").is_file()


def test_later_checkpoints_than_the_intact_one_do_not_count(tmp_path):
    """Damaged, the newest would push out each one that is saved before its step is reached again."""
    for step in (5, 10, 20):
        (tmp_path / f"{step:08d}").mkdir()
    checkpoint.set_aside(tmp_path, 10)
    assert checkpoint.steps(tmp_path) == [5, 10] and (tmp_path / "damaged-00000020").is_dir()
    assert checkpoint.kept(tmp_path, checkpoint.Keep(1)) == {10}
    (tmp_path / "00000020").mkdir()
    checkpoint.set_aside(tmp_path, 5)
    assert checkpoint.steps(tmp_path) == [5] and (tmp_path / "damaged-00000010").is_dir()


@pytest.mark.parametrize("copy, stored, wanted", [(None, 4, 4), (6, 4, 6), (4, 4, 4), (2, 4, 4), (None, None, 0), (3, None, 3)])
def test_the_latest_state_there_is_goes_on(tmp_path, monkeypatch, copy, stored, wanted):
    if stored is not None:
        (tmp_path / "checkpoints" / f"{stored:08d}").mkdir(parents=True)
    built = setup.build(FitLine(), optim.OptimConfig(), loop.RunConfig(folder=str(tmp_path), steps=9), 9)
    like = lambda place, step: built.fresh()._replace(weights={"w": jnp.full((8, 8), step + place)})
    monkeypatch.setattr(checkpoint, "restore", lambda folder, template: (stored, like(0.25, stored)) if stored else None)
    copies = object.__new__(peers.Copies)
    copies.restore = lambda template: (copy, like(0.5, copy)) if copy else None
    step, state = loop._resume(tmp_path, built, copies)
    assert step == wanted
    if wanted:
        assert state.weights["w"][0, 0] - wanted == (0.5 if wanted == copy else 0.25), "of two alike, the one in memory"


def test_a_copy_in_memory_goes_on_where_storage_is_damaged(tmp_path, monkeypatch):
    (tmp_path / "checkpoints" / "00000006").mkdir(parents=True)
    built = setup.build(FitLine(), optim.OptimConfig(), loop.RunConfig(folder=str(tmp_path), steps=9), 9)
    copies = object.__new__(peers.Copies)
    copies.restore = lambda template: (4, template)
    assert loop._resume(tmp_path, built, copies)[0] == 4
    assert checkpoint.steps(tmp_path / "checkpoints") == [], "the damaged one no longer counts as the newest to keep"
    (tmp_path / "checkpoints" / "00000006").mkdir()
    copies.restore = lambda template: None
    with pytest.raises(errors.InputError, match="no checkpoint is intact"):
        loop._resume(tmp_path, built, copies)


def test_an_ignored_signal_stays_ignored(monkeypatch):
    """A shell makes what it starts with & ignore Ctrl-C, which is for the program in front."""
    monkeypatch.setattr(preemption.Notice, "SIGNALS", (signal.SIGUSR1, signal.SIGUSR2))
    before = {number: signal.signal(number, handler) for number, handler in [(signal.SIGUSR1, signal.SIG_IGN), (signal.SIGUSR2, signal.SIG_DFL)]}
    try:
        with preemption.Notice() as notice:
            signal.raise_signal(signal.SIGUSR1)
            assert notice.signal is None
            signal.raise_signal(signal.SIGUSR2)
            assert notice.signal == signal.SIGUSR2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_what_a_trace_says_of_steps_left_out_is_dropped(tmp_path):
    writer = trace.Writer(tmp_path, 0, ["a", "b"], {})
    for n in range(5):
        writer.write(np.array([n, n + 10], np.uint32))
    writer.close()
    trace.cut(tmp_path, 3)
    leaves, rows = trace.read(tmp_path)
    assert leaves == ["a", "b"] and rows.tolist() == [[0, 10], [1, 11], [2, 12]]
    trace.cut(tmp_path / "none", 3)


def test_goodput_counts_only_steps_that_are_still_in_the_weights(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(goodput.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(goodput.time, "time", lambda: 1000 + now[0])
    meter = goodput.Meter(begun=1090.0, records=[], start=0)  # ten seconds went into starting
    for seconds, is_productive in ((5, False), (20, True), (10, True), (15, False)):
        now[0] += seconds
        meter.lap(is_productive)
    assert meter.figures() == {"productive_s": 30, "goodput": 30 / 60}
    monkeypatch.setattr(goodput.time, "time", lambda: 7.0)  # a clock set back
    assert meter.figures()["goodput"] == 1.0
    monkeypatch.setattr(goodput.time, "time", lambda: 1000 + now[0])
    # Killed there; half of the steps were in the checkpoint, and it starts again ten seconds later.
    now[0] += 10
    meter = goodput.Meter(1090.0, [{"step": 4, "productive_s": 15.0}, {"step": 4, "valid": 1.0}], start=4)
    now[0] += 30
    meter.lap(True)
    assert meter.figures() == {"productive_s": 45, "goodput": 45 / 100}


def test_skipped_steps_are_not_productive_and_count_in_the_speed(tmp_path, monkeypatch):
    """By a clock of ten seconds a step and thirty for the first, of 12 steps of which 4, 5 and 8 are bad."""
    now = [0.0]
    monkeypatch.setattr(goodput, "time", SimpleNamespace(perf_counter=lambda: now[0], time=lambda: now[0]))
    monkeypatch.setattr(machine, "peak_flops", lambda: 100.0)
    bar = progress.bar("x", 12, "steps")
    in_a_row = [0, 0, 0, 1, 2, 0, 0, 1, 0, 0, 0, 0]
    with recorder.Recorder(tmp_path, 0, 12, 0.0, 4, 10, bar, {}) as record:
        for n, bad in enumerate(in_a_row):
            values = {"loss": 1.0, "grad_norm": 1.0, "bad_in_a_row": bad, "skipped": 3}
            record.dispatched(n + 1, trace.Step(jnp.ones(1), {k: jnp.float32(v) for k, v in values.items()}, jnp.ones(1)), {}, 200, 50)
            now[0] += 10 if n else 30
        record.settle()
    logged = metrics.read(tmp_path)
    assert [(r["step"], r["productive_s"]) for r in logged] == [(4, 20), (8, 40), (12, 80)]
    assert logged[-1]["goodput"] == 80 / 140
    assert [(r["tokens_per_s"], r["mfu"]) for r in logged] == [(20, 0.05)] * 3


def test_metrics_cut_short_by_a_kill_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 9, "loss": 2.0}\n{"step": 10, "lo')
    metrics.Writer(tmp_path, 4).close()
    assert [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [{"step": 1, "loss": 3.0}]


def test_a_run_on_one_mesh_trains_like_a_run_on_another(tmp_path):
    def on(mesh):
        config = loop.RunConfig(folder=str(tmp_path / str(mesh[1])), steps=6, mesh=mesh)
        loop.run(FitLine(), optim.OptimConfig(lr=1e-2), config, {})
        return files.load_arrays(Path(config.folder) / "model.safetensors")[0]["w"]
    np.testing.assert_allclose(on((1, 4, 2, 1)), on((8, 1, 1, 1)), atol=1e-6)
