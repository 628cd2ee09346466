"""How does what is known of each frame lie beside an image, for every Zarr reader?

    IMAGE.ome.zarr/frames/zarr.json       group; attributes "ziggurat": see below
                         /stream          uint32, index into the attribute "streams"
                         /sequence        uint64
                         /offset, /shape  uint64 (rows, axes); shape is 0 for skipped frames
                         /timestamp_ns    int64 since the Unix epoch; -2^63 (NaT) where unknown
                         /metadata        string, a JSON object; "" where there is none

    {"version": 1, "rows": N, "streams": [ids], "last": [numbers], "axes": [...], "units": [...]}

Rows are appended in blocks: only the last chunk of each array is replaced, then the
arrays' documents, and the group's last: it says how many rows there are, and up to which
number of each stream. What lies behind them (after a crash, in one array more than in
another) was never appended, and is overwritten.
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ziggurat_engine.errors import NEWER, Corrupt, UnsupportedVersion
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, Image
from ziggurat_engine.store.gate import Gate
from ziggurat_engine.store.objects import ObjectStore

VERSION = 1
ROWS = 1024
NO_TIMESTAMP = -(2**63)

_NUMBERS = {
    "stream": "uint32",
    "sequence": "uint64",
    "offset": "uint64",
    "shape": "uint64",
    "timestamp_ns": "int64",
}
_LENGTH = struct.Struct("<I")


class Row(NamedTuple):
    """One frame that somebody said something of, or that was skipped (its shape is 0)."""

    stream: str
    sequence: int
    offset: Shape
    shape: Shape
    timestamp_ns: int
    metadata: str


class FrameTable:
    """The rows of one image. All methods may be called from any thread.

    Raises OSError as the disk gives it, Corrupt, UnsupportedVersion, and NotFound once the
    image is deleted.
    """

    def __init__(self, store: ObjectStore, prefix: str, gate: Gate, image: Image) -> None:
        self._store = store
        self._prefix = f"{prefix}/frames"
        self._gate = gate
        self._axes = image.axes
        self._lock = threading.Lock()
        self._rows: int | None = None
        # The highest number of each stream, in the order of "streams"; never changed in
        # place, so that it can be looked at while rows are appended.
        self._last: dict[str, int] = {}

    def last(self, stream: str) -> int:
        """The highest number of a stream in the table; 0 where there is none."""
        if self._rows is None:
            with self._lock:
                self._load()
        return self._last.get(stream, 0)

    def append(self, rows: Sequence[Row]) -> None:
        """Adds rows; durable when it returns. After an error none of them counts."""
        with self._lock, self._gate.inside():
            count = self._load()
            last = dict(self._last)
            for row in rows:
                last[row.stream] = max(last.get(row.stream, 0), row.sequence)
            streams = {stream: k for k, stream in enumerate(last)}
            done = 0
            while done < len(rows):
                some = rows[done : done + ROWS - (count + done) % ROWS]
                self._put_block(count + done, some, streams)
                done += len(some)
            total = count + done
            for name in (*_NUMBERS, "metadata"):
                self._put(f"{name}/zarr.json", _json(self._array_document(name, total)))
            self._put("zarr.json", _json(self._group_document(total, last)))
            self._rows, self._last = total, last

    def read(self) -> Iterator[Row]:
        """All rows as of the first step, in the order in which they were appended."""
        with self._lock:
            total, streams = self._load(), list(self._last)
        for start in range(0, total, ROWS):
            count = min(ROWS, total - start)
            numbers = {name: self._block(name, start // ROWS) for name in _NUMBERS}
            texts = self._texts(start // ROWS)
            for i in range(count):
                yield Row(
                    streams[int(numbers["stream"][i])],
                    int(numbers["sequence"][i]),
                    tuple(map(int, numbers["offset"][i])),
                    tuple(map(int, numbers["shape"][i])),
                    int(numbers["timestamp_ns"][i]),
                    texts[i],
                )

    def _load(self) -> int:
        if self._rows is None:
            data = self._store.get(f"{self._prefix}/zarr.json")
            if data is None:
                self._rows = 0
                return 0
            try:
                found = json.loads(data)["attributes"]["ziggurat"]
                if found["version"] != VERSION:
                    raise UnsupportedVersion(
                        f"{self._prefix}: of version {found['version']!r}; this server knows"
                        f" {VERSION}: {NEWER}"
                    )
                self._last = dict(zip(found["streams"], found["last"], strict=True))
                self._rows = int(found["rows"])
            except (ValueError, KeyError, TypeError) as error:
                raise Corrupt(f"{self._prefix}/zarr.json: {error!r}") from error
        return self._rows

    def _put_block(self, start: int, rows: Sequence[Row], streams: dict[str, int]) -> None:
        """Puts rows from number `start` on into their block, which they do not leave."""
        block, at = divmod(start, ROWS)
        columns = {
            "stream": [streams[row.stream] for row in rows],
            "sequence": [row.sequence for row in rows],
            "offset": [row.offset for row in rows],
            "shape": [row.shape for row in rows],
            "timestamp_ns": [row.timestamp_ns for row in rows],
        }
        for name, values in columns.items():
            numbers = self._block(name, block) if at else self._empty(name)
            numbers[at : at + len(rows)] = np.array(values, numbers.dtype)
            self._put(self._key(name, block), numbers.tobytes())
        texts = self._texts(block) if at else [""] * ROWS
        texts[at : at + len(rows)] = [row.metadata for row in rows]
        self._put(self._key("metadata", block), _pack_texts(texts))

    def _empty(self, name: str) -> Array:
        fill = NO_TIMESTAMP if name == "timestamp_ns" else 0
        wide = name in ("offset", "shape")
        shape = (ROWS, len(self._axes)) if wide else (ROWS,)
        return np.full(shape, fill, np.dtype(_NUMBERS[name]).newbyteorder("<"))

    def _block(self, name: str, block: int) -> Array:
        empty = self._empty(name)
        data = self._get(self._key(name, block))
        if len(data) != empty.nbytes:
            raise Corrupt(f"{self._prefix}/{self._key(name, block)} has {len(data)} bytes")
        return np.frombuffer(data, empty.dtype).reshape(empty.shape).copy()

    def _texts(self, block: int) -> list[str]:
        key = self._key("metadata", block)
        try:
            return _unpack_texts(self._get(key))
        except (ValueError, struct.error) as error:
            raise Corrupt(f"{self._prefix}/{key}: {error}") from error

    def _key(self, name: str, block: int) -> str:
        return f"{name}/c/{block}/0" if name in ("offset", "shape") else f"{name}/c/{block}"

    def _get(self, key: str) -> bytes:
        data = self._store.get(f"{self._prefix}/{key}")
        self._gate.check()
        if data is None:
            raise Corrupt(f"{self._prefix}/{key} is missing")
        return data

    def _put(self, key: str, data: bytes) -> None:
        self._store.put(f"{self._prefix}/{key}", [data])

    def _group_document(self, rows: int, last: dict[str, int]) -> dict[str, Any]:
        described = {
            "version": VERSION,
            "rows": rows,
            "streams": list(last),
            "last": list(last.values()),
            "axes": [axis.name for axis in self._axes],
            "units": [axis.unit for axis in self._axes],
        }
        return {
            "attributes": {"ziggurat": described},
            "zarr_format": 3,
            "node_type": "group",
        }

    def _array_document(self, name: str, rows: int) -> dict[str, Any]:
        wide = [len(self._axes)] if name in ("offset", "shape") else []
        text = name == "metadata"
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        return {
            "shape": [rows, *wide],
            "data_type": "string" if text else _NUMBERS[name],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [ROWS, *wide]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "" if text else NO_TIMESTAMP if name == "timestamp_ns" else 0,
            "codecs": [{"name": "vlen-utf8", "configuration": {}} if text else little],
            "attributes": {"unit": "nanoseconds since 1970-01-01T00:00:00Z"}
            if name == "timestamp_ns"
            else {},
            "dimension_names": ["frame", "axis"] if wide else ["frame"],
            "zarr_format": 3,
            "node_type": "array",
        }


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode()


def _pack_texts(texts: Sequence[str]) -> bytes:
    """As the codec vlen-utf8 has them: a count, then each with its length, little-endian."""
    parts = [_LENGTH.pack(len(texts))]
    for text in texts:
        data = text.encode()
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def _unpack_texts(data: bytes) -> list[str]:
    (count,) = _LENGTH.unpack_from(data)
    at, texts = _LENGTH.size, []
    for _ in range(count):
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + size > len(data):
            raise ValueError("a text reaches past the end")
        texts.append(data[at : at + size].decode())
        at += size
    if count != ROWS:
        raise ValueError(f"{count} texts, not {ROWS}")
    return texts
