"""What do the levels of an adopted image hold, whoever wrote them, in whatever codec?

Nothing is ever written. What others change meanwhile may be seen or not, chunk by chunk,
until the server starts again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ziggurat_engine.errors import Corrupt, ZigguratError
from ziggurat_engine.foreign.reader import (
    Reader,
    ShardFrames,
    fill_of,
    open_reader,
    scan,
)
from ziggurat_engine.foreign.source import ZarrArray, open_array
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Adopted, Array, Image
from ziggurat_engine.store.adopted import check_level_there, check_same
from ziggurat_engine.store.array import StoredSize
from ziggurat_engine.store.handles import ShardHandles


@dataclass(frozen=True, slots=True)
class _Level:
    """fill: what absent chunks are, None where that is what the image says."""

    array: ZarrArray
    reader: Reader
    fill: np.generic | None


class ForeignLevels:
    """The levels of one adopted image. All methods may be called from any thread.

    handles: where its shards stay open. check: raises once the image is forgotten.
    A level is opened when it is first asked for. OSError, with the path, where the image is
    not there; Corrupt where it is not the one that was adopted, or does not decode.
    """

    def __init__(
        self, image: Image, adopted: Adopted, handles: ShardHandles, check: Callable[[], None]
    ) -> None:
        self._name = image.name
        self._fill = image.dtype.type(image.fill_value)
        self._adopted = adopted
        self._handles = handles
        self._check = check
        self._lock = threading.Lock()
        self._levels: dict[int, _Level] = {}

    def read(self, level: int, chunk: Shape) -> Array | None:
        """The pixels of a chunk as far as they lie within the level; None where it is absent.

        A new C-contiguous array in native byte order.
        """
        opened = self._open(level)
        region = opened.array.chunks.region(chunk)
        try:
            pixels = opened.reader.read(region)
        except (OSError, ZigguratError) as error:
            if isinstance(error, Corrupt):
                raise Corrupt(self._where(level, error.message), image=self._name) from error
            raise
        except Exception as error:
            # Whatever zarr-python, or a codec that it calls, has to say.
            raise Corrupt(self._where(level, f"chunk {chunk}: {error!r}")) from error
        # Behind the read: while the level is there what is absent is fill value.
        check_level_there(self._adopted, level)
        self._check()
        if pixels is None:
            return None if opened.fill is None else np.full(region.shape, opened.fill)
        if pixels.base is None:
            return pixels
        # A view would keep all that the chunk has beyond the level's edge.
        return np.array(pixels, order="C")

    def measure(self, level: int) -> StoredSize:
        """What is stored, from sizes of files and indices of shards.

        A shard with an index of another kind counts as one chunk.
        """
        array = self._open(level).array
        shards = ShardFrames(array, self._handles) if array.indexed else None
        chunks = objects = nbytes = 0
        try:
            for stored in scan(array):
                objects += 1
                nbytes += stored.size
                chunks += 1 if shards is None else shards.present(stored.index)
        finally:
            if self._adopted.writable:
                # Who replaces a shard knows it by another key.
                self._handles.drop_prefix(str(array.path))
        return StoredSize(chunks, objects, nbytes)

    def close(self) -> None:
        """Gives its open shards up; no read may follow."""
        self._handles.drop_prefix(self._adopted.path)

    def _open(self, level: int) -> _Level:
        with self._lock:
            found = self._levels.get(level)
            if found is None:
                check_same(self._adopted, level)
                found = self._levels[level] = self._opened(level)
            return found

    def _opened(self, level: int) -> _Level:
        array = open_array(Path(self._adopted.path) / self._adopted.levels[level].path)
        fill = fill_of(array)
        same = fill.tobytes() == self._fill.tobytes()
        return _Level(array, open_reader(array, self._handles), None if same else fill)

    def _where(self, level: int, what: str) -> str:
        return f"{self._name}, level {level} in {self._adopted.path}: {what}"
