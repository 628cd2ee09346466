"""Which chunk, shard and levels does an image get?

What the client gave is checked; what it left open is chosen:

chunk    1 along t and c; along z, y and x powers of two of which the product is at
         most `chunk_target_bytes`, the longest side halved first, never more than
         twice the image's size; flatter where planes are so large that as many as a
         chunk is deep would not fit `working_set_bytes`. Where factors are asked for, the
         multiple of them next below, or above where there is none.
shard    whole planes first, then z, c and t, up to `shard_target_bytes` of raw
         pixels, so that frames that arrive in order fill shards in order.
levels   until the coarsest fits one chunk along z, y and x.
factors  2 along y and x, and along z while its voxel size is below twice that of
         y and x: anisotropic stacks become isotropic first. An axis of one pixel,
         or of a chunk that is odd along it, stays as it is.
"""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Sequence

import numpy as np

from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.grid import Grid
from ziggurat_engine.pyramid import Level, Pyramid
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import (
    NOT_FOR_LABELS,
    SPATIAL,
    WHY_NOT_FOR_LABELS,
    AdoptedLevel,
    Axis,
    Downsampling,
    Image,
    ImageSpec,
    Layout,
    LayoutRequest,
)

MAX_LEVELS = 32
MAX_FACTOR = 16
MAX_GAUSSIAN_FACTOR = 4
MAX_SHARD_CHUNKS = 2**20
# Along an unbounded t: a shard's index is written whole each time more of it is stored.
UNBOUNDED_SHARD_CHUNKS = 1024


def resolve(
    spec: ImageSpec,
    *,
    chunk_target_bytes: int = 2 * 2**20,
    shard_target_bytes: int = 256 * 2**20,
    max_chunk_bytes: int = 64 * 2**20,
    working_set_bytes: int = 2**30,
) -> Image:
    """The image that `spec` asks for, every choice made.

    working_set_bytes: what may be dirty while planes come in one after the other.
    Raises InvalidArgument, naming the field below `layout`, where the request
    contradicts itself or the image.
    """
    asked, itemsize = spec.layout, spec.dtype.itemsize
    chunk = _chunk(spec, asked, chunk_target_bytes // itemsize, working_set_bytes // itemsize)
    if math.prod(chunk) * itemsize > max_chunk_bytes:
        raise _bad(
            "chunk_shape",
            f"{_text(chunk)} is {math.prod(chunk) * itemsize} bytes,"
            f" more than max_chunk_bytes = {max_chunk_bytes}",
        )
    layout = Layout(
        chunk_shape=chunk,
        shard_chunks=_shard_chunks(spec, asked, chunk, min(shard_target_bytes, working_set_bytes)),
        codec=asked.codec,
        factors=_factors(spec.axes, asked, chunk),
    )
    _check_method(spec, layout.factors)
    return Image(
        **{name: getattr(spec, name) for name in type(spec).model_fields if name != "layout"},
        layout=layout,
        uid=uuid.uuid4().hex,
        created=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
    )


def remade(image: Image, method: Downsampling) -> Image:
    """`image` with levels that `method` makes.

    Raises InvalidArgument, with the field "method", where it can't make them of this image.
    """
    if image.kind == "labels" and method in NOT_FOR_LABELS:
        raise InvalidArgument(f"method: {method} {WHY_NOT_FOR_LABELS}", field="method")
    found = image.model_copy(update={"downsampling": method})
    try:
        _check_method(found, image.layout.factors)
    except InvalidArgument as error:
        raise InvalidArgument(f"method: {method}: {error.message}", field="method") from None
    return found


def pyramid_of(image: Image) -> Pyramid:
    """The levels of `image`; of an unbounded one as large as they can become.

    No level is binned along t, so that nothing else changes while the image grows.
    """
    if image.adopted is not None:
        return Pyramid(tuple(map(_adopted_level, image.adopted.levels)))
    layout = image.layout
    return Pyramid.build(
        image.limits,
        [axis.scale for axis in image.axes],
        layout.chunk_shape,
        layout.shard_shape,
        layout.factors,
    )


def _adopted_level(level: AdoptedLevel) -> Level:
    return Level(
        Grid(level.shape, level.chunk_shape),
        Grid(level.shape, level.shard_shape),
        level.factors,
        level.scale,
        level.translation,
    )


def _chunk(spec: ImageSpec, asked: LayoutRequest, target_pixels: int, working_pixels: int) -> Shape:
    if asked.chunk_shape is not None:
        _check_rank("chunk_shape", asked.chunk_shape, spec.axes)
        return asked.chunk_shape
    chunk = [1 << (axis.size - 1).bit_length() if axis.name in SPATIAL else 1 for axis in spec.axes]
    while math.prod(chunk) > max(1, target_pixels):
        chunk[chunk.index(max(chunk))] //= 2
    names = [axis.name for axis in spec.axes]
    if "z" in names:
        # A plane dirties every chunk that it crosses, to its whole depth.
        z, plane = names.index("z"), spec.shape[-1] * spec.shape[-2]
        while chunk[z] > 1 and plane * chunk[z] > working_pixels:
            chunk[z] //= 2
            chunk[-2 if chunk[-2] <= chunk[-1] else -1] *= 2
    return _divisible(tuple(chunk), asked.factors)


def _divisible(chunk: Shape, factors: Sequence[Shape]) -> Shape:
    """A chunk of about that shape that all of `factors` divide; what is wrong with them is left."""
    steps = [1] * len(chunk)
    for step in factors:
        if len(step) == len(chunk) and max(step) <= MAX_FACTOR:
            steps = [math.lcm(n, f) for n, f in zip(steps, step, strict=True)]
    return tuple(max(1, c // n) * n for c, n in zip(chunk, steps, strict=True))


def _shard_chunks(spec: ImageSpec, asked: LayoutRequest, chunk: Shape, target_bytes: int) -> Shape:
    given = [
        name
        for name in ("shard_chunks", "shard_shape", "shard_bytes")
        if getattr(asked, name) is not None
    ]
    if len(given) > 1:
        raise _bad(given[1], f"given together with {given[0]}: only one of them may be")
    if asked.shard_chunks is not None:
        _check_rank("shard_chunks", asked.shard_chunks, spec.axes)
        shard = asked.shard_chunks
    elif asked.shard_shape is not None:
        _check_rank("shard_shape", asked.shard_shape, spec.axes)
        if any(s % c for s, c in zip(asked.shard_shape, chunk, strict=True)):
            raise _bad(
                "shard_shape",
                f"{_text(asked.shard_shape)} is not a multiple of the chunk {_text(chunk)}",
            )
        shard = tuple(s // c for s, c in zip(asked.shard_shape, chunk, strict=True))
    else:
        nbytes = math.prod(chunk) * spec.dtype.itemsize
        if asked.shard_bytes is not None and asked.shard_bytes < nbytes:
            raise _bad("shard_bytes", f"{asked.shard_bytes} is less than one chunk, {nbytes} bytes")
        budget = (asked.shard_bytes or target_bytes) // nbytes
        shard = _grow(spec, chunk, max(1, min(budget, MAX_SHARD_CHUNKS)))
    if math.prod(shard) > MAX_SHARD_CHUNKS:
        raise _bad("shard_chunks", f"{_text(shard)} is more than {MAX_SHARD_CHUNKS} chunks")
    return shard


def _grow(spec: ImageSpec, chunk: Shape, budget: int) -> Shape:
    """At most `budget` chunks: as many as the image has along x, then y, z, c and t."""
    shard = [1] * len(chunk)
    names = [axis.name for axis in spec.axes]
    for name in "xyzct":
        if name in names:
            i = names.index(name)
            count = -(-spec.limits[i] // chunk[i])
            if spec.axes[i].unbounded:
                count = min(count, UNBOUNDED_SHARD_CHUNKS)
            shard[i] = min(count, budget)
            budget //= shard[i]
    return tuple(shard)


def _factors(axes: Sequence[Axis], asked: LayoutRequest, chunk: Shape) -> tuple[Shape, ...]:
    if asked.factors:
        if asked.level_count not in (0, len(asked.factors) + 1):
            raise _bad(
                "level_count",
                f"{asked.level_count} does not fit {len(asked.factors)} factors",
            )
        for k, step in enumerate(asked.factors):
            _check_step(f"factors[{k}]", step, axes, chunk)
        return asked.factors
    factors: list[Shape] = []
    size = [axis.size for axis in axes]
    scale = [axis.scale for axis in axes]
    while len(factors) + 1 < (asked.level_count or MAX_LEVELS):
        small = all(
            n <= c for n, c, axis in zip(size, chunk, axes, strict=True) if axis.name in SPATIAL
        )
        if small and not asked.level_count:
            break
        step = _auto_step(axes, size, scale, chunk)
        if all(f == 1 for f in step):
            if asked.level_count:
                raise _bad(
                    "level_count",
                    f"{asked.level_count} is more than the {len(factors) + 1} levels that"
                    f" chunks of {_text(chunk)} allow",
                )
            break
        factors.append(step)
        size = [-(-n // f) for n, f in zip(size, step, strict=True)]
        scale = [s * f for s, f in zip(scale, step, strict=True)]
    return tuple(factors)


def _auto_step(
    axes: Sequence[Axis], size: Sequence[int], scale: Sequence[float], chunk: Shape
) -> Shape:
    halves = [n > 1 and c % 2 == 0 for n, c in zip(size, chunk, strict=True)]
    # An axis that rests says nothing of the plane: else z would wait for it for ever.
    plane = min(
        (s for s, axis, h in zip(scale, axes, halves, strict=True) if h and axis.name in "yx"),
        default=math.inf,
    )
    return tuple(
        2 if h and (axis.name in "yx" or (axis.name == "z" and s < 2 * plane)) else 1
        for axis, s, h in zip(axes, scale, halves, strict=True)
    )


def _check_step(field: str, step: Shape, axes: Sequence[Axis], chunk: Shape) -> None:
    _check_rank(field, step, axes)
    for axis, f, c in zip(axes, step, chunk, strict=True):
        if f > 1 and axis.name not in SPATIAL:
            raise _bad(field, f"{_text(step)} downsamples {axis.name}; only z, y and x may be")
        if f > MAX_FACTOR:
            raise _bad(field, f"{_text(step)} has a factor above {MAX_FACTOR}")
        if c % f:
            raise _bad(
                field, f"{_text(step)}: the chunk {_text(chunk)} is not divisible along {axis.name}"
            )
    if all(f == 1 for f in step):
        raise _bad(field, f"{_text(step)} downsamples nothing")


def _check_method(spec: ImageSpec | Image, factors: Sequence[Shape]) -> None:
    """Chunks never written are absent at every level: the method must keep the fill value.

    For floats it may not: adding n of them rounds, or overflows; minima pass NaNs over.
    """
    method = spec.downsampling
    if method == "gaussian" and max(map(max, factors), default=1) > MAX_GAUSSIAN_FACTOR:
        raise InvalidArgument(
            f"factors: gaussian is for factors up to {MAX_GAUSSIAN_FACTOR}",
            field="layout.factors",
        )
    fill_value: np.generic = spec.dtype.type(spec.fill_value)
    if fill_value.dtype.kind != "f" or not factors:
        return
    if method in ("min", "max") and np.isnan(fill_value):
        raise InvalidArgument(
            f"fill_value: the {method} of pixels of nan is another value", field="fill_value"
        )
    if method == "mean":
        _check_mean(fill_value, factors)
    if method == "gaussian":
        _check_gaussian(fill_value)


def _check_mean(fill_value: np.generic, factors: Sequence[Shape]) -> None:
    counts = np.arange(1, max(map(math.prod, factors), default=1) + 1)
    with np.errstate(over="ignore"):
        # Added one after the other, as the mean of a window is.
        sums = np.cumsum(np.full(counts.shape, fill_value))
        means = sums / counts.astype(fill_value.dtype)
    changed = counts[(means != fill_value) & ~np.isnan(means)]
    if changed.size:
        raise InvalidArgument(
            f"fill_value: the mean of {changed[0]} pixels of {fill_value} is another value",
            field="fill_value",
        )


def _check_gaussian(fill_value: np.generic) -> None:
    """Sums of the fill value with any weights must give it back."""
    if fill_value == 0 or np.isnan(fill_value):
        return
    raise InvalidArgument(
        f"fill_value: sums of {fill_value} with gaussian weights may round; 0 and nan do not",
        field="fill_value",
    )


def _check_rank(field: str, shape: Shape, axes: Sequence[Axis]) -> None:
    if len(shape) != len(axes):
        raise _bad(field, f"{_text(shape)} has {len(shape)} numbers for {len(axes)} axes")


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _bad(field: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"layout.{field}: {what}", field=f"layout.{field}")
