"""A flipped bit is found: its step and its leaf are named, and a run without one replays to the same bits."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gemini_mini import config, errors, files, matmul, replay
from gemini_mini.train import checkpoint, faults, loop, setup

ROOT = Path(__file__).parent.parent
CONFIG = """
import test_loop
from gemini_mini import config as config_lib
from gemini_mini.train import loop, optim

def config():
    return config_lib.Experiment(test_loop.FitLine(), optim.OptimConfig(), loop.RunConfig(FOLDER, 14, save_every=3))
"""


def train(place: Path, *overrides: str) -> Path:
    (place / "c.py").write_text(CONFIG.replace("FOLDER", repr(str(place / "run"))))
    experiment = config.load(str(place / "c.py"), list(overrides))
    loop.run(experiment.task, experiment.optim, experiment.run, config.to_json(experiment))
    return place / "run"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return train(tmp_path_factory.mktemp("sound"))


def command(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["replay", *map(str, arguments)])
    monkeypatch.setattr(replay.os, "nice", lambda by: by)
    with pytest.raises(SystemExit) as ended:
        replay.main()
    return ended.value.code


def test_a_sound_run_replays_to_the_same_bits(sound, capsys):
    again = replay.load(sound)
    assert again.check(14) == (12, None), "from the newest checkpoint before it"
    assert again.check(9) == (0, None), "from the start, where the checkpoints before it are gone"
    assert again.scan(3) == replay.SAME and capsys.readouterr().out.count("every leaf is as recorded") == 3


def test_steps_that_the_run_goes_back_from_meanwhile_are_not_said_to_be_computed_wrongly(sound, tmp_path, capsys):
    folder = Path(shutil.copytree(sound, tmp_path / "run"))
    again, trace = replay.load(folder), (folder / "trace.bin").read_bytes()
    before, asked = again._before, []

    def going_back(step):
        asked.append(step)
        if len(asked) == 1:
            files.write_json(folder / "rollbacks.json", [{"at": 14, "to": 0, "why": "a test"}])
        elif len(asked) == 2:
            (folder / "trace.bin").write_bytes(trace[: len(trace) // 14])
        else:
            (folder / "rollbacks.json").unlink(missing_ok=True)
            (folder / "trace.bin").write_bytes(trace)
        return before(step)

    again._before = going_back
    assert again.scan(1) == replay.SAME and len(asked) >= 3
    assert capsys.readouterr().out.count("as recorded") == 1


def test_a_scan_that_compared_nothing_says_so(sound, capsys):
    assert replay.load(sound).scan(0) == replay.ELSEWHERE, "it is done already"
    assert "nothing was compared" in capsys.readouterr().out


@pytest.mark.slow
def test_a_scanner_beside_a_live_run_checks_it_to_its_end_and_changes_nothing(sound, tmp_path):
    folder, environment = tmp_path / "run", os.environ | {"PYTHONPATH": str(Path(__file__).parent), "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    (tmp_path / "c.py").write_text(CONFIG.replace("FOLDER", repr(str(folder))))
    start = lambda *command: subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    with start("train.py", tmp_path / "c.py", "task.pause_s=3") as live:
        while not (folder / "run.json").is_file():
            assert live.poll() is None
            time.sleep(0.1)
        with start("-m", "gemini_mini.replay", folder, "--scan") as scanner:
            assert "every leaf is as recorded" in scanner.stdout.readline() and live.poll() is None
            said = scanner.communicate(timeout=300)[0]
        assert scanner.returncode == replay.SAME and live.wait(1) == 0, said
    assert all("as recorded" in line for line in said.splitlines())
    assert (folder / "trace.bin").read_bytes() == (sound / "trace.bin").read_bytes()


def test_a_flipped_bit_is_found_and_the_step_and_the_leaf_named(tmp_path, capsys, monkeypatch):
    folder = train(tmp_path, "run.flip=(13, \"state.weights['w']\", 777)")
    assert command(monkeypatch, folder, "--step", 14) == 1
    said = capsys.readouterr().out
    assert "step 13: differs from the run in state.weights['w']; computed again from the checkpoint of step 12" in said
    assert said.strip().endswith("computes wrongly"), "all is known of how it was computed"
    assert command(monkeypatch, folder, "--step", 12) == 0
    assert command(monkeypatch, folder, "--scan", 50) == 1, "the scanner comes to it by itself"


def test_steps_of_another_mesh_are_not_compared(tmp_path, capsys, monkeypatch):
    """A run that is stopped after step 8 and goes on elsewhere; checkpoints of 8, 9, 12 and 14 stay."""
    with pytest.raises(SystemExit):
        train(tmp_path, "run.keep=4", "task.signal_at=7")
    folder = train(tmp_path, "run.keep=4", "task.signal_at=7", "run.mesh=(2,4,1,1)")
    assert command(monkeypatch, folder, "--step", 14) == command(monkeypatch, folder, "--step", 9) == replay.SAME, "on its own mesh"
    assert command(monkeypatch, folder, "--scan", 5) == replay.SAME, "the scanner chooses among those"
    assert "nothing is said" not in capsys.readouterr().out
    assert command(monkeypatch, folder, "--step", 7) == replay.ELSEWHERE
    said = capsys.readouterr().out
    assert "step 1: was computed otherwise than here (mesh [8, 1, 1, 1] then, [2, 4, 1, 1] now)" in said and "computes wrongly" not in said
    for step in (8, 9, 12):
        shutil.rmtree(folder / f"checkpoints/{step:08d}")
    assert command(monkeypatch, folder, "--step", 14) == command(monkeypatch, folder, "--scan", 1) == replay.ELSEWHERE, "from step 0 on"


def test_steps_of_another_cpu_are_not_compared_and_of_an_older_run_that_is_not_known(sound, tmp_path, capsys, monkeypatch):
    """Its roundings are others: a bit of the last step is, too. XLA has read its own flags by then, for the sound run."""
    with monkeypatch.context() as patch:
        patch.setattr(matmul, "cpu_info", lambda: "model name\t: Other CPU\nmodel\t\t: 7\n")
        patch.setattr(setup.os, "sched_getaffinity", lambda of: range(64))
        patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true --xla_dump_to=x")
        folder = train(tmp_path)
    rows = bytearray((folder / "trace.bin").read_bytes())
    rows[-1] ^= 1
    (folder / "trace.bin").write_bytes(rows)
    assert command(monkeypatch, folder, "--step", 14) == command(monkeypatch, folder, "--scan", 1) == replay.ELSEWHERE
    said = capsys.readouterr().out
    assert "(cpu Other CPU / 7 then, " in said and "cpus 64 then, " in said and "computes wrongly" not in said
    assert "xla_flags ['--xla_cpu_enable_fast_math=true'] then, " in said
    (stretch,) = files.read_json(folder / "stretches.json")
    for name in ("cpu", "cpus", "xla_flags"):
        del stretch["how"][name]
    files.write_json(folder / "stretches.json", [stretch])
    assert command(monkeypatch, folder, "--step", 13) == replay.SAME and command(monkeypatch, folder, "--step", 14) == replay.DIFFERENT
    assert "computes wrongly, unless cpu or cpus or xla_flags changed, of which the run says nothing" in capsys.readouterr().out


def test_where_no_cpu_is_described_python_names_it(monkeypatch):
    monkeypatch.setattr(matmul, "cpu_info", lambda: "")
    monkeypatch.setattr(setup.platform, "processor", lambda: "arm")
    monkeypatch.delattr(setup.os, "sched_getaffinity")
    monkeypatch.setattr(setup.os, "cpu_count", lambda: 12)
    assert setup._machine(jax.devices()[0]) == {"devices": "cpu", "cpu": "arm", "cpus": 12}
    chip = mock.Mock(spec=jax.Device, platform="tpu", device_kind="TPU v4")
    assert setup._machine(chip) == {"devices": "TPU v4"}, "a host's CPU does not round for its chips"


def test_a_checkpoint_that_vanishes_leads_to_another_choice(sound, tmp_path, capsys, monkeypatch):
    """The run deletes old ones while the scanner reads them."""
    again, load = replay.load(sound), checkpoint._load
    again.folder = shutil.copytree(sound, tmp_path / "run")

    def vanishing(place, abstract):
        shutil.rmtree(again.folder / "checkpoints/00000012")
        return load(place, abstract)

    monkeypatch.setattr(checkpoint, "_load", vanishing)
    assert again.scan(2) == replay.SAME
    said = capsys.readouterr()
    assert "damaged" not in said.err and said.out.count("steps 1 to ") == 2 and checkpoint.steps(again.folder / "checkpoints") == [14]


def test_steps_of_which_nothing_is_recorded_are_not_said_to_be_sound(sound, tmp_path, capsys):
    """The trace of the first nine was lost, and the run went on."""
    again = replay.load(sound)
    again.folder = Path(shutil.copytree(sound, tmp_path / "run"))
    width = len(files.read_json(again.folder / "trace.json")) * 4
    (again.folder / "trace.bin").write_bytes(bytes(9 * width) + (sound / "trace.bin").read_bytes()[9 * width :])
    assert again.report(9) == replay.ELSEWHERE and "nothing is recorded of them" in capsys.readouterr().out
    assert again.report(10) == replay.SAME, "of one of these there is"
    (again.folder / "trace.bin").write_bytes(bytes(14 * width))
    assert again.scan(2) == replay.ELSEWHERE and "nothing was compared" in capsys.readouterr().out


def test_a_damaged_checkpoint_before_a_step_is_passed_over(sound, tmp_path, capsys):
    again = replay.load(sound)
    again.folder = Path(shutil.copytree(sound, tmp_path / "run"))
    (again.folder / "checkpoints/00000012/sums.json").write_text("{}")
    assert again.check(13) == (0, None), "the one of step 14 is intact, and later"
    assert "00000012 is damaged" in capsys.readouterr().err


def test_what_cannot_be_replayed_is_refused(sound, tmp_path, monkeypatch):
    with pytest.raises(errors.InputError, match="--step must be from 1 to 14"):
        replay.load(sound).check(15)
    with pytest.raises(errors.InputError, match="is no run folder"):
        replay.load(tmp_path)
    path = sound.parent / "c.py"
    before = path.read_text()
    path.write_text(before.replace("OptimConfig()", "OptimConfig(lr=2e-3)"))
    with pytest.raises(errors.InputError, match="c.py has changed since"):
        replay.load(sound)
    path.write_text(before)
    beside = tmp_path / "run-text" / "run.json"
    files.write_json(beside, {"settings": files.read_json(sound / "run.json")["settings"] | {"source": []}})
    with pytest.raises(errors.InputError, match="must be a run of train.py, of which a config says all"):
        replay.load(beside.parent)
    monkeypatch.setattr(type(config.load(str(path), []).task), "inputs", lambda self: {"data": "two"})
    with pytest.raises(errors.InputError, match="the data it was trained on has changed"):
        replay.Replay(sound, config.load(str(path), []))


def test_a_flip_changes_one_bit_and_must_name_one():
    state = {"w": jnp.arange(6.0).reshape(2, 3), "n": jnp.int32(5)}
    flipped = faults.flip(state, "state['w']", 32 * 4 + 3)
    changed = np.asarray(flipped["w"]).view(np.uint32) ^ np.asarray(state["w"]).view(np.uint32)
    assert changed.tolist() == [[0, 0, 0], [0, 8, 0]] and flipped["n"] == 5
    assert int(faults.flip(state, "state['n']", 1)["n"]) == 7
    with pytest.raises(errors.InputError, match="must name a leaf of the state, got 'w'; nearest: state"):
        faults.check(state, "w", 0)
    with pytest.raises(errors.InputError, match="has bits 0 to 191, got 192"):
        faults.check(state, "state['w']", 192)
