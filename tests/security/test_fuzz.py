"""Does the server stay up, small and right, whatever it is sent?

A short run of benchmarks/fuzz.py, which says what is checked and runs longer; the hand-written
parser of regions against protobuf's own; and what fuzzing found before.
"""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest
import ziggurat
from google.protobuf.message import DecodeError
from ziggurat_engine.region import Region
from ziggurat_engine.server import wire
from ziggurat_proto.v1 import image_pb2, read_pb2, service_pb2, write_pb2

from benchmarks._fuzzing import Fuzzer
from benchmarks.fuzz import fuzz
from tests.service.subject import OUTSIDE, TOO_MUCH, good_spec
from tests.support.raw import RawServer, failure


def test_a_server_that_is_sent_anything(tmp_path: Path) -> None:
    found = fuzz(tmp_path, seconds=600, cases=240, threads=2, seed=7)
    assert found.failures == []
    assert found.total == 480
    assert len(found.cases) == 13, "every method, and bytes of no protocol"
    assert found.codes["OK"] > 40, "also what reaches deep"


def test_damaged_messages_are_parsed_as_protobuf_does() -> None:
    fuzzer, seen = Fuzzer(3), set()
    for _ in range(400):
        for message in fuzzer.stream():
            for data in (message, fuzzer.damaged(message)):
                found = wire.decode_write_request(data)
                request = write_pb2.WriteRequest()
                try:
                    request.ParseFromString(data)
                except DecodeError:
                    assert isinstance(found, wire.Malformed)
                    seen.add("malformed")
                    continue
                seen.add(request.WhichOneof("message"))
                if request.WhichOneof("message") != "region":
                    assert found == request
                    continue
                region = request.region
                assert found == wire.RegionWrite(
                    region.sequence,
                    Region(tuple(region.offset), tuple(region.shape)),
                    memoryview(region.payload),
                    region.timestamp_ns if region.HasField("timestamp_ns") else None,
                    region.metadata_json,
                    region.shared_offset,
                    region.shared_bytes,
                )
    assert seen == {"malformed", "open", "region", "skip", "flush", "close", None}


@pytest.fixture
def huge(raw: RawServer, name: str):
    """4 x 2^40 pixels, of which one box was written."""
    spec = image_pb2.ImageSpec(name=name, data_type="DATA_TYPE_UINT16")
    for axis, size in (("z", 2**40), ("y", 2), ("x", 2)):
        spec.axes.add(name=axis, size=size)
    spec.layout.chunk_shape.sizes[:] = spec.layout.shard_shape.sizes[:] = (2, 2, 2)
    spec.layout.factors.add(sizes=(2, 1, 1))
    raw.call("CreateImage", service_pb2.CreateImageRequest(spec=spec))
    stream = raw.write(name)
    assert stream.opened() == 1
    stream.region(1, (2**39, 0, 0), np.full((4, 2, 2), 80, "uint16"))
    stream.close()
    yield name
    raw.call("DeleteImage", service_pb2.DeleteImageRequest(name=name))


# A gaussian reaches into chunks that nobody wrote to, which have no object.
BUILT = {0: [0, 80, 80, 0], image_pb2.DOWNSAMPLING_GAUSSIAN: [10, 70, 70, 10]}


@pytest.mark.parametrize(("method", "coarse"), BUILT.items(), ids=["again", "gaussian"])
def test_a_forced_build_of_a_huge_image_visits_what_is_stored(
    raw: RawServer, client: ziggurat.Client, huge: str, method: int, coarse: list[int]
) -> None:
    """It named every shard there is, in memory and in the database, for as long as it lived."""
    request = service_pb2.BuildPyramidRequest(image=huge, force=not method, method=method)
    *_, last = raw.call("BuildPyramid", request)
    assert 2 <= last.chunks_total < 50
    level = client.open(huge).level(1)
    assert level.read(offset=(2**38 - 1, 0, 0), shape=(4, 1, 1)).ravel().tolist() == coarse


def test_skipped_frames_are_counted_as_far_as_there_are_numbers(raw: RawServer, name: str) -> None:
    """Their sum was in no message any more: the image could be neither described nor listed."""
    raw.call("CreateImage", service_pb2.CreateImageRequest(spec=good_spec(name)))
    stream = raw.write(name)
    assert stream.opened() == 1
    stream.send(write_pb2.WriteRequest(skip=write_pb2.Skip(sequence=1, frames=2**63 - 2)))
    stream.send(write_pb2.WriteRequest(skip=write_pb2.Skip(sequence=2, frames=1)))
    stream.durable(2)
    stream.send(write_pb2.WriteRequest(skip=write_pb2.Skip(sequence=3, frames=1)))
    with pytest.raises(grpc.RpcError) as refused:
        stream.durable(3)
    said = failure(refused.value)
    assert (said.code, said.fields) == (OUTSIDE, ("skip.frames",))
    (info,) = raw.call("GetImage", service_pb2.GetImageRequest(name=name)).streams
    assert info.skipped_frames == 2**63 - 1


def test_a_projection_of_a_huge_image_is_refused(raw: RawServer, huge: str) -> None:
    """It went on for as long as its client waited."""
    request = read_pb2.ReadRequest(image=huge)
    request.projection.method = read_pb2.Projection.METHOD_MAX
    request.projection.axes.append("z")
    with pytest.raises(grpc.RpcError) as refused:
        raw.call("ReadRegion", request)
    said = failure(refused.value)
    assert (said.code, said.quotas) == (TOO_MUCH, ("max_projected_bytes",))
    assert said.fields == ("projection",)
