"""Huge pages, and freed memory kept: on Linux, a training step then asks the kernel for no page at all.

glibc gives large blocks back at once, and each step of training fetches them again, page by page:
160,000 page faults a step of the demo, a tenth to a fifth of its time. Told to keep them, and to use huge
pages, the heap is warm after the first step. One heap for all threads: those of others are given back when they are
empty, and a block that does not fit into them, as the 0.9 GB of a step of the laptop, is fetched anew each time, whatever
the settings. And to decode is to read all weights for every token, which goes faster through few large pages. glibc reads
these settings only when a process starts.
"""

import os
import platform
import sys

TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000:glibc.malloc.arena_max=1"


def keep() -> None:
    """Start this program again with the settings, once; those that are set already stay, and without glibc nothing is done.

    Call it first in a command's `__main__`: whatever ran before is run twice.
    """
    given = list(filter(None, os.environ.get("GLIBC_TUNABLES", "").split(":")))
    missing = [setting for setting in TUNABLES.split(":") if setting.split("=")[0] not in {each.split("=")[0] for each in given}]
    if platform.libc_ver()[0] == "glibc" and missing:
        os.environ["GLIBC_TUNABLES"] = ":".join(given + missing)
        sys.stdout.flush()
        os.execv(sys.executable, sys.orig_argv)
