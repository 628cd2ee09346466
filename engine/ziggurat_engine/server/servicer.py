"""What does each RPC call in the engine?

Handlers hold no logic: they turn messages into values, call the engine, and turn what
comes back into messages. Deserializers never raise; what is no message arrives here as
Malformed, so that the client gets a status of ours.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from ziggurat_proto.v1 import image_pb2, read_pb2, service_pb2

from ziggurat_engine import __version__
from ziggurat_engine.engine import Engine
from ziggurat_engine.errors import InvalidArgument, RequestError
from ziggurat_engine.images import OpenImage
from ziggurat_engine.leases import Reading
from ziggurat_engine.reads.answers import Answer, Frame, Payload, PlaneAnswer
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.server import convert, sharing, wire
from ziggurat_engine.server.caller import let_in
from ziggurat_engine.server.status import abort
from ziggurat_engine.server.write_call import Waits, WriteCall

SERVICE = "ziggurat.v1.Ziggurat"
DEFAULT_PAGE = 1000
# A message of them has at most a few MiB, whatever is said of the frames.
FRAME_ROWS = 256

Q = TypeVar("Q")
R = TypeVar("R")
A = TypeVar("A", Answer, PlaneAnswer)


def handler(engine: Engine, waits: Waits, limits: sharing.Limits) -> grpc.GenericRpcHandler:
    """The service, for grpc.Server.add_generic_rpc_handlers.

    waits: for messages of streams. limits: of what clients may share.
    """
    calls = _Calls(engine, waits, limits)
    unary: dict[str, tuple[Callable[[Any, grpc.ServicerContext], Any], type[Message]]] = {
        "CreateImage": (calls.create_image, service_pb2.CreateImageRequest),
        "GetImage": (calls.get_image, service_pb2.GetImageRequest),
        "ListImages": (calls.list_images, service_pb2.ListImagesRequest),
        "DeleteImage": (calls.delete_image, service_pb2.DeleteImageRequest),
        "GetStatus": (calls.get_status, service_pb2.GetStatusRequest),
    }
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        name: grpc.unary_unary_rpc_method_handler(_answered(call), wire.parser(kind), _serialize)
        for name, (call, kind) in unary.items()
    }
    handlers["BuildPyramid"] = grpc.unary_stream_rpc_method_handler(
        _streamed(calls.build_pyramid), wire.parser(service_pb2.BuildPyramidRequest), _serialize
    )
    handlers["ListFrames"] = grpc.unary_stream_rpc_method_handler(
        _streamed(calls.list_frames), wire.parser(read_pb2.ListFramesRequest), _serialize
    )
    handlers["ReadRegion"] = grpc.unary_stream_rpc_method_handler(
        _streamed(calls.read_region), wire.parser(read_pb2.ReadRequest), bytes
    )
    handlers["ReadSmall"] = grpc.unary_unary_rpc_method_handler(
        _answered(calls.read_small), wire.parser(read_pb2.ReadRequest), bytes
    )
    handlers["ReadRegions"] = grpc.unary_stream_rpc_method_handler(
        _streamed(calls.read_regions), wire.parser(read_pb2.ReadRegionsRequest), bytes
    )
    handlers["ReadPlane"] = grpc.unary_stream_rpc_method_handler(
        _streamed(calls.read_plane), wire.parser(read_pb2.ReadPlaneRequest), bytes
    )
    handlers["WriteStream"] = grpc.stream_stream_rpc_method_handler(
        _streamed(calls.write_stream), wire.decode_write_request, _serialize
    )
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


class _Calls:
    def __init__(self, engine: Engine, waits: Waits, limits: sharing.Limits) -> None:
        self._engine = engine
        self._waits = waits
        self._limits = limits

    def create_image(
        self, request: service_pb2.CreateImageRequest, _: grpc.ServicerContext
    ) -> image_pb2.Image:
        spec = convert.spec_of(request.spec)
        try:
            image = self._engine.create(spec)
        except RequestError as error:
            raise error.below("spec") from None
        return self._described(image)

    def get_image(
        self, request: service_pb2.GetImageRequest, _: grpc.ServicerContext
    ) -> image_pb2.Image:
        image = self._engine.image(request.name)
        return self._described(image, measure=request.measure)

    def list_images(
        self, request: service_pb2.ListImagesRequest, context: grpc.ServicerContext
    ) -> service_pb2.ListImagesResponse:
        caller = let_in(context)
        # A page token is the last name of the page before.
        names = [
            name
            for name in self._engine.names(request.prefix)
            if name > request.page_token and caller.covers(name)
        ]
        page = names[: min(request.page_size or DEFAULT_PAGE, DEFAULT_PAGE)]
        answer = service_pb2.ListImagesResponse()
        for name in page:
            image = self._engine.find(name)
            if image is not None:
                answer.images.append(self._described(image))
        if len(page) < len(names):
            answer.next_page_token = page[-1]
        return answer

    def _described(self, image: OpenImage, *, measure: bool = False) -> image_pb2.Image:
        streams = self._engine.streams.of(image)
        for now in image.steady():
            message = convert.image_message(now, self._engine.staleness, streams, measure=measure)
        return message

    def delete_image(
        self, request: service_pb2.DeleteImageRequest, _: grpc.ServicerContext
    ) -> service_pb2.DeleteImageResponse:
        # What is not where it was can be forgotten all the same.
        self._engine.delete(self._engine.image(request.name, there=False))
        return service_pb2.DeleteImageResponse()

    def get_status(
        self, _request: service_pb2.GetStatusRequest, _: grpc.ServicerContext
    ) -> service_pb2.ServerStatus:
        return convert.status_message(self._engine.status(), __version__)

    def build_pyramid(
        self, request: service_pb2.BuildPyramidRequest, context: grpc.ServicerContext
    ) -> Iterator[service_pb2.BuildPyramidProgress]:
        image = self._engine.image(request.image, "image")
        box = Region(tuple(request.offset), tuple(request.shape))
        steps = self._engine.builder.build(
            image,
            region=box if box.offset or box.shape else None,
            top=request.up_to_level if request.HasField("up_to_level") else None,
            force=request.force,
            method=convert.method_of(request.method),
            cancelled=_gone(context),
        )
        for progress in steps:
            yield convert.progress_message(progress)

    def list_frames(
        self, request: read_pb2.ListFramesRequest, _: grpc.ServicerContext
    ) -> Iterator[read_pb2.FrameRows]:
        rows = self._engine.frames(self._engine.image(request.image, "image"))
        while some := list(itertools.islice(rows, FRAME_ROWS)):
            yield convert.frames_message(some)

    def read_region(
        self, request: read_pb2.ReadRequest, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        gone = _gone(context)
        with Reading() as reading:
            answer = self._answer(reading, request, gone)
            header = wire.encode_header(convert.header_message(answer))
            if answer.projection is not None:
                # Its first part may be long in coming.
                yield header
                header = b""
            parts = self._engine.query.parts(answer, gone) if answer.modified else ()
            yield from _messages(header, self._counted(answer, parts))

    def read_small(self, request: read_pb2.ReadRequest, context: grpc.ServicerContext) -> bytes:
        gone = _gone(context)
        with Reading() as reading:
            answer = self._answer(reading, request, gone, whole=True)
            header = convert.header_message(answer)
            if not answer.modified or 0 in answer.shape:
                return wire.encode_header(header)
            box = Region.whole(answer.shape)
            memory = self._room(request, answer)
            if memory is not None:
                with contextlib.closing(memory):
                    into = memory.result(answer.shape, answer.dtype)
                    self._engine.query.into(answer, into, gone)
                    del into
                header.shared = True
                self._count(answer, box)
                return wire.encode_part(box, memoryview(b""), before=wire.encode_header(header))
            # Memory that was offered may not be to be had.
            self._engine.query.limits.check_small(answer.nbytes, "shape")
            pixels = self._engine.query.whole(answer, gone)
            self._count(answer, box)
            return wire.encode_part(box, *_sent(pixels), before=wire.encode_header(header))

    def _room(self, request: read_pb2.ReadRequest, answer: Answer) -> sharing.SharedMemory | None:
        """The client's memory, where the result can go there."""
        if not request.HasField("shared_memory"):
            return None
        return sharing.attach(request.shared_memory, self._limits, result_bytes=answer.nbytes)

    def read_plane(
        self, request: read_pb2.ReadPlaneRequest, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        query, gone = self._engine.query, _gone(context)
        image = self._engine.image(request.image, "image")
        plane = convert.plane_of(request)

        def plan(now: OpenImage) -> PlaneAnswer:
            return query.plan_plane(now, plane)

        with Reading() as reading:
            answer = self._planned(reading, image, plan, request.exact, gone)
            header = wire.encode_header(convert.plane_header(answer))
            parts = query.plane_parts(answer, gone)
            yield from _messages(header, self._counted(answer, parts))

    def read_regions(
        self, request: read_pb2.ReadRegionsRequest, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        query, gone = self._engine.query, _gone(context)
        query.limits.check_batch(len(request.reads))
        # All before the first is answered; and each again as its turn comes.
        with Reading() as reading:
            nbytes = chunks = 0
            for answer in self._answers(reading, request.reads, None):
                nbytes += answer.nbytes
                chunks += answer.chunks
                query.limits.check_total(nbytes, chunks, "reads")
        with Reading() as reading:
            answers = self._answers(reading, request.reads, gone)
            for pieces in query.batch(answers, as_completed=request.as_completed, cancelled=gone):
                message: list[bytes | memoryview] = []
                for piece in pieces:
                    if piece.payload is not None:
                        self._count(piece.answer, piece.box)
                    header = convert.header_message(piece.answer) if piece.first else None
                    payload = (None,) if piece.payload is None else _sent(piece.payload)
                    message += wire.encode_piece(piece.number, header, piece.box, *payload)
                yield b"".join(message)

    def _answers(
        self,
        reading: Reading,
        requests: Iterable[read_pb2.ReadRequest],
        gone: Callable[[], bool] | None,
    ) -> Iterator[Answer]:
        """What each of many reads will bring; made exact where asked for and `gone` is given."""
        for index, request in enumerate(requests):
            try:
                yield self._answer(reading, request, gone)
            except RequestError as error:
                raise error.below(f"reads[{index}]") from None

    def _answer(
        self,
        reading: Reading,
        request: read_pb2.ReadRequest,
        gone: Callable[[], bool] | None,
        *,
        whole: bool = False,
    ) -> Answer:
        query = self._engine.query
        image = self._engine.image(request.image, "image")
        read = convert.read_of(request)

        def plan(now: OpenImage) -> Answer:
            answer = query.plan(now, read, whole=whole)
            if whole and answer.modified and not request.HasField("shared_memory"):
                query.limits.check_small(answer.nbytes, "shape")
            return answer

        return self._planned(reading, image, plan, request.exact, gone)

    def _planned(
        self,
        reading: Reading,
        image: OpenImage,
        plan: Callable[[OpenImage], A],
        exact: bool,
        gone: Callable[[], bool] | None,
    ) -> A:
        """What `plan` gives; made exact where asked for and `gone` is given."""
        made: OpenImage | None = None
        while True:
            answer = reading.plan(image, plan)
            if not (exact and answer.stale and answer.modified) or gone is None:
                return answer
            # Once: writers may go on. Again where the levels were replaced meanwhile.
            if answer.image is made:
                return answer
            made = answer.image
            self._engine.builder.exact(image, answer.level, answer.region, gone)

    def _counted(
        self, answer: Answer | PlaneAnswer, parts: Iterable[tuple[Region, Payload]]
    ) -> Iterator[tuple[Region, Payload]]:
        for box, payload in parts:
            self._count(answer, box)
            yield box, payload

    def _count(self, answer: Answer | PlaneAnswer, box: Region) -> None:
        """A part of a read is about to be sent."""
        usage = self._engine.measures.usage
        prefix = usage.prefix(answer.image.image.name)
        usage.read_from(prefix, box.size * answer.dtype.itemsize)

    def write_stream(
        self, requests: Iterator[wire.WriteMessage], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        check = let_in(context).check
        call = WriteCall(self._engine, requests, context, check, self._waits, self._limits)
        return call.responses()


def _messages(header: bytes, parts: Iterable[tuple[Region, Payload]]) -> Iterator[bytes]:
    """The header, with the first part where there is one; then the others."""
    for box, payload in parts:
        # Each message costs the threads of both sides a turn, as much as 100 KB do.
        yield wire.encode_part(box, *_sent(payload), before=header)
        header = b""
    if header:
        yield header


def _sent(payload: Payload) -> tuple[memoryview, Shape]:
    """The bytes of a part, and the shape of the frame that they are; () of pixels."""
    if isinstance(payload, Frame):
        return memoryview(payload.data), payload.shape
    return payload.data.cast("B"), ()


def _gone(context: grpc.ServicerContext) -> Callable[[], bool]:
    """Whether the caller has gone."""
    return lambda: not context.is_active()


def _answered(
    call: Callable[[Any, grpc.ServicerContext], R],
) -> Callable[[Any, grpc.ServicerContext], R]:
    @functools.wraps(call)
    def guarded(request: Any, context: grpc.ServicerContext) -> R:
        try:
            return call(_formed(request), context)
        except Exception as error:
            abort(context, error)

    return guarded


def _streamed(
    call: Callable[[Any, grpc.ServicerContext], Iterator[R]],
) -> Callable[[Any, grpc.ServicerContext], Iterator[R]]:
    @functools.wraps(call)
    def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[R]:
        try:
            yield from call(_formed(request), context)
        except Exception as error:
            abort(context, error)

    return guarded


def _formed(request: Q | wire.Malformed) -> Q:
    if isinstance(request, wire.Malformed):
        raise InvalidArgument(request.reason, field="request")
    return request


def _serialize(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded
