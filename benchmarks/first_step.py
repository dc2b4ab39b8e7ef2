"""How long until the first step is done: python -m benchmarks.first_step configs/demo.py [name=value ...]

The command itself, `python train.py CONFIG ...`, from the start of its process until the trace in its run folder has a
step: three times with nothing kept of earlier runs, and three times with the compiled programs of one before.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gemini_mini import errors

NUM_TIMES = 3
TRAIN = Path(__file__).parents[1] / "train.py"


def waited(arguments: list[str], cache: str) -> tuple[float, float]:
    """Seconds, and CPU-seconds, until train.py has done a step; it is stopped then."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as run:
        trace, start = Path(run, "trace.bin"), time.monotonic()
        command = [sys.executable, str(TRAIN), *arguments, f"run.folder={run}"]
        with subprocess.Popen(command, env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and not (trace.is_file() and trace.stat().st_size):
                time.sleep(0.01)
            seconds = time.monotonic() - start
            process.kill()
        if not trace.is_file():
            raise errors.InputError("train.py did no step; its errors stand above")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("settings", metavar="name=value", nargs="*", help="as of train.py; its run.folder is one of the benchmark's own")
    args = parser.parse_args()
    given = [args.config, *args.settings]
    with tempfile.TemporaryDirectory() as kept:
        cold = [waited(given, empty) for empty in (tempfile.mkdtemp(dir=kept) for _ in range(NUM_TIMES))]
        waited(given, kept)
        cached = [waited(given, kept) for _ in range(NUM_TIMES)]
    for name, times in (("cold", cold), ("cached", cached)):
        seconds, cpu = zip(*times)
        print(f"train.py to its first step, {name}: median {statistics.median(seconds):.2f} s of " + ", ".join(f"{each:.2f}" for each in seconds)
              + f"; {statistics.median(cpu):.2f} CPU-seconds, {statistics.median(seconds) / statistics.median(s for s, _ in cold):.2f} of cold", flush=True)


if __name__ == "__main__":
    errors.run(main)
