"""What lies in the data directory that these tests damage, and how is it damaged?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import ziggurat
from ziggurat_engine.store.shard import index_size
from ziggurat_engine.upkeep.check import check
from ziggurat_engine.upkeep.findings import Finding

from tests.support.pixels import marked

SHAPE = (8, 64, 64)
CHUNK = (4, 16, 16)
FACTORS = ((1, 2, 2), (2, 2, 2))
# name: (what create is asked for, shards)
IMAGES = {
    "lab/blosc": {"codec": "blosc-zstd", "shard_chunks": (1, 2, 2)},
    "lab/gzip": {"codec": "gzip", "shard_chunks": (1, 1, 1)},
    "lab/gauss": {"codec": "zstd", "shard_chunks": (2, 2, 2), "downsampling": "gaussian"},
}
RUN = "lab/run"


def level0(name: str) -> np.ndarray:
    return marked(SHAPE, "uint16", seed=len(name))


def fill(address: str) -> None:
    """Makes and writes all images; every level is exact when it returns."""
    with ziggurat.connect(address) as client:
        for name, options in IMAGES.items():
            image = client.create(
                name,
                axes="zyx",
                shape=SHAPE,
                dtype="uint16",
                chunk_shape=CHUNK,
                factors=FACTORS,
                **options,
            )
            with image.writer() as writer:
                writer.write_region(level0(name), offset=(0, 0, 0))
        labels = client.create(
            "cells",
            axes="zyx",
            shape=SHAPE,
            dtype="uint16",
            kind="labels",
            labels_of="lab/blosc",
            chunk_shape=CHUNK,
        )
        with labels.writer() as writer:
            writer.write_region(level0("cells"), offset=(0, 0, 0))
        run = client.create(
            RUN,
            axes="tyx",
            shape=(0, 64, 64),
            dtype="uint16",
            unbounded=True,
            chunk_shape=(1, 32, 32),
            codec="gzip",
        )
        with run.writer("camera") as writer:
            for t in range(5):
                writer.write(level0(RUN)[t], t=t, metadata={"t": t})


def group(data: Path, name: str) -> Path:
    return data / "images" / f"{name}.ome.zarr"


def shard_path(data: Path, name: str, level: int, *shard: int) -> Path:
    return group(data, name).joinpath(str(level), "c", *map(str, shard))


def flip(path: Path, offset: int, count: int = 1) -> None:
    """Changes bytes in place; an offset below 0 counts from the end."""
    data = bytearray(path.read_bytes())
    start = offset % len(data)
    for k in range(start, start + count):
        data[k] ^= 0x55
    path.write_bytes(bytes(data))


def edit(path: Path, change) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def found(data: Path, **options: object) -> list[Finding]:
    return list(check(data, threads=2, **options))


def defects(data: Path, **options: object) -> list[Finding]:
    return [each for each in found(data, **options) if each.defect]


INDEX_BYTES = index_size(4)
