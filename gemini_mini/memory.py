"""Huge pages, and freed memory kept: on Linux, a training step then asks the kernel for no page at all.

glibc gives large blocks back at once, and each step of training fetches them again, page by page:
160,000 page faults a step of the demo, a tenth to a fifth of its time. Told to keep them, and to use huge
pages, the heap is warm after the first step. Two heaps for all threads: those of others are given back when they
are empty, whatever the settings, and of one heap the threads that compile wait for each other, a second of a cold
start. And to decode is to read all weights for every token, which goes faster through few large pages. glibc reads
these settings only when a process starts.
"""

import os
import platform
import sys

TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000:glibc.malloc.arena_max=2"


def keep() -> None:
    """Start this program again with the settings, once; nothing is done where there is no glibc or where they are set.

    Call it first in a command's `__main__`: whatever ran before is run twice.
    """
    if platform.libc_ver()[0] == "glibc" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        sys.stdout.flush()
        os.execv(sys.executable, sys.orig_argv)
