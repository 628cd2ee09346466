"""How are log and state database copied as of one instant, while a server uses both?

Three rules of the log make it possible: records are never changed, only appended; what is
freed is a prefix; and what a freed segment knew of streams is in the database before. So

    copy the log, take the database, copy what the log got since

is one instant if no segment was freed meanwhile; else it is done again, which costs only
what was appended. The copy's log reaches at least as far as its database, as after a crash.

Segments are copied from the newest to the oldest: the BEGIN of one says where the one
before it ended, which must be in the copy. What is copied of the last one ends with its
last whole record, and files are cut to what they hold.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from ziggurat_engine.errors import Unavailable
from ziggurat_engine.log import record, segment
from ziggurat_engine.log.record import ALIGN
from ziggurat_engine.log.replay import read_record
from ziggurat_engine.log.segment import Header, Segment
from ziggurat_engine.upkeep import database
from ziggurat_engine.upkeep.journal import live
from ziggurat_engine.vfs import OsFileSystem

TRIES = 200
COPY_BYTES = 4 * 2**20


@dataclass
class _Copy:
    """A segment in the copy, up to `end` (an offset)."""

    of: Segment
    path: Path
    end: int = segment.FIRST


class LogCopy:
    """A log that grows from `source` into the empty directory `target`.

    images: those of which records were copied, by uid.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self._fs = OsFileSystem()
        self._source = source
        self._target = target
        self._copies: dict[int, _Copy] = {}
        self.images: set[str] = set()

    def with_state(self, path: Path) -> sqlite3.Connection:
        """Copies the log, and gives a copy of the database at `path` that goes with it.

        Unavailable where the log is freed faster than it can be read; errors as of both.
        """
        for _ in range(TRIES):
            first = self._update()
            state = database.snapshot(path)
            if self._update() == first:
                self._finish()
                return state
            state.close()
        raise Unavailable(
            f"{self._source}: the log is freed faster than it can be copied; try again when less"
            " is written"
        )

    def _update(self) -> int | None:
        """Copies what came since; returns the number of the oldest segment."""
        found = live(self._fs, self._source)
        for each in reversed(found):
            self._extend(each)
        # What was freed since is not complete, and what is older is not needed.
        there = live(self._fs, self._source)
        first = there[0].number if there else None
        for number in [n for n in self._copies if first is None or n < first]:
            self._copies.pop(number).path.unlink(missing_ok=True)
        return first

    def _extend(self, found: Segment) -> None:
        copy = self._copies.get(found.number)
        if copy is None:
            copy = _Copy(found, self._target / segment.name_of(found.number))
        try:
            file = self._fs.open_read(found.path)
        except FileNotFoundError:
            return
        try:
            end = copy.end
            while (read := read_record(file, found, found.base + end)) is not None:
                header, data = read
                end = header.end - found.base
                if header.kind >= record.Kind.REGION:
                    self.images.add(record.unpack(header, data, found.path)[0].image.hex())
            if end == copy.end:
                return
            self._copies[found.number] = copy
            fd = os.open(copy.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                for offset in range(copy.end, end, COPY_BYTES):
                    os.pwrite(fd, file.pread(min(COPY_BYTES, end - offset), offset), offset)
            finally:
                os.close(fd)
            copy.end = end
        finally:
            file.close()

    def _finish(self) -> None:
        for copy in self._copies.values():
            nbytes = max(segment.MIN_SEGMENT_BYTES, -(-copy.end // ALIGN) * ALIGN)
            old = copy.of
            header = Header(segment.State.LIVE, old.number, old.salt, nbytes)
            packed = segment.pack_header(header)
            with open(copy.path, "r+b") as file:
                file.truncate(nbytes)
                for offset in (0, segment.SECTOR):
                    file.seek(offset)
                    file.write(packed)
