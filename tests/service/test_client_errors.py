"""Does a user of the Python client get the right exception, with the argument at fault?

Most mistakes are found before anything is sent; these are what the server has to say, and
what both must agree on. Nothing changes, and the client goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import ziggurat

from tests.support.pixels import marked
from tests.support.server import ServerProcess
from tests.support.waiting import SECONDS, until

SPEC: dict[str, Any] = {
    "axes": "zyx",
    "shape": (4, 30, 20),
    "dtype": "uint16",
    "chunk_shape": (2, 8, 8),
    "shard_chunks": (1, 2, 2),
}


class Case(NamedTuple):
    kind: type[ziggurat.ZigguratError]
    field: str
    act: Callable[[ziggurat.Client, ziggurat.Image], object]


def creating(kind: type[ziggurat.ZigguratError], field: str, **change: Any) -> Case:
    def act(client: ziggurat.Client, image: ziggurat.Image) -> object:
        spec = {"name": image.name + "-bad", **SPEC, **change}
        return client.create(spec.pop("name"), **{k: v for k, v in spec.items() if v is not None})

    return Case(kind, field, act)


INVALID, OUTSIDE = ziggurat.InvalidArgument, ziggurat.OutOfRange
CASES = {
    "unknown-image": Case(ziggurat.NotFound, "name", lambda c, _: c.open("nobody/knows")),
    "unknown-image-deleted": Case(ziggurat.NotFound, "name", lambda c, _: c.delete("nobody")),
    "existing-name": Case(
        ziggurat.AlreadyExists, "spec.name", lambda c, i: c.create(i.name, **SPEC)
    ),
    "traversal": creating(INVALID, "spec.name", name="lab/../../etc"),
    "reserved": creating(INVALID, "spec.name", name="lab/_hidden"),
    "no-axes": creating(INVALID, "axes", axes=""),
    "six-axes": creating(INVALID, "axes", axes="tczyxw", shape=(1,) * 6),
    "size-0": creating(INVALID, "shape[0]", shape=(0, 30, 20)),
    "size-2**63": creating(INVALID, "shape[1]", shape=(4, 2**63, 20)),
    "dtype": creating(INVALID, "dtype", dtype="complex64"),
    "voxel-nan": creating(INVALID, "voxel_size['z']", voxel_size={"z": math.nan}),
    "voxel-negative": creating(INVALID, "voxel_size['x']", voxel_size={"x": -1}),
    "factors": creating(INVALID, "spec.layout.factors[0]", factors=[(1, 3, 3)]),
    "shard": creating(
        INVALID, "spec.layout.shard_shape", shard_chunks=None, shard_shape=(2, 12, 8)
    ),
    "codec-level": creating(INVALID, "codec.level", codec="gzip:10"),
    "level": Case(OUTSIDE, "level", lambda _, i: i.level(9)),
    "box": Case(OUTSIDE, "", lambda _, i: i.read(offset=(0, 0, 0), shape=(5, 1, 1))),
    "frame-outside": Case(
        OUTSIDE, "z", lambda _, i: i.writer().write(np.zeros((30, 20), "u2"), z=4)
    ),
    "frame-dtype": Case(INVALID, "frame", lambda _, i: i.writer().write(np.zeros((30, 20), "f4"))),
    "frame-axes": Case(
        INVALID, "frame", lambda _, i: i.writer().write(np.zeros((1, 1, 30, 20), "u2"))
    ),
    "stream-id": Case(INVALID, "stream_id", lambda _, i: i.writer("s" * 129)),
}


@pytest.fixture
def image(client: ziggurat.Client, name: str) -> ziggurat.Image:
    made = client.create(name, **SPEC)
    with made.writer("s") as writer:
        writer.write_region(marked(made.shape, "uint16"), (0, 0, 0))
    return made


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_requests(client: ziggurat.Client, image: ziggurat.Image, case: Case) -> None:
    names = [found.name for found in client.list()]
    with pytest.raises(case.kind) as error:
        case.act(client, image)
    assert type(error.value) is case.kind
    if case.field:
        assert error.value.field == case.field
    assert error.value.reason
    assert str(error.value)
    assert [found.name for found in client.list()] == names
    assert (image[...] == marked(image.shape, "uint16")).all()


def test_a_read_above_the_limit(client: ziggurat.Client, name: str) -> None:
    image = client.create(name, **SPEC | {"shape": (20_000, 30, 20)})
    with pytest.raises(ziggurat.LimitExceeded, match=str(2**24)) as error:
        image.read()
    assert error.value.details["value"] == str(2**24)


def test_a_second_writer(client: ziggurat.Client, image: ziggurat.Image) -> None:
    first = image.writer("shared")
    with pytest.raises(ziggurat.StreamHeld) as error:
        image.writer("shared")
    assert error.value.details["stream_id"] == "shared"
    with pytest.raises(ziggurat.FailedPrecondition):
        client.delete(image.name)
    first.close(SECONDS)
    # Another id is another stream.
    image.writer("another").close(SECONDS)


def test_what_the_server_refuses_ends_the_writer(
    server: ServerProcess, client: ziggurat.Client, image: ziggurat.Image
) -> None:
    """A message above the limit; the error names the number that was not taken."""
    writer = image.writer(strip_bytes=64 * 2**20)
    large = client.create(image.name + "-large", **SPEC | {"shape": (1, 4096, 4096)})
    writer.close(SECONDS)
    # In shared memory it would be cut as the server wants it; and so here, had it said so.
    plain = ziggurat.connect(server.address, shared_memory=False)
    writer = plain.open(large.name).writer("large", strip_bytes=64 * 2**20)
    writer._stream.max_message_bytes = 0
    writer.write(np.ones((2, 4096), "uint16"))
    until(lambda: writer.durable == 1, "the first frame to be durable")
    writer.write(np.ones((4096, 4096), "uint16"))
    with pytest.raises(ziggurat.LimitExceeded) as error:
        writer.close(SECONDS)
    assert error.value.sequence == 2
    assert (large[0, :2] == 1).all()
    assert not large[0, 2:8].any()
    plain.close()


def test_nobody_is_there() -> None:
    with (
        ziggurat.connect("127.0.0.1:1", timeout_seconds=5) as nobody,
        pytest.raises(ziggurat.Unavailable, match=r"127\.0\.0\.1:1"),
    ):
        nobody.status()
