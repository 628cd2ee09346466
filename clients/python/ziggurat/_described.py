"""What is an image like? As the server described it last.

Properties with one entry an axis are in axis order.
"""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np

from ziggurat._answers import ImageInfo
from ziggurat._rpc import Connection
from ziggurat._spec import MAX_SIZE
from ziggurat._values import Channel, Layout, Level, Shape, StreamInfo


class Described:
    """The part of an Image that asks the server nothing."""

    def __init__(self, connection: Connection, info: ImageInfo) -> None:
        self._connection = connection
        self._info = info

    @property
    def server(self) -> str:
        """The address of its server, "host:port"."""
        return self._connection.server

    @property
    def name(self) -> str:
        """The path it was made under, in Unicode normal form C."""
        return self._info.name

    @property
    def axes(self) -> str:
        """Its axes in order, a part of "tczyx" that ends with "yx"."""
        return self._info.axes

    @property
    def shape(self) -> Shape:
        """Pixels of level 0 along each axis; where t is unbounded as of the last look."""
        return self._info.shape

    @property
    def unbounded(self) -> bool:
        """Whether the image grows along t as frames arrive; `refresh` tells how far it is."""
        return self._info.unbounded

    @property
    def ndim(self) -> int:
        """The number of axes, 2 to 5."""
        return len(self._info.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The pixel type in this machine's byte order."""
        return self._info.dtype

    @property
    def size(self) -> int:
        """The number of pixels of level 0."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Raw bytes of level 0."""
        return self.size * self.dtype.itemsize

    @property
    def limits(self) -> Shape:
        """Up to where it can be written along each axis: `shape`, 2**40 along an unbounded t."""
        return (MAX_SIZE, *self.shape[1:]) if self.unbounded else self.shape

    @property
    def chunks(self) -> Shape:
        """Pixels of a stored chunk along each axis, the same at every level."""
        return self._info.layout.chunk_shape

    @property
    def scale(self) -> tuple[float, ...]:
        """The pixel distance of level 0 along each axis, in `units`."""
        return self._info.scale

    @property
    def translation(self) -> tuple[float, ...]:
        """The centre of pixel 0 of level 0 along each axis, in `units`: the origin."""
        return self.levels[0].translation

    @property
    def voxel_size(self) -> dict[str, float]:
        """The distance between neighbouring pixels along each axis, in `units`."""
        return dict(zip(self.axes, self._info.scale, strict=True))

    @property
    def units(self) -> dict[str, str]:
        """The unit of each axis ("micrometer", "second"); "" where none was given."""
        return dict(zip(self.axes, self._info.units, strict=True))

    @property
    def channels(self) -> tuple[Channel, ...]:
        """How each pixel of axis c is shown, or nothing."""
        return self._info.channels

    @property
    def fill_value(self) -> int | float:
        """What pixels hold that were never written."""
        return self._info.fill_value

    @property
    def layout(self) -> Layout:
        """Chunks, shards and codec; the same for every level."""
        return self._info.layout

    @property
    def downsampling(self) -> str:
        """How a level is made from the one before: "mean"; see `Client.create`."""
        return self._info.downsampling

    @property
    def kind(self) -> str:
        """What the pixels are: "image" or "labels"."""
        return self._info.kind

    @property
    def labels_of(self) -> str:
        """The path of the image that these labels belong to; "" where they belong to none."""
        return self._info.labels_of

    @property
    def adopted_from(self) -> str:
        """Where others made it, on the server's machine; "" where it is the server's own."""
        return self._info.adopted_from

    @property
    def read_only(self) -> bool:
        """True where it is adopted, and not to be written to."""
        return self._info.read_only

    @property
    def pyramid(self) -> str:
        """When its levels are made: "live" or "deferred"; see `Client.create`."""
        return self._info.pyramid

    @property
    def levels(self) -> tuple[Level, ...]:
        """The resolution levels as of the last look, level 0 first."""
        return self._info.levels

    @property
    def created(self) -> datetime.datetime:
        """When it was made, in UTC."""
        return self._info.created

    @property
    def revision(self) -> int:
        """Grows with every accepted write and every start of the server, and never falls."""
        return self._info.revision

    @property
    def streams(self) -> tuple[StreamInfo, ...]:
        """What became of each write stream, by id, as of the last look."""
        return self._info.streams
