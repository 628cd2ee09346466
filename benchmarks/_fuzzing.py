"""What may a hostile client say? Messages at random, from the contract's own descriptors.

Three kinds: sensible ones, which reach deep; sensible ones of which some fields were made odd;
and any bytes at all, or the bytes of a message damaged. All come from one random.Random, so
that a seed gives the same cases again.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from ziggurat_proto.v1 import image_pb2, read_pb2, service_pb2, write_pb2

WITNESS = "witness"
# Images of the fuzzer's own have these names, so that calls meet.
NAMES = tuple(f"fuzz/{k}" for k in range(8))
SHAPE = (6, 40, 48)

INTEGERS: tuple[int, ...] = (
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    63,
    255,
    2**16,
    2**31 - 1,
    2**32 - 1,
    2**40,
    2**53,
    10**18,
)
INTEGERS += (2**62, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1)
REALS: tuple[float, ...] = (0.0, -0.0, 1.0, 0.5, 3.0, -1.0, 1e-308, 5e-324, 1e308, 1e18, 1e-9)
REALS += (float("nan"), float("inf"), float("-inf"))
TEXTS = (
    *("", ".", "..", "/", "a/../b", "/etc/passwd", "\0", "a\0b", "a/b/", "//", "con", "\u00e9"),
    *("\u202egpj.exe", "\ufeffa", "a" * 129, "x/" * 40 + "x", "zarr.json", "a.zarr", "\n"),
    *("e\u0301", "\U0001f600" * 33, "\u2024\u2024/a", "\uff0e\uff0e", "a\u2215b", "\u200b"),
    *("t", "c", "z", "y", "x", "yx", "FFFFFF", "zzzzzz", "micrometer", WITNESS, WITNESS + "/a"),
    *("labels", "fuzz/0/labels/cells", "A" * 70_000, " ", "%s%n", "${x}", "\\..\\x", "../" * 30),
)
JSON = (
    '{"a": 1}',
    "[" * 6000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    '{"a": NaN}',
    '{"a": 1e999}',
    '{"a": "\\ud800"}',
    '{"a": ' + "9" * 5000 + "}",
    '{"a": ' + "-" + "9" * 4000 + "." + "9" * 4000 + "}",
    "null",
    "[]",
    '{"": {"": [[], {}]}}',
    '{"a": 1, "a": 2}',
    "{" + '"k": "' + "v" * 15_000 + '"}',
    "{" + '"k": "' + "v" * 20_000 + '"}',
)

REQUESTS: dict[str, type[Message]] = {
    "CreateImage": service_pb2.CreateImageRequest,
    "GetImage": service_pb2.GetImageRequest,
    "ListImages": service_pb2.ListImagesRequest,
    "DeleteImage": service_pb2.DeleteImageRequest,
    "GetStatus": service_pb2.GetStatusRequest,
    "BuildPyramid": service_pb2.BuildPyramidRequest,
    "ListFrames": read_pb2.ListFramesRequest,
    "ReadRegion": read_pb2.ReadRequest,
    "ReadSmall": read_pb2.ReadRequest,
    "ReadRegions": read_pb2.ReadRegionsRequest,
    "ReadPlane": read_pb2.ReadPlaneRequest,
}


class Fuzzer:
    """Requests of one seed; none of them changes the witness, or asks for that."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def request(self, method: str) -> bytes:
        """A request of `method`, or what claims to be one."""
        kind = self.rng.random()
        if kind < 0.06:
            return self.rng.randbytes(self.rng.choice((0, 1, 3, 20, 300, 5000)))
        message: Any = self._sensible(method) if kind < 0.85 else self._any(REQUESTS[method]())
        if kind > 0.3:
            self._odd(message)
        if method in ("DeleteImage", "BuildPyramid"):
            # What it is asked of the witness must leave it as it is: it has its own test.
            field = "name" if method == "DeleteImage" else "image"
            self._spare_witness(message, field)
        data: bytes = message.SerializeToString()
        if 0.3 < kind < 0.4 and method not in ("DeleteImage", "BuildPyramid"):
            return self.damaged(data)
        return data

    def stream(self) -> Iterator[bytes]:
        """The messages of a write stream, in an order that may make no sense."""
        rng = self.rng
        image, sequence = rng.choice(NAMES), rng.choice((1, 1, 1, 2, 0))
        opening = write_pb2.WriteRequest(
            open=write_pb2.Open(
                image=image if rng.random() < 0.9 else rng.choice(TEXTS),
                stream_id=rng.choice(("a", "b", f"{rng.random()}", *TEXTS)),
                durability=self._number(0, 1, 2, 2, 7),
            )
        )
        if rng.random() < 0.1:
            opening.open.expected_frames = rng.choice(INTEGERS)
        self._spare_witness(opening.open, "image")
        if rng.random() < 0.93:
            yield opening.SerializeToString()
        for _ in range(rng.choice((0, 1, 3, 8))):
            message = write_pb2.WriteRequest()
            kind = rng.random()
            if kind < 0.6:
                self._region(message.region, sequence)
            elif kind < 0.7:
                message.skip.sequence = sequence
                message.skip.frames = rng.choice(INTEGERS)
            elif kind < 0.8:
                message.flush.SetInParent()
            elif kind < 0.9:
                message.close.outcome = self._number(0, 1, 2, 9)
            else:
                self._any(message)
            if rng.random() < 0.2:
                self._odd(message)
            if message.HasField("open"):
                self._spare_witness(message.open, "image")
            data = message.SerializeToString()
            damaged = self.damaged(data) if rng.random() < 0.1 else data
            yield data if _opens_witness(damaged) else damaged
            sequence += rng.random() < 0.9

    def _spare_witness(self, message: Any, field: str) -> None:
        """Names another image where it is the witness."""
        if getattr(message, field) == WITNESS:
            setattr(message, field, self.rng.choice(NAMES))

    def _region(self, region: write_pb2.Region, sequence: int) -> None:
        rng = self.rng
        offset = [rng.randrange(n) for n in SHAPE]
        shape = [rng.randint(1, n - o) for n, o in zip(SHAPE, offset, strict=True)]
        region.sequence, region.offset[:], region.shape[:] = sequence, offset, shape
        size = shape[0] * shape[1] * shape[2] * rng.choice((1, 2, 2, 2, 2, 4, 8))
        region.payload = rng.randbytes(min(size, 2**17))
        if rng.random() < 0.3:
            region.timestamp_ns = rng.choice((0, -(2**63), 2**63 - 1))
        if rng.random() < 0.3:
            region.metadata_json = rng.choice(JSON)

    def _number(self, *numbers: int) -> Any:
        """One of them, as a member of whatever enum."""
        return self.rng.choice(numbers)

    def _sensible(self, method: str) -> Any:
        rng = self.rng
        name = rng.choice((*NAMES, WITNESS))
        if method == "CreateImage":
            return service_pb2.CreateImageRequest(spec=self._spec())
        if method in ("ReadRegion", "ReadSmall"):
            return self._read(name)
        if method == "ReadRegions":
            reads = [self._read(name) for _ in range(rng.choice((0, 1, 3, 30)))]
            return read_pb2.ReadRegionsRequest(reads=reads, as_completed=rng.random() < 0.5)
        if method == "ReadPlane":
            return read_pb2.ReadPlaneRequest(
                image=name,
                origin=[rng.uniform(-5, 40) for _ in range(3)],
                down=[rng.uniform(-1, 1) for _ in range(3)],
                across=[rng.uniform(-1, 1) for _ in range(3)],
                rows=rng.randint(1, 60),
                columns=rng.randint(1, 60),
                spacing=rng.choice((0.2, 1.0, 3.0)),
            )
        message: Any = REQUESTS[method]()
        for field in ("name", "image"):
            if field in message.DESCRIPTOR.fields_by_name:
                setattr(message, field, name)
        if method == "GetImage":
            message.measure = rng.random() < 0.3
        if method == "BuildPyramid":
            message.force = rng.random() < 0.3
            message.method = rng.choice((0, 0, 0, 1, 2, 5))
        return message

    def _read(self, name: str) -> read_pb2.ReadRequest:
        rng = self.rng
        offset = [rng.randrange(n) for n in SHAPE]
        shape = [rng.randint(0, n - o) for n, o in zip(SHAPE, offset, strict=True)]
        request = read_pb2.ReadRequest(image=name, exact=rng.random() < 0.3)
        kind = rng.random()
        if kind < 0.1:
            pass  # all of it
        elif kind < 0.4:
            request.offset[:], request.shape[:] = offset, shape
        elif kind < 0.6:
            request.level0_box.offset[:], request.level0_box.shape[:] = offset, shape
            request.max_voxels = rng.choice((1, 500, 10**9))
        elif kind < 0.8:
            for axis in rng.sample("zyx", 2):
                request.physical_box.intervals[axis].start = rng.uniform(-3, 5)
                request.physical_box.intervals[axis].stop = rng.uniform(5, 60)
            request.resolution.sizes["x"] = rng.choice((0.1, 1.0, 4.0))
        if rng.random() < 0.3:
            request.steps[:] = [rng.choice((1, 2, 3, 10**6, 10**11)) for _ in SHAPE]
        if rng.random() < 0.2:
            request.projection.method = self._number(1, 2, 3)
            request.projection.axes[:] = rng.sample("zyx", rng.randint(1, 2))
        if rng.random() < 0.2:
            request.conversion.data_type = self._number(*range(1, 10))
            request.conversion.window.start, request.conversion.window.end = 0.0, 900.0
        return request

    def _spec(self) -> image_pb2.ImageSpec:
        rng = self.rng
        spec = image_pb2.ImageSpec(name=rng.choice(NAMES), data_type=self._number(*range(1, 10)))
        for axis, size in zip("zyx", SHAPE, strict=True):
            spec.axes.add(name=axis, size=size, scale=rng.choice((0.5, 1.0, 3.0)))
        if rng.random() < 0.3:
            spec.axes.insert(0, image_pb2.Axis(name="t", size=rng.choice((0, 3)), unbounded=True))
        elif rng.random() < 0.35:
            # Of absurd size: nothing of it is ever written wholly.
            spec.axes[rng.randrange(3)].size = rng.choice((2**20, 2**36, 10**12))
        if rng.random() < 0.5:
            spec.layout.chunk_shape.sizes[:] = [rng.choice((1, 4, 8, 16)) for _ in spec.axes]
        if rng.random() < 0.3:
            spec.layout.shard_chunks.sizes[:] = [rng.choice((1, 2, 3)) for _ in spec.axes]
        if rng.random() < 0.3:
            spec.downsampling = self._number(*range(1, 8))
        if rng.random() < 0.2:
            spec.pyramid = self._number(1, 2)
        if rng.random() < 0.2:
            spec.kind = self._number(1, 2)
        if rng.random() < 0.1:
            spec.labels_of, spec.name = rng.choice(NAMES), rng.choice(("cells", "a"))
            spec.kind = image_pb2.IMAGE_KIND_LABELS
        return spec

    def _odd(self, message: Message) -> None:
        """Makes some fields of `message`, at any depth, odd."""
        for _ in range(self.rng.choice((1, 1, 2, 5))):
            at: Any = message
            while at.DESCRIPTOR.fields:
                field = self.rng.choice(list(at.DESCRIPTOR.fields))
                set_fields = [f for f, _ in at.ListFields() if f.message_type is not None]
                inner = [f for f in set_fields if not _is_map(f)]
                if inner and self.rng.random() < 0.7:
                    field = self.rng.choice(inner)
                    value = getattr(at, field.name)
                    if not field.is_repeated:
                        at = value
                        continue
                    at = self.rng.choice(list(value))
                    continue
                self._set(at, field)
                break

    def _any(self, message: Any, depth: int = 0) -> Any:
        """Fills in some of the fields, with anything."""
        for field in message.DESCRIPTOR.fields:
            if self.rng.random() < (0.6 if depth < 3 else 0.1):
                self._set(message, field, depth + 1)
        return message

    def _set(self, message: Any, field: FieldDescriptor, depth: int = 1) -> None:
        rng = self.rng
        if rng.random() < 0.1:
            message.ClearField(field.name)
            return
        if _is_map(field):
            for _ in range(rng.choice((1, 2, 20))):
                key = rng.choice((*"tczyx", *TEXTS))
                entry: Any = field.message_type
                value = entry.fields_by_name["value"]
                if value.message_type is None:
                    getattr(message, field.name)[key] = self._value(value)
                else:
                    self._any(getattr(message, field.name)[key], depth)
            return
        if field.is_repeated:
            found = getattr(message, field.name)
            if rng.random() < 0.5:
                del found[:]
            for _ in range(rng.choice((0, 1, 2, 3, 4, 5, 40, 1000 if depth < 2 else 5))):
                if field.message_type is not None:
                    self._any(found.add(), depth)
                else:
                    found.append(self._value(field))
            return
        if field.message_type is not None:
            inner = getattr(message, field.name)
            inner.SetInParent()
            self._any(inner, depth)
            return
        setattr(message, field.name, self._value(field))

    def _value(self, field: FieldDescriptor) -> Any:  # noqa: PLR0911 - one a type
        rng = self.rng
        kinds = FieldDescriptor
        if field.type == kinds.TYPE_STRING:
            if "json" in field.name:
                return rng.choice(JSON)
            return rng.choice((*TEXTS, *NAMES))
        if field.type == kinds.TYPE_BYTES:
            return rng.randbytes(rng.choice((0, 1, 2, 100, 60_000)))
        if field.type == kinds.TYPE_BOOL:
            return rng.random() < 0.5
        if field.type == kinds.TYPE_DOUBLE:
            return rng.choice(REALS) if rng.random() < 0.8 else _any_double(rng)
        if field.type == kinds.TYPE_ENUM:
            return rng.choice((*range(12), 2**31 - 1, -1))
        number = rng.choice(INTEGERS) if rng.random() < 0.6 else rng.randrange(64)
        if field.type in (kinds.TYPE_UINT32, kinds.TYPE_FIXED32):
            return number % 2**32
        if field.type in (kinds.TYPE_UINT64, kinds.TYPE_FIXED64):
            return number
        bits = 32 if field.type in (kinds.TYPE_INT32, kinds.TYPE_SINT32) else 64
        return number % 2 ** (bits - 1) * rng.choice((1, -1))

    def damaged(self, data: bytes) -> bytes:
        """`data` with bits turned, pieces cut out, doubled or put in."""
        rng, out = self.rng, bytearray(data)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(out) + 1)
            kind = rng.random()
            if kind < 0.4 and at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            elif kind < 0.6:
                del out[at : at + rng.randint(1, 8)]
            elif kind < 0.8:
                out[at:at] = rng.randbytes(rng.randint(1, 8))
            elif kind < 0.9:
                out[at:at] = out[: rng.randint(0, 50)]
            else:
                del out[at:]
        return bytes(out)


def _opens_witness(data: bytes) -> bool:
    """Whether what was damaged opens a stream to the witness: its stream id may have that name."""
    try:
        return write_pb2.WriteRequest.FromString(data).open.image == WITNESS
    except DecodeError:
        return False


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _any_double(rng: random.Random) -> float:
    (value,) = struct.unpack("<d", rng.randbytes(8))
    return float(value)
