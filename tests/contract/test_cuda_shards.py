"""Do other people's readers see the pixels of shards whose chunks a card encoded?

The whole engine, with kernels on the test card, or on a real one: pixels go in by a
stream, and every level is read from the files by zarr-python, tensorstore and zarrs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ziggurat_engine.config import Settings
from ziggurat_engine.engine import Engine
from ziggurat_engine.kernels.cuda.kernels import CudaKernels
from ziggurat_engine.kernels.protocol import Kernels
from ziggurat_engine.region import Region
from ziggurat_engine.spec import Axis, Blosc, Codec, ImageSpec, LayoutRequest, Zstd

from tests.contract.kernel_cases import CARDS, made
from tests.contract.test_foreign_readers import READERS
from tests.support.pixels import marked, reference_cascade, same_bytes

SHAPE = (9, 70, 101)


@pytest.fixture(params=CARDS)
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    # The engine closes them.
    return made(request.param)


@pytest.mark.parametrize("dtype", ["uint16", "uint8", "float32"])
@pytest.mark.parametrize(
    "codec",
    [
        Blosc(compressor="lz4", shuffle="bit"),
        Blosc(compressor="lz4", shuffle="byte"),
        Blosc(compressor="zstd", shuffle="bit"),
        Zstd(),
    ],
    ids=["lz4-bit", "lz4-byte", "zstd-bit", "zstd"],
)
def test_shards_of_a_card_are_read_by_all(
    kernels: Kernels, tmp_path: Path, codec: Codec, dtype: str
) -> None:
    engine = Engine(Settings(data=tmp_path, cache_bytes=2**24), kernels=kernels)
    engine.recover()
    spec = ImageSpec(
        name="image",
        axes=tuple(Axis(name=n, size=s) for n, s in zip("zyx", SHAPE, strict=True)),
        data_type=dtype,
        layout=LayoutRequest(chunk_shape=(4, 16, 32), shard_chunks=(2, 2, 2), codec=codec),
    )
    engine.create(spec)
    image = engine.image("image")
    pixels = marked(SHAPE, dtype)
    # Compresses, and leaves chunks that are nothing but fill value.
    pixels[:, :, 40:] = pixels[:, :, 40:] // 100
    pixels[:4, :16] = 0
    stream = engine.streams.open(image, "camera")
    for z in range(SHAPE[0]):
        plane = Region((z, 0, 0), (1, *SHAPE[1:]))
        engine.ingest.write(stream, z + 1, plane, memoryview(pixels[z].tobytes()))
    engine.streams.release(stream)
    totals, factors = engine.status, [recipe.factors for recipe in image.recipes[:-1]]
    engine.close()
    devices = totals().devices
    assert sum(device.batches for device in devices) > 0
    assert sum(device.failures for device in devices) == 0
    assert isinstance(kernels, CudaKernels)
    if kernels.compresses_zstd or (isinstance(codec, Blosc) and codec.compressor == "lz4"):
        assert totals().kernel_totals.cpu_batches == 0
    for level, wanted in enumerate(reference_cascade(pixels, factors)):
        for name, read in READERS.items():
            found = np.asarray(read(tmp_path / f"images/image.ome.zarr/{level}"))
            assert same_bytes(found, wanted), (level, name)
