"""Train with several processes on this machine, and bring them back when one dies or hangs.

    python -m gemini_mini.supervise configs/demo.py run.folder=runs/four task.batch_rows=8 --processes 4 --copy-every 10

Beside each process runs a keeper with copies of the state in its memory (train/peers.py). When a process dies, or no
step ends for --hang-s seconds (a collective that waits for a dead one may wait for ever), all are killed and started
again: JAX cannot take a single process back into a running job. They continue from the copies; a keeper that
died comes back empty, and the next one's copy stands in. Storage is the last resort.
"""

import argparse
import contextlib
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax

from gemini_mini import config, errors, memory
from gemini_mini.train import hosts, keeper, loop, peers, recovery

TRIES = 3  # starts that get no further than the ones before
START_S = 1800.0  # to load, compile and make the first step
LOCAL = "127.0.0.1"


class Supervisor:
    """Starts the processes and the keepers of one job and waits for its end."""

    def __init__(self, arguments: argparse.Namespace, folder: Path):
        self.arguments, self.folder, self.key = arguments, folder, secrets.token_hex(16)
        self.ports = [_free_port() for _ in range(arguments.processes)]
        self.keepers: list[subprocess.Popen] = [self._keeper(port) for port in self.ports]
        self.workers: list[subprocess.Popen] = []
        self.told_to_stop = False
        self.reached = 0, 0  # the furthest it ever got

    def run(self) -> int:
        """The exit code of the job. Raises: InputError when it dies again and again without getting any further."""
        signal.signal(signal.SIGTERM, self._pass_on)
        signal.signal(signal.SIGINT, self._pass_on)
        failures = 0
        try:
            while True:
                before = self.reached
                self._start()
                why = self._watch()
                codes = [worker.poll() for worker in self.workers]
                is_bad_input = errors.BAD_INPUT in codes  # starting again would not help
                if not why or self.told_to_stop or is_bad_input:
                    return errors.BAD_INPUT if is_bad_input else max(codes, key=abs)  # of one that was killed it is negative
                failures = failures + 1 if self.reached == before else 1
                if failures == TRIES:
                    raise errors.InputError(f"{self.folder}: {why}, {TRIES} times without getting any further; "
                                            f"see what it printed, and {self.folder}/processes")
                print(f"warning: {self.folder}: {why}; all start again from the newest copy", file=sys.stderr, flush=True)
        finally:
            self._kill(self.workers + self.keepers)

    def _start(self) -> None:
        self.keepers = [old if old.poll() is None else self._keeper(port)
                        for old, port in zip(self.keepers, self.ports, strict=True)]
        join = f"{LOCAL}:{_free_port()}"
        self.workers = []
        for index in range(self.arguments.processes):
            log = self.folder / "processes" / f"{index}.log" if index else None
            self.workers.append(_start([sys.executable, "-m", "gemini_mini.supervise", *sys.argv[1:], "--worker"],
                                       f"{index} {join} {self.key} {' '.join(map(str, self.ports))}", log))

    def _watch(self) -> str:
        """Wait for the end of the job; why it failed, or "" when it did not."""
        progress, since, limit = self._progress(), time.monotonic(), START_S
        while True:
            codes = [worker.poll() for worker in self.workers]
            dead = [index for index, code in enumerate(codes) if code]
            if (now := self._progress()) != progress:
                progress, since, limit = now, time.monotonic(), self.arguments.hang_s
                self.reached = max(self.reached, now)
            hangs = time.monotonic() - since > limit
            if hangs or dead and not self.told_to_stop:
                self._kill(self.workers)
                return f"process {dead[0]} died (exit code {codes[dead[0]]})" if dead else f"no step for {limit:g} s"
            if None not in codes:
                return ""
            time.sleep(0.02)

    def _progress(self) -> tuple[int, int]:
        """How often it went back, and the size of the trace: that grows whenever a step ends, and shrinks when the job starts again."""
        path = self.folder / "trace.bin"
        return len(recovery.Rollbacks(self.folder).all), path.stat().st_size if path.is_file() else 0

    def _keeper(self, port: int) -> subprocess.Popen:
        return _start([sys.executable, "-m", "gemini_mini.train.keeper", LOCAL, str(port)], self.key)

    def _pass_on(self, number: int, frame: object) -> None:
        self.told_to_stop = True
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)

    @staticmethod
    def _kill(processes: list[subprocess.Popen]) -> None:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def work(about: str, experiment: config.Experiment, copy_every: int) -> None:
    """One process of the job: what train.py does, together with the others."""
    index, join, key, *ports = about.split()
    jax.distributed.initialize(join, len(ports), int(index))
    copies = peers.Copies([(LOCAL, int(port)) for port in ports], key.encode(), copy_every) if copy_every else None
    loop.run(experiment.task, experiment.optim, experiment.run, config.to_json(experiment), copies)
    hosts.meet("done")


def _start(command: list[str], secret: str, log: Path | None = None) -> subprocess.Popen:
    """A process of its own session, so that Ctrl-C reaches the supervisor alone; the key goes where nobody can list it.

    Its input stays open as long as the supervisor lives: `keeper.end_with` waits for its end.
    """
    with contextlib.ExitStack() as stack:
        if log:
            log.parent.mkdir(parents=True, exist_ok=True)
        out = stack.enter_context(open(log, "ab")) if log else None
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True)
    process.stdin.write(secret.encode() + b"\n")
    process.stdin.flush()
    return process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return probe.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="name=value")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--copy-every", type=int, default=10, help="steps between copies in memory; 0: none (default 10)")
    parser.add_argument("--hang-s", type=float, default=300.0, help="longer than any step or evaluation (default 300)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args()
    experiment = config.load(arguments.config, arguments.overrides)
    if arguments.worker:
        about = sys.stdin.buffer.readline().decode()
        keeper.end_with(sys.stdin.buffer)
        work(about, experiment, arguments.copy_every)
        return
    if arguments.processes < 1:
        raise errors.InputError(f"--processes: must be at least 1, got {arguments.processes}")
    raise SystemExit(Supervisor(arguments, Path(experiment.run.folder)).run())


if __name__ == "__main__":
    memory.keep()
    errors.run(main)
