"""Where the time of a start goes: a line for each stage, in a process without and one with the programs compiled before.

What Python itself takes to start, about 0.02 CPU-seconds, is not counted.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

START = time.monotonic()
IS_TIMED = "STAGES" in os.environ  # this process is one of those that `in_processes` started


class Laps:
    """Prints the CPU-seconds, wall seconds and programs compiled or read back of each stage; importing JAX is the first."""

    def __init__(self):
        import jax

        self.last, self.compiled = [0.0, START], []
        jax.monitoring.register_event_duration_secs_listener(
            lambda name, *_, **__: self.compiled.append(name) if name.endswith("backend_compile_duration") else None)
        self.lap("jax")

    def lap(self, name: str) -> None:
        now = [time.process_time(), time.monotonic()]
        print(f"  {name:10} {now[0] - self.last[0]:6.2f} CPU-s {now[1] - self.last[1]:6.2f} s {len(self.compiled):3d} programs", flush=True)
        self.last = now
        self.compiled.clear()

    def end(self) -> None:
        print(f"  {'in all':10} {time.process_time():6.2f} CPU-s {time.monotonic() - START:6.2f} s", flush=True)


def in_processes(module: str, names: Sequence[str], arguments: Sequence[str]) -> None:
    """Run a benchmark's module in a process for each name; all after the first read what it compiled."""
    with tempfile.TemporaryDirectory() as cache:
        for name in names:
            print(name, flush=True)
            environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "STAGES": "1"}
            subprocess.run([sys.executable, "-m", module, *arguments], env=environment, check=True)
