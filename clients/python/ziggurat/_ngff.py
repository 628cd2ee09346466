"""Which Zarr v3 documents say what an image is, in the words of OME-NGFF 0.5?

The same as the server writes beside the pixels that it stores, but for how an array is
encoded: here every chunk stands for itself, uncompressed and little-endian, since it is
made of pixels that were decoded already, or never encoded.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ziggurat._values import Channel

if TYPE_CHECKING:
    from ziggurat._image import Image

Json = dict[str, Any]

_AXIS_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def group_document(image: Image) -> Json:
    """The zarr.json of the image's group: a multiscale of arrays "0", "1", ..."""
    ome: Json = {"version": "0.5", "multiscales": [_multiscale(image)]}
    if image.channels:
        ome["omero"] = {"channels": [_omero_channel(c, image.dtype) for c in image.channels]}
    if image.kind == "labels":
        ome["image-label"] = {}
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}


def array_document(image: Image, level: int) -> Json:
    """The zarr.json of the array of a level, named by its number."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(image.levels[level].shape),
        "data_type": image.dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": list(image.chunks)},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _fill_value(image.fill_value),
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "dimension_names": list(image.axes),
        "storage_transformers": [],
        "attributes": {},
    }


def _multiscale(image: Image) -> Json:
    return {
        "name": image.name,
        "axes": [
            {"name": name, "type": _AXIS_TYPES[name]} | ({"unit": unit} if unit else {})
            for name, unit in image.units.items()
        ],
        "datasets": [
            {
                "path": str(level.index),
                "coordinateTransformations": [
                    {"type": "scale", "scale": list(level.scale)},
                    {"type": "translation", "translation": list(level.translation)},
                ],
            }
            for level in image.levels
        ],
        "type": image.downsampling,
    }


def _omero_channel(channel: Channel, dtype: np.dtype[Any]) -> Json:
    """`window` is not optional there: what was left open spans the pixel type."""
    low, high = (0.0, 1.0)
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype.name)
        low, high = float(bounds.min), float(bounds.max)
    elif channel.window is not None:
        low, high = channel.window
    start, end = channel.window or (low, high)
    window = {"min": low, "max": high, "start": start, "end": end}
    label = {"label": channel.label} if channel.label else {}
    return {"color": channel.color, "window": window, "active": True, **label}


def _fill_value(value: float) -> int | float | str:
    """JSON has no number for these; Zarr has words."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value
