"""How does a level become a dask array, and a dask array an image?

Reading, a block is a box of one level, read when the block is computed. Writing, each
block is one region of level 0. Neither holds more than the blocks that dask works on, so
that an image may be larger than memory.

dask pickles what is in a graph for workers in other processes. An image handle survives
that (see _rpc.py), a Writer does not: there, each thread has a stream of its own. It is
opened for a block and left once the block is durable, since no worker is told that its
last one has come; `store` closes these streams when all are done.

Only methods that need dask import this module.
"""

from __future__ import annotations

import math
import os
import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import dask.utils
import numpy as np
from numpy.typing import NDArray

from ziggurat._errors import InvalidArgument
from ziggurat._frames import check_inside
from ziggurat._index import whole_numbers
from ziggurat._values import Shape
from ziggurat._writer import Writer

if TYPE_CHECKING:
    from ziggurat._image import Image
    from ziggurat._level import LevelView

_da: Any = dask.array  # dask ships no types


def to_dask(view: LevelView, chunks: Any) -> Any:
    """See `LevelView.to_dask`."""
    if isinstance(chunks, str) and chunks == "auto":
        limit = dask.utils.parse_bytes(dask.config.get("array.chunk-size"))
        chunks = block_shape(view.shape, view.chunks, limit // view.dtype.itemsize)
    return _da.from_array(
        view,
        chunks=chunks,
        # Two arrays of one level are not the same: pixels change between them.
        name=False,
        asarray=False,
        # Lists as indices stay with dask: a box has none.
        fancy=False,
        meta=np.empty((0,) * view.ndim, view.dtype),
    )


def block_shape(shape: Shape, chunk: Shape, pixels: int) -> Shape:
    """A block of whole chunks, at most `pixels` where a chunk is: along x first, then y, z, c, t.

    dask's own choice may cut through chunks, each of which is then read several times.
    """
    room = max(1, pixels // math.prod(chunk))
    block = list(chunk)
    for axis in reversed(range(len(shape))):
        count = max(1, min(room, -(-shape[axis] // chunk[axis])))
        block[axis] *= count
        room //= count
    return tuple(block)


def store(image: Image, array: Any, offset: Sequence[int] | None, compute: dict[str, Any]) -> None:
    """See `Image.store`."""
    for name in ("compute", "return_stored", "load_stored", "lock", "regions"):
        if name in compute:
            raise InvalidArgument(
                f"{name} = {compute[name]!r} is not for store, which returns once all is stored",
                field=name,
            )
    region = _region(image, array, offset)
    with image.writer() as writer:
        target = _Target(image, writer.stream_id, writer)
        _da.store(array, target, regions=region, lock=False, **compute)
        for stream in image.refresh().streams:
            if stream.stream_id.startswith(f"{writer.stream_id}/") and stream.outcome == "open":
                image.writer(stream.stream_id).close()
    image.refresh()


def _region(image: Image, array: Any, offset: Sequence[int] | None) -> tuple[slice, ...]:
    """Where `array` goes. Raises InvalidArgument and OutOfRange."""
    if not isinstance(array, _da.Array):
        raise InvalidArgument(
            f"array must be a dask array, got {type(array).__name__}; image.writer() takes others",
            field="array",
        )
    if array.ndim != image.ndim:
        raise InvalidArgument(
            f"array has {array.ndim} axes, the image has {image.axes}", field="array"
        )
    if array.dtype.newbyteorder("=") != image.dtype:
        raise InvalidArgument(
            f"array is {array.dtype.name}, the image {image.dtype.name}", field="array"
        )
    if any(np.isnan(array.shape)):
        raise InvalidArgument(f"array has an unknown shape: {array.shape}", field="array")
    start = whole_numbers("offset", [0] * image.ndim if offset is None else offset, image.ndim)
    check_inside(array.shape, start, image.axes, image.limits)
    return tuple(slice(o, o + n) for o, n in zip(start, array.shape, strict=True))


class _Target:
    """What dask stores into: `target[region] = block` is one write.

    writer: of the process that made it; copies in others have none. Any thread may write.
    """

    def __init__(self, image: Image, stream_id: str, writer: Writer | None = None) -> None:
        self._image, self._stream_id, self._writer = image, stream_id, writer

    def __setitem__(self, region: tuple[slice, ...], block: NDArray[Any]) -> None:
        offset = [place.start for place in region]
        if self._writer is not None:
            self._writer.write_region(block, offset)
            return
        thread = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
        writer = self._image.writer(f"{self._stream_id}/{thread}")
        try:
            writer.write_region(block, offset)
            writer.flush()
        finally:
            writer.cancel()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Target, (self._image, self._stream_id)

    def __dask_tokenize__(self) -> str:
        return self._stream_id
