"""Does every chunk of a level decode, and is what must be there not absent?

Whether a chunk that is absent should be there is known where the level above has a chunk
of which nothing else is there: what is all fill value makes fill value only. What lies
beside others that are there is found by comparing pixels (pixels.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from ziggurat_engine.errors import Corrupt, NotFound
from ziggurat_engine.kernels import codec
from ziggurat_engine.region import Shape
from ziggurat_engine.upkeep.database import Notes
from ziggurat_engine.upkeep.findings import Finding
from ziggurat_engine.upkeep.holding import Found, Holding, around, children


def check_shard(holding: Holding, found: Found, level: int, shard: Shape) -> list[Finding]:
    """What is wrong with one object of a level, and the chunks in it. One chunk in memory."""
    image, array = found.stored.image, found.arrays[level]
    path = holding.where(array.key(shard))
    findings = []
    try:
        for chunk, frame in array.frames(shard):
            try:
                codec.decode(frame, image.layout.codec, image.dtype, image.layout.chunk_shape)
            except Corrupt as error:
                what = f"chunk {chunk}: {error.message}"
                findings.append(Finding("chunk", path, what, found.name, level, chunk))
    except Corrupt as error:
        findings.append(Finding("shard", path, error.message, found.name, level))
    except OSError as error:
        findings.append(Finding("unreadable", path, str(error), found.name, level))
    return findings


def check_below(
    holding: Holding, found: Found, level: int, shard: Shape, notes: Notes
) -> Iterator[Finding]:
    """Chunks of a shard above level 0 of which nothing below is there."""
    array, below = found.arrays[level], found.arrays[level - 1]
    noted = notes.get(found.noted(level - 1), set())
    grid = found.stored.pyramid.levels[level - 1].chunks
    try:
        for chunk in array.level.chunks_of(shard).indices():
            if not array.holds(chunk):
                continue
            for child in children(found, level, chunk):
                near = grid.indices(around(found, level - 1, grid.region(child)))
                if child in noted or any(map(below.holds, near)):
                    break
            else:
                first = next(children(found, level, chunk))
                key = below.key(below.level.shard_of(first))
                what = f"nothing is there of which chunk {chunk} of level {level} was made"
                yield Finding("missing", holding.where(key), what, found.name, level - 1, first)
    except (Corrupt, NotFound, OSError):
        # Said of the object that is at fault.
        return
