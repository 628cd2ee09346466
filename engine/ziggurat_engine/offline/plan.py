"""Which levels are missing, what shape do they get, and what memory does building take?

levels    those that are there are kept, unless all are to be made anew; then on until
          the coarsest has no more pixels along z, y and x than a chunk, or as asked.
factors   2 along z, y and x, z only once its voxel size is below twice that of y and x.
          Never along t and c. Any factor fits any size: the shape is ceil(n / f).
chunks    as level 0 has them, shards too; of chunks above MAX_CHUNK_BYTES smaller ones.
codec     that of level 0 where we write it, else Blosc with zstd.

Memory is planned before anything starts and does not depend on the size of the image:
so many threads as fit, each with a chunk of the first new level and what it is made of,
and the chunks above that wait for their parts. Where those would not fit, parents are
made by reading their children back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.foreign.reader import fill_of, pixel_type
from ziggurat_engine.foreign.source import Source, ZarrArray
from ziggurat_engine.grid import Grid
from ziggurat_engine.pyramid import found_factor
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import NOT_FOR_LABELS, SPATIAL, Codec

MAX_LEVELS = 32
MAX_FACTOR = 64
MAX_CHUNK_BYTES = 64 * 2**20
AXES = {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller asks for; None, 0 and () leave the choice to `make`.

    levels: how many in all, level 0 included. smallest: pixels along the longest spatial
    axis at which no further level is made. factors: a step each, the last one repeated;
    as many numbers as the image has axes, or only its spatial ones. shards: () for none.
    """

    levels: int = 0
    smallest: int = 0
    factors: tuple[Shape, ...] = ()
    axes: str = ""
    scale: tuple[float, ...] = ()
    unit: str = ""
    chunks: Shape | None = None
    shards: Shape | None = None
    codec: Codec | None = None
    method: str = ""
    memory: int = 2**30
    threads: int = 1
    force: bool = False


@dataclass(frozen=True, slots=True)
class NewLevel:
    """A level to be made. factors: from the level before. scale, translation: of a pixel."""

    path: str
    shape: Shape
    factors: Shape
    scale: tuple[float, ...]
    translation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a pyramid is built: frozen before the first pixel is read.

    base: the level that is read, the last of those kept. keep: how many are kept.
    units: chunks of the first new level that one task makes, along each axis.
    pushes[k]: blocks of new level k are put into the open chunks of level k + 1; else
    those are read back. keeps_fill: the mean of fill values is the fill value.
    """

    base: ZarrArray
    keep: int
    axes: str
    levels: tuple[NewLevel, ...]
    chunk: Shape
    cell: Shape
    codec: Codec
    dtype: np.dtype[np.generic]
    fill: np.generic
    keeps_fill: bool
    method: str
    units: Shape
    threads: int
    pushes: tuple[bool, ...]
    planned_bytes: int
    grids: tuple[Grid, ...] = field(repr=False, default=())


def axes_of(source: Source, asked: str) -> str:
    """The axes of the image, one letter each; InvalidArgument where they are none we know."""
    array = source.levels[0]
    names: Sequence[str | None] | None = None
    if source.multiscales:
        names = [str(axis.get("name")) for axis in source.multiscales.get("axes", [])]
        if asked and asked != "".join(map(str, names)):
            raise InvalidArgument(
                f"--axes {asked}: the image has the axes {''.join(map(str, names))}", field="axes"
            )
    elif asked:
        names = tuple(asked)
    elif array.dimension_names and all(n in tuple("tczyx") for n in array.dimension_names):
        names = array.dimension_names
    else:
        names = tuple(AXES.get(len(array.shape), ""))
    text = "".join(str(n) for n in names)
    whole = sorted(text, key="tczyx".find) == list(text) and len(set(text)) == len(text)
    if len(text) != len(array.shape) or not whole or set(text) - set("tczyx") or len(text) < 2:
        given = f"--axes {asked}" if asked else f"axes {', '.join(map(str, names)) or 'unknown'}"
        raise InvalidArgument(
            f"{given}: {len(array.shape)} of t, c, z, y, x are needed, in this order,"
            f" for shape {text_of(array.shape)}",
            field="axes",
        )
    return text


def make(source: Source, wish: Wish, methods: Sequence[str]) -> Plan:
    """The plan; its `levels` are empty where nothing is missing.

    InvalidArgument names the option and the value that can't be.
    """
    axes = axes_of(source, wish.axes)
    level0 = source.levels[0]
    dtype = pixel_type(level0.dtype)
    if dtype.kind not in "iuf" or dtype.itemsize > 8 or dtype == np.float16:
        raise InvalidArgument(
            f"{level0.path}: pixels of type {level0.dtype} have no mean here; integers up to"
            " 64 bits, float32, float64 and bool do",
            field="path",
        )
    if min(level0.shape) < 1:
        raise InvalidArgument(f"{level0.path}: it is empty, {text_of(level0.shape)}", field="path")
    keep = 1 if wish.force else len(source.levels)
    chunk, cell = _layout(level0, wish)
    scale, translation = _placed(source, wish, axes, keep - 1)
    base = source.levels[keep - 1]
    levels = _levels(source, wish, axes, chunk, keep, base.shape, scale, translation)
    fill = fill_of(base)
    factors = [level.factors for level in levels]
    method = wish.method or ("mode" if source.is_label else "mean")
    if method not in methods:
        raise InvalidArgument(f"--method {method}: not one of {', '.join(methods)}", field="method")
    if source.is_label and method in NOT_FOR_LABELS:
        raise InvalidArgument(
            f"--method {method}: the image is a label image, whose {method} is none",
            field="method",
        )
    grids = tuple(Grid(level.shape, chunk) for level in levels)
    units, threads, pushes, planned = _memory(base, chunk, grids, factors, dtype, wish)
    return Plan(
        base=base,
        keep=keep,
        axes=axes,
        levels=levels,
        chunk=chunk,
        cell=cell,
        codec=wish.codec or level0.coding.writes,
        dtype=dtype,
        fill=fill,
        keeps_fill=_keeps(fill, factors),
        method=method,
        units=units,
        threads=threads,
        pushes=pushes,
        planned_bytes=planned,
        grids=grids,
    )


def cell_of(chunk: Shape, step: Shape) -> Shape:
    """The smallest box that is whole chunks and whole windows."""
    return tuple(math.lcm(c, f) for c, f in zip(chunk, step, strict=True))


def text_of(shape: Sequence[int]) -> str:
    """As options take it: 1x64x64."""
    return "x".join(map(str, shape))


def _layout(level0: ZarrArray, wish: Wish) -> tuple[Shape, Shape]:
    rank, itemsize = len(level0.shape), level0.dtype.itemsize
    chunk = wish.chunks
    if chunk is None:
        smaller = list(level0.chunk)
        while math.prod(smaller) * itemsize > MAX_CHUNK_BYTES:
            longest = smaller.index(max(smaller))
            smaller[longest] = -(-smaller[longest] // 2)
        chunk = tuple(smaller)
    elif len(chunk) != rank:
        raise InvalidArgument(
            f"--chunks {text_of(chunk)}: {rank} numbers are needed", field="chunks"
        )
    if wish.shards is not None:
        cell = wish.shards or chunk
        if cell != chunk and level0.version == 2:
            raise InvalidArgument(
                f"--shards {text_of(cell)}: the image is Zarr v2, which has none", field="shards"
            )
    else:
        cell = level0.cell if level0.sharded and chunk == level0.chunk else chunk
    if len(cell) != rank or any(s % c for s, c in zip(cell, chunk, strict=True)):
        raise InvalidArgument(
            f"--shards {text_of(cell)}: not a multiple of the chunk {text_of(chunk)}",
            field="shards",
        )
    return chunk, cell


def _placed(
    source: Source, wish: Wish, axes: str, level: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scale and translation of `level`, one of those that are there."""
    rank = len(axes)
    if source.multiscales is None:
        if wish.scale and len(wish.scale) != rank:
            raise InvalidArgument(
                f"--scale {text_of([*map(int, wish.scale)])}: {rank} numbers are needed",
                field="scale",
            )
        scale, translation = list(wish.scale or (1.0,) * rank), [0.0] * rank
        # Levels without metadata: each is binned by what its shape says.
        for before, after in zip(source.levels[:level], source.levels[1:], strict=False):
            for i, (n, m) in enumerate(zip(before.shape, after.shape, strict=True)):
                f = found_factor(n, m)
                translation[i] += (f - 1) / 2 * scale[i]
                scale[i] *= f
        return tuple(scale), tuple(translation)
    if wish.scale or wish.unit:
        option = "--scale" if wish.scale else "--unit"
        raise InvalidArgument(f"{option}: the image says itself what its pixels measure")
    scale, translation = [1.0] * rank, [0.0] * rank
    for step in source.multiscales["datasets"][level].get("coordinateTransformations", []):
        if step["type"] == "scale":
            scale = [float(s) for s in step["scale"]]
        elif step["type"] == "translation":
            translation = [float(s) for s in step["translation"]]
    return tuple(scale), tuple(translation)


def _levels(
    source: Source,
    wish: Wish,
    axes: str,
    chunk: Shape,
    keep: int,
    shape: Shape,
    scale: tuple[float, ...],
    translation: tuple[float, ...],
) -> tuple[NewLevel, ...]:
    levels: list[NewLevel] = []
    while (k := keep + len(levels)) < MAX_LEVELS:
        if wish.levels:
            if k >= wish.levels:
                break
        elif _small(axes, shape, chunk, wish.smallest) and k >= len(source.paths) * wish.force:
            break
        step = _step(wish, axes, k - 1, shape, scale)
        if all(f == 1 or n == 1 for f, n in zip(step, shape, strict=True)):
            break
        shape = tuple(-(-n // f) for n, f in zip(shape, step, strict=True))
        translation = tuple(
            t + (f - 1) / 2 * s for t, f, s in zip(translation, step, scale, strict=True)
        )
        scale = tuple(s * f for s, f in zip(scale, step, strict=True))
        levels.append(NewLevel(path_of(source.paths, k), shape, step, scale, translation))
    return tuple(levels)


def _small(axes: str, shape: Shape, chunk: Shape, smallest: int) -> bool:
    spatial = [(n, c) for a, n, c in zip(axes, shape, chunk, strict=True) if a in SPATIAL]
    if smallest:
        return max(n for n, _ in spatial) <= smallest
    within = all(n <= c for n, c in spatial)
    return within or math.prod(n for n, _ in spatial) <= math.prod(c for _, c in spatial)


def _step(wish: Wish, axes: str, k: int, shape: Shape, scale: Sequence[float]) -> Shape:
    spatial = [i for i, a in enumerate(axes) if a in SPATIAL]
    if wish.factors:
        given = wish.factors[min(k, len(wish.factors) - 1)]
        step = list(given) if len(given) == len(axes) else [1] * len(axes)
        if len(given) != len(axes):
            if len(given) != len(spatial):
                raise InvalidArgument(
                    f"--factors {text_of(given)}: {len(spatial)} numbers are needed, for"
                    f" {', '.join(axes[i] for i in spatial)}",
                    field="factors",
                )
            for i, f in zip(spatial, given, strict=True):
                step[i] = f
        if any(f > 1 and i not in spatial for i, f in enumerate(step)):
            raise InvalidArgument(
                f"--factors {text_of(given)}: only z, y and x are binned", field="factors"
            )
        if not 1 <= min(step) <= max(step) <= MAX_FACTOR or max(step) == 1:
            raise InvalidArgument(
                f"--factors {text_of(given)}: each 1 to {MAX_FACTOR}, one of them above 1",
                field="factors",
            )
        return tuple(step)
    plane = min((scale[i] for i in spatial if axes[i] in "yx" and shape[i] > 1), default=math.inf)
    return tuple(
        2 if i in spatial and n > 1 and (axes[i] in "yx" or scale[i] < 2 * plane) else 1
        for i, n in enumerate(shape)
    )


def path_of(paths: Sequence[str], k: int) -> str:
    """Where level `k` lies: the name its metadata gives it, or the next in the row of names."""
    if k < len(paths):
        return paths[k]
    first = paths[0]
    found = list(re.finditer(r"\d+", first))
    if not found:
        return f"{first}_{k}"
    last = found[-1]
    return f"{first[: last.start()]}{int(last.group()) + k}{first[last.end() :]}"


def _memory(
    base: ZarrArray,
    chunk: Shape,
    grids: Sequence[Grid],
    factors: Sequence[Shape],
    dtype: np.dtype[np.generic],
    wish: Wish,
) -> tuple[Shape, int, tuple[bool, ...], int]:
    """(units, threads, pushes, bytes) that fit; InvalidArgument where nothing does."""
    ones = (1,) * len(chunk)
    if not grids:
        return ones, 1, (), 0
    aligned = [all(c % f == 0 for c, f in zip(chunk, step, strict=True)) for step in factors[1:]]
    least = 0
    for units in dict.fromkeys((_units(base, chunk, grids[0], factors[0]), ones)):
        for threads in range(max(1, wish.threads), 0, -1):
            for pushing in (True, False):
                pushes = tuple(a and pushing for a in aligned)
                need = _bytes(base, chunk, grids, factors, dtype, units, threads, pushes)
                if need <= wish.memory:
                    return units, threads, pushes, need
                least = need
    raise InvalidArgument(
        f"--memory {wish.memory >> 20}MiB: chunks of {text_of(base.chunk)} need"
        f" {-(-least >> 20)} MiB at least",
        field="memory",
    )


def _units(base: ZarrArray, chunk: Shape, grid: Grid, step: Shape) -> Shape:
    """As many chunks along each axis as one chunk of the source reaches over."""
    units = []
    for s, c, f, n in zip(base.chunk, chunk, step, grid.counts, strict=True):
        span = f * c
        many, rest = divmod(s, span)
        if s <= span:
            # Only if no chunk of the source is cut by a border of two units.
            units.append(1 if span % s == 0 else n)
        elif rest == 0 and many & (many - 1) == 0:
            units.append(min(n, many))
        else:
            units.append(n)
    return tuple(units)


def _bytes(
    base: ZarrArray,
    chunk: Shape,
    grids: Sequence[Grid],
    factors: Sequence[Shape],
    dtype: np.dtype[np.generic],
    units: Shape,
    threads: int,
    pushes: Sequence[bool],
) -> int:
    one = math.prod(chunk) * dtype.itemsize
    read = math.prod(base.chunk) * dtype.itemsize

    def task(source: Shape, many: Shape, step: Shape) -> int:
        out = math.prod(many) * one
        span = tuple(m * c * f for m, c, f in zip(many, chunk, step, strict=True))
        piece = cell_of(source, step)
        whole = all(s % p == 0 for s, p in zip(span, piece, strict=True))
        part = math.prod(piece if whole else span) * dtype.itemsize
        single = whole and piece == source
        # Frame and pixels of a chunk, the box it becomes part of, its block, the result's frame.
        return out + 2 * read + (0 if single else part) + part // math.prod(step) + 2 * one

    ones = (1,) * len(chunk)
    most = task(base.chunk, units, factors[0])
    open_bytes = 0
    reach = units
    for k, pushed in enumerate(pushes):
        step = factors[k + 1]
        reach = tuple(-(-u // f) for u, f in zip(reach, step, strict=True))
        if pushed:
            count = min(grids[k + 1].size, (threads + 1) * math.prod(reach))
            open_bytes += count * one
        else:
            most = max(most, task(chunk, ones, step) + one)
    return threads * (most + 2 * one) + open_bytes


def _keeps(fill: np.generic, factors: Sequence[Shape]) -> bool:
    """True where windows of nothing but fill value have it as their mean, bit for bit."""
    if fill.dtype.kind != "f":
        return True
    if np.isnan(fill):
        return bool(np.asarray(fill).tobytes() == np.asarray(np.nan, fill.dtype).tobytes())
    counts = np.arange(1, max(map(math.prod, factors), default=1) + 1)
    with np.errstate(over="ignore"):
        sums = np.cumsum(np.full(counts.shape, fill))
        means = (sums / counts.astype(fill.dtype)).astype(fill.dtype)
    zero = bool(fill == 0 and np.signbit(fill))
    return bool((means == fill).all()) and not zero
