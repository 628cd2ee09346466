"""Does what is known of each frame come back, once, whatever happened in between?"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import ome_zarr_models.v05
import pytest
import tensorstore
import yaozarrs
import zarr
import ziggurat
from ziggurat_proto.v1 import write_pb2

from tests.service.subject import INVALID, Subject
from tests.support.raw import RawServer, failure
from tests.support.server import ServerProcess
from tests.support.waiting import SECONDS, until

SPEC = {
    "axes": "tyx",
    "shape": (0, 32, 40),
    "dtype": "uint16",
    "unbounded": True,
    "chunk_shape": (1, 16, 16),
    "unit": {"t": "second", "y": "micrometer", "x": "micrometer"},
}
FRAME = np.ones((32, 40), "uint16")
NO_TIMESTAMP = -(2**63)


def table(path: Path) -> dict[str, np.ndarray]:
    """What zarr-python makes of the table beside an image."""
    group = zarr.open_group(path / "frames", mode="r")
    assert group.attrs["ziggurat"]["axes"] == ["t", "y", "x"]
    assert group.attrs["ziggurat"]["units"] == ["second", "micrometer", "micrometer"]
    columns = {name: array[...] for name, array in group.arrays()}
    streams = group.attrs["ziggurat"]["streams"]
    columns["stream"] = [streams[k] for k in columns["stream"]]
    for name in ("sequence", "offset", "shape", "timestamp_ns"):
        kvstore = {"driver": "file", "path": str(path / "frames" / name)}
        opened = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
        assert (opened.read().result() == columns[name]).all()
    assert len({len(column) for column in columns.values()}) == 1
    return columns


def same(frames: ziggurat.Frames, path: Path) -> None:
    """The files say what the server says."""
    columns = table(path)
    order = sorted(range(len(frames)), key=lambda k: (frames.stream_id[k], frames.sequence[k]))
    rows = sorted(range(len(frames)), key=lambda k: (columns["stream"][k], columns["sequence"][k]))
    assert len(columns["stream"]) == len(frames)
    for k, row in zip(order, rows, strict=True):
        assert columns["stream"][row] == frames.stream_id[k]
        for name in ("sequence", "offset", "shape", "timestamp_ns"):
            assert (columns[name][row] == getattr(frames, name)[k]).all()
        text = columns["metadata"][row]
        assert (json.loads(text) if text else None) == frames.metadata[k]


def test_rows_come_back(server: ServerProcess, client: ziggurat.Client, name: str) -> None:
    image = client.create(name, **SPEC)
    assert len(image.frames()) == 0
    when = datetime.datetime(2026, 3, 1, 12, 30, 0, 250, tzinfo=datetime.UTC)
    with image.writer("camera", strip_bytes=512) as writer:
        writer.write(FRAME, t=0, timestamp=-5, metadata={"laser": "488 nm", "é": [1, None]})
        writer.write(FRAME, t=1)
        writer.write(FRAME, t=2, timestamp=when)
        writer.skip(3)
        writer.write(FRAME, t=6, metadata={})
        until(lambda: writer.received >= writer.sequence, "the frames to be received")
        early = image.frames()
    frames = image.frames()
    assert len(early) == len(frames) == 4
    assert frames.stream_id == ("camera",) * 4
    strips = 4
    assert frames.sequence.tolist() == [1, 2 * strips + 1, 3 * strips + 1, 3 * strips + 2]
    assert frames.offset[:, 0].tolist() == [0, 2, 0, 6]
    assert (frames.shape[2] == 0).all()
    assert (frames.shape[0] != 0).all()
    assert frames.timestamp_ns[0] == -5
    assert frames.time[1] == np.datetime64("2026-03-01T12:30:00.000250")
    assert np.isnat(frames.time[3])
    skipped = {"skipped_frames": 3}
    assert frames.metadata == ({"laser": "488 nm", "é": [1, None]}, None, skipped, {})
    path = server.image_path(name)
    same(frames, path)
    ome_zarr_models.v05.Image.from_zarr(zarr.open_group(path, mode="r"))
    yaozarrs.validate_zarr_store(path)


@pytest.mark.parametrize("durability", ["durable", "received"])
def test_more_than_a_block(
    server: ServerProcess, client: ziggurat.Client, name: str, durability: str
) -> None:
    image = client.create(name, **SPEC | {"shape": (4, 1, 4), "chunk_shape": (4, 1, 4)})
    pixel = np.ones((1, 1), "uint16")
    for start in range(0, 2200, 1100):
        with image.writer("camera", durability=durability) as writer:
            for k in range(start, start + 1100):
                # Enough of it that it can't all wait in memory.
                writer.write(pixel, t=k % 4, timestamp=k, metadata={"k": k, "x": "y" * 3000})
    frames = image.frames()
    assert frames.timestamp_ns.tolist() == list(range(2200))
    assert [said["k"] for said in frames.metadata if said] == list(range(2200))
    same(frames, server.image_path(name))


def send(writers: dict[str, ziggurat.Writer], numbers: range) -> None:
    """Messages of two streams in turns; each fifth is a skip."""
    for k in numbers:
        for stream, writer in writers.items():
            if k % 5 == 4:
                writer.skip(k)
            else:
                said = {"stream": stream, "k": k}
                writer.write(FRAME, t=2 * k + (stream == "b"), timestamp=k, metadata=said)
    for writer in writers.values():
        writer.flush(SECONDS)


@pytest.mark.parametrize("durability", ["durable", "received"])
def test_rows_are_neither_lost_nor_doubled(
    serve: Callable[..., ServerProcess], durability: str
) -> None:
    settings = {
        "settle_idle_seconds": 0.1,
        "log_segment_bytes": "16KiB",
        "max_message_bytes": "14KiB",
    }
    server, sent = serve(**settings), 0
    for end in ("kill", "kill", "stop", "kill"):
        with ziggurat.connect(server.address) as client:
            image = client.open("run") if sent else client.create("run", **SPEC)
            writers = {stream: image.writer(stream, durability=durability) for stream in "ab"}
            assert [writer.sequence for writer in writers.values()] == [sent, sent]
            send(writers, range(sent, sent + 20))
            sent += 20
            getattr(server, end)()
            for writer in writers.values():
                writer.cancel()
        server = serve(server.data, **settings)
        with ziggurat.connect(server.address) as client:
            frames = client.open("run").frames()
            rows = sorted(zip(frames.stream_id, frames.sequence.tolist(), strict=True))
            assert rows == [(s, n) for s in "ab" for n in range(1, sent + 1)]
    with ziggurat.connect(server.address) as client:
        image = client.open("run")
        for stream in "ab":
            image.writer(stream).close(SECONDS)
        frames = image.frames()
        for stream, n, said in zip(
            frames.stream_id, frames.sequence.tolist(), frames.metadata, strict=True
        ):
            skipped = n % 5 == 0
            assert said == (
                {"skipped_frames": n - 1} if skipped else {"stream": stream, "k": n - 1}
            )
        same(frames, server.image_path("run"))


BAD = {
    "no-json": "{",
    "no-object": "[1]",
    "nan": '{"a": NaN}',
    "too-long": json.dumps({"a": "x" * 16384}),
    "too-deep": '{"a":' + "[" * 8000 + "]" * 8000 + "}",
}


@pytest.mark.parametrize("said", BAD.values(), ids=BAD)
def test_bad_metadata_changes_nothing(subject: Subject, raw: RawServer, said: str) -> None:
    before = subject.state()
    stream = subject.resume(2)
    region = write_pb2.Region(
        sequence=2, offset=[0, 0, 0], shape=[1, 1, 1], payload=b"ab", metadata_json=said
    )
    stream.send(write_pb2.WriteRequest(region=region))
    with pytest.raises(grpc.RpcError) as error:
        list(stream.call)
    found = failure(error.value)
    assert (found.code, found.fields) == (INVALID, ("region.metadata_json",))
    assert subject.state() == before


@pytest.mark.parametrize(
    "said",
    [
        {"timestamp": "now"},
        {"timestamp": 2**63},
        {"timestamp": -(2**63)},
        {"metadata": [1]},
        {"metadata": {"a": float("nan")}},
        {"metadata": {"a": object()}},
    ],
)
def test_what_can_not_be_said_is_refused_at_once(
    client: ziggurat.Client, name: str, said: dict
) -> None:
    image = client.create(name, **SPEC)
    with image.writer() as writer:
        with pytest.raises(ziggurat.InvalidArgument) as error:
            writer.write(FRAME, **said)
        assert error.value.field in said
        assert writer.sequence == 0


def test_a_deleted_image_takes_its_rows_with_it(client: ziggurat.Client, name: str) -> None:
    with client.create(name, **SPEC).writer("camera") as writer:
        writer.write(FRAME, timestamp=1)
    client.delete(name)
    assert len(client.create(name, **SPEC).frames()) == 0
