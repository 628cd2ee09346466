"""What is really on disk of an image, and what does reading it cost?

Reads metadata, the sizes of files, and the indices of shards (16 n + 4 bytes each); never
a pixel. A million files take seconds and about 100 MB.

The cost of a read is an estimate: a box of n pixels along an axis, wherever it begins,
touches 1 + (n - 1) / c chunks of c pixels on average, and every chunk it touches is
decoded whole. An axis that is read from end to end costs its chunks, the last one padded.

    plane   all of y and x, one pixel along the other axes
    cube    CUBE pixels along z, y and x (or all, where there are fewer), one along t and c
    line    all of the first of z, y, x; one pixel along the other axes
"""

from __future__ import annotations

import math
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.errors import Corrupt, NotFound
from ziggurat_engine.foreign.codecs import Json
from ziggurat_engine.foreign.reader import scan
from ziggurat_engine.foreign.source import Source, ZarrArray, images, kind_of, open_source
from ziggurat_engine.pyramid import found_factor
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import SPATIAL
from ziggurat_engine.store.shard import ShardIndex, index_size

VERSION = 1
CUBE = 64


def several(path: Path) -> list[Path]:
    """The images below `path`, where it is not one itself (a plate, a bioformats2raw layout)."""
    path = Path(path).absolute()
    if not path.is_dir() or kind_of(path) == "array" or kind_of(path / "0") == "array":
        return []
    found = [Path(p) for p in images(path)]
    try:
        open_source(path)
    except NotFound:
        return found
    return []


def inspect(path: Path, *, maps: bool = False) -> Json:
    """What is stored of the image at `path`, as JSON.

    {"version": 1, "path", "zarr_format", "ome_version", "axes",
     "levels": [{"path", "shape", "dtype", "chunk", "shard", "codec", "factors", "scale",
                 "translation", "chunks": {"expected", "present", "absent"}, "shards": the same or
                 null, "files", "stored_bytes", "raw_bytes", "ratio",
                 "chunk_bytes": {"smallest", "median", "largest"},
                 "read_per_voxel": {"plane", "cube", "line"}, "broken": [...]}],
     "missing_levels": paths that the metadata names and that are not there,
     "totals": {"files", "stored_bytes", "raw_bytes", "overhead", "theoretical_overhead"}}

    raw_bytes: of all pixels, stored or not. ratio: raw bytes of the chunks that are
    present to what they take. overhead: stored bytes of all levels to those of level 0, and
    what 1 / (1 - 1 / f) is for the factors found. What can't be known is null: chunks in
    shards with an index of another kind. maps: each level also has "map", bytes a chunk
    over y and x (an array, for a picture).

    NotFound, InvalidArgument, UnsupportedVersion; OSError. Broken shards are listed.
    """
    source = open_source(path)
    axes = _axes(source)
    levels = []
    for k, level in enumerate(source.levels):
        found = _level(level, axes, maps)
        before = source.levels[k - 1].shape if k else None
        factors = tuple(map(found_factor, before, level.shape)) if before else None
        scale, translation = _placed(source, k)
        levels.append(
            {
                "path": source.paths[k],
                "factors": list(factors) if factors else None,
                "scale": scale,
                "translation": translation,
                **found,
            }
        )
    return {
        "version": VERSION,
        "path": str(source.group or source.levels[0].path),
        "zarr_format": source.version,
        "ome_version": source.ome_version,
        "axes": axes,
        "levels": levels,
        "missing_levels": list(source.paths[len(source.levels) :]),
        "totals": _totals(levels),
    }


def read_per_voxel(shape: Shape, chunk: Shape, box: Shape) -> float:
    """Pixels decoded for each pixel of a `box` that lies anywhere, on average."""
    cost = 1.0
    for n, c, b in zip(shape, chunk, box, strict=True):
        padded = -(-n // c) * c
        cost *= (padded if b >= n else min(padded, c + b - 1)) / b
    return cost


def _level(level: ZarrArray, axes: str, maps: bool) -> Json:
    sizes = array("Q")
    objects = stored = 0
    broken: list[str] = []
    counts = level.chunks.counts
    heat = np.zeros(counts[-2:], np.float64) if maps and len(counts) > 1 else None
    known = not level.sharded or level.indexed
    per_cell = tuple(s // c for s, c in zip(level.cell, level.chunk, strict=True))
    for found in scan(level):
        objects += 1
        stored += found.size
        if not level.sharded:
            sizes.append(found.size)
            if heat is not None:
                heat[found.index[-2:]] += found.size
            continue
        if not known:
            continue
        try:
            index = _index(level, found.index, found.size, math.prod(per_cell))
        except Corrupt as error:
            broken.append(str(error))
            continue
        sizes.frombytes(np.ascontiguousarray(index.lengths, "=u8").tobytes())
        if heat is not None:
            _add(heat, index, found.index, per_cell)
    raw_chunk = math.prod(level.chunk) * level.dtype.itemsize
    compressed = sum(sizes)
    expected = level.chunks.size
    grid = level.objects.size
    numbers = np.frombuffer(sizes, "=u8") if len(sizes) else None
    spatial = [a in SPATIAL for a in axes]
    first = spatial.index(True) if any(spatial) else 0
    shape = level.shape
    rank = len(shape)
    boxes = {
        "plane": tuple(n if i >= rank - 2 else 1 for i, n in enumerate(shape)),
        "cube": tuple(min(CUBE, n) if s else 1 for n, s in zip(shape, spatial, strict=True)),
        "line": tuple(n if i == first else 1 for i, n in enumerate(shape)),
    }
    unit = level.chunk if known else level.cell
    result: Json = {
        "shape": list(shape),
        "dtype": str(level.dtype),
        "chunk": list(level.chunk),
        "shard": list(level.cell) if level.sharded else None,
        "codec": _codec(level),
        "chunks": {
            "expected": expected,
            "present": len(sizes) if known else None,
            "absent": expected - len(sizes) if known else None,
        },
        "shards": {"expected": grid, "present": objects, "absent": grid - objects}
        if level.sharded
        else None,
        "files": objects + _documents(level.path),
        "stored_bytes": stored,
        "raw_bytes": math.prod(shape) * level.dtype.itemsize,
        "ratio": len(sizes) * raw_chunk / compressed if compressed else None,
        "chunk_bytes": {
            "smallest": int(numbers.min()),
            "median": int(np.median(numbers)),
            "largest": int(numbers.max()),
        }
        if numbers is not None
        else None,
        "read_per_voxel": {
            name: round(read_per_voxel(shape, unit, box), 2) for name, box in boxes.items()
        },
        "broken": broken,
    }
    if heat is not None:
        result["map"] = heat / max(1, math.prod(counts[:-2]))
    return result


def _index(level: ZarrArray, shard: Shape, size: int, chunks: int) -> ShardIndex:
    name = level.keys.name(shard)
    payload = size - index_size(chunks)
    if payload < 0:
        raise Corrupt(f"{name}: {size} bytes are less than its index")
    with open(level.path / name, "rb") as file:
        file.seek(payload)
        return ShardIndex.unpack(file.read(), chunks, payload, what=name)


def _add(heat: NDArray[np.float64], index: ShardIndex, shard: Shape, counts: Shape) -> None:
    places = np.unravel_index(index.positions, counts)
    rows, columns = (
        p + s * n for p, s, n in zip(places[-2:], shard[-2:], counts[-2:], strict=True)
    )
    inside = (rows < heat.shape[0]) & (columns < heat.shape[1])
    np.add.at(heat, (rows[inside], columns[inside]), index.lengths[inside].astype(np.float64))


def _documents(path: Path) -> int:
    return sum((path / name).is_file() for name in ("zarr.json", ".zarray", ".zattrs"))


def _codec(level: ZarrArray) -> str:
    if level.version == 2:
        compressor: Json | None = level.document.get("compressor")
        steps = [f["id"] for f in level.document.get("filters") or []]
        if compressor:
            name = compressor.get("cname")
            steps.append(f"{compressor['id']}-{name}" if name else compressor["id"])
        return " ".join(steps) or "none"
    inner: list[Json] = (level.document.get("shard") or level.document)["codecs"]
    steps = []
    for codec in inner:
        name = (codec.get("configuration") or {}).get("cname")
        steps.append(f"{codec['name']}-{name}" if name else codec["name"])
    return " ".join(s for s in steps if s != "bytes") or "none"


def _axes(source: Source) -> str:
    from ziggurat_engine.errors import InvalidArgument
    from ziggurat_engine.offline.plan import axes_of

    try:
        return axes_of(source, "")
    except InvalidArgument:
        return "?" * len(source.levels[0].shape)


def _placed(source: Source, level: int) -> tuple[Any, Any]:
    scale = translation = None
    if source.multiscales:
        for step in source.multiscales["datasets"][level].get("coordinateTransformations", []):
            scale = step.get("scale", scale)
            translation = step.get("translation", translation)
    return scale, translation


def _totals(levels: list[Json]) -> Json:
    stored = [level["stored_bytes"] for level in levels]
    raw = [level["raw_bytes"] for level in levels]
    theory = None
    if len(levels) > 1:
        f = math.prod(levels[1]["factors"])
        theory = 1 / (1 - 1 / f) if f > 1 else None
    return {
        "files": sum(level["files"] for level in levels),
        "stored_bytes": sum(stored),
        "raw_bytes": sum(raw),
        "overhead": sum(stored) / stored[0] if stored[0] else None,
        "theoretical_overhead": theory,
    }
