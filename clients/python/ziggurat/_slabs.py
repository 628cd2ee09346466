"""How is a result that may be larger than memory read, plane by plane?

What `Image.read` takes is settled first: the level and the box in its pixels, by a read of
a single pixel where only the server knows them. Then slabs of the result are read, each of
bounded size: along every axis a slab is a range of the result's pixels, and so of every
n-th pixel of the box, or all of the box where the axis is projected.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from ziggurat._errors import InvalidArgument
from ziggurat._image import Image
from ziggurat._index import box_of
from ziggurat._request import ReadOptions, asked
from ziggurat._values import Shape

SLAB_BYTES = 64 * 2**20
# More than any axis has pixels: one is left.
_ALL = 2**62
_CHOSEN_BY_SERVER = ("resolution", "max_voxels", "physical", "level0")


class Slabs:
    """One result of `Image.read`; the arguments are its.

    level: which one is read. axes: the image's. shape, dtype: of the result. spacing: the
    distance of its neighbouring pixels in axis units, along a projected axis the extent of
    what becomes one. Raises as `Image.read` does, and InvalidArgument for an empty box.
    """

    def __init__(
        self, image: Image, box: tuple[slice, ...] | None, **options: Unpack[ReadOptions]
    ) -> None:
        self._image = image
        self.axes = image.axes
        # Checks all of them.
        request = asked(image._info, box, None, None, options)
        self.dtype = request.dtype
        self._steps = tuple(request.message.steps) or (1,) * image.ndim
        self._projected = tuple(request.message.projection.axes)
        if not any(options.get(name) for name in _CHOSEN_BY_SERVER):
            self.level = options.get("level") or 0
            chosen = box_of(box, None, None, image.levels[self.level].shape)
            self._offset, self._shape = chosen.offset, chosen.shape
        else:
            found = image.fetch(
                box,
                level=options.get("level"),
                resolution=options.get("resolution"),
                max_voxels=options.get("max_voxels"),
                physical=options.get("physical"),
                level0=options.get("level0", False),
                steps=(_ALL,) * image.ndim,
            )
            self.level, self._offset, self._shape = found.level, found.offset, found.shape
        if 0 in self._shape:
            raise InvalidArgument("box holds no pixels", field="box")
        self._rest = cast(
            "ReadOptions",
            {
                name: value
                for name, value in options.items()
                if name not in (*_CHOSEN_BY_SERVER, "level", "steps")
            },
        )
        self.shape: Shape = tuple(
            1 if axis in self._projected else -(-n // step)
            for axis, n, step in zip(self.axes, self._shape, self._steps, strict=True)
        )

    @property
    def nbytes(self) -> int:
        """Raw bytes of the result."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def spacing(self) -> tuple[float, ...]:
        """See the class."""
        scale = self._image.levels[self.level].scale
        return tuple(
            size * (n if axis in self._projected else step)
            for axis, size, n, step in zip(self.axes, scale, self._shape, self._steps, strict=True)
        )

    def planes(self) -> Iterator[NDArray[Any]]:
        """The planes (Y, X) in the order t, z, c, read in slabs along z and c."""
        spans = dict(zip(self.axes, map(range, self.shape), strict=True))
        plane_bytes = len(spans["y"]) * len(spans["x"]) * self.dtype.itemsize
        count = max(1, SLAB_BYTES // plane_bytes)
        channels, slices = spans.get("c", range(1)), spans.get("z", range(1))
        wide = len(channels) if len(channels) <= count else 1
        deep = max(1, count // wide) if wide == len(channels) else 1
        for t, z in itertools.product(spans.get("t", range(1)), slices[::deep]):
            last = min(z + deep, slices.stop)
            for c in channels[::wide]:
                at = {"t": slice(t, t + 1), "c": slice(c, c + wide), "z": slice(z, last)}
                slab = self._slab([at[a] for a in self.axes[:-2]], spans["y"], spans["x"])
                # (c, z, y, x), whichever of c and z the image has.
                cube = slab.reshape(wide, last - z, *slab.shape[-2:])
                yield from (cube[k, j] for j, k in itertools.product(range(last - z), range(wide)))

    def _slab(self, before: list[slice], ys: range, xs: range) -> NDArray[Any]:
        """Reads one slab, in bands of rows where a single call might be refused as too large."""
        rows = max(1, SLAB_BYTES // (len(xs) * self.dtype.itemsize))
        if len(ys) <= rows:
            return self._read((*before, slice(0, len(ys)), slice(0, len(xs))), None)
        slab = np.empty((*(s.stop - s.start for s in before), len(ys), len(xs)), self.dtype)
        for y in ys[::rows]:
            band = slice(y, min(y + rows, ys.stop))
            out = slab[..., y : band.stop, :]
            self._read((*before, band, slice(0, len(xs))), out)
        return slab

    def _read(self, place: tuple[slice, ...], out: NDArray[Any] | None) -> NDArray[Any]:
        """Some pixels of the result."""
        offset, shape = [], []
        for axis, span, first, n, step in zip(
            self.axes, place, self._offset, self._shape, self._steps, strict=True
        ):
            whole = axis in self._projected
            start = 0 if whole else span.start * step
            stop = n if whole else min(n, (span.stop - 1) * step + 1)
            offset.append(first + start)
            shape.append(stop - start)
        options: ReadOptions = {**self._rest, "level": self.level, "steps": self._steps}
        return self._image.read(offset=offset, shape=shape, out=out, **options)
