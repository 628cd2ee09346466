"""What may those who share a prefix use, and what is said to who asks for more?

Against real servers: bytes stored, streams, bytes a second, images; and what is used is right
after deletions and restarts.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import ziggurat
from ziggurat_proto.v1 import image_pb2, read_pb2, service_pb2

from tests.service.subject import TOO_MUCH, good_spec
from tests.support.raw import RawServer, failure
from tests.support.waiting import SECONDS

rng = np.random.default_rng(7)
QUOTAS = [
    {"prefix": "lab/", "max_stored_bytes": "1MiB", "max_streams": 2},
    {"prefix": "lab/few", "max_images": 2},
    {"prefix": "slow", "max_bytes_per_second": "400kB"},
]


@pytest.fixture(scope="module")
def quoted(serve_module):
    return serve_module(
        quotas=json.dumps(QUOTAS), cache_bytes="32MiB", max_images=40, max_streams=8
    )


@pytest.fixture
def lab(quoted):
    with ziggurat.connect(quoted.address) as client:
        yield client


@pytest.fixture
def quoted_raw(quoted):
    calls = RawServer(quoted.address)
    yield calls
    calls.close()


def used(client: ziggurat.Client, name: str) -> int:
    (found,) = [each.used for each in client.status().limits if each.name == name]
    return found


def files_below(path: Path) -> int:
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


STORED = 'quotas["lab"].max_stored_bytes'


def test_stored_bytes(serve, tmp_path) -> None:
    """Refused once they are used up, not before; right after a restart and a deletion."""
    data, settings = tmp_path / "data", {"quotas": json.dumps(QUOTAS), "cache_bytes": "32MiB"}
    server = serve(data, **settings)
    frames = rng.integers(0, 2**16, (64, 128, 128), "uint16")  # 32 KiB each, and can't shrink
    with ziggurat.connect(server.address) as client:
        image = client.create("lab/run", axes="zyx", shape=frames.shape, dtype="uint16")
        raw = RawServer(server.address)
        stream = raw.write("lab/run", "s")
        assert stream.opened() == 1
        for z in range(64):
            stream.region(z + 1, (z, 0, 0), frames[z : z + 1])
        with pytest.raises(grpc.RpcError) as refused:
            for _ in iter(stream.next, None):
                pass
        raw.close()
        said = failure(refused.value)
        assert (said.code, said.quotas, said.metadata["limit"]) == (TOO_MUCH, (STORED,), STORED)
        assert said.metadata["value"] == str(2**20)
        assert int(said.metadata["asked"]) > 2**20
        assert said.retry_seconds == 5
        (info,) = image.refresh().streams
        # Each level adds a seventh at most.
        assert 24 <= info.next_sequence - 1 <= 32
        below = files_below(data / "images" / "lab")
        assert used(client, STORED) == below
        assert 3 * 2**18 < below < 1.3 * 2**20
        assert (image[0] == frames[0]).all()
        # Others have quotas of their own, or none.
        other = client.create("other", axes="zyx", shape=frames.shape, dtype="uint16")
        with other.writer() as writer:
            writer.write_region(frames, offset=(0, 0, 0))
    server.stop()
    server = serve(data, **settings)
    with ziggurat.connect(server.address) as client:
        assert used(client, STORED) == files_below(data / "images" / "lab")
        client.delete("lab/run")
        assert used(client, STORED) == 0
        image = client.create("lab/run", axes="zyx", shape=(8, 128, 128), dtype="uint16")
        with image.writer() as writer:
            writer.write_region(frames[:8], offset=(0, 0, 0))
        assert used(client, STORED) == files_below(data / "images" / "lab") > 0


def test_pixels_that_shrink_are_let_in(lab) -> None:
    """What counts is what is on disk: a quota takes many times its size of what compresses."""
    image = lab.create("lab/empty", axes="zyx", shape=(64, 256, 256), dtype="uint16")
    with image.writer(strip_bytes=2**16, retry_seconds=20) as writer:  # 8 MiB
        writer.write_region(np.ones((64, 256, 256), "uint16"), offset=(0, 0, 0))
    assert (image[63] == 1).all()
    lab.delete("lab/empty")


def test_streams_of_a_prefix(lab, quoted_raw, name) -> None:
    lab.create("lab/streams", axes="yx", shape=(4, 4), dtype="uint8")
    lab.create(name, axes="yx", shape=(4, 4), dtype="uint8")
    held = [quoted_raw.write("lab/streams", stream) for stream in "ab"]
    assert [stream.opened() for stream in held] == [1, 1]
    third = quoted_raw.write("lab/streams", "c")
    with pytest.raises(grpc.RpcError) as refused:
        third.next()
    said = failure(refused.value)
    assert (said.code, said.quotas) == (TOO_MUCH, ('quotas["lab"].max_streams',))
    assert (said.metadata["value"], said.metadata["asked"]) == ("2", "3")
    assert said.retry_seconds == 5
    elsewhere = quoted_raw.write(name, "c")
    assert elsewhere.opened() == 1
    assert used(lab, 'quotas["lab"].max_streams') == 2
    held[0].close()
    with lab.open("lab/streams").writer("c", retry_seconds=60) as writer:
        writer.write_region(np.ones((4, 4), "uint8"), offset=(0, 0))
    held[1].close()
    elsewhere.close()
    lab.delete("lab/streams")
    lab.delete(name)


def test_images_of_a_prefix_and_of_the_server(lab, quoted_raw) -> None:
    for k in range(2):
        lab.create(f"lab/few/{k}", axes="yx", shape=(4, 4), dtype="uint8")
    with pytest.raises(ziggurat.LimitExceeded, match=r'quotas\["lab/few"\].max_images is 2') as no:
        lab.create("lab/few/2", axes="yx", shape=(4, 4), dtype="uint8")
    assert no.value.details["asked"] == "3"
    assert no.value.retry_seconds is None
    lab.create("lab/fewer", axes="yx", shape=(4, 4), dtype="uint8")
    lab.delete("lab/few/0")
    lab.create("lab/few/2", axes="yx", shape=(4, 4), dtype="uint8")
    made = [f"many/{k}" for k in range(40 - used(lab, "max_images"))]
    for name in made:
        quoted_raw.call("CreateImage", service_pb2.CreateImageRequest(spec=good_spec(name)))
    one_more = service_pb2.CreateImageRequest(spec=good_spec("many/more"))
    with pytest.raises(grpc.RpcError) as refused:
        quoted_raw.call("CreateImage", one_more)
    assert failure(refused.value).quotas == ("max_images",)
    assert used(lab, "max_images") == 40
    for name in (*made, "lab/few/1", "lab/few/2", "lab/fewer"):
        lab.delete(name)


def test_bytes_a_second_slow_down_without_an_error(lab) -> None:
    """Also where two streams share them."""
    begin = time.monotonic()
    images = [
        lab.create(f"slow/{k}", axes="tyx", shape=(5, 100, 200), dtype="uint16") for k in range(2)
    ]
    writers = [image.writer(strip_bytes=2**16) for image in images]
    for t in range(5):
        for writer in writers:
            writer.write(np.full((100, 200), t, "uint16"), t=t)
    for writer in writers:
        writer.close(SECONDS)
        assert writer.reconnects == 0
    # 400 kB in all; the last message is let in when all before it are paid for.
    assert time.monotonic() - begin >= 0.75
    for image in images:
        assert (image[4] == 4).all()
        lab.delete(image.name)


def test_all_reads_of_a_call_together_are_limited(raw, name) -> None:
    """The shared server allows 16 MiB; each of these reads has 12."""
    spec = image_pb2.ImageSpec(name=name, data_type="DATA_TYPE_UINT8")
    for axis, size in (("y", 3 * 2**10), ("x", 2**12)):
        spec.axes.add(name=axis, size=size)
    raw.call("CreateImage", service_pb2.CreateImageRequest(spec=spec))
    batch = read_pb2.ReadRegionsRequest()
    for _ in range(2):
        batch.reads.add(image=name)
    with pytest.raises(grpc.RpcError) as refused:
        raw.call("ReadRegions", batch)
    said = failure(refused.value)
    assert (said.code, said.quotas) == (TOO_MUCH, ("max_read_bytes",))
    assert said.metadata["asked"] == str(24 * 2**20)
    raw.call("DeleteImage", service_pb2.DeleteImageRequest(name=name))
