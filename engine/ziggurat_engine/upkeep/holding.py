"""What does a data directory hold, looked at without changing anything?

    format, lock, state.sqlite   see store/format.py, engine.py, state.py
    log/                         segments, unless the log is elsewhere
    images/                      the catalog
    tokens.json, audit.jsonl     who may do what, and who did (security)
    tmp/                         writes under way, or what a crash left of them
    quarantine/                  what `repair` put aside

A server may be at work meanwhile. Objects are replaced by renames, so each is read
from one open file and is one version; what looks wrong is looked at again.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ziggurat_engine.errors import DataError, UnsupportedVersion
from ziggurat_engine.kernels.protocol import halo
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.store.array import ChunkArray
from ziggurat_engine.store.catalog import Catalog, StoredImage, key_of
from ziggurat_engine.store.format import QUARANTINE
from ziggurat_engine.store.handles import ShardHandles
from ziggurat_engine.store.objects import LocalStore
from ziggurat_engine.upkeep.findings import Finding
from ziggurat_engine.vfs import FileLock, FileSystem

TOP = frozenset(
    ("format.json", "lock", "log", "images", "tmp", "tokens.json", "tokens.lock", QUARANTINE)
)
# Files that are put aside have numbers behind their name.
AUDIT = "audit.jsonl"
# Open shards whose index is looked into again and again: those below one of the level above.
OPEN_SHARDS = 64


@dataclass(frozen=True, eq=False)
class Found:
    """An image of the directory. arrays[k] holds its level k; none where it is read-only."""

    name: str
    labels_of: str | None
    key: str
    stored: StoredImage

    @property
    def uid(self) -> str:
        """Names it in notes and log."""
        return self.stored.image.uid

    @property
    def arrays(self) -> tuple[ChunkArray, ...]:
        """The encoded chunks of each level."""
        return self.stored.arrays

    def noted(self, level: int) -> tuple[str, int]:
        """How the state database names `level` in its notes."""
        return self.uid, self.stored.image.first_array - 1 + level


class Holding:
    """The directory `path`. All methods may be called from any thread."""

    def __init__(self, fs: FileSystem, path: Path, log: Path | None = None) -> None:
        self.fs = fs
        self.path = path
        self.log = log or path / "log"
        self.handles = ShardHandles(OPEN_SHARDS)
        self.objects = LocalStore(fs, path / "images", path / "tmp")
        self.catalog = Catalog(self.objects, self.handles, fs)

    def close(self) -> None:
        """Closes what is open."""
        self.catalog.close()

    def where(self, key: str) -> str:
        """The path of an object of the catalog."""
        return str(self.path / "images" / key)

    def find(self, name: str, labels_of: str | None) -> Found | Finding | None:
        """An image; what is wrong with it; None where it is not there any more."""
        key = key_of(name, labels_of)
        try:
            return Found(name, labels_of, key, self.catalog.look(name, labels_of))
        except UnsupportedVersion as error:
            return Finding("version", self.where(f"{key}/zarr.json"), error.message, name)
        except DataError as error:
            if not self.fs.is_dir(self.path / "images" / key):
                return None
            return Finding("image", self.where(f"{key}/zarr.json"), error.message, name)

    def images(self) -> Iterator[Found | Finding]:
        """All images that lie in it, and those that can't be used."""
        for name, labels_of in self.catalog.find():
            found = self.find(name, labels_of)
            if found is not None:
                yield found

    def lock(self, *, to_write: bool = False) -> FileLock | None:
        """The directory's lock; None where a server holds it. OSError.

        Where this process may not lock it, nothing is locked, unless it is `to_write`: it may
        be that only the lock is another's.
        """
        try:
            return self.fs.lock(self.path / "lock")
        except BlockingIOError:
            return None
        except OSError as error:
            if to_write or error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            return _NoLock()


class _NoLock:
    def close(self) -> None:
        """Nothing is held."""


def shards(found: Found, level: int, objects: LocalStore) -> Iterator[Shape | str]:
    """Every shard of a level that is an object; keys of files there that are none."""
    array = found.arrays[level]
    counts = array.level.shards.counts
    for entry in objects.walk(array.prefix):
        name = entry.key[len(array.prefix) + 1 :]
        if name == "zarr.json":
            continue
        first, *numbers = name.split("/")
        shard: Shape | None = None
        with contextlib.suppress(ValueError):
            shard = tuple(map(int, numbers))
        if (
            first == "c"
            and shard is not None
            and len(shard) == len(counts)
            and all(0 <= i < n for i, n in zip(shard, counts, strict=True))
            and "/".join(map(str, shard)) == "/".join(numbers)
        ):
            yield shard
        else:
            yield entry.key


def children(found: Found, level: int, chunk: Shape) -> Iterator[Shape]:
    """The chunks of the level below that a chunk is made of, without any halo."""
    pyramid = found.stored.pyramid
    box = pyramid.project(pyramid.levels[level].chunks.region(chunk), level, level - 1)
    yield from pyramid.levels[level - 1].chunks.indices(box)


def parents(found: Found, level: int, chunks: set[Shape]) -> set[Shape]:
    """The chunks of the level above that are made of these, or of pixels beside them."""
    pyramid = found.stored.pyramid
    grid = pyramid.levels[level].chunks
    above = pyramid.levels[level + 1].chunks
    result: set[Shape] = set()
    for chunk in chunks:
        box = around(found, level, grid.region(chunk))
        result.update(above.indices(pyramid.project(box, level, level + 1)))
    return result


def around(found: Found, level: int, region: Region) -> Region:
    """`region` of a level with the pixels around it that the level above needs."""
    pyramid, image = found.stored.pyramid, found.stored.image
    if level + 1 == len(pyramid.levels):
        return region
    reach = halo(image.downsampling, pyramid.levels[level + 1].factors)
    limits = pyramid.levels[level].shape
    offset = tuple(max(0, o - h) for o, h in zip(region.offset, reach, strict=True))
    stop = (min(s + h, n) for s, h, n in zip(region.stop, reach, limits, strict=True))
    return Region(offset, tuple(b - a for a, b in zip(offset, stop, strict=True)))
