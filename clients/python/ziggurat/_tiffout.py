"""How does a box of a level become a TIFF file?

As an ImageJ hyperstack where ImageJ can read it (uint8, uint16, float32, below 4 GB:
ImageJ has no BigTIFF), else as OME-TIFF, BigTIFF where it is large. Planes come from
_slabs.py; the file's order is t, z, c, which both know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from ziggurat._image import Image
from ziggurat._request import ReadOptions
from ziggurat._slabs import Slabs

# TIFF counts bytes in 32 bits; what is left is room for its directories.
CLASSIC_BYTES = 2**32 - 2**25

_IMAGEJ_DTYPES = ("uint8", "uint16", "float32")
_ORDER = "tzcyx"


def write_tiff(
    image: Image,
    path: str | Path,
    *,
    box: tuple[slice, ...] | None = None,
    begin: Callable[[int], None] = lambda _: None,
    progress: Callable[[int], None] = lambda _: None,
    **options: Unpack[ReadOptions],
) -> str:
    """Writes what `Image.read` would give; returns "imagej" or "ome". Replaces a file at `path`.

    box, options: as of `Image.read`. begin: called with the bytes of all pixels, progress
    with those of each plane. Memory: a slab of 64 MiB, at least one plane.
    Raises OutOfRange, InvalidArgument for an empty box, OSError, and read errors.
    """
    import tifffile

    slabs = Slabs(image, box, **options)
    begin(slabs.nbytes)
    order = [image.axes.index(a) for a in _ORDER if a in image.axes]
    shape = tuple(slabs.shape[i] for i in order)
    imagej = slabs.dtype.name in _IMAGEJ_DTYPES and slabs.nbytes < CLASSIC_BYTES
    big = slabs.nbytes >= CLASSIC_BYTES
    with tifffile.TiffWriter(path, bigtiff=big, imagej=imagej, ome=not imagej) as file:
        file.write(
            _counted(slabs.planes(), progress),
            shape=shape,
            dtype=slabs.dtype,
            photometric="minisblack",
            contiguous=True,
            **(_imagej_options(image, slabs) if imagej else _ome_options(image, slabs)),
        )
    return "imagej" if imagej else "ome"


def _imagej_options(image: Image, slabs: Slabs) -> dict[str, Any]:
    scale = dict(zip(image.axes, slabs.spacing, strict=True))
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


def _ome_options(image: Image, slabs: Slabs) -> dict[str, Any]:
    metadata: dict[str, Any] = {"axes": _file_axes(image), "Name": image.name}
    for axis, size in zip(image.axes, slabs.spacing, strict=True):
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
