"""One of several processes that train together on this machine: python -m tests.processes ID OF PORT SHAPE FILE.

Trains the model of test_parallel.py for a few steps and writes what it saw: losses, a gradient's norm, rows read.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import conftest  # noqa: E402, F401  before JAX: the platform and the checked annotations

import jax  # noqa: E402

process, count, port, shape, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]), sys.argv[5]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=count, process_id=process, initialization_timeout=300)

import test_parallel  # noqa: E402

Path(path).write_text(json.dumps(test_parallel.train(tuple(shape))))
jax.distributed.shutdown()
