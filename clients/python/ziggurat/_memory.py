"""How does malloc treat messages that come and go?

glibc gives memory back to the system when 128 KiB lie free at the end of the heap, and takes it
anew, page by page, for the next message: half of the CPU time of a large read. It raises its
limits itself as larger blocks are freed, up to those below, but few programs get there. So they
are set at once: what a program keeps free for its next message is at most 64 MiB.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

# mallopt(3): what is to be set, and the largest that glibc itself would come to.
_MMAP_THRESHOLD = -3, 32 * 2**20
_TRIM_THRESHOLD = -1, 64 * 2**20

_SAID = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


@functools.cache
def keep_memory() -> None:
    """For this process, once.

    Nothing where the environment says how malloc is to be, or where it is not glibc's.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _SAID):
        return
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - there in glibc alone
        mallopt = libc.mallopt
    except (AttributeError, OSError):
        return
    for what, nbytes in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
        mallopt(what, nbytes)
