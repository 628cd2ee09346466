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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from pydantic import ValidationError

from ziggurat_engine.errors import InvalidArgument, NotFound
from ziggurat_engine.foreign.guard import MAX_SHARD_CHUNKS, check_codecs, codecs_of
from ziggurat_engine.foreign.multiscale import METHODS, Place, channels_of, method_of, placed
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
from ziggurat_engine.pyramid import fits, found_factor
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import (
    Adopted,
    AdoptedLevel,
    Axis,
    DTypeName,
    Image,
    ImageSpec,
    Layout,
    LayoutRequest,
)
from ziggurat_engine.store import omezarr
from ziggurat_engine.store.adopted import layout_of

# A read decodes whole chunks.
MAX_CHUNK_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class _Found:
    """What lies at `path`: places and factors of each level; method: "" where none is said."""

    path: Path
    source: Source
    axes: tuple[Axis, ...]
    places: tuple[Place, ...]
    factors: tuple[Shape, ...]
    method: str

    @property
    def first(self) -> ZarrArray:
        return self.source.levels[0]


def image_at(path: Path, name: str, *, writable: bool = False, method: str = "") -> Image:
    """The image that the OME-Zarr group at `path`, a real path, becomes under `name`.

    method: how levels are made of what is written; "": as the group says. Nothing is
    changed. InvalidArgument, NotFound and UnsupportedVersion name the field and the value
    that can't be; OSError.
    """
    name = check_name(name)
    try:
        found = _found(path)
        method = method or found.method
        if writable:
            _check_writable(found, method)
        spec = _spec(found, name, method)
    except ValidationError as error:
        raise InvalidArgument(f"path {path}: {_said(error)}", field="path") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(
            f"path {path}: its metadata is not that of an OME-Zarr: {error!r}", field="path"
        ) from error
    adopted = _adopted(found, writable=writable, method=method)
    if not writable:
        return Image(
            **{
                field: getattr(spec, field)
                for field in type(spec).model_fields
                if field != "layout"
            },
            layout=Layout(
                chunk_shape=found.first.chunk,
                shard_chunks=_shard_chunks(found.first),
                codec=spec.layout.codec,
                factors=found.factors[1:],
            ),
            uid=uuid.uuid4().hex,
            created=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
            adopted=adopted,
        )
    try:
        return resolve(spec).model_copy(update={"adopted": adopted})
    except InvalidArgument as error:
        raise InvalidArgument(f"--writable: {error.message}", field="writable") from None


def _found(path: Path) -> _Found:
    source = _source(path)
    multiscale = source.multiscales or {}
    named = [axis["name"] for axis in multiscale["axes"]]
    _check_arrays(path, source, named)
    count = len(source.levels)
    places = tuple(placed(path, multiscale, k, len(named)) for k in range(count))
    sizes, units = source.levels[0].shape, [axis.get("unit") for axis in multiscale["axes"]]
    return _Found(
        path=path,
        source=source,
        axes=tuple(
            Axis(name=name, size=size, scale=scale, unit=str(unit or ""))
            for name, size, scale, unit in zip(named, sizes, places[0].scale, units, strict=True)
        ),
        places=places,
        factors=tuple(_factors(source.levels, places, k) for k in range(count)),
        method=method_of(multiscale, is_label=source.is_label),
    )


def _spec(found: _Found, name: str, method: str) -> ImageSpec:
    """What CreateImage would have to ask for, to get such an image."""
    first, axes = found.first, [axis.name for axis in found.axes]
    values: dict[str, Any] = {
        "name": name,
        "axes": found.axes,
        "data_type": pixel_type(first.dtype).name,
        "fill_value": fill_of(first).item(),
        "kind": "labels" if found.source.is_label else "image",
        "channels": channels_of(found.source.attributes, axes, first.shape),
        "layout": LayoutRequest(
            chunk_shape=first.chunk,
            shard_chunks=_shard_chunks(first),
            codec=first.coding.writes,
            level_count=len(found.factors),
            factors=found.factors[1:],
        ),
    }
    return ImageSpec.model_validate(values | ({"downsampling": method} if method else {}))


def _adopted(found: _Found, *, writable: bool, method: str) -> Adopted:
    levels = zip(found.source.paths, found.source.levels, found.factors, found.places, strict=True)
    return Adopted(
        path=str(found.path),
        document=_document(found.source),
        writable=writable,
        codec_known=found.first.coding.reads is not None,
        method_known=bool(method),
        levels=tuple(
            AdoptedLevel(
                path=path,
                shape=array.shape,
                chunk_shape=array.chunk,
                shard_shape=array.cell,
                key_prefix=array.keys.prefix,
                key_separator=array.keys.separator,
                layout=layout_of((array.path / _array_document(found.source)).read_bytes()),
                factors=factors,
                scale=place.scale,
                translation=place.translation,
            )
            for path, array, factors, place in levels
        ),
    )


def _document(source: Source) -> str:
    return "zarr.json" if source.version == 3 else ".zgroup"


def _array_document(source: Source) -> str:
    return "zarr.json" if source.version == 3 else ".zarray"


def _shard_chunks(array: ZarrArray) -> Shape:
    return tuple(s // c for s, c in zip(array.cell, array.chunk, strict=True))


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
        if kind_of(path / level) != "array":
            raise NotFound(f"path {path}: level {level!r}, which it names, is not there")
    return source


def _check_arrays(path: Path, source: Source, axes: Sequence[str]) -> None:
    arrays = source.levels
    ordered = sorted(set(axes) & set("tczyx"), key="tczyx".index) == list(axes)
    if not (ordered and 2 <= len(axes) <= 5 and list(axes[-2:]) == ["y", "x"]):
        raise InvalidArgument(
            f"path {path}: axes {', '.join(axes) or 'unknown'}; images have 2 to 5"
            " of t, c, z, y, x, in this order, y and x among them",
            field="path",
        )
    for k, array in enumerate(arrays):
        wrong = _unserved(array, arrays[0], axes)
        if wrong:
            raise InvalidArgument(f"path {path}: level {k}: {wrong}", field="path")
        if array.coding.reads is None:
            check_codecs(codecs_of(array), array.path)


def _unserved(array: ZarrArray, first: ZarrArray, axes: Sequence[str]) -> str:
    """Why an array can't be a level of an image; "" where it can."""
    dtype, nbytes = pixel_type(array.dtype), math.prod(array.chunk) * array.dtype.itemsize
    cases = {
        f"pixels of type {array.dtype} can't be served": dtype.name not in get_args(DTypeName),
        f"its pixels are {array.dtype}, those of level 0 {first.dtype}": array.dtype != first.dtype,
        f"shape {_text(array.shape)} for the axes {', '.join(axes)}": len(array.shape) != len(axes),
        f"it is empty, {_text(array.shape)}": min(array.shape, default=0) < 1,
        f"its chunks are {nbytes} bytes, more than {MAX_CHUNK_BYTES}": nbytes > MAX_CHUNK_BYTES,
        f"its shards have more than {MAX_SHARD_CHUNKS} chunks": (
            math.prod(_shard_chunks(array)) > MAX_SHARD_CHUNKS
        ),
    }
    return next((what for what, wrong in cases.items() if wrong), "")


def _check_writable(found: _Found, method: str) -> None:
    path, source = found.path, found.source
    _check_own(path)
    for k, array in enumerate(source.levels):
        for directory in (array.path, array.path / "c"):
            if directory.exists():
                _check_plain(path, directory)
        wrong = _foreign(array) or _unlike(array, found.first)
        if k and not wrong:
            wrong = _unbinned(array.shape, source.levels[k - 1].shape, found.factors[k])
        if wrong:
            raise InvalidArgument(
                f"--writable: level {k} ({source.paths[k]}) of {path}: {wrong}", field="writable"
            )
    for place in (path, path / _document(source), *(array.path for array in source.levels)):
        if not os.access(place, os.W_OK):
            raise InvalidArgument(f"--writable: {place} may not be written to", field="writable")
    if not method and len(source.levels) > 1:
        raise InvalidArgument(
            f"--method: {path} does not say how its levels were made; one of"
            f" {', '.join(METHODS)} is needed to write to it",
            field="method",
        )


def _check_own(path: Path) -> None:
    """Refuses what another server may be writing to."""
    for above in path.parents:
        if (above / "lock").is_file() and (above / "state.sqlite").is_file():
            raise InvalidArgument(
                f"--writable: {path} lies in {above}, the data directory of a server",
                field="writable",
            )
    if omezarr.ATTRIBUTE in group_attributes(path)[1]:
        raise InvalidArgument(
            f"--writable: {path} has the attribute {omezarr.ATTRIBUTE!r}: a server made it, and"
            " may write to it",
            field="writable",
        )


def _check_plain(group: Path, directory: Path) -> None:
    """Refuses what is replaced only elsewhere: behind links, and on other file systems."""
    real = os.path.realpath(directory)
    if real != str(directory):
        raise InvalidArgument(
            f"--writable: {directory} is a link, to {real}, which is not written to",
            field="writable",
        )
    if os.stat(directory).st_dev != os.stat(group).st_dev:
        raise InvalidArgument(
            f"--writable: {directory} is on another file system than {group}: objects can't be"
            " renamed into it",
            field="writable",
        )


def _foreign(array: ZarrArray) -> str:
    """Why the engine can't write to such an array; "" where it can."""
    coding = array.coding
    if array.sharded and not array.indexed:
        return "the index of its shards is not little-endian with a CRC-32C at the end"
    if coding.reads is None or coding.big_endian or coding.fortran:
        return (
            "its chunks are coded in a way that is read, not written; Blosc, zstd, gzip or none"
            " are, of little-endian pixels in C order"
        )
    if array.sharded and array.cell == array.chunk:
        # The engine takes an object of one chunk for the chunk itself.
        return f"its shards, {_text(array.cell)}, have one chunk each"
    return "its pixels are bool" if array.dtype == np.bool_ else ""


def _unlike(array: ZarrArray, first: ZarrArray) -> str:
    """Why a level can't be written to as level 0 is; "" where it can."""
    if array.fill_value is None or fill_of(array).tobytes() != fill_of(first).tobytes():
        return f"its fill value is {array.fill_value}, that of level 0 {first.fill_value}"
    if (array.chunk, array.cell) != (first.chunk, first.cell):
        return (
            f"chunks {_text(array.chunk)} in shards {_text(array.cell)} are not those of level"
            f" 0, {_text(first.chunk)} in {_text(first.cell)}"
        )
    if type(array.coding.reads) is not type(first.coding.reads):
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


def _factors(arrays: Sequence[ZarrArray], places: Sequence[Place], level: int) -> Shape:
    """From the level before: what scales say where shapes agree, else what shapes say."""
    if level == 0:
        return (1,) * len(arrays[0].shape)
    sizes = zip(arrays[level - 1].shape, arrays[level].shape, strict=True)
    scales = zip(places[level - 1].scale, places[level].scale, strict=True)
    factors = []
    for (n, m), (below, above) in zip(sizes, scales, strict=True):
        ratio = above / below
        f = max(1, round(ratio))
        agreed = abs(ratio - f) < 1e-6 * f and fits(n, m, f)
        # One pixel stays one whatever the factor.
        factors.append(1 if n == 1 else f if agreed else found_factor(n, m))
    return tuple(factors)


def _said(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
