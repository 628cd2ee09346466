"""Does a region fit its image, and how is it cut by shard and chunk?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ziggurat_engine.errors import InvalidArgument, OutOfRange
from ziggurat_engine.grid import Grid
from ziggurat_engine.images import OpenImage
from ziggurat_engine.pyramid import Level
from ziggurat_engine.region import Region
from ziggurat_engine.spec import Array
from ziggurat_engine.tiles import cut


def pixels_of(image: OpenImage, region: Region, payload: memoryview) -> Array:
    """The pixels of a region of level 0 as an array.

    Raises InvalidArgument and OutOfRange, naming the field.
    """
    shape, dtype = image.image.limits, image.image.dtype
    for field, numbers in (("region.offset", region.offset), ("region.shape", region.shape)):
        if len(numbers) != len(shape):
            raise InvalidArgument(
                f"{field} has {len(numbers)} numbers for {len(shape)} axes", field=field
            )
    if 0 in region.shape:
        raise InvalidArgument(f"region.shape {region.shape} is empty", field="region.shape")
    if not Region.whole(shape).contains(region):
        raise OutOfRange(
            f"region {region} reaches outside the image {Region.whole(shape)}",
            field="region.offset" if any(map(int.__ge__, region.offset, shape)) else "region.shape",
        )
    if payload.nbytes != region.size * dtype.itemsize:
        raise InvalidArgument(
            f"region.payload has {payload.nbytes} bytes; {'x'.join(map(str, region.shape))}"
            f" pixels of {dtype.name} are {region.size * dtype.itemsize}",
            field="region.payload",
        )
    return np.frombuffer(payload, dtype=dtype.newbyteorder("<")).reshape(region.shape)


def covers_cells(grid: Grid, region: Region) -> bool:
    """True where every cell that `region` touches lies wholly in it."""
    return all(
        start % cell == 0 and (stop % cell == 0 or stop == size)
        for start, stop, cell, size in zip(
            region.offset, region.stop, grid.cell, grid.shape, strict=True
        )
    )


def by_shard(level: Level, region: Region, limit: int) -> Iterator[Region]:
    """Cuts `region` into boxes that touch one shard, and at most `limit` of its chunks, each."""
    chunks = level.chunks
    for shard in level.shards.plan(region):
        inside = shard.inside_region
        box = Region(tuple(map(int.__add__, region.offset, inside.offset)), inside.shape)
        touched = chunks.touched(box)
        if touched.size <= limit:
            yield box
            continue
        # Counted in chunks, not in pixels: however thin the region is, each takes memory whole.
        counted = Grid(chunks.counts, (1,) * len(chunks.cell))
        for some in cut(counted, touched, limit):
            yield box.intersect(
                Region(
                    tuple(map(int.__mul__, some.offset, chunks.cell)),
                    tuple(map(int.__mul__, some.shape, chunks.cell)),
                )
            )
