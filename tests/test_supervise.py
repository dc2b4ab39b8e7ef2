"""Copies in memory: what a keeper keeps, what comes back from it, and a job whose processes are killed."""

import argparse
import json
import socket
import os
import re
import shutil
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

from gemini_mini import errors, files, supervise
from gemini_mini.train import checkpoint, keeper, loop, optim, peers, trace
from test_loop import GRACE_S, FitLine, assert_same, figures

KEY = b"key"
CONFIG = """
import sys
sys.path.insert(0, TESTS)
import test_loop
from gemini_mini import config as config_lib
from gemini_mini.train import loop, optim

def config():
    run = loop.RunConfig(FOLDER, 40, save_every=15, log_every=2, mesh=(0, 2, 1, 1))
    return config_lib.Experiment(test_loop.FitLine(), optim.OptimConfig(), run)
"""


@pytest.fixture
def keepers():
    """Two keepers, as threads."""
    addresses = [("127.0.0.1", supervise._free_port()) for _ in range(2)]
    for address in addresses:
        threading.Thread(target=keeper.serve, args=(address, KEY), daemon=True).start()
    deadline = time.monotonic() + 20
    for address in addresses:
        while True:
            try:
                keeper.ask(address, KEY, do="list", owner=9)
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    return addresses


def test_a_keeper_keeps_the_newest_two_of_each_owner_and_knows_no_stranger(keepers):
    for step in (5, 10, 15):
        keeper.ask(keepers[0], KEY, b"state %d" % step, do="put", owner=0, step=step)
    keeper.ask(keepers[0], KEY, b"other", do="put", owner=1, step=5)
    assert json.loads(keeper.ask(keepers[0], KEY, do="list", owner=0)) == [10, 15]
    assert keeper.ask(keepers[0], KEY, do="get", owner=0, step=10) == b"state 10"
    assert keeper.ask(keepers[0], KEY, do="get", owner=0, step=5) == b""
    silent = socket.create_connection(keepers[0])  # who says nothing keeps nobody waiting
    with pytest.raises(Exception, match="digest sent was rejected"):
        keeper.ask(keepers[0], b"guess", do="list", owner=0)
    assert json.loads(keeper.ask(keepers[0], KEY, do="list", owner=1)) == [5], "it goes on after a stranger"
    silent.close()


def sharded(value: float):
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    place = lambda x, *cut: jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.P(*cut)))
    return {"w": place(jnp.arange(64.0).reshape(8, 8) + value, "fsdp", None), "n": place(jnp.int32(value)),
            "m": place(jnp.full((4, 6), value, jnp.bfloat16), None, "data")}


def test_a_copy_comes_back_from_either_keeper_and_a_damaged_one_is_not_used(keepers, monkeypatch):
    copies = peers.Copies(keepers[:1], KEY, every=5)
    copies.keepers = keepers
    for step in (5, 10):
        copies.save(step, sharded(step))
    copies.close()

    def comes_back():
        found = peers.Copies(keepers[:1], KEY, every=5)
        found.keepers = keepers
        monkeypatch.setattr(found, "save", lambda step, state: None)
        return found.restore(sharded(0.0))

    def is_state_of(step):
        found, state = comes_back()
        same = jax.tree.map(lambda a, b: (np.asarray(a) == np.asarray(b)).all() and a.sharding == b.sharding, state, sharded(step))
        return found == step and all(jax.tree.leaves(same))

    assert is_state_of(10)
    spoil = lambda where, step: keeper.ask(where, KEY, b"x" * 1000, do="put", owner=0, step=step)
    spoil(keepers[0], 10)
    assert is_state_of(10), "the next host's"
    spoil(keepers[1], 10)
    assert is_state_of(5), "the one before"
    copies.forget()
    assert comes_back() is None


def test_a_run_continues_from_memory_alone(keepers, tmp_path, capsys):
    """Killed half-way, its checkpoints gone: the copies are enough, and the bits are the same."""
    def run(folder, stop=-1):
        copies = peers.Copies(keepers[:1], KEY, every=4)
        copies.keepers = keepers
        config = loop.RunConfig(str(folder), 20, save_every=3, log_every=2)
        loop.run(FitLine(signal_at=stop), optim.OptimConfig(), config, {}, copies)

    run(tmp_path / "whole")
    peers.Copies(keepers, KEY, 4).forget()
    with pytest.raises(SystemExit):
        run(tmp_path / "cut", stop=13)
    shutil.rmtree(tmp_path / "cut/checkpoints")
    capsys.readouterr()
    run(tmp_path / "cut")
    assert Job.continued(capsys.readouterr().out) == [12]
    assert_same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("processes", ["0", "-1"])
def test_a_job_needs_a_process(processes, tmp_path, monkeypatch):
    (tmp_path / "c.py").write_text(CONFIG.replace("TESTS", repr(str(Path(__file__).parent))).replace("FOLDER", "'x'"))
    monkeypatch.setattr(sys, "argv", ["supervise", str(tmp_path / "c.py"), "--processes", processes])
    with pytest.raises(errors.InputError, match="--processes: must be at least 1"):
        supervise.main()


def test_a_keeper_ends_with_its_supervisor(tmp_path):
    port = str(supervise._free_port())
    process = supervise._start([sys.executable, "-m", "gemini_mini.train.keeper", "127.0.0.1", port], "key", tmp_path / "a/log")
    process.stdin.close()  # which also happens when the supervisor is killed
    assert process.wait(60) == 1 and (tmp_path / "a/log").read_bytes() == b""


def test_a_job_that_gets_no_further_is_given_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(supervise.Supervisor, "_start", lambda self: None)
    monkeypatch.setattr(supervise.signal, "signal", lambda number, handler: None)
    reached = iter([(0, 480), (0, 960), (0, 960), (1, 720), (1, 720), (0, 960), (0, 960)])  # it goes back once, and further from there

    def watch(self):
        self.reached = max(self.reached, next(reached))
        return "process 1 died (exit code -9)"

    monkeypatch.setattr(supervise.Supervisor, "_watch", watch)
    with pytest.raises(errors.InputError, match="process 1 died .* 3 times without getting any further"):
        supervise.Supervisor(argparse.Namespace(processes=0), tmp_path).run()
    assert capsys.readouterr().err.count("all start again") == 5 and next(reached) == (0, 960)


@pytest.mark.parametrize("codes, expected", [([0, 0], 0), ([-9, 2], 2), ([143, 143], 143), ([0, -9], -9)])
def test_the_job_ends_as_its_worst_process_did(codes, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(supervise.signal, "signal", lambda number, handler: None)
    job = supervise.Supervisor(argparse.Namespace(processes=0), tmp_path)
    job.workers = [SimpleNamespace(poll=lambda code=code: code) for code in codes]
    monkeypatch.setattr(job, "_kill", lambda processes: None)
    job.told_to_stop = True
    monkeypatch.setattr(job, "_start", lambda: None)
    monkeypatch.setattr(job, "_watch", lambda: "")
    assert job.run() == expected


@pytest.mark.parametrize("error, expected, starts", [
    (errors.InputError("no such source"), errors.BAD_INPUT, 1),  # would be as bad the next time
    (OSError("no space left on device"), 0, 2)])  # of the machine: room may have been made, or the copies be ahead
def test_bad_input_ends_a_job_and_a_failing_machine_does_not(error, expected, starts, tmp_path, monkeypatch):
    def fail():
        raise error

    with pytest.raises(SystemExit) as died:
        errors.run(fail)
    ends = iter([(died.value.code, "process 0 died"), (0, "")])
    monkeypatch.setattr(supervise.signal, "signal", lambda number, handler: None)
    job, started = supervise.Supervisor(argparse.Namespace(processes=0), tmp_path), []

    def start():
        code, why = next(ends)
        started.append(code)
        job.workers = [SimpleNamespace(poll=lambda: code)]
        monkeypatch.setattr(job, "_watch", lambda: why)

    monkeypatch.setattr(job, "_start", start)
    monkeypatch.setattr(job, "_kill", lambda processes: None)
    assert job.run() == expected and len(started) == starts


class Job:
    """Two processes of two devices each, under a supervisor; `children` are its keepers and workers by process id."""

    def __init__(self, folder: Path, *options: str):
        self.folder = folder
        config = folder.parent / "c.py"
        config.write_text(CONFIG.replace("TESTS", repr(str(Path(__file__).parent))).replace("FOLDER", repr("unset")))
        flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),
                 "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gemini_mini.supervise", str(config), f"run.folder={folder}", "--copy-every", "5", *options],
            env=os.environ | flags, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True)

    def children(self, what: str) -> list[int]:
        mine = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in mine if what in Path(f"/proc/{child}/cmdline").read_text()]

    def wait_for(self, step: int) -> None:
        """Until the run has just recorded `step`, counted from its newest start."""
        width = None
        while self.process.poll() is None:
            path = self.folder / "trace.bin"
            if path.is_file():
                width = width or 4 * len(files.read_json(self.folder / "trace.json"))
                if path.stat().st_size >= step * width:
                    return
            time.sleep(0.001)

    def end(self) -> tuple[int, str]:
        said = self.process.communicate(timeout=900)[0]
        return self.process.returncode, said

    @staticmethod
    def continued(said: str) -> list[int]:
        """The steps at which it went on."""
        return [int(step) for step in re.findall(r"continuing .* at step (\d+) of", said)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job") / "whole"
    code, said = Job(folder).end()
    assert code == 0, said
    return folder


@pytest.mark.slow
def test_every_process_sees_the_same_and_the_data_is_that_of_one_process(undisturbed, tmp_path):
    assert (undisturbed / "trace.bin").read_bytes() == (undisturbed / "processes/1/trace.bin").read_bytes()
    loop.run(FitLine(), optim.OptimConfig(), loop.RunConfig(str(tmp_path), 40), {})  # eight devices
    one, job = trace.read(tmp_path), trace.read(undisturbed)
    batch = one[0].index("batch")
    assert (one[1][:, batch] == job[1][:, batch]).all() and len(one[1]) == 40


@pytest.mark.slow
def test_a_killed_process_is_brought_back_and_the_job_goes_on_from_memory_to_the_same_bits(undisturbed):
    job = Job(undisturbed.parent / "killed", "task.pause_s=0.25")
    for step, victim, share in ((8, 0, 0.0), (19, 1, 1 / 3), (30, 0, 2 / 3)):
        job.wait_for(step)
        time.sleep(share * 0.25)  # at another point of a step each time
        shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)  # storage is not needed
        os.kill(job.children("train.keeper")[victim], signal.SIGKILL)  # its host is lost, memory and all
        os.kill(job.children("--worker")[victim], signal.SIGKILL)
    code, said = job.end()
    assert code == 0 and said.count("all start again from the newest copy") == 3, said
    lost = np.array([8, 19, 30]) - job.continued(said)
    assert (lost <= 5).all(), "no more is lost than the steps between two copies"
    assert_same(undisturbed, job.folder)
    assert figures(job.folder) == figures(undisturbed)


@pytest.mark.slow
def test_a_process_that_hangs_is_ended_by_the_watchdog(undisturbed):
    job = Job(undisturbed.parent / "hung", "--hang-s", "20")
    job.wait_for(12)
    os.kill(job.children("--worker")[1], signal.SIGSTOP)  # the other one waits in a collective now
    code, said = job.end()
    assert code == 0 and "no step for 20 s" in said and job.continued(said)[0] >= 12 - 5, said
    assert_same(undisturbed, job.folder)


@pytest.mark.slow
def test_told_to_stop_all_processes_save_the_same_step(undisturbed):
    slow = "task.pause_s=0.25"  # the processes need some seconds to agree on a step: the run must last longer
    job = Job(undisturbed.parent / "stopped", slow)
    job.wait_for(12)
    job.process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    code, said = job.end()
    assert time.monotonic() - told < GRACE_S
    assert code == 128 + signal.SIGTERM and "stopped after step" in said, said
    assert len(checkpoint.steps(job.folder / "checkpoints")) >= 1
    code, said = Job(job.folder, slow).end()
    assert code == 0, said
    assert_same(undisturbed, job.folder)
