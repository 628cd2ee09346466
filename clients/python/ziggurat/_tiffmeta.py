r"""How large is a pixel of a TIFF file, in which unit, and how are its channels shown?

ImageJ   y, x    XResolution, YResolution in pixels per `unit`
         z       `spacing` in `unit`
         t       `finterval` in seconds
         c       `Ranges` (windows) and `LUTs` (the last entry is the colour)
OME      Pixels  PhysicalSizeZ, Y, X with units (micrometers where none is given) and
                 TimeIncrement (seconds); Channel: Name, Color as a signed 0xRRGGBBAA
others   y, x    resolution per centimetre; per inch is what printers want and says
                 nothing about the sample

Units become the names that OME-NGFF takes from UDUNITS ("micron", "um" and
"\u00B5m" are all "micrometer").
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ziggurat._values import Channel

RGB = (
    Channel("red", "FF0000"),
    Channel("green", "00FF00"),
    Channel("blue", "0000FF"),
    Channel("alpha", "FFFFFF"),
)

_SPELLINGS = {
    "picometer": ("pm", "picometre"),
    "nanometer": ("nm", "nanometre"),
    "micrometer": ("um", "\u00b5m", "\u03bcm", "micron", "micrometre"),
    "millimeter": ("mm", "millimetre"),
    "centimeter": ("cm", "centimetre"),
    "meter": ("m", "metre"),
    "angstrom": ("a", "\u00e5", "\u212b"),
    "inch": ("in", "inche"),
    "foot": ("ft",),
    "nanosecond": ("ns",),
    "microsecond": ("us", "\u00b5s", "\u03bcs"),
    "millisecond": ("ms", "msec"),
    "second": ("s", "sec"),
    "minute": ("min",),
    "hour": ("h", "hr"),
    "day": ("d",),
    "": ("pixel", "px", "pix", "reference frame"),
}
_UNITS = {spelling: name for name, all_ in _SPELLINGS.items() for spelling in (name, *all_)}


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a file says of its pixels; axes it says nothing about are left out."""

    voxel_size: dict[str, float] = field(default_factory=dict)
    unit: dict[str, str] = field(default_factory=dict)
    channels: tuple[Channel, ...] = ()


def calibration_of(file: Any, series: int) -> Calibration:
    """The calibration of one series of an open tifffile.TiffFile."""
    page = file.series[series].keyframe
    if file.is_ome and file.ome_metadata:
        return _ome(file.ome_metadata, series)
    if file.is_imagej and file.imagej_metadata:
        return _imagej(file.imagej_metadata, page)
    centimetre = _tag(page, "ResolutionUnit") == 3
    per = {axis: _tag(page, f"{axis.upper()}Resolution") for axis in "yx"} if centimetre else {}
    sizes = {axis: 1e4 * size for axis, value in per.items() if (size := _inverse(value))}
    return Calibration(sizes, dict.fromkeys(sizes, "micrometer"))


def unit_name(text: object) -> str:
    """The UDUNITS name for a unit as files spell it; unknown ones stay as they are."""
    # ImageJ writes characters beyond Latin-1 as escapes.
    plain = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), str(text or ""))
    plain = plain.strip().strip("\0")
    low = plain.lower()
    return _UNITS.get(low, _UNITS.get(low.rstrip("s"), plain[:64]))


def _imagej(metadata: Mapping[str, Any], page: Any) -> Calibration:
    # Without a unit ImageJ shows pixels, whatever the resolution says.
    unit = unit_name(metadata.get("unit"))
    found = {}
    if unit:
        found = {axis: _inverse(_tag(page, f"{axis.upper()}Resolution")) for axis in "yx"}
        found["z"] = abs(_number(metadata.get("spacing")))
    found["t"] = _number(metadata.get("finterval"))
    sizes = {axis: size for axis, size in found.items() if size > 0}
    units = {axis: unit_name(metadata.get(f"{axis}unit")) or unit for axis in "zyx"}
    units["t"] = unit_name(metadata.get("tunit")) or "second"
    return Calibration(sizes, units, _described(_imagej_channels(metadata)))


def _imagej_channels(metadata: Mapping[str, Any]) -> Iterator[Channel]:
    count = int(_number(metadata.get("channels")))
    ranges = list(metadata.get("Ranges") or ())
    luts = list(metadata.get("LUTs") or ()) if metadata.get("mode") != "grayscale" else []
    for k in range(count):
        color = "FFFFFF"
        if k < len(luts) and np.shape(luts[k]) == (3, 256):
            color = "".join(f"{int(value):02X}" for value in luts[k][:, -1])
        window = tuple(map(float, ranges[2 * k : 2 * k + 2]))
        yield Channel(_numbered(k), color, _window(window))


def _described(channels: Iterator[Channel]) -> tuple[Channel, ...]:
    """The channels, or none where the file says nothing of any."""
    found = tuple(channels)
    silent = all(c == Channel(_numbered(k)) for k, c in enumerate(found))
    return () if silent else found


def _numbered(index: int) -> str:
    return f"channel {index + 1}"


def _window(window: tuple[float, ...]) -> tuple[float, float] | None:
    if len(window) != 2 or not all(map(math.isfinite, window)) or window[0] >= window[1]:
        return None
    return window[0], window[1]


def _ome(xml: str, series: int) -> Calibration:
    images = ElementTree.fromstring(xml).findall("{*}Image")
    pixels = images[series].find("{*}Pixels") if series < len(images) else None
    if pixels is None:
        return Calibration()
    found = {axis: _number(pixels.get(f"PhysicalSize{axis.upper()}")) for axis in "zyx"}
    found["t"] = _number(pixels.get("TimeIncrement"))
    sizes = {axis: size for axis, size in found.items() if size > 0}
    units = {
        axis: unit_name(pixels.get(f"PhysicalSize{axis.upper()}Unit", "\u00b5m")) for axis in "zyx"
    }
    units["t"] = unit_name(pixels.get("TimeIncrementUnit", "s"))
    channels = pixels.findall("{*}Channel")
    return Calibration(sizes, units, _described(_ome_channels(channels)))


def _ome_channels(channels: list[ElementTree.Element]) -> Iterator[Channel]:
    for k, channel in enumerate(channels):
        color = int(_number(channel.get("Color", "-1"))) & 0xFFFFFFFF
        label = channel.get("Name") or _numbered(k)
        yield Channel(label[:256], f"{color >> 8:06X}")


def _tag(page: Any, name: str) -> Any:
    tag = page.tags.get(name)
    return None if tag is None else tag.value


def _inverse(resolution: Any) -> float:
    """Units per pixel, of a rational (numerator, denominator) of pixels per unit; or 0."""
    if not isinstance(resolution, tuple) or len(resolution) != 2 or not all(resolution):
        return 0.0
    return float(resolution[1]) / float(resolution[0])


def _number(text: object) -> float:
    """`text` as a finite number, 0 where it is none."""
    try:
        number = float(str(text))
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0
