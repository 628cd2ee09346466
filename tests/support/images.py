"""Is an image what a model of it says, at every level and on disk?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tensorstore
import zarr
import ziggurat

from tests.support.pixels import difference, reference_cascade, same_bytes
from tests.support.server import ServerProcess


def factors_of(image: ziggurat.Image) -> list[tuple[int, ...]]:
    """factors[k] leads from level k to level k + 1."""
    return [level.factors for level in image.levels[1:]]


def assert_level(image: ziggurat.Image, level: int, wanted: np.ndarray) -> None:
    """The level as it is read, byte for byte."""
    found = image.level(level)[...]
    assert same_bytes(found, wanted), f"{image.name} level {level}: {difference(found, wanted)}"


def assert_exact(image: ziggurat.Image, level0: np.ndarray) -> None:
    """Every level is the cascade of `level0`, and no reply says that it is stale."""
    image.refresh()
    assert [level.stale for level in image.levels] == [False] * len(image.levels)
    for k, wanted in enumerate(reference_cascade(level0, factors_of(image), image.downsampling)):
        assert_level(image, k, wanted)


def assert_stored(server: ServerProcess, image: ziggurat.Image, level0: np.ndarray) -> None:
    """What lies on disk is the cascade of `level0`, as zarr-python reads it."""
    path = server.image_path(image.name)
    levels = reference_cascade(level0, factors_of(image), image.downsampling)
    for place, wanted in zip(places(path, image.downsampling), levels, strict=True):
        found = read_zarr(path / place)
        assert same_bytes(found, wanted), f"{image.name} {place}: {difference(found, wanted)}"


def places(group: Path, method: str) -> list[str]:
    """The arrays that the group's document names, which says that `method` made them."""
    attributes = json.loads((group / "zarr.json").read_text())["attributes"]
    (multiscale,) = attributes["ome"]["multiscales"]
    assert multiscale["type"] == multiscale["metadata"]["method"] == method
    return [dataset["path"] for dataset in multiscale["datasets"]]


def read_zarr(path):
    return zarr.open_array(path, mode="r")[...]


def read_tensorstore(path):
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    return tensorstore.open(spec).result().read().result()


def read_zarrs(path):
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        array = zarr.open_array(path, mode="r")
        assert type(array._async_array.codec_pipeline).__name__ == "ZarrsCodecPipeline"
        return array[...]


READERS = {"zarr-python": read_zarr, "tensorstore": read_tensorstore, "zarrs": read_zarrs}
