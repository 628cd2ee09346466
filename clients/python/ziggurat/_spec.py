"""What does `Client.create` ask the server for?

Turns the arguments a microscopist gives into an ImageSpec, and checks what can be
checked without the server: each value for itself, and that lengths fit the axes. What
only the server knows (names that exist, its limits, which layouts it builds) is left
to it. Every complaint is an InvalidArgument that names the argument.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from ziggurat_proto.v1 import image_pb2

from ziggurat._errors import InvalidArgument
from ziggurat._values import Blosc, Channel, Codec, Gzip, Uncompressed, Zstd

AXES = "tczyx"
SPATIAL = frozenset("zyx")
DTYPES = (
    *("uint8", "uint16", "uint32", "uint64"),
    *("int8", "int16", "int32", "int64"),
    *("float32", "float64"),
)
MAX_SIZE = 2**40

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{p}b": 1000**k for k, p in enumerate("kmgt", 1)}
_UNITS |= {f"{p}ib": 1024**k for k, p in enumerate("kmgt", 1)}


def image_spec(
    name: str,
    *,
    axes: Iterable[str],
    shape: Sequence[int],
    dtype: DTypeLike,
    voxel_size: Mapping[str, float] | Sequence[float] | None,
    unit: str | Mapping[str, str] | None,
    channels: Iterable[Channel | str] | None,
    fill_value: float,
    kind: str,
    labels_of: str | None,
    downsampling: str | None,
    pyramid: str,
    unbounded: bool,
    layout: image_pb2.LayoutRequest,
) -> image_pb2.ImageSpec:
    """The request; the arguments are those of `Client.create`."""
    names = _axes(axes)
    if unbounded and not names.startswith("t"):
        raise _bad("unbounded", f"is for axis t, which the image ({names}) does not have")
    sizes = _sizes("shape", shape, names, least=[0] if unbounded else [])
    scales = _scales(voxel_size, names)
    units = _units(unit, names, scales)
    pixel = data_type(dtype)
    described = _channels(channels, dict(zip(names, sizes, strict=True)))
    return image_pb2.ImageSpec(
        name=_text("name", name),
        axes=[
            image_pb2.Axis(
                name=a,
                size=n,
                scale=scales.get(a),
                unit=units.get(a, ""),
                unbounded=unbounded and a == "t",
            )
            for a, n in zip(names, sizes, strict=True)
        ],
        data_type=f"DATA_TYPE_{pixel.name.upper()}",
        fill_value=_fill(fill_value, pixel),
        channels=described,
        pyramid=_member("pyramid", pyramid, image_pb2.PyramidMode, "PYRAMID_MODE_"),
        kind=_member("kind", kind, image_pb2.ImageKind, "IMAGE_KIND_"),
        labels_of=None if labels_of is None else _text("labels_of", labels_of),
        downsampling=None if downsampling is None else method_of("downsampling", downsampling),
        layout=layout,
    )


def layout_request(
    axes: Iterable[str],
    *,
    chunk_shape: Sequence[int] | None,
    shard_chunks: Sequence[int] | None,
    shard_shape: Sequence[int] | None,
    shard: str | int | None,
    codec: Codec | str | None,
    levels: int | None,
    factors: Sequence[Sequence[int]] | None,
) -> image_pb2.LayoutRequest:
    """The layout asked for; the arguments are those of `Client.create`."""
    names = _axes(axes)
    given = {"shard_chunks": shard_chunks, "shard_shape": shard_shape, "shard": shard}
    both = [name for name, value in given.items() if value is not None]
    if len(both) > 1:
        raise _bad(both[1], f"given together with {both[0]}: only one of them may be")
    request = image_pb2.LayoutRequest(codec=_codec(codec))
    if chunk_shape is not None:
        request.chunk_shape.sizes[:] = _sizes("chunk_shape", chunk_shape, names)
    if shard_chunks is not None:
        request.shard_chunks.sizes[:] = _sizes("shard_chunks", shard_chunks, names)
    if shard_shape is not None:
        request.shard_shape.sizes[:] = _sizes("shard_shape", shard_shape, names)
    if shard is not None:
        request.shard_bytes = parse_bytes("shard", shard)
    if levels is not None:
        request.level_count = _integer("levels", levels, 1, 32)
    for k, step in enumerate(factors or ()):
        request.factors.add().sizes[:] = _sizes(f"factors[{k}]", step, names)
    return request


def data_type(dtype: DTypeLike) -> np.dtype[Any]:
    """`dtype` in the machine's byte order. Raises InvalidArgument for what no image holds."""
    try:
        kind = np.dtype(dtype)
    except TypeError:
        raise _bad("dtype", f"must be one of {', '.join(DTYPES)}, got {dtype!r}") from None
    if dtype is None or kind.name not in DTYPES:
        raise _bad("dtype", f"must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return np.dtype(kind.name)


def parse_bytes(field: str, size: str | int) -> int:
    """A number of bytes: 512, "512MiB", "1.5 GB". Raises InvalidArgument, naming `field`."""
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", size)
        if found is None or found[2].lower() not in _UNITS:
            raise _bad(field, f'must be a size such as "512MiB" or "1GB", got {size!r}')
        size = int(float(found[1]) * _UNITS[found[2].lower()])
    return _integer(field, size, 1, MAX_SIZE)


def parse_codec(text: str) -> Codec:
    """The codec that a word stands for: "blosc-lz4", "zstd:3", "none".

    blosc (zstd inside), blosc-zstd, blosc-lz4, zstd and gzip take a level after a
    colon. Raises InvalidArgument.
    """
    word, colon, digits = text.strip().lower().partition(":")
    known: dict[str, Codec] = {
        "blosc": Blosc(),
        "blosc-zstd": Blosc("zstd"),
        "blosc-lz4": Blosc("lz4"),
        "zstd": Zstd(),
        "gzip": Gzip(),
        "none": Uncompressed(),
    }
    if word not in known:
        raise _bad("codec", f"must be one of {', '.join(known)}, got {text!r}")
    codec = known[word]
    if not colon:
        return codec
    if isinstance(codec, Uncompressed) or not re.fullmatch(r"-?\d+", digits):
        raise _bad("codec", f'must look like "zstd" or "zstd:3", got {text!r}')
    if isinstance(codec, Blosc):
        return Blosc(codec.compressor, int(digits))
    return Zstd(int(digits)) if isinstance(codec, Zstd) else Gzip(int(digits))


def method_of(field: str, word: str) -> str:
    """The name of the Downsampling that `word` is written for; InvalidArgument names `field`."""
    return _member(field, word, image_pb2.Downsampling, "DOWNSAMPLING_")


def _member(field: str, word: str, enum: Any, prefix: str) -> str:
    """The name of an enum's member that `word` is written for."""
    words = [name.removeprefix(prefix).lower() for name in enum.keys()[1:]]
    if word not in words:
        raise _bad(field, f"must be one of {', '.join(words)}, got {word!r}")
    return f"{prefix}{word.upper()}"


def _axes(axes: Iterable[str]) -> str:
    if isinstance(axes, (str, Sequence)):
        names = "".join(map(str, axes))
        if (
            2 <= len(names) <= 5
            and sorted(set(names) & set(AXES), key=AXES.index) == list(names)
            and names.endswith("yx")
        ):
            return names
    raise _bad("axes", f'must be a part of "tczyx" in this order that ends with "yx", got {axes!r}')


def _sizes(field: str, sizes: Sequence[int], axes: str, *, least: Sequence[int] = ()) -> list[int]:
    """One number an axis. least: of the first axes; 1 for those it does not reach."""
    try:
        found = list(sizes)
    except TypeError:
        raise _bad(field, f"must be one number an axis, got {sizes!r}") from None
    if len(found) != len(axes):
        raise _bad(field, f"has {len(found)} numbers for the {len(axes)} axes {axes}: {sizes!r}")
    return [
        _integer(f"{field}[{i}]", n, low, MAX_SIZE)
        for i, (n, low) in enumerate(zip(found, [*least, *[1] * len(axes)], strict=False))
    ]


def _scales(
    voxel_size: Mapping[str, float] | Sequence[float] | None, axes: str
) -> dict[str, float]:
    if voxel_size is None:
        return {}
    if not isinstance(voxel_size, Mapping):
        if not isinstance(voxel_size, Iterable) or isinstance(voxel_size, (str, bytes)):
            raise _bad("voxel_size", f'must be like {{"z": 0.5, "y": 0.1}}, got {voxel_size!r}')
        sizes = list(voxel_size)
        if len(sizes) != len(axes):
            raise _bad("voxel_size", f"has {len(sizes)} numbers for the {len(axes)} axes {axes}")
        voxel_size = dict(zip(axes, sizes, strict=True))
    found = {}
    for axis, size in voxel_size.items():
        field = f"voxel_size[{axis!r}]"
        if axis not in tuple(axes):
            raise _bad(field, f"is for an axis that the image ({axes}) does not have")
        try:
            found[axis] = float(size)
        except (TypeError, ValueError):
            raise _bad(field, f"must be a number, got {size!r}") from None
        if not (math.isfinite(found[axis]) and found[axis] > 0):
            raise _bad(field, f"must be finite and above 0, got {size!r}")
    return found


def _units(
    unit: str | Mapping[str, str] | None, axes: str, scales: Mapping[str, float]
) -> dict[str, str]:
    if unit is None or isinstance(unit, str):
        units = dict.fromkeys([a for a in axes if a in SPATIAL], unit or "")
        # A time step that was given is in seconds unless something else is said.
        return units | ({"t": "second"} if "t" in scales else {})
    if not isinstance(unit, Mapping):
        raise _bad("unit", f'must be a name or like {{"t": "second"}}, got {unit!r}')
    for axis in unit:
        if axis not in tuple(axes):
            raise _bad(f"unit[{axis!r}]", f"is for an axis that the image ({axes}) does not have")
    return {axis: _text(f"unit[{axis!r}]", name, 64) for axis, name in unit.items()}


def _channels(
    channels: Iterable[Channel | str] | None, sizes: Mapping[str, int]
) -> list[image_pb2.Channel]:
    if channels is None:
        return []
    if isinstance(channels, (str, Channel)):
        raise _bad("channels", f"must be a list of Channel, got {channels!r}")
    found = []
    for k, channel in enumerate(channels):
        shown = Channel(channel) if isinstance(channel, str) else channel
        if not isinstance(shown, Channel):
            raise _bad(f"channels[{k}]", f"must be a Channel or a label, got {channel!r}")
        window = shown.window and image_pb2.Window(start=shown.window[0], end=shown.window[1])
        found.append(image_pb2.Channel(label=shown.label, color=shown.color, window=window))
    if found and len(found) != sizes.get("c"):
        has = f"{sizes['c']} pixels along c" if "c" in sizes else "an image without axis c"
        raise _bad("channels", f"are {len(found)} for {has}")
    return found


def _codec(codec: Codec | str | None) -> image_pb2.Codec | None:
    if codec == "auto":
        return None
    if codec is None:
        codec = Uncompressed()
    elif isinstance(codec, str):
        codec = parse_codec(codec)
    match codec:
        case Blosc():
            return image_pb2.Codec(
                blosc=image_pb2.Blosc(
                    compressor=f"BLOSC_COMPRESSOR_{codec.compressor.upper()}",
                    level=codec.level,
                    shuffle=f"SHUFFLE_{codec.shuffle.upper()}",
                )
            )
        case Zstd():
            return image_pb2.Codec(zstd=image_pb2.Zstd(level=codec.level))
        case Gzip():
            return image_pb2.Codec(gzip=image_pb2.Gzip(level=codec.level))
        case Uncompressed():
            return image_pb2.Codec(none=image_pb2.Uncompressed())
    raise _bad("codec", f"must be a codec or its name, got {codec!r}")


def _fill(value: object, dtype: np.dtype[Any]) -> image_pb2.Scalar:
    if dtype.kind == "f":
        try:
            return image_pb2.Scalar(real=float(value))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise _bad("fill_value", f"must be a number, got {value!r}") from None
    bounds = np.iinfo(dtype.name)
    number = _integer("fill_value", value, int(bounds.min), int(bounds.max))
    if dtype.kind == "u":
        return image_pb2.Scalar(unsigned_integer=number)
    return image_pb2.Scalar(signed_integer=number)


def _integer(field: str, value: object, low: int, high: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise _bad(field, f"must be a whole number, got {value!r}") from None
    if not low <= number <= high:
        raise _bad(field, f"must be {low} to {high}, got {number}")
    return number


def _text(field: str, value: object, limit: int = 4096) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise _bad(field, f"must be a text of at most {limit} characters, got {value!r}")
    return value


def _bad(field: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"{field} {what}", field=field)
