"""What image does a TIFF file hold, and what are its planes?

Axes, pixel sizes, units and channels come from ImageJ's or OME's metadata (see
_tiffmeta.py). Pixels come block by block, so that a file of any size goes through a
bounded memory: a block is one page, or one plane where the file holds all its pixels
in one run.

The image's axes are t, c, z, y, x in this order, whatever the file's order: an ImageJ
hyperstack lies as ZCYX, and each of its planes says at which (c, z) it belongs.
Samples of colour (RGB) become channels. What a file calls neither t, c nor z (a
"sequence" of pages) becomes z, or t where there is a z already.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ziggurat._errors import InvalidArgument, OutOfRange
from ziggurat._spec import AXES, DTYPES
from ziggurat._tiffmeta import RGB, calibration_of
from ziggurat._values import Channel, Shape

# Pixels that an image can't hold but another type holds exactly.
_WIDENED = {"bool": "uint8", "float16": "float32"}


@dataclass(frozen=True, slots=True)
class Plane:
    """One plane of a file.

    index: its place along each of the image's axes before y and x.
    pixels: (Y, X), of the stack's dtype.
    """

    index: Shape
    pixels: NDArray[Any]


class TiffStack:
    """One image (series) of a TIFF file; a context manager that closes the file.

    axes: a part of "tczyx" that ends with "yx"; axes of one pixel are left out.
    shape, dtype: of the whole image, dtype in the machine's byte order.
    voxel_size, unit: for each axis that the file calibrates, as `Client.create` takes
    them. channels: one for each pixel of axis c, or none.

    One thread at a time. Raises InvalidArgument for a file that holds no image of at
    most t, c, z, y and x, OutOfRange for a series that is not there, and OSError where
    the file can't be read.
    """

    def __init__(self, path: str | Path, *, series: int = 0) -> None:
        import tifffile

        try:
            self._file: Any = tifffile.TiffFile(path)
        except tifffile.TiffFileError as error:
            raise InvalidArgument(f"{path} is not a TIFF file: {error}", field="path") from None
        try:
            if not 0 <= series < len(self._file.series):
                raise OutOfRange(
                    f"{path} has {len(self._file.series)} series, counted from 0", field="series"
                )
            self._series: Any = self._file.series[series]
            self._source_axes = _image_axes(self._series.axes, path)
            self.dtype = _image_dtype(self._series.dtype, path)
            self._block_ndim = self._find_block()
        except BaseException:
            self._file.close()
            raise
        sizes = dict(zip(self._source_axes, self._series.shape, strict=True))
        self.axes = "".join(sorted(sizes, key=AXES.index))
        self.shape: Shape = tuple(int(sizes[axis]) for axis in self.axes)
        found = calibration_of(self._file, series)
        self.voxel_size = {axis: s for axis, s in found.voxel_size.items() if axis in sizes}
        self.unit = {axis: found.unit.get(axis, "") for axis in self.voxel_size}
        self.channels: tuple[Channel, ...] = ()
        if len(found.channels) == sizes.get("c"):
            self.channels = found.channels
        elif "S" in self._series.axes and sizes["c"] in (3, 4):
            self.channels = RGB[: sizes["c"]]

    @property
    def nbytes(self) -> int:
        """Raw bytes of the whole image."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def plane_count(self) -> int:
        """How many planes `planes` yields."""
        return math.prod(self.shape[:-2])

    def planes(self) -> Iterator[Plane]:
        """Every plane of the image once, in the file's order.

        Raises InvalidArgument for pixels that can't be decoded.
        """
        lead = len(self._source_axes) - self._block_ndim
        block_axes, block_shape = self._source_axes[lead:], self._series.shape[lead:]
        inner_axes = [axis for axis in block_axes if axis not in "yx"]
        outer = itertools.product(*map(range, self._series.shape[:lead]))
        for number, outer_index in enumerate(outer):
            block = self._read_block(number, block_shape)
            flat = np.moveaxis(block, [block_axes.index("y"), block_axes.index("x")], [-2, -1])
            place = dict(zip(self._source_axes, outer_index, strict=False))
            for inner_index in np.ndindex(flat.shape[:-2]):
                place.update(zip(inner_axes, inner_index, strict=True))
                index = tuple(place[axis] for axis in self.axes[:-2])
                yield Plane(index, flat[inner_index].astype(self.dtype, copy=False))

    def close(self) -> None:
        """Closes the file. May be called twice."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _find_block(self) -> int:
        """How many of the file's last axes one block holds: at least y and x."""
        shape = self._series.shape
        plane = len(shape) - min(self._source_axes.index("y"), self._source_axes.index("x"))
        self._offset = None if self._series.is_multifile else self._series.dataoffset
        if self._offset is not None:
            return plane
        for ndim in range(plane, len(shape) + 1):
            if math.prod(shape[: len(shape) - ndim]) == len(self._series.pages):
                return ndim
        raise InvalidArgument(
            f"{len(self._series.pages)} pages do not make up an image of {shape}", field="path"
        )

    def _read_block(self, number: int, shape: Shape) -> NDArray[Any]:
        try:
            if self._offset is None:
                page = self._series.pages[number]
                if page is None:  # OME-TIFF may leave pages out
                    return np.zeros(shape, self._series.dtype)
                return np.asarray(page.asarray()).reshape(shape)
            stored = np.dtype(self._series.dtype).newbyteorder(self._file.byteorder)
            count = math.prod(shape)
            self._file.filehandle.seek(self._offset + number * count * stored.itemsize)
            block = self._file.filehandle.read_array(stored, count)
            return np.asarray(block).reshape(shape)
        except OSError:
            raise
        except Exception as error:  # whatever a codec raises for bytes it does not take
            raise InvalidArgument(
                f"page {number} of the TIFF file can't be decoded: {error}", field="path"
            ) from error


def _image_axes(axes: str, path: str | Path) -> str:
    """The image's name for each of the file's axes."""
    names = []
    for axis in axes:
        name = "c" if axis == "S" else axis.lower()
        if name not in AXES:
            free = [a for a in "zt" if a not in names and a.upper() not in axes]
            name = free[0] if free else name
        names.append(name)
    known = all(name in AXES for name in names)
    if not known or len(set(names)) < len(names) or not {"y", "x"} <= set(names):
        raise InvalidArgument(
            f"{path} has the axes {axes}; an image has y, x and at most one each of t, c and z",
            field="path",
        )
    return "".join(names)


def _image_dtype(dtype: Any, path: str | Path) -> np.dtype[Any]:
    stored = str(np.dtype(dtype).name)
    name = _WIDENED.get(stored, stored)
    if name not in DTYPES:
        raise InvalidArgument(f"{path} holds {name}, which no image holds", field="path")
    return np.dtype(name)
