"""Runs a plan in a process of its own: a bad option can abort the TPU compiler, and it reads its environment once."""

import importlib.util
import os
import subprocess
import sys

from gemini_mini import errors

ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_LOG_DIR": "disabled",
               "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TF_CPP_MIN_LOG_LEVEL": "3"}


def start(arguments: list[str]) -> None:
    """Plan with the arguments of train.py; exits as the plan does.

    Raises: InputError without the compiler, or when it dies.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise errors.InputError("--plan: needs the TPU compiler, not a TPU: pip install -e '.[tpu]' brings libtpu")
    code = subprocess.run([sys.executable, "-m", "gemini_mini.plan", *arguments], env=os.environ | ENVIRONMENT).returncode
    if code < 0:
        raise errors.InputError(f"--plan: the TPU compiler died of signal {-code}; the lines above may say why")
    raise SystemExit(code)
