"""How does the process give back memory that nobody uses?

Messages, chunks and frames of many sizes leave holes in malloc's heap. They are used
again, but not all of them: what the process holds grows beyond what it keeps. glibc gives
back the end of its heap by itself, and holes only where it is told to (malloc_trim).

So a thread watches what the process holds, and tells it to where that passes a limit, and
only there: pages that are given back cost CPU time when they are used again, and while
holes are looked for nobody can allocate.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

# Less than malloc maps by itself (MALLOC_MMAP_THRESHOLD_): it has to stay in the heap.
_BLOCK_BYTES = 16 * 2**20
# Without these malloc gives back what is free, and each thread has a heap of its own. The threshold
# is above all that is ever free: else the end of the heap would go back, and with it what was
# touched ahead, and what an image that was written leaves for the next.
_TOLD = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX"}

WATCH_SECONDS = 0.25
# Where it did not help, it will not soon.
REST_SECONDS = 5.0
LEAST_BYTES = 16 * 2**20

_PAGE = os.sysconf("SC_PAGE_SIZE")


def held_bytes() -> int:
    """Anonymous memory of this process: all that is its own."""
    _, resident, shared = map(int, Path("/proc/self/statm").read_bytes().split()[:3])
    return (resident - shared) * _PAGE


class Prefault:
    """Touches memory of malloc's heap ahead, once, on a thread of its own.

    A page that was never used is a fault, and cleared by the kernel: 0.1 to 3 s a GiB, the most in
    a virtual machine that gave it back to its host. malloc writes into each large piece it cuts
    off, so that numpy.empty waits for that with the interpreter's lock held, and everybody with it.

    Does nothing where malloc would give the memory back (it has to be told by MALLOC_*, as
    cli.tune_malloc does).
    """

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._touch, name="prefault", daemon=True)

    def start(self) -> None:
        """Begins."""
        if self._nbytes and os.environ.keys() >= _TOLD:
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _touch(self) -> None:
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        libc.malloc.argtypes = [ctypes.c_size_t]
        libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        libc.free.argtypes = [ctypes.c_void_p]
        started, blocks = time.perf_counter(), []
        # All at a time, else it would be the same block each time.
        for _ in range(self._nbytes // _BLOCK_BYTES):
            block = None if self._stopping.is_set() else libc.malloc(_BLOCK_BYTES)
            if block is None:
                break
            blocks.append(block)
            libc.memset(block, 0, _BLOCK_BYTES)
        for block in blocks:
            libc.free(block)
        nbytes, seconds = len(blocks) * _BLOCK_BYTES, time.perf_counter() - started
        log.debug("touched %d MiB of memory in %.2f s", nbytes >> 20, seconds)


class Trimmer:
    """Keeps this process's memory below `limit_bytes`, as far as giving back holes does.

    Does nothing where malloc can't be told: without glibc, or without /proc.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="trim", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        trim = _malloc_trim()
        if trim is not None:
            self._trim = trim
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        wait = WATCH_SECONDS
        while not self._stopping.wait(wait):
            before = held_bytes()
            if before <= self._limit_bytes:
                wait = WATCH_SECONDS
                continue
            started = time.perf_counter()
            self._trim(0)
            seconds = time.perf_counter() - started
            freed = before - held_bytes()
            wait = WATCH_SECONDS if freed >= LEAST_BYTES else REST_SECONDS
            log.debug("gave back %d of %d MiB in %.0f ms", freed >> 20, before >> 20, seconds * 1e3)


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        held_bytes()
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return found
