"""When is an accepted write durable, and which part of the log is still needed?

A write is durable once its log record is synced, or else once it is stored and the state
database says so. The second way is that of writes that the log
does not hold: regions that cover whole shards, streams that asked for `received` only,
and records that a failing log lost before their sync.

Writes are known by their ticks: all ticks of an image below the oldest one that is dirty
at level 0 are stored. From that follows what the log may forget: a segment is released
once the ticks of all writes in it are stored.

Invariants. What is released is a prefix of the log; before that the state database has
how far each stream was at its end, and before that the rows of its frames are in the
image's table (frames.py). An image's writes are merged in the order of their
log positions (its write order), so that replay ends with the pixels that reads saw.
With a write that the log does not hold, the state database also takes the image's
`applied` position, behind which the write was merged: replay skips older records, which
would else overwrite it.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ziggurat_engine.cache import DirtyDirectory
from ziggurat_engine.errors import ZigguratError
from ziggurat_engine.log import Appended, Log, Record, segment_of
from ziggurat_engine.measures import Measures
from ziggurat_engine.spans import span
from ziggurat_engine.state import State, StreamState
from ziggurat_engine.vfs import Buffer
from ziggurat_engine.writes.frames import Frames

log = logging.getLogger(__name__)

StreamKey = tuple[str, str]
"""An image's uid and a stream id."""


@dataclass(slots=True)
class _Segment:
    """What a segment holds: writes under way, its highest tick, how far streams were."""

    under_way: int = 0
    tick: int = 0
    streams: dict[StreamKey, StreamState] = field(default_factory=dict)


class Journal:
    """The log, and what is known of its records. All methods may be called from any thread.

    progressed: called when something may have become durable; must not block.
    """

    def __init__(
        self, file: Log, state: State, dirty: DirtyDirectory, frames: Frames, measures: Measures
    ) -> None:
        self._log = file
        self._state = state
        self._dirty = dirty
        self._frames = frames
        self._measures = measures
        self._lock = threading.Lock()
        self._segments: dict[int, _Segment] = {}
        # Held while what a segment knows of streams is on its way to the state database.
        self._releasing = threading.Lock()
        # (after, through]: positions that a failed sync lost. With a lock of its own, held for no
        # other call: the log's sync thread takes it, for which whoever appends may wait.
        self._lost: list[tuple[int, int]] = []
        self._losses = threading.Lock()
        self.observers: set[Callable[[], None]] = set()
        file.subscribe(durable=lambda _position: self._tell(), failed=self._failed)

    @property
    def position(self) -> int:
        """The end of the log."""
        return self._log.position

    @property
    def bytes(self) -> int:
        """Bytes of the log's segments that can't be released yet, and of spare ones."""
        return self._log.stats().disk_bytes

    def append(self, record: Record, payload: Buffer = b"") -> Appended:
        """Writes a record; its segment stays until `merged` or `abandoned` was called for it.

        Waits where much waits for the log's disk. OSError (ENOSPC, EIO) where it can't be
        written: the log is as before.
        """
        with span("log.append"):
            # It waits without the lock, which those who store take as well.
            return self._log.when_room(partial(self._try_append, record, payload))

    def _try_append(self, record: Record, payload: Buffer) -> Appended | None:
        # Under the lock: nothing may be released between the record and its count.
        with self._lock:
            try:
                appended = self._log.try_append(record, payload)
            except OSError:
                self._measures.errors.add("log_append")
                raise
            if appended is not None:
                segment = self._segments.setdefault(appended.segment, _Segment())
                segment.under_way += 1
        return appended

    def merged(self, appended: Appended, tick: int, key: StreamKey, state: StreamState) -> None:
        """The record's pixels are in the cache, under `tick`; its stream is now at `state`."""
        with self._lock:
            segment = self._segments[appended.segment]
            segment.under_way -= 1
            segment.tick = max(segment.tick, tick)
            segment.streams[key] = state

    def abandoned(self, appended: Appended) -> None:
        """The record's pixels were not taken; its client will send them again."""
        with self._lock:
            self._segments[appended.segment].under_way -= 1

    def replayed(self, segment: int, tick: int, key: StreamKey, state: StreamState) -> None:
        """A record that the log held at the start was merged again, under `tick`."""
        with self._lock:
            found = self._segments.setdefault(segment, _Segment())
            found.tick = max(found.tick, tick)
            found.streams[key] = state

    def keep(self, segment: int) -> None:
        """A record that the log held at the start is not merged: it is needed at the next."""
        with self._lock:
            self._segments.setdefault(segment, _Segment()).under_way += 1

    def durable(self, position: int) -> bool:
        """True where a record that ends at `position` is on the disk."""
        return 0 < position <= self._log.durable and not self.lost(position)

    def lost(self, position: int) -> bool:
        """True where a failed sync lost the record that ends at `position`."""
        if not self._lost:
            return False
        with self._losses:
            return any(after < position <= through for after, through in self._lost)

    def wait(self, position: int, timeout_seconds: float) -> None:
        """Returns once the record at `position` is durable or lost, or after the time-out."""
        with contextlib.suppress(OSError):
            self._log.wait(position, timeout_seconds)

    def sync(self, position: int) -> None:
        """Returns once the record at `position` is durable; OSError where it is lost."""
        self._log.wait(position)

    def expect(self, stream: StreamKey, frames: int) -> None:
        """Remembers how many frames a stream's client means to send; durable. OSError."""
        self._state.save_expected(*stream, frames)

    def stored(self, state: StreamState, order: int) -> None:
        """Remembers that a stream is stored up to `state`; durable when it returns.

        order: the log's end when the last of its writes was merged. OSError.
        """
        self._frames.store([state])
        self._state.save_stored(state, order)

    def release(self) -> bool:
        """Frees the segments of which all writes are stored.

        False where it can't be noted how far their streams were, so that they stay.
        """
        with self._releasing:
            return self._release()

    def forget(self, image: str) -> None:
        """Nothing of a deleted image is to be remembered any more."""
        with self._releasing, self._lock:
            for segment in self._segments.values():
                for key in [key for key in segment.streams if key[0] == image]:
                    del segment.streams[key]

    def _release(self) -> bool:
        streams: dict[StreamKey, StreamState] = {}
        last = 0
        with self._lock:
            # The newest one is being written to.
            old = sorted(self._segments)[:-1]
            # Asked under the lock, so that a write is either counted or dirty.
            oldest = self._dirty.oldest_tick(None, 0) if old else None
            for number in old:
                segment = self._segments[number]
                if segment.under_way or (oldest is not None and segment.tick >= oldest):
                    break
                streams |= segment.streams
                last = number
        if not last:
            return True
        try:
            self._frames.store(streams.values())
            self._state.save_streams(streams.values())
        except (OSError, ZigguratError) as error:
            log.warning("the log can't be shortened now: %s", error)
            return False
        with self._lock:
            for number in [number for number in self._segments if number <= last]:
                del self._segments[number]
        durable = self._log.durable
        with self._losses:
            # What was lost in them is stored: no need to ask about it again.
            self._lost = [
                (after, through)
                for after, through in self._lost
                if segment_of(through) > last or through > durable
            ]
        self._log.release(last)
        return True

    def close(self, *, stored: bool) -> bool:
        """Makes all records durable; where all is stored, frees them.

        Returns True where none of them is needed any more; else OSError as of the log.
        """
        needed = True
        try:
            if stored:
                needed = not self._release_all()
        finally:
            try:
                self._log.close()
            except OSError as error:
                # Perhaps of a sync that failed long ago, for records that were stored since.
                if needed:
                    raise
                log.warning("the log, of which nothing is needed, can't be closed: %s", error)
        return not needed

    def _release_all(self) -> bool:
        with contextlib.suppress(OSError):
            # What is left of the log is replayed at the next start, for nothing.
            self._log.roll()
        with self._lock:
            self._segments[sys.maxsize] = _Segment()
        # What came after all was stored is held by segments that stay.
        return self.release() and len(self._segments) == 1

    def _failed(self, error: OSError, after: int, through: int) -> None:
        log.error(
            "the log lost its records behind %d, which now wait to be stored: %s", after, error
        )
        with self._losses:
            self._lost.append((after, through))
        self._tell()

    def _tell(self) -> None:
        for observer in tuple(self.observers):
            observer()
