"""Recovery from storage against recovery from memory: the same job, killed at the same steps.

    python benchmarks/recovery.py --steps 60 --failures 2 --rounds 2 --folder runs/recovery

Two processes train a decoder of 3.3M parameters on random rows (this file is the config too). At chosen steps one of
them is killed, its keeper with it. "storage" saves every 20 steps and has nothing else; "memory" copies to two keepers
every 2 steps besides; they take turns. A step waits a second besides its work, so that it takes nearly as long however busy
the machine is. Productive is the time these steps take where nothing fails and nothing is copied; goodput is its part of all
time, and the rest is lost. What a restart costs, import and reading compiled programs, is the same for both and far too
large beside such steps; so the table also has what is lost beyond it.
Fact: 85 % with checkpoints, 97 % with copies in memory (Gemini report, section 3): a fifth of what was lost.
"""

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from gemini_mini import config as config_lib, files
from gemini_mini.data import packing
from gemini_mini.model import decoder
from gemini_mini.train import goodput, loop, metrics, optim

SAVE_EVERY, COPY_EVERY, PAUSE_S, VOCABULARY, ROWS, IDS = 20, 2, 1.0, 1024, 4, 64


@dataclass(frozen=True)
class RandomRows:
    """A loop.Task: the decoder on ids that mean nothing."""

    def batch_tokens(self) -> int:
        return ROWS * IDS

    def batch_flops(self) -> int:
        return self.batch_tokens() * MODEL.flops_per_token(IDS)

    def reads(self, done: float) -> dict[str, float]:
        return {}

    def inputs(self) -> dict:
        return {}

    def init(self, rngs: nnx.Rngs) -> decoder.Decoder:
        return decoder.Decoder(MODEL, rngs)

    def batches(self, steps: int, seed: int) -> Callable[[int], packing.Batch]:
        def batch(step: int) -> packing.Batch:
            time.sleep(PAUSE_S)
            return packing.batch_of(np.random.default_rng((seed, step)).integers(100, VOCABULARY, (ROWS, IDS)))
        return batch

    def loss(self, module: decoder.Decoder, batch: packing.Batch, key) -> tuple[jax.Array, dict]:
        logits = module.logits(module(batch.tokens, batch.positions, batch.segments))
        picked = jax.numpy.take_along_axis(jax.nn.log_softmax(logits), batch.targets[..., None], axis=-1)
        return -picked.mean(), {}

    def evals(self, module: decoder.Decoder) -> dict:
        return {}

    def export(self, module: decoder.Decoder, folder: Path) -> None: ...


MODEL = decoder.DecoderConfig(VOCABULARY, depth=4, aspect=64, context_tokens=IDS)


def config() -> config_lib.Experiment:
    run = loop.RunConfig("set by run.folder", 60, save_every=SAVE_EVERY, log_every=1, mesh=(0, 1, 1, 1))
    return config_lib.Experiment(RandomRows(), optim.OptimConfig(), run)


class Found(NamedTuple):
    """What a job took: steps done again, seconds from each start to its first record, of a productive step, in all, of CPU."""

    again: int
    starts_s: list[float]
    step_s: float
    total_s: float
    cpu_s: float


def measure(folder: Path, steps: int, deaths: list[int], copy_every: int) -> Found:
    """Run the job, kill a process at each of these steps."""
    shutil.rmtree(folder, ignore_errors=True)
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
             "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    before = _cpu_s()
    job = subprocess.Popen([sys.executable, "-m", "gemini_mini.supervise", __file__, f"run.folder={folder}", f"run.steps={steps}",
                            "--copy-every", str(copy_every)], env=os.environ | cache, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    begin = time.monotonic()
    _await(job, folder, lambda rows: rows >= 1)
    starts = [time.monotonic() - begin]
    again = 0
    for step in deaths:
        _await(job, folder, lambda rows: rows >= step)
        done = _rows(folder)
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        died = time.monotonic()
        for kind in ("train.keeper", "--worker"):
            os.kill([int(c) for c in children if kind in Path(f"/proc/{c}/cmdline").read_text()][step % 2], signal.SIGKILL)
        _await(job, folder, lambda rows: rows < done)  # cut to where it continues
        resumed = _rows(folder)
        again += done - resumed
        _await(job, folder, lambda rows: rows > resumed)
        starts.append(time.monotonic() - died)
    if job.wait():
        raise RuntimeError(f"{folder}: the job failed")
    total = time.monotonic() - begin
    productive = [r for r in metrics.read(folder) if goodput.GOOD in r][-1][goodput.GOOD]  # a start's first step is not counted
    return Found(again, starts, productive / (steps - len(starts)), total, _cpu_s() - before)


def _cpu_s() -> float:
    """Of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _rows(folder: Path) -> int:
    names, path = folder / "trace.json", folder / "trace.bin"
    return path.stat().st_size // (4 * len(files.read_json(names))) if names.is_file() and path.is_file() else 0


def _await(job: subprocess.Popen, folder: Path, is_so: Callable[[int], bool]) -> None:
    while not is_so(_rows(folder)):
        if job.poll() is not None:
            raise RuntimeError(f"{folder}: the job ended early")
        time.sleep(0.002)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/recovery"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--failures", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    # Where a process dies is chance; 0.1 to 0.9 of the way between two saves, the same for both.
    rng = np.random.default_rng(0)
    blocks = np.linspace(1, arguments.steps // SAVE_EVERY - 1, arguments.failures).round().astype(int)
    deaths = [int(b * SAVE_EVERY + rng.integers(2, SAVE_EVERY - 2)) for b in blocks]
    print(f"killed at steps {deaths}")
    print("| recovery from | steps done again | restart s | step s | in all s | CPU-s | goodput | lost s | beyond restarts s |\n" + "| --- " * 9 + "|")
    lost = {name: np.zeros(2) for name in ("nothing fails", "storage", "memory")}  # in all, and beyond restarts
    step_s = 0.0
    for name in ["nothing fails", *["storage", "memory"] * arguments.rounds]:
        found = measure(arguments.folder / name.split()[0], arguments.steps, [] if name == "nothing fails" else deaths,
                        COPY_EVERY if name == "memory" else 0)
        step_s = step_s or found.step_s
        productive = step_s * arguments.steps
        restarts = [start - 2 * step_s for start in found.starts_s]  # a step is recorded when the one after it has begun
        lost[name] += found.total_s - productive, found.total_s - productive - sum(restarts)
        print(f"| {name} | {found.again} | {np.mean(restarts):.1f} | {found.step_s:.2f} | {found.total_s:.0f} | {found.cpu_s:.0f} "
              f"| {productive / found.total_s:.0%} | {found.total_s - productive:.0f} | {found.total_s - productive - sum(restarts):.0f} |", flush=True)
    in_all, beyond = lost["memory"] / lost["storage"]
    print(f"lost with memory, of what is lost with storage: {in_all:.2f}; beyond restarts {beyond:.2f}")


if __name__ == "__main__":
    main()
