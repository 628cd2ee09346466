"""How does one resolution level look like a NumPy array without being one?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from ziggurat._answers import ImageInfo
from ziggurat._extras import extra
from ziggurat._index import select
from ziggurat._read import read, read_box
from ziggurat._request import LevelOptions, ReadOptions, asked
from ziggurat._rpc import Connection
from ziggurat._values import Level, Shape


class LevelView:
    """One level of an image; each access reads from the server. Made by `Image.level`.

    Indexing is NumPy's basic one: ints (which drop the axis), slices with steps of either
    sign, negative numbers and "...". It returns a new array of the image's dtype, or a
    scalar where no axis is left. Raises InvalidArgument for other indices, OutOfRange for
    ints outside their axis, and the errors of `Image.read`. Threads may share a view, and
    it may be pickled.
    """

    def __init__(self, connection: Connection, info: ImageInfo, level: Level) -> None:
        self._connection = connection
        self._info = info
        self._level = level

    @property
    def index(self) -> int:
        """Which level; 0 is full resolution."""
        return self._level.index

    @property
    def axes(self) -> str:
        """The image's axes."""
        return self._info.axes

    @property
    def shape(self) -> Shape:
        """Pixels along each axis."""
        return self._level.shape

    @property
    def ndim(self) -> int:
        """The number of axes, 2 to 5."""
        return len(self._level.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The pixel type in this machine's byte order."""
        return self._info.dtype

    @property
    def size(self) -> int:
        """The number of pixels."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Raw bytes."""
        return self.size * self.dtype.itemsize

    @property
    def chunks(self) -> Shape:
        """Pixels of a stored chunk: reads that follow them decode nothing twice."""
        return self._info.layout.chunk_shape

    @property
    def scale(self) -> tuple[float, ...]:
        """The pixel distance along each axis, in the image's units."""
        return self._level.scale

    @property
    def translation(self) -> tuple[float, ...]:
        """The centre of pixel 0 along each axis, in the image's units."""
        return self._level.translation

    def read(
        self,
        box: slice | tuple[slice, ...] | None = None,
        *,
        offset: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
        out: NDArray[Any] | None = None,
        timeout_seconds: float | None = None,
        **options: Unpack[LevelOptions],
    ) -> NDArray[Any]:
        """As `Image.read` for this level, with all of its keywords that choose no level."""
        # Raises TypeError where a level is named again.
        chosen = cast("ReadOptions", dict(level=self.index, **options))
        request = asked(self._info, box, offset, shape, chosen)
        found = read(self._connection, request, out, timeout_seconds)
        assert found is not None
        return found.array

    def to_dask(self, chunks: Any = "auto") -> Any:
        """This level as a dask array that reads when it is computed.

        chunks: as dask.array.from_array takes them; "auto" gives blocks of whole stored
        chunks, about as large as dask's configuration says (128 MiB). A block is read
        whole by one call, in the process that computes it. Needs dask (the extra "dask").
        """
        return extra("dask", "_dask", "to_dask").to_dask(self, chunks)

    def __getitem__(self, index: Any) -> Any:
        chosen = select(index, self.shape)
        if chosen.empty:
            return np.empty(chosen.result_shape, self.dtype)
        found = read_box(self._connection, self._info.name, self.index, chosen, self.dtype)
        return chosen.cut(found.array)

    def __array__(
        self, dtype: np.dtype[Any] | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the pixels are on a server: an array of them is always a copy")
        array: NDArray[Any] = self[...]
        return array if dtype is None else array.astype(dtype, copy=False)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[k] for k in range(len(self)))

    def __repr__(self) -> str:
        return (
            f"<ziggurat.LevelView {self.index} of {self._info.name!r} {self.axes} {self.shape}"
            f" {self.dtype.name}>"
        )
