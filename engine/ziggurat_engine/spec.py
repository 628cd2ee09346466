"""What does a client ask for when it creates an image, and what does it then get?

ImageSpec is the request, Image the answer: the same words, with every choice of
layout made. Both check themselves field by field; what takes several fields
together is checked in layout.py. Image is kept as JSON in the image's metadata.
"""

from __future__ import annotations

import datetime
import math
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from ziggurat_engine.names import check_name
from ziggurat_engine.region import Shape

Array: TypeAlias = NDArray[np.generic]
"""Pixels in C order; dtype native, shape in axis order."""

AxisName: TypeAlias = Literal["t", "c", "z", "y", "x"]
DTypeName: TypeAlias = Literal[
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float32",
    "float64",
]
Downsampling: TypeAlias = Literal["mean", "median", "mode", "min", "max", "stride", "gaussian"]
Kind: TypeAlias = Literal["image", "labels"]
Extent: TypeAlias = Annotated[int, Field(ge=1, le=2**40)]
Extents: TypeAlias = tuple[Extent, ...]

SPATIAL = frozenset("zyx")
MAX_IMAGE_BYTES = 2**62
# What they make of labels 2 and 4 is another label, 3.
NOT_FOR_LABELS = frozenset(("mean", "median", "gaussian"))
WHY_NOT_FOR_LABELS = "makes labels that nothing has; mode, min, max and stride do not"


class Model(BaseModel):
    """A frozen value that refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Axis(Model):
    """One axis: its size in pixels at level 0 and the pixel distance in `unit`.

    unbounded: it grows as regions come; `size` is where it begins, or how far it is stored.
    """

    name: AxisName
    unbounded: bool = False
    size: Annotated[int, Field(ge=0, le=2**40)]
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    unit: Annotated[str, Field(max_length=64)] = ""

    @field_validator("unbounded")
    @classmethod
    def _only_t(cls, unbounded: bool, known: ValidationInfo) -> bool:
        if unbounded and known.data.get("name") != "t":
            raise ValueError("only axis t may be")
        return unbounded

    @field_validator("size")
    @classmethod
    def _not_empty(cls, size: int, known: ValidationInfo) -> int:
        if not size and not known.data.get("unbounded"):
            raise ValueError("must be at least 1")
        return size


class Channel(Model):
    """How a channel is shown; `window` is (start, end) in pixel values."""

    label: Annotated[str, Field(max_length=256)] = ""
    color: Annotated[str, Field(pattern="^[0-9A-Fa-f]{6}$")] = "FFFFFF"
    window: tuple[float, float] | None = None

    @field_validator("window")
    @classmethod
    def _ordered(cls, window: tuple[float, float] | None) -> tuple[float, float] | None:
        if window is not None and not (
            math.isfinite(window[0]) and math.isfinite(window[1]) and window[0] < window[1]
        ):
            raise ValueError(f"start must be below end and both finite, got {window}")
        return window


class Blosc(Model):
    """A Blosc1 frame a chunk."""

    kind: Literal["blosc"] = "blosc"
    compressor: Literal["zstd", "lz4"] = "zstd"
    level: Annotated[int, Field(ge=0, le=9)] = 1
    shuffle: Literal["none", "byte", "bit"] = "bit"


class Zstd(Model):
    """One zstd frame a chunk."""

    kind: Literal["zstd"] = "zstd"
    level: Annotated[int, Field(ge=-131072, le=22)] = 1


class Gzip(Model):
    """One gzip member a chunk."""

    kind: Literal["gzip"] = "gzip"
    level: Annotated[int, Field(ge=0, le=9)] = 5


class Uncompressed(Model):
    """The pixels as they are."""

    kind: Literal["none"] = "none"


Codec: TypeAlias = Annotated[Blosc | Zstd | Gzip | Uncompressed, Field(discriminator="kind")]


class LayoutRequest(Model):
    """The layout asked for; None, 0 and () leave the choice to `layout.resolve`.

    At most one of shard_chunks (in chunks), shard_shape (in pixels) and
    shard_bytes (raw) may be given.
    """

    chunk_shape: Extents | None = None
    shard_chunks: Extents | None = None
    shard_shape: Extents | None = None
    shard_bytes: Annotated[int, Field(ge=1, le=2**40)] | None = None
    codec: Codec = Blosc()
    level_count: Annotated[int, Field(ge=0, le=32)] = 0
    factors: Annotated[tuple[Extents, ...], Field(max_length=31)] = ()


class Layout(Model):
    """The layout an image has: `factors[k]` leads from level k to level k + 1."""

    chunk_shape: Extents
    shard_chunks: Extents
    codec: Codec
    factors: tuple[Extents, ...]

    @property
    def shard_shape(self) -> Shape:
        """Pixels of a shard along each axis."""
        return tuple(c * n for c, n in zip(self.chunk_shape, self.shard_chunks, strict=True))

    @property
    def sharded(self) -> bool:
        """False where every chunk is an object of its own."""
        return any(n > 1 for n in self.shard_chunks)


class _Described(Model):
    name: str
    axes: Annotated[tuple[Axis, ...], Field(min_length=2, max_length=5)]
    data_type: DTypeName
    fill_value: int | float = 0
    channels: tuple[Channel, ...] = ()
    kind: Kind = "image"
    labels_of: str | None = None
    downsampling: Downsampling = "mean"
    pyramid: Literal["live", "deferred"] = "live"

    @model_validator(mode="before")
    @classmethod
    def _default_of_labels(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("kind") == "labels":
            return {"downsampling": "mode", **values}
        return values

    @field_validator("name")
    @classmethod
    def _safe(cls, name: str) -> str:
        return check_name(name)

    @field_validator("axes")
    @classmethod
    def _in_order(cls, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        names = "".join(axis.name for axis in axes)
        if sorted(names, key="tczyx".index) != list(names) or len(set(names)) < len(names):
            raise ValueError(f"must be a subsequence of t, c, z, y, x, got {', '.join(names)}")
        if not names.endswith("yx"):
            raise ValueError(f"must end with y, x, got {', '.join(names)}")
        return axes

    @model_validator(mode="after")
    def _fits(self) -> _Described:
        nbytes = math.prod(max(1, n) for n in self.shape) * self.dtype.itemsize
        if nbytes > MAX_IMAGE_BYTES:
            raise ValueError(f"axes: {nbytes} bytes are more than {MAX_IMAGE_BYTES}")
        _check_fill(self.fill_value, self.dtype)
        if self.labels_of is not None and self.kind != "labels":
            raise ValueError("labels_of: only labels belong to an image; kind is not labels")
        if self.kind == "labels":
            if self.dtype.kind == "f":
                raise ValueError(f"data_type: labels are integers, not {self.data_type}")
            if self.downsampling in NOT_FOR_LABELS:
                raise ValueError(f"downsampling: {self.downsampling} {WHY_NOT_FOR_LABELS}")
        channels = [axis.size for axis in self.axes if axis.name == "c"]
        if self.channels and [len(self.channels)] != channels:
            raise ValueError(
                f"channels: {len(self.channels)} given for "
                + (f"{channels[0]} pixels along c" if channels else "an image without axis c")
            )
        return self

    @property
    def shape(self) -> Shape:
        """Pixels of level 0 along each axis."""
        return tuple(axis.size for axis in self.axes)

    @property
    def unbounded(self) -> bool:
        """True where the image grows along its first axis, t."""
        return self.axes[0].unbounded

    @property
    def limits(self) -> Shape:
        """How far regions of level 0 may reach along each axis."""
        if not self.unbounded:
            return self.shape
        plane = self.shape[1:]
        return (min(2**40, MAX_IMAGE_BYTES // (math.prod(plane) * self.dtype.itemsize)), *plane)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The pixel type in the machine's byte order."""
        return np.dtype(self.data_type)


def _check_fill(value: float, dtype: np.dtype[np.generic]) -> None:
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            if np.isinf(dtype.type(value)) and not math.isinf(value):
                raise ValueError(f"fill_value: {value!r} is not a {dtype.name}")
        return
    bounds = np.iinfo(dtype.name)
    if not math.isfinite(value) or value != int(value) or not bounds.min <= value <= bounds.max:
        raise ValueError(f"fill_value: {value!r} is not a {dtype.name}")


class AdoptedLevel(Model):
    """A level as others laid it out: the array at `path` below the group.

    chunk_shape, shard_shape: in pixels; the same where there is no sharding. key_prefix,
    key_separator: how its objects are named. layout: a digest of all that says how its
    chunks lie. factors: from the level before; whole numbers
    next to what they are where the image is read-only. scale, translation: as the group says.
    """

    path: str
    shape: Extents
    chunk_shape: Extents
    shard_shape: Extents
    key_prefix: str
    key_separator: str
    layout: str
    factors: Extents
    scale: tuple[float, ...]
    translation: tuple[float, ...]


class Adopted(Model):
    """Where the levels of an adopted image lie: `path` is the directory of its group.

    document: the file below `path` that makes a group of it. codec_known, method_known:
    False where `layout.codec` and `downsampling` of the image do not say what was done.
    """

    path: str
    document: str
    writable: bool
    codec_known: bool
    method_known: bool
    levels: tuple[AdoptedLevel, ...]


class ImageSpec(_Described):
    """What CreateImage asks for; with `labels_of`, `name` is one segment (see labels.py)."""

    layout: LayoutRequest = LayoutRequest()


class Image(_Described):
    """An image as it is: every choice made.

    uid: 32 hexadecimal digits; no other image ever has the same. created: in UTC. adopted:
    others made it, and its levels lie where they are; `layout` is then that of level 0.
    first_array: names the array of level 1, those of the levels above follow; grows with
    each change of method, so that a name never comes to hold what another method made.
    """

    uid: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    layout: Layout
    created: datetime.datetime
    adopted: Adopted | None = None
    first_array: Annotated[int, Field(ge=1)] = 1

    @property
    def read_only(self) -> bool:
        """True where nothing is ever written to its levels."""
        return self.adopted is not None and not self.adopted.writable

    def array_name(self, level: int) -> str:
        """The array of `level` in the image's group."""
        return "0" if level == 0 else str(self.first_array + level - 1)
