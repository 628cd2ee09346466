"""Does everybody who asks later learn how a run ended, and what it brought?"""

from __future__ import annotations

import json
from collections.abc import Callable

import grpc
import numpy as np
import pytest
import ziggurat
from ziggurat_proto.v1 import image_pb2, service_pb2, write_pb2

from tests.service.subject import INVALID, Subject
from tests.support.raw import RawServer, failure
from tests.support.server import ServerProcess
from tests.support.waiting import SECONDS, until

SPEC = {"axes": "tyx", "shape": (8, 16, 16), "dtype": "uint16"}
FRAME = np.ones((16, 16), "uint16")


def outcome(image: ziggurat.Image, stream: str) -> str:
    return {s.stream_id: s.outcome for s in image.refresh().streams}[stream]


def described(server: ServerProcess, name: str) -> list[dict]:
    document = json.loads((server.image_path(name) / "zarr.json").read_text())
    return document["attributes"]["ziggurat"]["streams"]


@pytest.mark.parametrize("how", ["complete", "aborted"])
def test_a_run_tells_how_it_ended(
    server: ServerProcess, client: ziggurat.Client, name: str, how: str
) -> None:
    image = client.create(name, **SPEC)
    assert image.streams == ()
    writer = image.writer("camera", expected_frames=8)
    assert outcome(image, "camera") == "open"
    for t in range(5):
        writer.write(FRAME, t=t)
    writer.skip(2)
    writer.close(SECONDS, outcome=how)
    (stream,) = image.refresh().streams
    assert stream == ziggurat.StreamInfo("camera", how, 7, 6, 5, 5 * 512, 2, 0, 8, False)
    assert described(server, name) == [
        {
            "stream_id": "camera",
            "outcome": how,
            "received": 6,
            "durable": 6,
            "regions": 5,
            "bytes": 2560,
            "skipped_frames": 2,
            "duplicates": 0,
            "expected_frames": 8,
        }
    ]


def test_the_outcome_outlives_kill_and_stop(serve: Callable[..., ServerProcess]) -> None:
    server = serve()
    with ziggurat.connect(server.address) as client:
        image = client.create("run", **SPEC)
        writer = image.writer("a", expected_frames=3)
        writer.write(FRAME, t=0)
        writer.skip(4)
        writer.close(SECONDS, outcome="aborted")
        other = image.writer("b", expected_frames=9)
        other.write(FRAME, t=1)
        other.flush(SECONDS)
        wanted = image.refresh().streams
        server.kill()
        other.cancel()
    for end in ("kill", "stop", "stop"):
        server = serve(server.data)
        with ziggurat.connect(server.address) as client:
            found = client.open("run").streams
            assert found[0] == wanted[0]
            assert (found[1].outcome, found[1].regions, found[1].expected_frames) == ("open", 1, 9)
        getattr(server, end)()
    server = serve(server.data)
    with ziggurat.connect(server.address) as client:
        image = client.open("run")
        again = image.writer("a")
        assert outcome(image, "a") == "open"
        again.cancel()
        # Nothing was added to it: it is what it was.
        until(lambda: outcome(image, "a") == "aborted", "the stream to be let go")
        with image.writer("a") as writer:
            writer.write(FRAME, t=2)
        assert outcome(image, "a") == "complete"
        assert image.streams[0].skipped_frames == 4
        assert image.streams[0].expected_frames == 3
    server.kill()
    server = serve(server.data)
    with ziggurat.connect(server.address) as client:
        assert outcome(client.open("run"), "a") == "complete"


def test_a_stream_that_nobody_closes_is_abandoned(serve: Callable[..., ServerProcess]) -> None:
    server = serve(stream_lease_seconds=1)
    with ziggurat.connect(server.address) as client:
        image = client.create("run", **SPEC)
        writer = image.writer("camera")
        writer.write(FRAME)
        writer.flush(SECONDS)
        writer.cancel()
        until(lambda: outcome(image, "camera") == "abandoned", "the lease to end")
        server.kill()
    server = serve(server.data, stream_lease_seconds=1)
    with ziggurat.connect(server.address) as client:
        image = client.open("run")
        until(lambda: outcome(image, "camera") == "abandoned", "the lease to end")
        with image.writer("camera") as writer:
            assert outcome(image, "camera") == "open"
            assert writer.sequence == 1
        assert outcome(image, "camera") == "complete"


def test_an_unknown_outcome_is_refused(subject: Subject, raw: RawServer) -> None:
    stream = subject.resume(2)
    stream.send(write_pb2.WriteRequest(close=write_pb2.Close(outcome=77)))
    with pytest.raises(grpc.RpcError) as error:
        list(stream.call)
    said = failure(error.value)
    assert (said.code, said.fields) == (INVALID, ("close.outcome",))


def test_a_deleted_image_takes_its_streams_with_it(client: ziggurat.Client, name: str) -> None:
    with client.create(name, **SPEC).writer("camera", expected_frames=4) as writer:
        writer.write(FRAME)
    client.delete(name)
    assert client.create(name, **SPEC).streams == ()


def test_streams_are_listed(raw: RawServer, client: ziggurat.Client, name: str) -> None:
    with client.create(name, **SPEC).writer("camera"):
        pass
    listed = raw.call("ListImages", service_pb2.ListImagesRequest(prefix=name)).images
    assert [s.outcome for s in listed[0].streams] == [image_pb2.STREAM_OUTCOME_COMPLETE]
