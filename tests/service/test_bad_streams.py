"""Does every bad message of a write stream get its status, and change nothing?

The stream ends with the bad message; what came before it stays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from ziggurat_proto.v1 import service_pb2, write_pb2

from tests.service.subject import (
    GARBAGE,
    HELD,
    INVALID,
    MISSING,
    NOT_NOW,
    OUTSIDE,
    TOO_MUCH,
    Subject,
    check,
)
from tests.support.pixels import marked
from tests.support.raw import failure, region_message

# max_message_bytes is 16 MiB where nothing else is said.
TOO_LARGE = 16 * 2**20 + 1


class WriteCase(NamedTuple):
    """`message` is what a stream sends after region 1."""

    message: Any
    code: grpc.StatusCode
    field: str = ""
    reason: str = ""


def region(sequence: int = 2, offset: Any = (0, 0, 0), shape: Any = (1, 1, 1), size: int = 2):
    return write_pb2.WriteRequest(
        region=write_pb2.Region(
            sequence=sequence, offset=offset, shape=shape, payload=b"\x2a" * size
        )
    )


def skip(sequence: int, frames: int):
    return write_pb2.WriteRequest(skip=write_pb2.Skip(sequence=sequence, frames=frames))


WRITE = {
    "payload-short": WriteCase(region(size=1), INVALID, "region.payload"),
    "payload-long": WriteCase(region(size=3), INVALID, "region.payload"),
    "payload-absent": WriteCase(region(size=0), INVALID, "region.payload"),
    "payload-of-another-dtype": WriteCase(
        region(shape=(1, 4, 4), size=16), INVALID, "region.payload"
    ),
    "shape-empty": WriteCase(region(shape=(1, 0, 1), size=0), INVALID, "region.shape"),
    "shape-absent": WriteCase(region(shape=()), INVALID, "region.shape"),
    "shape-rank": WriteCase(region(shape=(1, 1)), INVALID, "region.shape"),
    "offset-absent": WriteCase(region(offset=()), INVALID, "region.offset"),
    "offset-rank": WriteCase(region(offset=(0, 0, 0, 0)), INVALID, "region.offset"),
    "outside-by-one": WriteCase(
        region(offset=(0, 0, 19), shape=(1, 1, 2), size=4), OUTSIDE, "region.shape"
    ),
    "outside-offset": WriteCase(region(offset=(4, 0, 0)), OUTSIDE, "region.offset"),
    "outside-2**64-1": WriteCase(region(offset=(0, 2**64 - 1, 0)), OUTSIDE, "region.offset"),
    "outside-shape-2**63": WriteCase(region(shape=(1, 2**63, 1)), OUTSIDE, "region.shape"),
    "sequence-gap": WriteCase(region(sequence=3), NOT_NOW, "", "FAILED_PRECONDITION"),
    "sequence-gap-far": WriteCase(region(sequence=2**63), NOT_NOW, "", "FAILED_PRECONDITION"),
    "sequence-zero": WriteCase(region(sequence=0), INVALID, "region.sequence"),
    "skip-gap": WriteCase(skip(3, 1), NOT_NOW, "", "FAILED_PRECONDITION"),
    "skip-zero": WriteCase(skip(0, 1), INVALID, "skip.sequence"),
    "skip-no-frames": WriteCase(skip(2, 0), INVALID, "skip.frames"),
    "open-twice": WriteCase(
        write_pb2.WriteRequest(open=write_pb2.Open(image="x", stream_id="y")),
        NOT_NOW,
        "",
        "FAILED_PRECONDITION",
    ),
    "empty-message": WriteCase(b"", INVALID, "message"),
    "unknown-member": WriteCase(b"\xf2\x01\x02\x08\x01", INVALID, "message"),
    "garbage": WriteCase(GARBAGE, INVALID, "request"),
    "truncated-region": WriteCase(
        region_message(2, (0, 0, 0), np.ones((4, 4, 4), np.uint16)).SerializeToString()[:-7],
        INVALID,
        "request",
    ),
}


@pytest.mark.parametrize("case", WRITE.values(), ids=WRITE)
def test_write(subject: Subject, case: WriteCase) -> None:
    """The stream ends; what came before the bad message stays, and is all there is."""
    before = subject.state()
    stream = subject.resume(2)
    stream.send(case.message)
    stream.region(2, (0, 0, 0), np.zeros((1, 1, 1), np.uint16))
    with pytest.raises(grpc.RpcError) as error:
        stream.received(2)
    check(error.value, case.code, case.reason or case.code.name, case.field)
    if "gap" in str(failure(error.value).message) or case.reason:
        assert failure(error.value).metadata["field"]
    assert subject.state() == before
    assert (subject.raw.read(subject.name) == subject.pixels).all()


def test_a_gap_says_which_number_is_wanted(subject: Subject) -> None:
    stream = subject.resume(2)
    stream.send(region(sequence=7))
    with pytest.raises(grpc.RpcError) as error:
        stream.received(7)
    assert failure(error.value).metadata["wanted"] == "2"


def test_a_message_above_the_limit(subject: Subject) -> None:
    """gRPC itself refuses it: there are no details."""
    before = subject.state()
    stream = subject.resume(2)
    stream.send(region(size=TOO_LARGE))
    with pytest.raises(grpc.RpcError) as error:
        stream.received(2)
    assert failure(error.value).code is TOO_MUCH
    assert str(16 * 2**20) in failure(error.value).message
    assert subject.state() == before


@pytest.mark.parametrize("first", ["region", "garbage", "nothing"])
def test_a_stream_that_does_not_begin_with_open(subject: Subject, first: str) -> None:
    before = subject.state()
    stream = subject.raw.write("", "s")  # its own Open names no image
    with pytest.raises(grpc.RpcError) as error:
        stream.next()
    check(error.value, MISSING, "NOT_FOUND", "open.image")
    messages = {"region": [region(1).SerializeToString()], "garbage": [GARBAGE], "nothing": []}
    call = subject.raw.channel.stream_stream("/ziggurat.v1.Ziggurat/WriteStream")
    with pytest.raises(grpc.RpcError) as error:
        list(call(iter(messages[first]), timeout=30))
    if first == "garbage":
        check(error.value, INVALID, "INVALID_ARGUMENT", "request")
    else:
        check(error.value, NOT_NOW, "FAILED_PRECONDITION", "")
    assert subject.state() == before


STREAM_IDS = {"empty": "", "long": "s" * 129, "long-in-bytes": "\u00e9" * 65}


@pytest.mark.parametrize("stream_id", STREAM_IDS.values(), ids=STREAM_IDS)
def test_stream_id(subject: Subject, stream_id: str) -> None:
    before = subject.state()
    with pytest.raises(grpc.RpcError) as error:
        subject.raw.write(subject.name, stream_id).next()
    check(error.value, INVALID, "INVALID_ARGUMENT", "open.stream_id")
    assert subject.state() == before


def test_a_second_writer_with_the_same_stream_id(subject: Subject) -> None:
    first = subject.resume(2)
    with pytest.raises(grpc.RpcError) as error:
        subject.raw.write(subject.name, "s").next()
    check(error.value, HELD, "STREAM_HELD", "")
    assert failure(error.value).metadata["stream_id"] == "s"
    # The first one goes on as if nothing had been.
    first.region(2, (1, 2, 3), marked((1, 2, 2), "uint16", seed=2))
    assert first.close().durable == 2


def test_delete_while_a_stream_writes(subject: Subject) -> None:
    stream = subject.resume(2)
    with pytest.raises(grpc.RpcError) as error:
        subject.raw.call("DeleteImage", service_pb2.DeleteImageRequest(name=subject.name))
    check(error.value, NOT_NOW, "FAILED_PRECONDITION", "")
    stream.region(2, (0, 0, 0), marked((1, 1, 1), "uint16", seed=3))
    assert stream.close().durable == 2


def test_a_client_that_goes_in_mid_stream(subject: Subject) -> None:
    """What it was acknowledged stays, and the stream goes on where it stood."""
    stream = subject.resume(2)
    new = marked((2, 5, 5), "uint16", seed=4)
    stream.region(2, (1, 2, 3), new)
    stream.received(2)
    stream.cancel()
    subject.resume(3).cancel()
    wanted = subject.pixels.copy()
    wanted[1:3, 2:7, 3:8] = new
    assert (subject.raw.read(subject.name) == wanted).all()
