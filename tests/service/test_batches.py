"""Do many boxes come back in one call, each once, in order or as they are ready?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import ziggurat
from ziggurat_proto.v1 import read_pb2

from tests.service.subject import INVALID, MISSING, OUTSIDE, Subject, check
from tests.support.pixels import marked, same_bytes
from tests.support.server import ServerProcess

SHAPE = (20, 70, 90)
PATCH = (3, 16, 17)


@pytest.fixture(scope="module")
def stack(server: ServerProcess) -> Iterator[ziggurat.Image]:
    with ziggurat.connect(server.address) as client:
        image = client.create(
            "tests/batches/stack",
            axes="zyx",
            shape=SHAPE,
            dtype="uint16",
            chunk_shape=(4, 16, 16),
            factors=[(1, 2, 2)],
        )
        with image.writer() as writer:
            writer.write_region(marked(SHAPE, "uint16"), (0, 0, 0))
        yield image.refresh()
        client.delete(image.name)  # the tests of a module may come in two runs


def places(count: int) -> list[list[int]]:
    rng = np.random.default_rng(5)
    most = [n - p + 1 for n, p in zip(SHAPE, PATCH, strict=True)]
    return [[int(rng.integers(limit)) for limit in most] for _ in range(count)]


def patch(offset: list[int]) -> np.ndarray:
    pixels = marked(SHAPE, "uint16")
    return pixels[tuple(slice(o, o + n) for o, n in zip(offset, PATCH, strict=True))]


@pytest.mark.parametrize("as_completed", [False, True])
def test_each_box_once(stack: ziggurat.Image, as_completed: bool) -> None:
    offsets = places(300)
    boxes = [(offset, PATCH) for offset in offsets]
    seen = []
    for number, result in stack.read_each(boxes, as_completed=as_completed):
        seen.append(number)
        assert same_bytes(result.array, patch(offsets[number]))
        assert result.offset == tuple(offsets[number])
    assert sorted(seen) == list(range(300))
    if not as_completed:
        assert seen == sorted(seen)
    assert list(stack.read_each([])) == []


def test_a_stack(stack: ziggurat.Image) -> None:
    offsets = places(40)
    wanted = np.stack([patch(offset) for offset in offsets])
    assert same_bytes(stack.read_stack(offsets, PATCH), wanted)
    out = np.zeros((40, 1, 16, 17), "float32")
    options: dict[str, Any] = {"projection": "max", "along": "z", "dtype": "float32"}
    assert stack.read_stack(offsets, PATCH, out=out, **options) is out
    assert (out == wanted.max(axis=1, keepdims=True)).all()
    with pytest.raises(ziggurat.InvalidArgument):
        stack.read_stack(offsets, PATCH, out=np.zeros((39, *PATCH), "uint16"))
    with pytest.raises(ziggurat.InvalidArgument):
        stack.read_stack([], PATCH)
    with pytest.raises(ziggurat.InvalidArgument):
        stack.read_stack(offsets, PATCH, resolution=1.0)


def test_boxes_of_any_kind(serve: Callable[..., ServerProcess], name: str) -> None:
    """Larger than a part, empty and single pixels, with little room for what is ready."""
    server = serve(read_part_bytes=700, read_ahead_bytes=2000, max_batch_boxes=20)
    with ziggurat.connect(server.address) as client:
        image = client.create(
            name, axes="zyx", shape=SHAPE, dtype="uint16", chunk_shape=(4, 16, 16)
        )
        pixels = marked(SHAPE, "uint16")
        with image.writer() as writer:
            writer.write_region(pixels, (0, 0, 0))
        boxes = [np.s_[:9], np.s_[3:3], np.s_[5:6, 5:6, 5:6], None, np.s_[:, 60:], np.s_[19:]]
        for as_completed in (False, True):
            found = dict(image.read_each(boxes, as_completed=as_completed))
            for number, box in enumerate(boxes):
                assert same_bytes(found[number].array, pixels[... if box is None else box])
        sums = dict(image.read_each(boxes[:1], projection="mean", along="zyx"))
        assert sums[0].array.item() == np.rint(pixels[:9].mean(dtype=float))
        flat = dict(image.read_each(boxes[3:], projection="max", along="z"))
        assert same_bytes(flat[0].array, pixels.max(axis=0, keepdims=True))
        with pytest.raises(ziggurat.LimitExceeded, match="max_batch_boxes") as error:
            list(image.read_each([None] * 21))
        assert error.value.field == "reads"
        # Left in the middle, and the server goes on.
        for _ in range(5):
            some = image.read_each([np.s_[:9]] * 20)
            next(some)
            some.close()
        assert same_bytes(image.read(timeout_seconds=60), pixels)


BAD = {
    "image": (MISSING, "reads[1].image", {"image": "nobody/knows"}),
    "level": (OUTSIDE, "reads[1].level", {"level": 9}),
    "steps": (INVALID, "reads[1].steps", {"steps": (1,)}),
    "shape": (OUTSIDE, "reads[1].shape", {"offset": (0, 0, 0), "shape": (9, 9, 99)}),
}


@pytest.mark.parametrize(("code", "field", "fields"), BAD.values(), ids=BAD)
def test_one_bad_box_is_found_before_any_is_answered(
    subject: Subject, code: grpc.StatusCode, field: str, fields: dict[str, Any]
) -> None:
    good = read_pb2.ReadRequest(image=subject.name)
    bad = read_pb2.ReadRequest(**{"image": subject.name, **fields})
    with pytest.raises(grpc.RpcError) as error:
        subject.raw.call("ReadRegions", read_pb2.ReadRegionsRequest(reads=[good, bad]))
    check(error.value, code, code.name, field)


def test_what_is_encoded_by_hand_is_what_the_generated_code_makes() -> None:
    from ziggurat_engine.region import Region
    from ziggurat_engine.server import wire

    header = read_pb2.ReadHeader(level=1, shape=[200, 3])
    pieces = []
    message = b""
    for index, said, payload in ((0, header, b"ab"), (300, None, b"c" * 200), (7, header, None)):
        box = Region((0, 128), (1, 200))
        view = None if payload is None else memoryview(payload)
        message += b"".join(wire.encode_piece(index, said, box, view))
        part = None
        if payload is not None:
            part = read_pb2.ReadPart(offset=box.offset, shape=box.shape, payload=payload)
        pieces.append(read_pb2.ReadPiece(index=index, header=said, part=part))
    assert message == read_pb2.ReadRegionsResponse(pieces=pieces).SerializeToString()
