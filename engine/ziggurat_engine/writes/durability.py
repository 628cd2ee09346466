"""How far is a stream durable?

A write is durable once the log that holds it is synced, or once it is stored: whichever comes
first, of all writes up to it.
"""

from __future__ import annotations

import time

from ziggurat_engine.cache import DirtyDirectory
from ziggurat_engine.measures import Measures
from ziggurat_engine.writes.journal import Journal
from ziggurat_engine.writes.streams import Stream


class Durability:
    """Of all streams. Methods may be called from any thread."""

    def __init__(self, dirty: DirtyDirectory, journal: Journal, measures: Measures) -> None:
        self._dirty = dirty
        self._journal = journal
        self._measures = measures

    def refresh(self, stream: Stream, *, stirred: bool = False) -> tuple[int, int]:
        """(received, durable) as of now; `stirred`: looks again though nothing was told.

        OSError where what is stored can't be recorded as such; it is tried again at the
        next call.
        """
        with stream.looking:
            with stream.changed:
                stirred, stream.stirred = stirred or stream.stirred, False
                count, applied = self._durable(stream) if stirred else (0, None)
                last = stream.pending[count - 1] if count else None
            if last is not None and applied is not None:
                try:
                    # Without `changed`: who tells of the next sync must not wait for the disk.
                    self._journal.stored(last.state, applied)
                except BaseException:
                    with stream.changed:
                        stream.stirred = True
                    raise
            with stream.changed:
                done = [stream.pending.popleft() for _ in range(count)]
                if done:
                    stream.durable = done[-1].state.sequence
                now = stream.received, stream.durable
            if stream.logged:
                # Else nobody waits for it.
                at = time.perf_counter()
                for entry in done:
                    self._measures.durable.add(at - entry.since)
            return now

    def _durable(self, stream: Stream) -> tuple[int, int | None]:
        """How many of the pending are in the log, or stored, up to the first that is neither.

        And the `order` of the last that is only stored, if there is one.
        """
        oldest: int | None = None
        # 0 is where an empty log ends.
        applied: int | None = None
        for count, entry in enumerate(stream.pending):
            if entry.position and not self._journal.lost(entry.position):
                if not self._journal.durable(entry.position):
                    # Its sync may yet fail: what is behind it has to wait.
                    return count, applied
            else:
                if applied is None:
                    oldest = self._dirty.oldest_tick(stream.image.number, 0)
                if oldest is not None and entry.tick >= oldest:
                    return count, applied
                applied = entry.order
        return len(stream.pending), applied
