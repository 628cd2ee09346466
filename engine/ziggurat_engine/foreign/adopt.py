"""Which image is it that lies at a path, in the engine's words, and may it be written to?

Everything comes from the group's metadata: axes, units, channels, and scale and translation
of each level, those of the multiscale applied after those of the dataset. What the engine
can read it serves as it lies; chunks may differ from level to level, and factors need not
be whole numbers.

What is to be written to has to be laid out as images of the engine are: one chunk, shard
and codec for all levels, factors that leave ceil(n / f) pixels and divide the chunk, and a
downsampling method that is known.
"""

from __future__ import annotations

import datetime
import math
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from pydantic import ValidationError

from ziggurat_engine.errors import InvalidArgument, NotFound
from ziggurat_engine.foreign.multiscale import METHODS, channels_of, method_of, placed
from ziggurat_engine.foreign.reader import fill_of, pixel_type
from ziggurat_engine.foreign.source import (
    Source,
    ZarrArray,
    group_attributes,
    images,
    kind_of,
    open_source,
)
from ziggurat_engine.layout import resolve
from ziggurat_engine.names import check_name
from ziggurat_engine.pyramid import found_factor
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import (
    Adopted,
    AdoptedLevel,
    DTypeName,
    Image,
    ImageSpec,
    Layout,
    LayoutRequest,
)

# A read decodes whole chunks.
MAX_CHUNK_BYTES = 512 * 2**20


def image_at(path: Path, name: str, *, writable: bool = False, method: str = "") -> Image:
    """The image that the OME-Zarr group at `path`, a real path, becomes under `name`.

    method: how levels are made of what is written; "": as the group says. Nothing is
    changed. InvalidArgument, NotFound and UnsupportedVersion name the field and the value
    that can't be; OSError.
    """
    name = check_name(name)
    source = _source(path)
    arrays = source.levels
    missing = [p for p in source.paths if kind_of(path / p) != "array"]
    if missing:
        raise NotFound(f"path {path}: level {missing[0]}, which it names, is not there")
    multiscale = source.multiscales or {}
    axes = [str(axis.get("name")) for axis in multiscale.get("axes", [])]
    _check_arrays(path, arrays, axes)
    places = [placed(path, multiscale, k, len(axes)) for k in range(len(arrays))]
    factors = [_factors(arrays, places, k) for k in range(len(arrays))]
    values: dict[str, Any] = {
        "name": name,
        "axes": [
            {
                "name": axis,
                "size": size,
                "scale": scale,
                "unit": str(said.get("unit") or ""),
            }
            for axis, size, scale, said in zip(
                axes, arrays[0].shape, places[0][0], multiscale["axes"], strict=True
            )
        ],
        "data_type": pixel_type(arrays[0].dtype).name,
        "fill_value": fill_of(arrays[0]).item(),
        "kind": "labels" if source.is_label else "image",
        "channels": channels_of(source.attributes, axes, arrays[0].shape),
    }
    said = method_of(multiscale, source.is_label)
    if writable:
        _check_writable(path, source, factors)
        if not (method or said or len(arrays) == 1):
            raise InvalidArgument(
                f"--method: {path} does not say how its levels were made; one of"
                f" {', '.join(METHODS)} is needed to write to it",
                field="method",
            )
    if chosen := method or said:
        values["downsampling"] = chosen
    first = arrays[0]
    layout = LayoutRequest(
        chunk_shape=first.chunk,
        shard_chunks=tuple(s // c for s, c in zip(first.cell, first.chunk, strict=True)),
        codec=first.coding.writes,
        level_count=len(arrays),
        factors=tuple(factors[1:]),
    )
    try:
        spec = ImageSpec.model_validate({**values, "layout": layout})
    except ValidationError as error:
        raise InvalidArgument(f"path {path}: {_said(error)}", field="path") from None
    adopted = Adopted(
        path=str(path),
        document="zarr.json" if source.version == 3 else ".zgroup",
        writable=writable,
        codec_known=first.coding.reads is not None,
        method_known=bool(method or said),
        levels=tuple(
            AdoptedLevel(
                path=source.paths[k].strip("/"),
                shape=array.shape,
                chunk_shape=array.chunk,
                shard_shape=array.cell,
                key_prefix=array.keys.prefix,
                key_separator=array.keys.separator,
                factors=factors[k],
                scale=places[k][0],
                translation=places[k][1],
            )
            for k, array in enumerate(arrays)
        ),
    )
    if writable:
        try:
            image = resolve(spec)
        except InvalidArgument as error:
            raise InvalidArgument(f"--writable: {error.message}", field="writable") from None
        return image.model_copy(update={"adopted": adopted})
    return Image(
        **{field: getattr(spec, field) for field in type(spec).model_fields if field != "layout"},
        layout=Layout(
            chunk_shape=first.chunk,
            shard_chunks=layout.shard_chunks or (),
            codec=layout.codec,
            factors=layout.factors,
        ),
        uid=uuid.uuid4().hex,
        created=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        adopted=adopted,
    )


def _source(path: Path) -> Source:
    if not path.is_dir():
        raise NotFound(f"path {path}: no such directory")
    kind = kind_of(path)
    if kind != "group":
        what = "an array" if kind == "array" else "not a Zarr group"
        raise InvalidArgument(
            f"path {path}: {what}; an OME-Zarr image is a group with multiscales", field="path"
        )
    version, attributes = group_attributes(path)
    if not (attributes.get("ome", attributes) if version == 3 else attributes).get("multiscales"):
        if kind_of(path / "0") == "array":
            raise InvalidArgument(
                f"path {path}: a group of arrays without multiscales, which"
                " `ziggurat-engine build` adds",
                field="path",
            )
        inner = next(images(path), None)
        hint = f", but there is {inner}: each is adopted on its own" if inner is not None else ""
        raise NotFound(f"path {path}: no image itself{hint}")
    source = open_source(path)
    for level in source.paths:
        if any(segment in ("", ".", "..") for segment in level.strip("/").split("/")):
            raise InvalidArgument(f"path {path}: level {level!r} is not below it", field="path")
    return source


def _check_arrays(path: Path, arrays: Sequence[ZarrArray], axes: Sequence[str]) -> None:
    ordered = sorted(set(axes) & set("tczyx"), key="tczyx".index) == list(axes)
    if not (ordered and 2 <= len(axes) <= 5 and list(axes[-2:]) == ["y", "x"]):
        raise InvalidArgument(
            f"path {path}: axes {', '.join(axes) or 'unknown'}; images have 2 to 5"
            " of t, c, z, y, x, in this order, y and x among them",
            field="path",
        )
    for k, array in enumerate(arrays):
        dtype, nbytes = pixel_type(array.dtype), math.prod(array.chunk) * array.dtype.itemsize
        wrong = ""
        if dtype.name not in get_args(DTypeName):
            wrong = f"pixels of type {array.dtype} can't be served"
        elif array.dtype != arrays[0].dtype:
            wrong = f"its pixels are {array.dtype}, those of level 0 {arrays[0].dtype}"
        elif len(array.shape) != len(axes):
            wrong = f"shape {_text(array.shape)} for the axes {', '.join(axes)}"
        elif min(array.shape) < 1:
            wrong = f"it is empty, {_text(array.shape)}"
        elif nbytes > MAX_CHUNK_BYTES:
            wrong = f"its chunks are {nbytes} bytes, more than {MAX_CHUNK_BYTES}"
        if wrong:
            raise InvalidArgument(f"path {path}: level {k}: {wrong}", field="path")


def _check_writable(path: Path, source: Source, factors: Sequence[Shape]) -> None:
    for k, array in enumerate(source.levels):
        wrong = _unlike(array, source.levels[0]) or (
            _unbinned(array.shape, source.levels[k - 1].shape, factors[k]) if k else ""
        )
        if wrong:
            raise InvalidArgument(
                f"--writable: level {k} ({source.paths[k]}) of {path}: {wrong}", field="writable"
            )
    document = path / ("zarr.json" if source.version == 3 else ".zgroup")
    for place in (path, document, *(array.path for array in source.levels)):
        if not os.access(place, os.W_OK):
            raise InvalidArgument(f"--writable: {place} may not be written to", field="writable")


def _unlike(array: ZarrArray, first: ZarrArray) -> str:
    """Why the engine can't write to a level, as it does to all levels alike; "" where it can."""
    coding = array.coding
    if coding.reads is None or coding.big_endian or coding.fortran:
        return (
            "its chunks are coded in a way that is read, not written; Blosc, zstd, gzip or none"
            " are, of little-endian pixels in C order"
        )
    if array.dtype == np.bool_:
        return "its pixels are bool"
    if array.fill_value is None or fill_of(array).tobytes() != fill_of(first).tobytes():
        return f"its fill value is {array.fill_value}, that of level 0 {first.fill_value}"
    if (array.chunk, array.cell) != (first.chunk, first.cell):
        return (
            f"chunks {_text(array.chunk)} in shards {_text(array.cell)} are not those of level"
            f" 0, {_text(first.chunk)} in {_text(first.cell)}"
        )
    if type(coding.reads) is not type(first.coding.reads):
        return "its codec is not that of level 0"
    return ""


def _unbinned(shape: Shape, below: Shape, factors: Shape) -> str:
    """Why `shape` is not `below` binned by whole factors; "" where it is."""
    if shape == tuple(-(-n // f) for n, f in zip(below, factors, strict=True)):
        return ""
    ratio = "x".join(f"{n / m:.4g}" for n, m in zip(below, shape, strict=True))
    return (
        f"its shape {_text(shape)} is not that of the level before, {_text(below)}, by whole"
        f" factors and rounded up: they are {ratio}"
    )


def _factors(
    arrays: Sequence[ZarrArray],
    placed: Sequence[tuple[tuple[float, ...], tuple[float, ...]]],
    level: int,
) -> Shape:
    """From the level before: what scales say where shapes agree, else what shapes say."""
    if level == 0:
        return (1,) * len(arrays[0].shape)
    factors = []
    for n, m, s, t in zip(
        arrays[level - 1].shape,
        arrays[level].shape,
        placed[level - 1][0],
        placed[level][0],
        strict=True,
    ):
        f = max(1, round(t / s))
        agreed = abs(t / s - f) < 1e-6 * f and -(-n // f) == m
        # One pixel stays one whatever the factor.
        factors.append(1 if n == 1 else f if agreed else found_factor(n, m))
    return tuple(factors)


def _said(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
