"""Which decoded chunk goes first when there is no room for all?

What is wanted again stays; what passes by once does not push it out. Two lists, each in
order of use: new chunks are on probation, and go first. A chunk that is used again
`apart_seconds` or more after it came is protected. Uses that are closer together count
as one: the parts of one read, and planes read one after the other, meet the same chunk
many times, and are no sign that it will be wanted once the scan has moved on.

A scan may push a chunk out before it is wanted again. The keys that left last are
remembered, as many as the cache could hold, with the time when the chunk came: one that
is loaded again is protected at once if that is long enough ago. So a working set that a
scan met while it was young is lost once at most.

Protected chunks have at most PROTECTED of the room. The one used least recently goes
back on probation, as the newest.

This is the segmented LRU of Karedla et al. (1994), with the time between uses that count
and the list of keys that left from 2Q (Johnson and Shasha, 1994).
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from ziggurat_engine.cache.stretch import Stretches
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array

APART_SECONDS = 5.0
PROTECTED = 0.8
MOST_REMEMBERED = 2**16


class ChunkKey(NamedTuple):
    """One chunk of one level; image: as images.OpenImage.pixels_number.

    partly: stretches of it.
    """

    image: int
    level: int
    chunk: Shape
    partly: bool = False

    @property
    def part(self) -> ChunkKey:
        """That of its stretches."""
        return ChunkKey(self.image, self.level, self.chunk, partly=True)


Held: TypeAlias = Array | Stretches
"""The pixels of a chunk, or stretches of them where the key says so."""


class _Kept(NamedTuple):
    """ahead: nobody has asked for it yet."""

    array: Held
    since: float
    ahead: bool = False


class _Left(NamedTuple):
    nbytes: int
    since: float


class Residents:
    """Arrays by chunk. Not thread-safe. clock: seconds, never backwards."""

    def __init__(
        self,
        *,
        apart_seconds: float = APART_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._apart = apart_seconds
        self._clock = clock
        # Invariant: a key is in one of the three at most.
        self._probation: OrderedDict[ChunkKey, _Kept] = OrderedDict()
        self._protected: OrderedDict[ChunkKey, _Kept] = OrderedDict()
        self._left: OrderedDict[ChunkKey, _Left] = OrderedDict()
        self._protected_bytes = self._left_bytes = 0
        # What `evict` was given last.
        self._allowance: float = math.inf
        self.nbytes = 0
        # Of what came ahead, how much was used while it was here.
        self.ahead_used = 0

    def __iter__(self) -> Iterator[ChunkKey]:
        yield from self._probation
        yield from self._protected

    def __contains__(self, key: ChunkKey) -> bool:
        return key in self._probation or key in self._protected

    def use(self, key: ChunkKey) -> Held | None:
        """The chunk, None where it is not kept. Counts as a use of it."""
        kept = self._protected.get(key)
        if kept is not None:
            self._protected.move_to_end(key)
            return kept.array
        kept = self._probation.get(key)
        if kept is None:
            return None
        if kept.ahead:
            # It comes now.
            self.ahead_used += 1
            self._probation[key] = _Kept(kept.array, self._clock())
            self._probation.move_to_end(key)
        elif self._clock() - kept.since < self._apart:
            self._probation.move_to_end(key)
        else:
            del self._probation[key]
            self._protect(key, kept)
        return kept.array

    def put(self, key: ChunkKey, array: Held, *, ahead: bool = False) -> None:
        """Keeps `array`, in the place of what was kept for `key`.

        ahead: nobody asked for it. Only its first use counts as its coming, unless it
        was here before and left: that use is another one.
        """
        now = self._clock()
        left = self._left.get(key)
        protected = key in self._protected or (left is not None and now - left.since >= self._apart)
        old = self._probation.get(key)
        since = old.since if old is not None else left.since if left is not None else now
        self.remove(key)
        self.nbytes += array.nbytes
        kept = _Kept(array, since, ahead and left is None)
        if protected and not ahead:
            self._protect(key, kept)
        else:
            self._probation[key] = kept

    def remove(self, key: ChunkKey) -> None:
        """Forgets the chunk, and that it ever was."""
        left = self._left.pop(key, None)
        if left is not None:
            self._left_bytes -= left.nbytes
        kept = self._probation.pop(key, None)
        if kept is None:
            kept = self._protected.pop(key, None)
            if kept is not None:
                self._protected_bytes -= kept.array.nbytes
        if kept is not None:
            self.nbytes -= kept.array.nbytes

    def evict(self, allowance_bytes: int) -> int:
        """Lets chunks go until no more than `allowance_bytes` are kept; returns how many went."""
        self._allowance = allowance_bytes
        self._demote()
        count = 0
        while self.nbytes > allowance_bytes and self._probation:
            key, kept = self._probation.popitem(last=False)
            self.nbytes -= kept.array.nbytes
            self._remember(key, _Left(kept.array.nbytes, kept.since))
            count += 1
        while self._left and (
            self._left_bytes > allowance_bytes or len(self._left) > MOST_REMEMBERED
        ):
            _, left = self._left.popitem(last=False)
            self._left_bytes -= left.nbytes
        return count

    def _protect(self, key: ChunkKey, kept: _Kept) -> None:
        self._protected[key] = kept
        self._protected_bytes += kept.array.nbytes
        self._demote()

    def _demote(self) -> None:
        while self._protected_bytes > PROTECTED * self._allowance:
            key, kept = self._protected.popitem(last=False)
            self._protected_bytes -= kept.array.nbytes
            self._probation[key] = kept

    def _remember(self, key: ChunkKey, left: _Left) -> None:
        self._left[key] = left
        self._left_bytes += left.nbytes
