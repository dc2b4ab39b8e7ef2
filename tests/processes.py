"""Several processes that do something together on this machine, and what each of them says.

One of them is python -m tests.processes ID OF PORT MODULE.FUNCTION ARGUMENTS FILE: it calls a function of a test
file and writes what it returns.
"""

import importlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
DEVICES = 8  # of all processes together


def together(count: int, function: str, arguments: list, folder: Path) -> list:
    """What `function`, such as "test_parallel.train", returned in each of `count` processes; all must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES // count}"}
    said = [folder / f"{i}.json" for i in range(count)]
    running = [subprocess.Popen([sys.executable, "-m", "tests.processes", str(i), str(count), str(port), function, json.dumps(arguments),
                                 str(path)], cwd=HERE.parent, env=environment) for i, path in enumerate(said)]
    assert [process.wait() for process in running] == [0] * count
    return [json.loads(path.read_text()) for path in said]


def main(process: str, count: str, port: str, function: str, arguments: str, path: str) -> None:
    sys.path.insert(0, str(HERE))
    importlib.import_module("conftest")  # before JAX: the platform and the checked annotations
    import jax

    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=int(count), process_id=int(process), initialization_timeout=300)
    module, name = function.split(".")
    Path(path).write_text(json.dumps(getattr(importlib.import_module(module), name)(*json.loads(arguments))))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
