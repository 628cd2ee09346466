"""Which messages does the server not have for sure, and where is each of them?

    released          held in memory              in the spool            last
       |  2 MiB  2 MiB  2 MiB  2 MiB  |  2 MiB  2 MiB  2 MiB  2 MiB  2 MiB  |
              ^ sent up to here by the present call

A message is held from the moment it is numbered until it is acknowledged: it may have
to be sent again. In memory as long as there is room, then in the spool; from there it
is taken back into memory when it is its turn to be sent, so that what is in flight
never exceeds the limit.

Invariants:
- Every number above `released` up to `last` is in memory, in the spool or in `lost`;
  a number may be in memory and in the spool.
- What is in the spool alone has the highest numbers: once a message went to the spool,
  all later ones do until the spool is empty, else there would be no room to take the
  older ones back.
- Memory holds more than the limit only where a single message does.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from typing import TypeAlias

from ziggurat_proto.v1 import write_pb2

from ziggurat._errors import DataLoss
from ziggurat._shared_memory import Lent
from ziggurat._spool import Spool

Message: TypeAlias = bytes | Lent
"""A WriteRequest; `bytes` gives it as any server takes it, `len` about how large that is."""

# Over how many seconds `seconds_to_full` looks back, and how often it takes a sample.
_TREND_SECONDS = 10.0
_SAMPLE_SECONDS = 0.25


class Place(enum.Enum):
    """Where the next message goes."""

    MEMORY = enum.auto()
    SPOOL = enum.auto()
    NOWHERE = enum.auto()


class Window:
    """The messages of one stream; guarded by the stream's condition.

    limit_bytes: of the messages in memory.
    """

    def __init__(self, limit_bytes: int, spool: Spool | None) -> None:
        self._limit = limit_bytes
        self._spool = spool
        self._messages: dict[int, Message] = {}
        self._memory_bytes = 0
        # The highest number that was in memory once, or had no need to be: what is above it
        # is new, and in the spool alone.
        self._loaded = 0
        self._samples: deque[tuple[float, int]] = deque()
        self.released = 0
        self.last = 0
        self.lost: frozenset[int] = frozenset()
        self.backlog_bytes = 0

    def begin(self, wanted: int, durable: int) -> None:
        """The server first wants `wanted`, and has all up to `durable` for good.

        What a former process left in the spool is held from here on. The numbers that it
        had in memory alone are `lost`. Raises DataLoss where the server has less than it
        once said it had.
        """
        self.released = self.last = self._loaded = wanted - 1
        spool = self._spool
        if spool is None or not spool.last:
            return
        if spool.durable >= wanted:
            raise DataLoss(
                f"the server wants message {wanted}, but had all up to {spool.durable} when the"
                " spool was written: it lost data, or the image was made anew",
                reason="ACKNOWLEDGED_DATA_LOST",
            )
        if spool.last < wanted - 1:
            # The server has all of it, and what the former process had in memory after it:
            # that nobody can send again, so that the spool alone would be of no use.
            spool.release(spool.last)
            return
        while self.released > durable and spool.message_size(self.released) is not None:
            self.released -= 1
        self.last = spool.last
        spool.release(self.released)
        self.lost = frozenset(n for n in range(wanted, self.last) if spool.message_size(n) is None)
        self.backlog_bytes = sum(map(self._size, range(self.released + 1, self.last + 1)))

    def place(self, size: int) -> Place:
        """Where a new message of `size` bytes goes now."""
        if self._loaded == self.last and self._fits(size):
            return Place.MEMORY
        if self._spool is not None and self._spool.has_room(size):
            return Place.SPOOL
        return Place.NOWHERE

    def hold(self, message: Message) -> None:
        """Numbers a message and keeps it in memory."""
        self.last += 1
        self._put(self.last, message)
        self.backlog_bytes += len(message)

    def spooled(self, size: int) -> None:
        """Message last + 1, of `size` bytes, is in the spool."""
        self.last += 1
        self.backlog_bytes += size

    def ready(self, number: int) -> bool:
        """Whether a message may be sent now: it is there, and fits into memory if it is new."""
        if number > self.last:
            return False
        return number <= self._loaded or self._fits(self._size(number))

    def find(self, number: int) -> Message | None:
        """A message that is held; None where it has to be read from the spool.

        In the place of a lost message stands a Skip: the server counts it, and those
        after it keep their numbers.
        """
        found = self._messages.get(number)
        if found is None and number in self.lost:
            skip = write_pb2.Skip(sequence=number, frames=1)
            return write_pb2.WriteRequest(skip=skip).SerializeToString()
        return found

    def load(self, number: int, message: bytes) -> None:
        """Takes a new message from the spool into memory.

        One that is not new is sent from the spool: it may be wanted while memory is full
        of later ones.
        """
        if number > self._loaded:
            self._put(number, message)

    def release(self, number: int) -> None:
        """All up to `number` is acknowledged, and needed no more."""
        if number <= self.released:
            return
        for gone in range(self.released + 1, number + 1):
            message = self._messages.pop(gone, None)
            if message is None:
                self.backlog_bytes -= self._size(gone)
            else:
                self.backlog_bytes -= len(message)
                self._memory_bytes -= len(message)
                if isinstance(message, Lent):
                    message.free()
        self.released = number
        self._loaded = max(self._loaded, number)
        if self._spool is not None:
            self._spool.release(number)

    def in_memory(self) -> Iterator[tuple[int, bytes]]:
        """(number, message) of what memory holds, in order."""
        return ((number, bytes(self._messages[number])) for number in sorted(self._messages))

    def note(self, now: float) -> None:
        """Takes a sample of the backlog for `seconds_to_full`, if it is time for one."""
        samples = self._samples
        if samples and now - samples[-1][0] < _SAMPLE_SECONDS:
            return
        samples.append((now, self.backlog_bytes))
        while samples[0][0] < now - _TREND_SECONDS:
            samples.popleft()

    def seconds_to_full(self, now: float) -> float | None:
        """When no message finds a place if all goes on like this; None: it is not growing."""
        self.note(now)
        then, backlog = self._samples[0]
        grown = self.backlog_bytes - backlog
        if grown <= 0 or now <= then:
            return None
        capacity = self._limit + (self._spool.limit_bytes if self._spool is not None else 0)
        return max(0.0, capacity - self.backlog_bytes) * (now - then) / grown

    def _fits(self, size: int) -> bool:
        return not self._messages or self._memory_bytes + size <= self._limit

    def _put(self, number: int, message: Message) -> None:
        self._messages[number] = message
        self._memory_bytes += len(message)
        self._loaded = max(self._loaded, number)

    def _size(self, number: int) -> int:
        found = self._messages.get(number)
        if found is not None:
            return len(found)
        return (self._spool.message_size(number) or 0) if self._spool is not None else 0
