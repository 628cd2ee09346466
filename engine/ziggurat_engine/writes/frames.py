"""What is known of each frame, and when does it reach the table beside the image?

A row is noted when its region or skip is accepted, and waits in memory until its message
is durable and somebody is about to forget it otherwise: before the log releases what
holds it, before the state database says that its stream is so far, and when the stream
is closed. So after a crash each row is either in the table or in the log, and as rows
reach the table in the order of their stream's numbers, the highest number there tells
which: replay adds none twice.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import struct
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ziggurat_engine.errors import InvalidArgument, NotFound
from ziggurat_engine.images import OpenImage
from ziggurat_engine.log import Region, Skip
from ziggurat_engine.state import StreamState
from ziggurat_engine.store.frames import NO_TIMESTAMP, Row

# What waits of one stream takes about this much memory at most.
MAX_WAITING_BYTES = 2 * 2**20
_ROW_BYTES = 300

# flags (1: there is a timestamp), timestamp; the JSON text follows.
_HEAD = struct.Struct("<Bq")


def pack(timestamp_ns: int | None, metadata: str) -> bytes:
    """What a log record says of a frame; b"" where there is nothing to say."""
    if timestamp_ns is None and not metadata:
        return b""
    return _HEAD.pack(timestamp_ns is not None, timestamp_ns or 0) + metadata.encode()


def row_of(record: Region | Skip) -> Row | None:
    """The row that a log record stands for."""
    if isinstance(record, Skip):
        said = json.dumps({"skipped_frames": record.frames})
        return Row(record.stream, record.sequence, (), (), NO_TIMESTAMP, said)
    if not record.metadata:
        return None
    known, timestamp = _HEAD.unpack_from(record.metadata)
    text = record.metadata[_HEAD.size :].decode()
    number = timestamp if known else NO_TIMESTAMP
    return Row(record.stream, record.sequence, *record.box, number, text)


def check_metadata(text: str, max_bytes: int) -> None:
    """InvalidArgument unless `text` is empty, or a JSON object of at most `max_bytes`."""
    name = "region.metadata_json"
    size = len(text.encode())
    if size > max_bytes:
        raise InvalidArgument(
            f"{name} has {size} bytes, more than max_metadata_bytes = {max_bytes}", field=name
        )
    if not text:
        return
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{name} is not JSON: {error}", field=name) from None
    if not isinstance(found, dict):
        raise InvalidArgument(f"{name} is no JSON object", field=name)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


@dataclass(slots=True)
class _Waiting:
    """Rows of one stream, in the order of their numbers."""

    image: OpenImage
    rows: deque[Row] = field(default_factory=deque)
    nbytes: int = 0


class Frames:
    """The rows of all images. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], _Waiting] = {}
        # Held while rows are on their way to the tables.
        self._storing = threading.Lock()

    def note(self, image: OpenImage, row: Row) -> bool:
        """Takes a row, unless the table has it; True where its stream's should be stored.

        To be called in the order of the stream's numbers, before the message can be
        durable.
        """
        if not row.shape:
            zeros = (0,) * len(image.image.axes)
            row = row._replace(offset=zeros, shape=zeros)
        if row.sequence <= image.stored.frames.last(row.stream):
            return False
        with self._lock:
            waiting = self._waiting.setdefault((image.image.uid, row.stream), _Waiting(image))
            if not waiting.rows or row.sequence > waiting.rows[-1].sequence:
                waiting.rows.append(row)
                waiting.nbytes += _ROW_BYTES + len(row.metadata)
            return waiting.nbytes > MAX_WAITING_BYTES

    def store(self, states: Iterable[StreamState]) -> None:
        """Puts into the tables what waits up to these numbers of streams; durable when it returns.

        OSError, Corrupt: what did not get there waits on.
        """
        with self._storing:
            images: dict[str, list[tuple[_Waiting, list[Row]]]] = {}
            with self._lock:
                for state in states:
                    waiting = self._waiting.get((state.image, state.stream))
                    if waiting is not None:
                        due = itertools.takewhile(
                            lambda row: row.sequence <= state.sequence,  # noqa: B023 - used here
                            waiting.rows,
                        )
                        images.setdefault(state.image, []).append((waiting, list(due)))
            for found in images.values():
                self._store(found)

    def rows(self, image: OpenImage) -> Iterator[Row]:
        """All rows of an image, a stream's in order."""
        # Nothing moves from memory to the table between the two looks.
        with self._storing:
            with self._lock:
                waiting = [w for key, w in self._waiting.items() if key[0] == image.image.uid]
                later = [row for each in waiting for row in each.rows]
            table = image.stored.frames.read()
            first = next(table, None)
        if first is not None:
            yield first
        yield from itertools.chain(table, later)

    def forget(self, image: str) -> None:
        """Forgets what waits of an image that was deleted."""
        with self._lock:
            for key in [key for key in self._waiting if key[0] == image]:
                del self._waiting[key]

    def _store(self, found: list[tuple[_Waiting, list[Row]]]) -> None:
        """Moves rows of one image."""
        rows = [row for _, due in found for row in due]
        if rows:
            # The image is gone: so are its rows.
            with contextlib.suppress(NotFound):
                found[0][0].image.stored.frames.append(rows)
        with self._lock:
            for waiting, due in found:
                for row in due:
                    waiting.rows.popleft()
                    waiting.nbytes -= _ROW_BYTES + len(row.metadata)
