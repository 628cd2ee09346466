"""Which shards are open now, and whose index is still that of the stored object?

A shard's index is worth keeping, but only together with the open file that it was
read from: the object at a key may be replaced at any time. A slot holds both, and is
taken out of the table when its key is dropped. A reader that was just opening the old
object fills a slot that is no longer in the table, so that nobody finds it later, and
readers that miss at the same time wait for one open.

Open files: at most `max_open`, and one a running lease.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ziggurat_engine.store.objects import ObjectReader
from ziggurat_engine.store.shard import ShardIndex


@dataclass(frozen=True, slots=True)
class ShardHandle:
    """One version of a shard: its open object, and the index read from it."""

    reader: ObjectReader
    index: ShardIndex


class _Slot:
    """One open of one key; everything but `opening` is guarded by the table's lock."""

    __slots__ = ("handle", "leases", "nbytes", "opened", "opening", "retired")

    def __init__(self) -> None:
        self.opening = threading.Lock()
        self.handle: ShardHandle | None = None
        self.opened = False
        self.leases = 0
        self.nbytes = 0
        self.retired = False

    def close(self) -> None:
        if self.handle is not None:
            self.handle.reader.close()


class Traffic:
    """What was read from objects; methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0
        self.nbytes = 0

    def add(self, nbytes: int) -> None:
        """One more request, of so many bytes."""
        with self._lock:
            self.requests += 1
            self.nbytes += nbytes


class ShardHandles:
    """The open shards of all arrays, least recently used closed first.

    max_open: handles kept when nobody uses them. max_index_bytes: of their indices.
    traffic: of the frames that were read for somebody, indices aside.
    All methods may be called from any thread.
    """

    def __init__(self, max_open: int, *, max_index_bytes: int = 64 * 2**20) -> None:
        self._max_open = max_open
        self._max_index_bytes = max_index_bytes
        self.traffic = Traffic()
        self._lock = threading.Lock()
        # Invariant: a slot is in the table or retired. Who retires a slot without
        # leases closes it; else the last lease does.
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._index_bytes = 0

    @contextmanager
    def lease(
        self, key: str, opener: Callable[[], ShardHandle | None]
    ) -> Iterator[ShardHandle | None]:
        """The shard at `key`, kept open while the block runs; None where `opener` finds none.

        Never an object that was replaced before the call, provided that whoever
        replaces one calls `drop` before telling anybody. Absence and errors are not
        kept: the next lease asks again.
        """
        slot = self._acquire(key)
        try:
            with slot.opening:
                if not slot.opened:
                    self._open(key, slot, opener)
            yield slot.handle
        finally:
            self._release(slot)

    def drop(self, key: str) -> None:
        """Forgets `key`; leases that run keep their version, later ones open anew."""
        with self._lock:
            closing = self._retire([key])
        _close(closing)

    def drop_prefix(self, prefix: str) -> None:
        """Forgets all keys below `prefix` (whole segments)."""
        with self._lock:
            closing = self._retire([k for k in self._slots if k.startswith(prefix + "/")])
        _close(closing)

    def close(self) -> None:
        """Forgets everything; all files are closed once the running leases end."""
        with self._lock:
            closing = self._retire(list(self._slots))
        _close(closing)

    def __len__(self) -> int:
        """Handles in the table."""
        return len(self._slots)

    def _acquire(self, key: str) -> _Slot:
        with self._lock:
            slot = self._slots.get(key)
            if slot is None:
                slot = self._slots[key] = _Slot()
            self._slots.move_to_end(key)
            slot.leases += 1
            closing = self._shrink()
        _close(closing)
        return slot

    def _open(self, key: str, slot: _Slot, opener: Callable[[], ShardHandle | None]) -> None:
        found = False
        try:
            slot.handle = opener()
            slot.opened = True
            found = slot.handle is not None
        finally:
            with self._lock:
                current = self._slots.get(key) is slot
                if current and slot.handle is not None:
                    slot.nbytes = slot.handle.index.nbytes
                    self._index_bytes += slot.nbytes
                closing = self._retire([key]) if current and not found else []
                closing += self._shrink()
            _close(closing)

    def _release(self, slot: _Slot) -> None:
        with self._lock:
            slot.leases -= 1
            last = slot.retired and slot.leases == 0
        if last:
            slot.close()

    def _shrink(self) -> list[_Slot]:
        """Retires the oldest slots past the bounds; called with the lock."""
        closing = []
        while self._slots and (
            len(self._slots) > self._max_open or self._index_bytes > self._max_index_bytes
        ):
            closing += self._retire([next(iter(self._slots))])
        return closing

    def _retire(self, keys: list[str]) -> list[_Slot]:
        """Takes `keys` out of the table; returns the slots to close; called with the lock."""
        closing = []
        for key in keys:
            slot = self._slots.pop(key, None)
            if slot is not None:
                slot.retired = True
                self._index_bytes -= slot.nbytes
                if slot.leases == 0:
                    closing.append(slot)
        return closing


def _close(slots: list[_Slot]) -> None:
    for slot in slots:
        slot.close()
