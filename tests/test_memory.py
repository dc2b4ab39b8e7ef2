"""Freed memory is kept, counted by the kernel's own page faults."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, threading
from gemini_mini import memory
{call}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def rounds():
    bytearray({size}), [bytearray(9_000_000) for _ in range(12)]
    before = faults()
    for _ in range(20):
        bytearray({size}), [bytearray(9_000_000) for _ in range(12)]
    counts.append(faults() - before)
counts = []
for run in (lambda target: target(), lambda target: (thread := threading.Thread(target=target), thread.start(), thread.join())):
    run(rounds)
print(*counts)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc reads these settings")
def test_memory_is_fetched_from_the_kernel_once():
    """By the first thread and by another, of one heap's room and of more, as XLA's are; settings of the user's stay."""
    clean = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}

    def faults(call: str, size: int, **more: str) -> list[int]:
        made = subprocess.run([sys.executable, "-c", PROGRAM.format(call=call, size=size)], env=clean | more, capture_output=True, text=True, check=True)
        return [int(count) for count in made.stdout.split()]

    for size in (50_000_000, 150_000_000):
        assert min(faults("", size)) > 1_000
        assert max(faults("memory.keep()", size)) < 1_000
    assert max(faults("memory.keep()", 50_000_000, GLIBC_TUNABLES="glibc.malloc.tcache_count=9")) < 1_000
