"""Do other people's readers open a shard that the device kernels made?

What one copy brings from the device, frames side by side, is the payload of a shard as it is.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
import zarr.codecs
from ziggurat_engine.spec import Array
from ziggurat_engine.store.shard import ShardIndex

from tests.contract.cuda_batch import Chunks
from tests.contract.kernel_cases import noise
from tests.support import shim

pytestmark = pytest.mark.skipif(not shim.available(), reason="no g++ to compile the kernels with")

CHUNK = (4, 23, 29)  # of no round number of bytes
SHARD = (8, 46, 58)
SHUFFLES = {"none": "noshuffle", "byte": "shuffle", "bit": "bitshuffle"}


def by_zarr(path: Path) -> Array:
    pixels: Array = np.asarray(zarr.open_array(path, mode="r")[...])
    return pixels


def by_tensorstore(path: Path) -> Array:
    kvstore = {"driver": "file", "path": str(path)}
    opened = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
    pixels: Array = opened.read().result()
    return pixels


def by_zarrs(path: Path) -> Array:
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        array = zarr.open_array(path, mode="r")
        assert type(array._async_array.codec_pipeline).__name__ == "ZarrsCodecPipeline"
        pixels: Array = np.asarray(array[...])
    return pixels


READERS = {"zarr": by_zarr, "tensorstore": by_tensorstore, "zarrs": by_zarrs}


def shard_of(dtype: np.dtype[np.generic]) -> Array:
    """One chunk of fill value, one of noise (stored as it is), the others compressible."""
    rng = np.random.default_rng(5)
    pixels: Array = rng.poisson(40, SHARD).astype(dtype)
    pixels[:4, :23, :29] = 0
    pixels[4:, 23:, 29:] = noise(CHUNK, dtype)
    return pixels


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("name", ["uint8", "uint16", "float32", "int64"])
def test_shards_are_opened_by_all_readers(name: str, shuffle: str, tmp_path: Path) -> None:
    dtype = np.dtype(name)
    pixels = shard_of(dtype)
    path = tmp_path / "array.zarr"
    zarr.create_array(
        path,
        shape=SHARD,
        chunks=CHUNK,
        shards=SHARD,
        dtype=dtype,
        fill_value=0,
        compressors=zarr.codecs.BloscCodec(
            cname="lz4", shuffle=SHUFFLES[shuffle], typesize=dtype.itemsize
        ),
    )
    boxes = itertools.product(*(range(0, s, c) for s, c in zip(SHARD, CHUNK, strict=True)))
    chunks = [
        pixels[tuple(slice(a, a + n) for a, n in zip(box, CHUNK, strict=True))].copy()
        for box in boxes
    ]
    frames = Chunks(chunks, dtype.type(0)).frames(4096, shuffle)
    assert frames[0] is None
    index = ShardIndex.empty(len(chunks))
    payload = b""
    for position, frame in enumerate(frames):
        if frame is not None:
            index.put(position, len(payload), len(frame))
            payload += frame + bytes(-len(frame) % 16)
    target = path / "c" / "0" / "0" / "0"
    target.parent.mkdir(parents=True)
    target.write_bytes(payload + index.pack())
    for reader in READERS.values():
        found = reader(path)
        assert found.dtype == dtype
        assert found.tobytes() == pixels.tobytes()
