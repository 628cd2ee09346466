"""How do large new files reach the disk without passing through the page cache?

Bytes are staged in an aligned block, and full blocks are written with O_DIRECT. Buffered,
each byte is copied into a fresh page that the kernel must first find, clear and later
write back, which costs several times as much CPU time as encoding does. Files that are
smaller than a block, the last part of all files, and file systems without O_DIRECT are
written as usual.

The copy into the block is the price: frames come in any length and at any address.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading

import numpy as np

BLOCK_BYTES = 4 * 2**20
PAGE_BYTES = 4096
"""What offsets, lengths and addresses of direct writes are multiples of, on any disk."""
# Blocks kept for the next file.
_MAX_SPARE = 16

_spare: list[mmap.mmap] = []
_guard = threading.Lock()


class DirectWriter:
    """Appends to an empty file that is open for writing. Used by one thread at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._block: mmap.mmap | None = None
        self._used = 0
        # Whole blocks can go directly as long as the file's end is aligned.
        self._aligned = True

    def write(self, data: memoryview) -> None:
        """Takes all of `data`, a view of bytes; full blocks go to the file. OSError."""
        while data.nbytes:
            block = self._block = self._block or take_block()
            part = data[: BLOCK_BYTES - self._used]
            copy_into(block, self._used, part)
            self._used += part.nbytes
            data = data[part.nbytes :]
            if self._used == BLOCK_BYTES:
                self._spill(direct=self._aligned)

    def flush(self) -> None:
        """All that was taken is in the file, not yet durable. OSError."""
        if self._used:
            self._aligned = False
            self._spill(direct=False)

    def close(self) -> None:
        """Gives the block back; what was not flushed is gone. Again is harmless."""
        if self._block is not None:
            give_block(self._block)
            self._block = None
            self._used = 0

    def _spill(self, *, direct: bool) -> None:
        assert self._block is not None
        set_direct(self._fd, on=direct)
        view = memoryview(self._block)[: self._used]
        try:
            while view.nbytes:
                try:
                    view = view[os.write(self._fd, view) :]
                except OSError as error:
                    if error.errno != errno.EINVAL or not self._aligned:
                        raise
                    # Not on this file system, or a write that was cut short.
                    self._aligned = False
                    set_direct(self._fd, on=False)
        finally:
            view.release()
        self._used = 0


def take_block() -> mmap.mmap:
    """BLOCK_BYTES of aligned memory, which hold anything."""
    with _guard:
        if _spare:
            return _spare.pop()
    return mmap.mmap(-1, BLOCK_BYTES)


def give_block(block: mmap.mmap) -> None:
    """Nobody uses the block any more."""
    with _guard:
        if len(_spare) < _MAX_SPARE:
            _spare.append(block)


def copy_into(block: mmap.mmap, start: int, data: memoryview) -> None:
    """Copies bytes into a block, without the interpreter's lock."""
    target = np.frombuffer(block, np.uint8, data.nbytes, start)
    target[:] = np.frombuffer(data, np.uint8)


def is_aligned(data: memoryview, offset: int) -> bool:
    """Whether a direct write could take `data` at `offset`."""
    address = np.frombuffer(data, np.uint8).ctypes.data
    return not (offset % PAGE_BYTES or data.nbytes % PAGE_BYTES or address % PAGE_BYTES)


def set_direct(fd: int, *, on: bool) -> None:
    """Whether writes to an open file pass by the page cache; not where its file system can't."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    wanted = flags | os.O_DIRECT if on else flags & ~os.O_DIRECT
    if wanted != flags:
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, wanted)
        except OSError as error:
            if error.errno != errno.EINVAL or not on:
                raise
