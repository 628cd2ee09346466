"""Which images does a list hold, page by page?"""

from __future__ import annotations

import grpc
import pytest
import ziggurat
from ziggurat_proto.v1 import service_pb2

from tests.service.subject import INVALID, check
from tests.support.raw import RawServer

NAMES = ["a", "a/1", "a/2", "a-b", "b/deep/er", "b/deep/er/still"]


@pytest.fixture
def prefix(client: ziggurat.Client, name: str) -> str:
    for each in reversed(NAMES):
        client.create(f"{name}/{each}", axes="yx", shape=(3, 4), dtype="uint8")
    return name


def test_names_are_in_order(client: ziggurat.Client, prefix: str) -> None:
    listed = [image.name.removeprefix(prefix + "/") for image in client.list(prefix)]
    assert listed == sorted(NAMES)


@pytest.mark.parametrize(
    ("below", "wanted"),
    [
        ("/a", ["a", "a/1", "a/2"]),
        ("/a/", ["a", "a/1", "a/2"]),
        ("/b/deep", ["b/deep/er", "b/deep/er/still"]),
        ("/b/de", []),
        ("/nothing", []),
    ],
)
def test_prefixes_are_whole_segments(
    client: ziggurat.Client, prefix: str, below: str, wanted: list[str]
) -> None:
    listed = [image.name for image in client.list(prefix + below)]
    assert listed == [f"{prefix}/{name}" for name in wanted]


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7])
def test_pages(raw: RawServer, prefix: str, size: int) -> None:
    found: list[str] = []
    request = service_pb2.ListImagesRequest(prefix=prefix, page_size=size)
    while True:
        page = raw.call("ListImages", request)
        assert len(page.images) <= size
        found += [image.name for image in page.images]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == sorted(f"{prefix}/{name}" for name in NAMES)


def test_a_prefix_that_is_no_path(raw: RawServer) -> None:
    with pytest.raises(grpc.RpcError) as error:
        raw.call("ListImages", service_pb2.ListImagesRequest(prefix="../up"))
    check(error.value, INVALID, "INVALID_ARGUMENT", "prefix")


def test_a_description_comes_back_as_it_was_asked_for(client: ziggurat.Client, name: str) -> None:
    made = client.create(
        name,
        axes="cyx",
        shape=(2, 100, 90),
        dtype="float32",
        voxel_size={"y": 0.25, "x": 0.5},
        unit="micrometer",
        channels=[ziggurat.Channel("dapi", "0000FF", (0.5, 9.0)), "gfp"],
        fill_value=-1.5,
        chunk_shape=(1, 32, 32),
        shard_shape=(1, 64, 96),
        codec="blosc-lz4:5",
        levels=3,
    )
    for image in (made, client.open(name), *client.list(name)):
        assert image.voxel_size == {"c": 1, "y": 0.25, "x": 0.5}
        assert image.units == {"c": "", "y": "micrometer", "x": "micrometer"}
        assert [channel.label for channel in image.channels] == ["dapi", "gfp"]
        assert image.channels[0] == ziggurat.Channel("dapi", "0000FF", (0.5, 9.0))
        assert image.fill_value == -1.5
        assert image.layout.shard_chunks == (1, 2, 3)
        assert image.layout.codec == ziggurat.Blosc("lz4", 5)
        assert [level.shape for level in image.levels] == [(2, 100, 90), (2, 50, 45), (2, 25, 23)]
        assert image.levels[2].scale == (1, 1, 2)
        assert image.levels[2].translation == (0, 0.375, 0.75)
        assert image.created == made.created
        assert (image[...] == -1.5).all()
        assert not any(level.stale for level in image.levels)
