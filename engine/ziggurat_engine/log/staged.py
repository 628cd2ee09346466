"""How do records get into a segment's file without passing through the page cache?

What is appended is copied into aligned blocks, and written by whoever syncs, with O_DIRECT:
whole pages out of the blocks, and the last one, which is not full yet, from a copy that ends in
zeros. It is written again, with what it held and more, by the next sync. Buffered, each byte is
copied as well, into a page that the kernel has to find, on a virtual machine often to get
back from its host, and to write back: several times the CPU time.

So a process that is killed loses what was not synced; it was not durable.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from collections.abc import Iterable

from ziggurat_engine.direct import (
    BLOCK_BYTES,
    PAGE_BYTES,
    copy_into,
    give_block,
    take_block,
)
from ziggurat_engine.vfs import BlockFile, Buffer


class StagedFile:
    """A file's bytes from `start` on. One thread at a time appends, one syncs beside it.

    What is in front of `start` is never written. size: of the file, which does not grow.
    """

    def __init__(self, file: BlockFile, start: int, size: int) -> None:
        self._file = file
        self._start, self._size = start, size
        # Guards the three below, not the bytes: those in front of `_end` do not change.
        self._lock = threading.Lock()
        self._blocks: deque[mmap.mmap] = deque()
        self._first = 0  # the number of the first block
        self._end = start
        # For whoever syncs: in front of this all is durable.
        self._synced = start
        self._page = mmap.mmap(-1, PAGE_BYTES)

    def append(self, buffers: Iterable[Buffer]) -> None:
        """Takes all of `buffers`; nothing is durable. After an error it is as if never tried."""
        end = self._end
        for data in buffers:
            view = memoryview(data).cast("B")
            while view.nbytes:
                number, start = divmod(end, BLOCK_BYTES)
                part = view[: BLOCK_BYTES - start]
                copy_into(self._block(number), start, part)
                end += part.nbytes
                view = view[part.nbytes :]
        with self._lock:
            self._end = end

    def sync(self) -> None:
        """All that was appended before is durable. After an error: close, no second try."""
        with self._lock:
            end, first, blocks = self._end, self._first, list(self._blocks)
        if end > self._synced:
            # The page that was not full, again.
            start = max(self._start, self._synced // PAGE_BYTES * PAGE_BYTES)
            whole = max(self._start, end // PAGE_BYTES * PAGE_BYTES)
            for number, block in enumerate(blocks, first):
                self._write(block, number * BLOCK_BYTES, start, whole)
            if whole < end:
                self._write_last(blocks[whole // BLOCK_BYTES - first], whole, end)
        self._file.sync()
        self._synced = end
        self._let_go(end // PAGE_BYTES * PAGE_BYTES)

    def close(self) -> None:
        """Gives the descriptor back; what was not synced is gone. Again is harmless."""
        self._file.close()
        self._let_go(None)

    def _write(self, block: mmap.mmap, base: int, start: int, stop: int) -> None:
        """Writes what a block, which begins at `base`, has of the bytes start to stop."""
        start, stop = max(start, base), min(stop, base + BLOCK_BYTES)
        # A page that is not written from its start on goes alone: the others are aligned.
        first = min(stop, -(-start // PAGE_BYTES) * PAGE_BYTES)
        for a, b in ((start, first), (first, stop)):
            if a < b:
                self._file.writev((memoryview(block)[a - base : b - base],), a)

    def _write_last(self, block: mmap.mmap, start: int, end: int) -> None:
        """Writes a page that is not full, from `start` on."""
        # Not from the block: what is appended meanwhile goes there, and it may hold anything.
        inside, used = start % BLOCK_BYTES, end - start
        nbytes = min(PAGE_BYTES - start % PAGE_BYTES, self._size - start)
        self._page[:used] = block[inside : inside + used]
        self._page[used:nbytes] = bytes(nbytes - used)
        self._file.writev((memoryview(self._page)[:nbytes],), start)

    def _block(self, number: int) -> mmap.mmap:
        with self._lock:
            if number == self._first + len(self._blocks):
                self._blocks.append(take_block())
            return self._blocks[number - self._first]

    def _let_go(self, start: int | None) -> None:
        """Gives back the blocks in front of `start`; None: all."""
        with self._lock:
            while self._blocks and (start is None or (self._first + 1) * BLOCK_BYTES <= start):
                give_block(self._blocks.popleft())
                self._first += 1
