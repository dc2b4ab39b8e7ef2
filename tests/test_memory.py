"""Freed memory is kept, counted by the kernel's own page faults."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from gemini_mini import memory
{call}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(50_000_000)
before = faults()
for _ in range(20):
    bytearray(50_000_000)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc reads these settings")
def test_memory_is_fetched_from_the_kernel_once():
    clean = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", PROGRAM.format(call=call)], env=clean, capture_output=True,
                           text=True, check=True).stdout) for call in ("memory.keep()", ""))
    assert kept < 1_000 < given_back
