"""How does a box of a level become a TIFF file?

As an ImageJ hyperstack where ImageJ can read it (uint8, uint16, float32, below 4 GB:
ImageJ has no BigTIFF), else as OME-TIFF, BigTIFF where it is large. Planes are read
and written in slabs of bounded size; the file's order is t, z, c, which both know.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ziggurat._errors import InvalidArgument
from ziggurat._image import Image
from ziggurat._index import Selection, box_of
from ziggurat._level import LevelView

SLAB_BYTES = 64 * 2**20
# TIFF counts bytes in 32 bits; what is left is room for its directories.
CLASSIC_BYTES = 2**32 - 2**25

_IMAGEJ_DTYPES = ("uint8", "uint16", "float32")
_ORDER = "tzcyx"


def write_tiff(
    image: Image,
    path: str | Path,
    *,
    level: int = 0,
    box: tuple[slice, ...] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> str:
    """Writes a box of a level; returns "imagej" or "ome". Replaces a file at `path`.

    box: slices without a step in pixels of `level`; None: all. progress: called with
    the bytes of each plane. Memory: a slab of 64 MiB, at least one plane.
    Raises OutOfRange, InvalidArgument for an empty box, OSError, and read errors.
    """
    import tifffile

    view = image.level(level)
    chosen = box_of(box, None, None, view.shape)
    if chosen.empty:
        raise InvalidArgument("box holds no pixels", field="box")
    order = [image.axes.index(a) for a in _ORDER if a in image.axes]
    shape = tuple(chosen.shape[i] for i in order)
    nbytes = math.prod(shape) * image.dtype.itemsize
    imagej = image.dtype.name in _IMAGEJ_DTYPES and nbytes < CLASSIC_BYTES
    big = nbytes >= CLASSIC_BYTES
    with tifffile.TiffWriter(path, bigtiff=big, imagej=imagej, ome=not imagej) as file:
        file.write(
            _counted(_planes(view, chosen), progress),
            shape=shape,
            dtype=image.dtype,
            photometric="minisblack",
            contiguous=True,
            **(_imagej_options(image, view) if imagej else _ome_options(image, view)),
        )
    return "imagej" if imagej else "ome"


def _imagej_options(image: Image, view: LevelView) -> dict[str, Any]:
    scale = dict(zip(image.axes, view.scale, strict=True))
    unit = image.units["x"]
    metadata: dict[str, Any] = {"axes": _file_axes(image)}
    if unit:
        metadata["unit"] = "\\u00B5m" if unit == "micrometer" else unit
    if "z" in scale and unit:
        metadata["spacing"] = scale["z"]
    if "t" in scale and image.units["t"]:
        metadata["finterval"] = scale["t"]
        if image.units["t"] != "second":
            metadata["tunit"] = image.units["t"]
    if image.channels:
        metadata["mode"] = "composite"
        metadata["LUTs"] = [_lut(channel.color) for channel in image.channels]
        if all(channel.window for channel in image.channels):
            metadata["Ranges"] = [v for channel in image.channels for v in channel.window or ()]
    options: dict[str, Any] = {"metadata": metadata}
    if unit:
        options["resolution"] = (1 / scale["x"], 1 / scale["y"])
        options["resolutionunit"] = "NONE"
    return options


def _ome_options(image: Image, view: LevelView) -> dict[str, Any]:
    metadata: dict[str, Any] = {"axes": _file_axes(image), "Name": image.name}
    for axis, size in zip(image.axes, view.scale, strict=True):
        unit = image.units[axis]
        if unit and axis in "zyx":
            metadata[f"PhysicalSize{axis.upper()}"] = size
            metadata[f"PhysicalSize{axis.upper()}Unit"] = _OME_UNITS.get(unit, "reference frame")
        elif unit and axis == "t":
            metadata["TimeIncrement"] = size
            metadata["TimeIncrementUnit"] = _OME_UNITS.get(unit, "s")
    if image.channels:
        metadata["Channel"] = {
            "Name": [channel.label for channel in image.channels],
            "Color": [_signed(int(channel.color + "FF", 16)) for channel in image.channels],
        }
    return {"metadata": metadata}


_OME_UNITS = {
    "picometer": "pm",
    "nanometer": "nm",
    "micrometer": "\u00b5m",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
    "angstrom": "\u00c5",
    "microsecond": "\u00b5s",
    "millisecond": "ms",
    "second": "s",
    "minute": "min",
    "hour": "h",
    "day": "d",
}


def _file_axes(image: Image) -> str:
    return "".join(a for a in _ORDER if a in image.axes).upper()


def _signed(color: int) -> int:
    return color - 2**32 if color >= 2**31 else color


def _lut(color: str) -> NDArray[np.uint8]:
    """An ImageJ look-up table from black to `color`, (3, 256)."""
    rgb = np.array([int(color[k : k + 2], 16) for k in (0, 2, 4)])
    return (rgb[:, np.newaxis] * np.arange(256) // 255).astype(np.uint8)


def _counted(
    planes: Iterator[NDArray[Any]], progress: Callable[[int], None]
) -> Iterator[NDArray[Any]]:
    for plane in planes:
        yield plane
        progress(plane.nbytes)


def _planes(view: LevelView, box: Selection) -> Iterator[NDArray[Any]]:
    """The planes (Y, X) of `box` in the order t, z, c, read in slabs along z and c."""
    spans = {
        axis: range(o, o + n) for axis, o, n in zip(view.axes, box.offset, box.shape, strict=True)
    }
    plane_bytes = len(spans["y"]) * len(spans["x"]) * view.dtype.itemsize
    count = max(1, SLAB_BYTES // plane_bytes)
    channels, slices = spans.get("c", range(1)), spans.get("z", range(1))
    wide = len(channels) if len(channels) <= count else 1
    deep = max(1, count // wide) if wide == len(channels) else 1
    for t, z in itertools.product(spans.get("t", range(1)), slices[::deep]):
        last = min(z + deep, slices.stop)
        for c in channels[::wide]:
            at = {"t": slice(t, t + 1), "c": slice(c, c + wide), "z": slice(z, last)}
            slab = _slab(view, [at[a] for a in view.axes[:-2]], spans["y"], spans["x"])
            # (c, z, y, x), whichever of c and z the image has.
            cube = slab.reshape(wide, last - z, *slab.shape[-2:])
            yield from (cube[k, j] for j, k in itertools.product(range(last - z), range(wide)))


def _slab(view: LevelView, before: list[slice], ys: range, xs: range) -> NDArray[Any]:
    """Reads one slab, in bands of rows where a single call might be refused as too large."""
    rows = max(1, SLAB_BYTES // (len(xs) * view.dtype.itemsize))
    counts = [s.stop - s.start for s in before]
    if len(ys) <= rows:
        return view.read((*before, slice(ys.start, ys.stop), slice(xs.start, xs.stop)))
    slab = np.empty((*counts, len(ys), len(xs)), view.dtype)
    for y in ys[::rows]:
        band = slice(y, min(y + rows, ys.stop))
        out = slab[..., y - ys.start : band.stop - ys.start, :]
        view.read((*before, band, slice(xs.start, xs.stop)), out=out)
    return slab
