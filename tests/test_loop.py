"""The loop's laws: exact to the bit through kills and resumes, and nothing lost on bad days."""

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
import pytest
from flax import nnx

from gemini_mini import errors, files, nn
from gemini_mini.data import mixture
from gemini_mini.train import checkpoint, loop, machine, metrics, optim, trace


STAGES = (mixture.Stage("first", 0.3, {"a": 1.0}), mixture.Stage("second", 1.0, {"a": 1.0, "b": 3.0}))  # border at step 6


class Line(nnx.Module):
    def __init__(self, rngs):
        self.w = nn.param(rngs, (8, 8), "D F")


@dataclasses.dataclass(frozen=True)
class FitLine:
    """Fits a linear map to rows of a staged mixture; is told to stop at `signal_at`; `poison`: step -> factor of its batch."""

    signal_at: int = -1
    number: int = signal.SIGTERM
    data: str = "one"
    poison: tuple[tuple[int, float], ...] = ()

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
            if step == self.signal_at:
                os.kill(os.getpid(), self.number)
            places = [rows.row(n) for n in range(16 * step, 16 * step + 16)]
            x = [np.random.default_rng([ord(source), row]).normal(size=8) for source, row in places]
            return np.array(x, np.float32) * np.float32(dict(self.poison).get(step, 1.0))
        return batch

    def loss(self, module, batch, key):
        target = batch @ jnp.arange(64.0).reshape(8, 8) / 64
        noise = jax.random.normal(key, target.shape)
        loss = jnp.mean((nn.einsum("bd,df->bf", batch, module.w) + 0.01 * noise - target) ** 2)
        return loss, {"loss/text": loss}

    def evals(self, module):
        return {"valid": float(jnp.sum(module.w[...])), "picture": np.zeros((4, 4, 3), np.uint8)}

    def export(self, module, folder):
        files.save_arrays(folder / "model.safetensors", {k: np.asarray(v) for k, v in nn.weights(module).items()}, {})


def train(folder, steps=20, settings=None, lr=1e-2, run=None, **task):
    config = loop.RunConfig(**{"folder": str(folder), "steps": steps, "save_every": 3, "log_every": 2, "eval_every": 8} | (run or {}))
    loop.run(FitLine(**task), optim.OptimConfig(kind="muon", lr=lr, muon_lr=lr), config, settings or {"lr": 1})
    return files.load_arrays(folder / "model.safetensors")[0]["w"]


def train_dying(folder, what, times):
    """Train until `what` is called for the so-manieth time, then die the way a power cut would."""
    owner, name = {"batch": (FitLine, "batches"), "replace": (os, "replace"), "result": (checkpoint.Saver, "_finish"),
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

    setattr(owner, name, dying if what != "batch" else lambda *args: counted(real(*args)))
    counted = lambda inner: lambda step: (dying_at(step, times), inner(step))[1]
    train(folder)


def dying_at(step, which):
    if step == which:
        os.kill(os.getpid(), signal.SIGKILL)


def die_and_resume(folder, deaths):
    """For each (what, times): a run that dies so, then the same command again. One import serves all, by fork.

    Returns the names of the deaths that did happen.
    """
    script = f"""
import os, sys
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
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
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


def losses(folder):
    return [r["loss"] for r in metrics.read(folder) if "loss" in r]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


def test_killed_and_resumed_equals_uninterrupted_to_the_bit(whole, tmp_path):
    deaths = [("batch", 6), ("result", 2), ("replace", 8)]  # at the border of two stages, and twice in the middle of a save
    assert len(die_and_resume(tmp_path, deaths)) == len(deaths)
    for what, times in deaths:
        assert_same(whole, tmp_path / f"{what}{times}")


@pytest.mark.slow
def test_killed_anywhere_and_resumed_equals_uninterrupted_to_the_bit(whole, tmp_path):
    deaths = [(what, n) for what, most in (("batch", 20), ("result", 7), ("replace", 30), ("trace", 20)) for n in range(most)]
    died = die_and_resume(tmp_path, deaths)
    assert len(died) > 60
    for what, times in deaths:
        assert_same(whole, tmp_path / f"{what}{times}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_saves_the_step_and_goes_on_to_the_same_bits(whole, tmp_path, number, capsys):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path / "cut", signal_at=7, number=number)  # arrives while step 8 is prepared
    assert stopped.value.code == 128 + number and "stopped after step 8 of 20 and saved step 8" in capsys.readouterr().err
    assert checkpoint.steps(tmp_path / "cut/checkpoints") == [6, 8] and signal.getsignal(number) is before
    train(tmp_path / "cut")
    assert_same(whole, tmp_path / "cut")


def test_a_finished_run_is_reused_and_another_is_refused(tmp_path, capsys):
    train(tmp_path)
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    train(tmp_path)
    assert "reused" in capsys.readouterr().out and (tmp_path / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(errors.InputError, match="other settings .lr: 1 there, 2 now"):
        train(tmp_path, settings={"lr": 2})
    with pytest.raises(errors.InputError, match="other inputs .data: one there, two now"):
        train(tmp_path, data="two")


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path):
    weights = train(tmp_path, steps=12, poison=((5, np.nan),))
    assert np.isfinite(weights).all()
    assert [r["skipped"] for r in metrics.read(tmp_path) if "skipped" in r] == [0, 0, 1, 1, 1, 1]


def test_training_reduces_the_loss_and_ten_times_the_rate_stays_finite(tmp_path):
    train(tmp_path / "a", steps=60, lr=0.3)
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


def save(folder, step, state, keep=checkpoint.Keep(2), score=None):
    with checkpoint.Saver(folder, keep) as saver:
        saver.save(step, state, score)


def test_a_flipped_byte_is_found_and_the_checkpoint_before_it_used(tmp_path, capsys):
    state = {"w": jnp.arange(4096.0), "step": jnp.int32(3)}
    for step in (3, 6, 9):
        save(tmp_path, step, {**state, "step": jnp.int32(step)})
    assert checkpoint.steps(tmp_path) == [6, 9]
    big = max((tmp_path / "00000009").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    data = bytearray(big.read_bytes())
    data[len(data) // 2] ^= 1
    big.write_bytes(bytes(data))
    step, restored = checkpoint.restore(tmp_path, state)
    assert step == 6 and int(restored["step"]) == 6 and "damaged" in capsys.readouterr().err
    for path in (tmp_path / "00000006").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(errors.InputError, match="no checkpoint is intact"):
        checkpoint.restore(tmp_path, state)


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
        assert done.returncode == 2, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ") and "could not be written" in last and "Traceback" not in done.stderr
        assert checkpoint.steps(tmp_path / "checkpoints") == [1]
        assert not list((tmp_path / "checkpoints").glob(".*")) and not list(tmp_path.glob(".*"))
        assert files.load_arrays(tmp_path / "model.safetensors")[0]["w"].tolist() == [1] * 4


@pytest.mark.parametrize("field", ["steps", "log_every", "save_every", "keep", "max_bad"])
def test_counts_must_be_positive(field):
    with pytest.raises(errors.InputError, match=f"run.{field}: must be at least 1, got 0"):
        loop.RunConfig(**{"folder": "x", "steps": 5} | {field: 0})


def test_metrics_cut_short_by_a_kill_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 9, "loss": 2.0}\n{"step": 10, "lo')
    metrics.Writer(tmp_path, 4).close()
    assert [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [{"step": 1, "loss": 3.0}]
