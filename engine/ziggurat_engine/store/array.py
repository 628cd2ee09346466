"""How do the encoded chunks of one level lie in objects, and how are they replaced?

Without sharding a chunk is an object. With sharding an object holds the chunks of a
shard in any order, and the index (shard.py) at its end. This module knows frames only
as bytes: what encodes and decodes them lies above.

A shard is never changed in place: a new object takes the new frames as they come and
the encoded bytes of the chunks that stay, and then replaces the old one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ziggurat_engine import spans
from ziggurat_engine.errors import Corrupt
from ziggurat_engine.pyramid import Level
from ziggurat_engine.region import Shape
from ziggurat_engine.store.gate import Gate
from ziggurat_engine.store.handles import ShardHandle, ShardHandles, Traffic
from ziggurat_engine.store.keys import DEFAULT_KEYS, Keys
from ziggurat_engine.store.objects import ObjectReader, Objects
from ziggurat_engine.store.runs import runs
from ziggurat_engine.store.shard import ShardIndex, index_size
from ziggurat_engine.vfs import Buffer

T = TypeVar("T")

# A copy holds at most this much of the old shard in memory.
COPY_BYTES = 4 * 2**20
# All of one `read_joined` bring no more.
JOINED_BYTES = 8 * 2**20
# A directory is listed where so many names in it are wanted, and given up where it has so
# many times more: then asking for each is cheaper.
WORTH_LISTING = 8
LISTED = 8


@dataclass(frozen=True, slots=True)
class StoredShard:
    """What a shard holds now: chunks that are present, and bytes of its object."""

    chunks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StoredSize:
    """What a level holds: chunks that are present, objects, and their bytes."""

    chunks: int
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A stored frame of `nbytes`, to read pieces of; all are of one version."""

    nbytes: int
    _key: str
    _reader: ObjectReader
    _offset: int
    _traffic: Traffic

    def read(self, offset: int, nbytes: int) -> bytes:
        """So many bytes of it. Corrupt where it has fewer, OSError."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise Corrupt(f"{self._key}: {nbytes} bytes at {offset} of a frame of {self.nbytes}")
        data = _read(self._key, self._reader, self._offset + offset, nbytes)
        self._traffic.add(nbytes)
        return data


class ChunkArray:
    """The encoded chunks of one level, as objects below `prefix`.

    prefix: key of the level's zarr array ("lab/run-3.ome.zarr/0").
    level: its geometry; chunk and shard indices count in its grids.
    keys: how objects are named below `prefix`.

    Reads may run from any thread, beside each other and beside `replace`: each sees
    one version of a shard, and a read that starts after `replace` returned sees what
    it stored. At most one `replace` runs a shard.
    """

    def __init__(
        self,
        store: Objects,
        prefix: str,
        level: Level,
        handles: ShardHandles,
        gate: Gate | None = None,
        keys: Keys = DEFAULT_KEYS,
    ) -> None:
        self.prefix = prefix
        self.level = level
        self._store = store
        self._handles = handles
        self._gate = gate or Gate(prefix)
        self._keys = keys
        self._sharded = level.shards.cell != level.chunks.cell
        self._shard_chunks = tuple(
            s // c for s, c in zip(level.shards.cell, level.chunks.cell, strict=True)
        )

    def key(self, shard: Shape) -> str:
        """The object of `shard`."""
        return f"{self.prefix}/{self._keys.name(shard)}"

    def read(self, chunk: Shape) -> bytes | None:
        """The encoded frame of `chunk`; None where it is absent, thus all fill value.

        Raises Corrupt for a shard whose index is broken or shorter than it says,
        NotFound once the image is deleted, OSError as the disk gives it.
        """
        shard = self.level.shard_of(chunk)
        key = self.key(shard)
        with spans.span("store.read", key=key):
            frame = self._frame(key, self._position(shard, chunk))
        if frame is not None:
            self._handles.traffic.add(len(frame))
        # Behind the read: a deletion closes the gate before the first object goes, so
        # an open gate proves that absence means fill, and that the bytes are of this image.
        self._gate.check()
        return frame

    def read_part(self, chunk: Shape, part: Callable[[StoredFrame], T]) -> T | None:
        """What `part` makes of pieces of the frame of `chunk`; None where it is absent.

        The pieces are read while `part` runs. Raises what it raises, and as `read`.
        """
        shard = self.level.shard_of(chunk)
        key = self.key(shard)
        traffic = self._handles.traffic
        made = None
        with spans.span("store.read", key=key):
            if self._sharded:
                with self._lease(key) as handle:
                    position = self._position(shard, chunk)
                    span = None if handle is None else handle.index.get(position)
                    if handle is not None and span is not None:
                        made = part(StoredFrame(span[1], key, handle.reader, span[0], traffic))
            elif (reader := self._store.open(key)) is not None:
                with reader:
                    made = part(StoredFrame(reader.size, key, reader, 0, traffic))
        self.check()
        return made

    def read_joined(self, chunks: Iterable[Shape]) -> dict[Shape, memoryview]:
        """The frames of those of `chunks` that lie beside each other in their shards.

        One request brings a run of them. What is left out has no neighbour among them, is
        absent, or would be too much at a time: see `read`, which also says what is raised.
        """
        frames: dict[Shape, memoryview] = {}
        if not self._sharded:
            return frames
        shards: dict[Shape, list[Shape]] = {}
        for chunk in chunks:
            shards.setdefault(self.level.shard_of(chunk), []).append(chunk)
        left = JOINED_BYTES
        for shard, inside in shards.items():
            if len(inside) == 1:
                continue
            key = self.key(shard)
            with spans.span("store.read", key=key), self._lease(key) as handle:
                if handle is None:
                    continue
                index = handle.index
                found = ((index.get(self._position(shard, at)), at) for at in inside)
                for run in runs((*span, at) for span, at in found if span is not None):
                    # The last to begin need not be the last to end: others may have laid them so.
                    start, stop = run[0][0], max(offset + nbytes for offset, nbytes, _ in run)
                    if len(run) == 1 or stop - start > left:
                        continue
                    left -= stop - start
                    data = memoryview(_read(key, handle.reader, start, stop - start))
                    self._handles.traffic.add(stop - start)
                    for offset, nbytes, chunk in run:
                        frames[chunk] = data[offset - start : offset - start + nbytes]
        self.check()
        return frames

    def check(self) -> None:
        """NotFound once the image is deleted: what was read before it may be another's."""
        self._gate.check()

    def frames(self, shard: Shape) -> Iterator[tuple[Shape, bytes]]:
        """Every chunk that `shard` holds, with its frame: all of one version; none where absent.

        Opens the object anew. Raises as `read`, the first time before the first chunk.
        """
        key = self.key(shard)
        if not self._sharded:
            frame = self._store.get(key)
            if frame is not None:
                yield shard, frame
            return
        handle = self._open(key)
        if handle is None:
            return
        with handle.reader:
            for chunk in self.level.chunks_of(shard).indices():
                span = handle.index.get(self._position(shard, chunk))
                if span is not None:
                    yield chunk, _read(key, handle.reader, *span)

    def among(
        self, cells: Sequence[Collection[int]], most: int, check: Callable[[], None]
    ) -> set[Shape] | None:
        """Those of some chunks that are not absent, and perhaps others of them.

        cells: their indices along each axis, each with each. None where they may be more than
        `most`. check: called now and then; what it raises ends it. Directories are listed, and
        no further than what is asked for is worth: absent chunks cost next to nothing,
        however many they are. What is replaced meanwhile may or may not be among them; raises
        as `read`.
        """
        there = self._shards_among(self.level.shards_of(cells), most, check)
        if there is not None and self._sharded:
            there = self._chunks_among(there, cells, most, check)
        self.check()
        return there

    def _shards_among(
        self, shards: Sequence[Collection[int]], most: int, check: Callable[[], None]
    ) -> set[Shape] | None:
        if self._keys.separator != "/":
            # All in one directory.
            names = self._store.names(self.prefix, LISTED * math.prod(map(len, shards)))
            if names is None:
                return None
            indices = {self._keys.index(name) for name in names}
            there = {at for at in indices if at and len(at) == len(shards) and _all_in(at, shards)}
            return there if len(there) <= most else None
        found: list[Shape] = [()]
        for axis in shards:
            following: list[Shape] = []
            for above in found:
                check()
                here: Collection[int] = axis
                if len(axis) >= WORTH_LISTING:
                    prefix = f"{self.prefix}/{self._keys.name(above)}" if above else self._top()
                    names = self._store.names(prefix, LISTED * len(axis))
                    if names is not None:
                        here = [i for i in map(_number, names) if i is not None and i in axis]
                if len(following) + len(here) > most:
                    return None
                following.extend((*above, i) for i in here)
            found = following
        return set(found)

    def _top(self) -> str:
        """What the keys of all objects begin with."""
        return f"{self.prefix}/{self._keys.prefix}" if self._keys.prefix else self.prefix

    def _chunks_among(
        self,
        shards: Iterable[Shape],
        cells: Sequence[Collection[int]],
        most: int,
        check: Callable[[], None],
    ) -> set[Shape] | None:
        found: set[Shape] = set()
        for shard in shards:
            check()
            with self._lease(self.key(shard)) as handle:
                if handle is not None:
                    chunks = self._chunks_at(shard, handle.index)
                    found.update(at for at in chunks if _all_in(at, cells))
            if len(found) > most:
                return None
        return found

    def _chunks_at(self, shard: Shape, index: ShardIndex) -> Iterator[Shape]:
        """The chunks of `shard` that are in its index."""
        first = tuple(s * n for s, n in zip(shard, self._shard_chunks, strict=True))
        places = np.unravel_index(index.positions, self._shard_chunks)
        for place in zip(*(axis.tolist() for axis in places), strict=True):
            yield tuple(map(int.__add__, first, place))

    def holds(self, chunk: Shape) -> bool:
        """True where `chunk` is not absent; raises as `read`."""
        shard = self.level.shard_of(chunk)
        key = self.key(shard)
        if self._sharded:
            with self._lease(key) as handle:
                return (
                    handle is not None
                    and handle.index.get(self._position(shard, chunk)) is not None
                )
        reader = self._store.open(key)
        if reader is not None:
            reader.close()
        return reader is not None

    def replace(
        self,
        shard: Shape,
        frames: Iterable[tuple[Shape, Buffer | None]],
        replaced: Collection[Shape],
    ) -> StoredShard:
        """Stores `frames` in `shard`; the other chunks of the shard stay as they are.

        frames: (chunk, encoded bytes or None for all fill value), in any order, each
        chunk of `replaced` once. They are written as they come.
        replaced: which chunks `frames` will bring; at least one.

        Durable and visible as a whole when it returns; a shard of which no chunk is
        left has no object. Where `replaced` is all of the shard within the level, the
        old one is not read, so that a broken shard can be written over.

        Raises what `frames` raises, ValueError where they are not those of `replaced`,
        Corrupt where the old shard is broken and needed, NotFound once the image is
        deleted, OSError (ENOSPC, EIO): the old shard stays. Only an OSError from the
        very last step, the sync of the directory, leaves open which of the two it is.
        """
        wanted = set(replaced)
        inside = set(self.level.chunks_of(shard).indices())
        if not wanted or not wanted <= inside:
            raise ValueError(f"shard {shard} of {self.prefix}: can't replace {sorted(wanted)[:4]}")
        key = self.key(shard)
        index = ShardIndex.empty(math.prod(self._shard_chunks))
        with self._gate.inside(), spans.span("store.replace", key=key, chunks=len(wanted)):
            old = self._lease(key) if inside - wanted else nullcontext()
            with old as handle:
                parts = self._parts(shard, frames, wanted, index)
                if handle is not None:
                    kept = self._copies(shard, inside - wanted, handle, index)
                    parts = itertools.chain(parts, kept)
                try:
                    nbytes = self._store_parts(key, parts, index)
                finally:
                    # Also after an error: it may have come behind the rename.
                    self._handles.drop(key)
        return StoredShard(index.present, nbytes)

    def _frame(self, key: str, position: int) -> bytes | None:
        if not self._sharded:
            return self._store.get(key)
        with self._lease(key) as handle:
            span = None if handle is None else handle.index.get(position)
            return None if handle is None or span is None else _read(key, handle.reader, *span)

    def present(self) -> Iterator[tuple[Shape, list[Shape]]]:
        """(shard, chunks of it that are not absent), found by a walk, in no order.

        What is replaced meanwhile may or may not be among them. Corrupt, OSError.
        """
        for shard in self._objects():
            if not self._sharded:
                yield shard, [shard]
                continue
            with self._lease(self.key(shard)) as handle:
                chunks = [] if handle is None else list(self._chunks_at(shard, handle.index))
            yield shard, chunks

    def _objects(self) -> Iterator[Shape]:
        counts = self.level.shards.counts
        for entry in self._store.walk(self.prefix):
            index = self._keys.index(entry.key.removeprefix(f"{self.prefix}/"))
            if index is None or len(index) != len(counts):
                continue
            if all(map(int.__lt__, index, counts)):  # what lies outside is none of ours
                yield index

    def measure(self) -> StoredSize:
        """What is stored, found by walking the objects and reading every shard's index.

        Objects that are replaced meanwhile count with one of their versions.
        Raises Corrupt for a broken shard, OSError as the disk gives it.
        """
        chunks = objects = nbytes = 0
        for entry in self._store.walk(f"{self.prefix}/c"):
            if self._sharded:
                handle = self._open(entry.key)
                if handle is None:
                    continue
                with handle.reader:
                    chunks += handle.index.present
                    nbytes += handle.reader.size
            else:
                chunks += 1
                nbytes += entry.size
            objects += 1
        return StoredSize(chunks, objects, nbytes)

    def _lease(self, key: str) -> AbstractContextManager[ShardHandle | None]:
        return self._handles.lease(key, lambda: self._open(key))

    def _open(self, key: str) -> ShardHandle | None:
        """Opens the shard at `key` and reads its index."""
        reader = self._store.open(key)
        if reader is None:
            return None
        try:
            # Only an open gate proves that this object is of this image, and not of a
            # later one of the same name whose shards have another shape.
            self._gate.check()
            count = math.prod(self._shard_chunks)
            payload = reader.size - index_size(count)
            if payload < 0:
                raise Corrupt(f"{key}: {reader.size} bytes are less than its index")
            tail = reader.read(payload, index_size(count))
            return ShardHandle(reader, ShardIndex.unpack(tail, count, payload, what=key))
        except BaseException:
            reader.close()
            raise

    def _store_parts(self, key: str, parts: Iterator[Buffer], index: ShardIndex) -> int:
        # Nothing is written before the first chunk is there: it may be that none comes.
        first = next(parts, None)
        if first is None:
            self._store.delete(key)
            return 0
        return self._store.put(key, itertools.chain((first,), parts, self._tail(index)))

    def _tail(self, index: ShardIndex) -> Iterator[Buffer]:
        """What ends the object; asked for once all chunks are in `index`."""
        if self._sharded:
            yield index.pack()

    def _parts(
        self,
        shard: Shape,
        frames: Iterable[tuple[Shape, Buffer | None]],
        wanted: set[Shape],
        index: ShardIndex,
    ) -> Iterator[Buffer]:
        """The new frames, entered in `index` as they pass."""
        missing = set(wanted)
        for chunk, frame in frames:
            if chunk not in missing:
                raise ValueError(f"shard {shard} of {self.prefix}: frame of {chunk} not expected")
            missing.remove(chunk)
            if frame is not None:
                index.append(self._position(shard, chunk), len(frame))
                yield frame
        if missing:
            raise ValueError(f"shard {shard} of {self.prefix}: no frame of {min(missing)}")

    def _copies(
        self, shard: Shape, kept: Collection[Shape], old: ShardHandle, index: ShardIndex
    ) -> Iterator[Buffer]:
        """The bytes of the chunks that stay, entered in `index`; neighbours in one read."""
        spans = []
        for chunk in kept:
            position = self._position(shard, chunk)
            span = old.index.get(position)
            if span is not None:
                spans.append((*span, position))
        spans.sort()
        start = stop = 0
        for offset, nbytes, position in spans:
            if offset != stop:
                yield from _pieces(self.key(shard), old, start, stop)
                start = offset
            stop = offset + nbytes
            index.append(position, nbytes)
        yield from _pieces(self.key(shard), old, start, stop)

    def _position(self, shard: Shape, chunk: Shape) -> int:
        """Where `chunk` stands in the index of its shard."""
        position = 0
        for i, s, n in zip(chunk, shard, self._shard_chunks, strict=True):
            position = position * n + i - s * n
        return position


def _read(key: str, reader: ObjectReader, offset: int, nbytes: int) -> bytes:
    data = reader.read(offset, nbytes)
    if len(data) != nbytes:
        raise Corrupt(f"{key}: {len(data)} bytes at {offset} where {nbytes} should be")
    return data


def _number(name: str) -> int | None:
    """The index that a segment of a key stands for."""
    return int(name) if name.isdecimal() and name.isascii() else None


def _all_in(at: Shape, cells: Sequence[Collection[int]]) -> bool:
    return all(i in axis for i, axis in zip(at, cells, strict=True))


def _pieces(key: str, handle: ShardHandle, start: int, stop: int) -> Iterator[bytes]:
    for offset in range(start, stop, COPY_BYTES):
        yield _read(key, handle.reader, offset, min(COPY_BYTES, stop - offset))
