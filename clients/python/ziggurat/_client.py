"""How does a program get at a server and its images?"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from numpy.typing import DTypeLike
from ziggurat_proto.v1 import image_pb2, service_pb2

from ziggurat._answers import image_info, server_status
from ziggurat._credentials import credentials
from ziggurat._image import Image
from ziggurat._rpc import Connection, with_port
from ziggurat._spec import image_spec, layout_request
from ziggurat._values import Channel, Codec, ServerStatus


def connect(
    server: str,
    *,
    token: str | Callable[[], str] | None = None,
    ca: str | os.PathLike[str] | None = None,
    cert: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    tls: bool | None = None,
    insecure: bool | None = None,
    timeout_seconds: float | None = 30.0,
    max_receive_bytes: int = 64 * 2**20,
    keepalive_seconds: float = 30.0,
    keepalive_timeout_seconds: float = 20.0,
    shared_memory: bool = True,
) -> Client:
    """A client of the server at "host:port" (port 7447 where none is given).

    Returns at once: the connection is made by the first call and made again after it
    was lost. A call or a read that the connection fails raises Unavailable and is not tried
    again; a Writer goes on by itself. What the server does not let this client do raises
    Unauthenticated or PermissionDenied, and is not tried again.

    What is left out of the first five is taken from ZIGGURAT_TOKEN, ZIGGURAT_CA,
    ZIGGURAT_CERT, ZIGGURAT_KEY and ZIGGURAT_INSECURE.

    token: goes with every call; or a function that gives it, which is asked for each call,
        from any thread, and holds the call up meanwhile; a Writer whose token has expired
        goes on with the next. It is pickled with the client.
    ca: PEM file of the authorities to trust; TLS is spoken then.
    cert, key: PEM files of what this client shows to a server that wants to see something.
    insecure: a token may go over plain text to another machine.
    tls: True: TLS, trusting whom the machine trusts where there is no `ca`; False: plain text.
    timeout_seconds: for calls that answer once and for opening a stream; None: no
        limit. Reads, writes and builds have no limit of their own.
    max_receive_bytes: the largest message taken from the server.
    keepalive_seconds: a silent server is pinged this often while a call runs. One that
        is pinged more often than every second ends the connection.
    keepalive_timeout_seconds: a connection on which pings or data stay unanswered for so
        long is given up: its calls end with Unavailable. So a dead network is noticed,
        also by what has no limit of its own, after both times at the latest.
    shared_memory: whether writers hand pixels over in shared memory where the server is on
        this machine and of the same user, and takes it (Linux): see `Writer.transport`.

    Raises InvalidArgument, naming the argument.
    """
    server = with_port(server)
    connection = Connection(
        server,
        credentials=credentials(
            server, token=token, ca=ca, cert=cert, key=key, tls=tls, insecure=insecure
        ),
        timeout_seconds=timeout_seconds,
        max_receive_bytes=max_receive_bytes,
        keepalive_seconds=keepalive_seconds,
        keepalive_timeout_seconds=keepalive_timeout_seconds,
        shared_memory=shared_memory,
    )
    return Client(connection)


class Client:
    """One server; made by `connect`. A context manager that closes itself.

    Threads may share a client and all that comes from it. It may be pickled; what is
    unpickled in a process with the same arguments of `connect` shares a connection, and
    loses it when one of those clients is closed. Every method may raise Unavailable and
    DeadlineExceeded beside what it names.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def server(self) -> str:
        """The address, "host:port"."""
        return self._connection.server

    def create(
        self,
        name: str,
        *,
        axes: Iterable[str],
        shape: Sequence[int],
        dtype: DTypeLike,
        voxel_size: Mapping[str, float] | Sequence[float] | None = None,
        unit: str | Mapping[str, str] | None = None,
        channels: Iterable[Channel | str] | None = None,
        fill_value: float = 0,
        kind: str = "image",
        labels_of: str | None = None,
        downsampling: str | None = None,
        pyramid: str = "live",
        unbounded: bool = False,
        chunk_shape: Sequence[int] | None = None,
        shard_chunks: Sequence[int] | None = None,
        shard_shape: Sequence[int] | None = None,
        shard: str | int | None = None,
        codec: Codec | str | None = "auto",
        levels: int | None = None,
        factors: Sequence[Sequence[int]] | None = None,
    ) -> Image:
        """Makes an image; returns once its metadata is durable.

        name: a path such as "lab/2026/run-3", 1 to 16 segments.
        axes: a part of "tczyx" in this order that ends with "yx".
        shape: pixels along each of `axes`.
        dtype: uint8 to uint64, int8 to int64, float32 or float64, in any byte order.
        voxel_size: the distance between neighbouring pixels: {"z": 0.5, "y": 0.1,
            "x": 0.1}, 1 where an axis is left out; or one number an axis.
        unit: of `voxel_size`: a name for z, y and x ("micrometer"), with seconds for t
            where its voxel size is given; or one for each axis that has one:
            {"t": "millisecond", "y": "micrometer", "x": "micrometer"}.
        channels: one Channel (or label) for each pixel of axis c.
        fill_value: what pixels hold that were never written.
        kind: "image", or "labels", of which each value is the name of an object; their dtype
            is an integer.
        labels_of: the path of the image that these labels belong to. `name` is then one
            segment, the label image is called "<labels_of>/labels/<name>", and lies in the
            image's OME-Zarr as NGFF wants it. It has the sizes of the image along z, y and
            x, and as many levels; voxel sizes, chunk shape and factors, where they are left
            out, are the image's.
        downsampling: how a pixel is made of those below it: "mean", "median" (the lower),
            "mode" (the smallest of several), "min", "max" or "stride" (the first). Without
            it mean, and mode for labels, which mean and median would spoil.
        pyramid: when levels are made: "live", as frames arrive, or "deferred", when
            `Image.build_pyramid` or an exact read asks for them, for runs that want every
            cycle of the server.
        unbounded: whether axis t, the first, grows as frames arrive; `shape` then says
            where it begins, 0 for an image without a frame.

        The layout; what is left out is chosen by the server:
        chunk_shape: pixels of a chunk along each axis, divisible by the factors.
        shard_chunks: chunks of a shard along each axis, or shard_shape: pixels, or
            shard: the most raw bytes of one, 536870912 or "512MiB".
        codec: a Blosc, Zstd, Gzip or Uncompressed; a word such as "blosc-lz4", "zstd:3"
            or "none"; None: no compression.
        levels: resolution levels with level 0.
        factors: factors[k] leads from level k to k + 1, one number an axis, 1 along t
            and c.

        Raises InvalidArgument, naming the argument, AlreadyExists, and NotFound for `labels_of`.
        """
        layout = layout_request(
            axes,
            chunk_shape=chunk_shape,
            shard_chunks=shard_chunks,
            shard_shape=shard_shape,
            shard=shard,
            codec=codec,
            levels=levels,
            factors=factors,
        )
        spec = image_spec(
            name,
            axes=axes,
            shape=shape,
            dtype=dtype,
            voxel_size=voxel_size,
            unit=unit,
            channels=channels,
            fill_value=fill_value,
            kind=kind,
            labels_of=labels_of,
            downsampling=downsampling,
            pyramid=pyramid,
            unbounded=unbounded,
            layout=layout,
        )
        request = service_pb2.CreateImageRequest(spec=spec)
        return self._image(self._connection.unary("CreateImage", request, image_pb2.Image))

    def open(self, name: str, *, measure: bool = False) -> Image:
        """The image `name`. Raises NotFound.

        measure: also fill `Level.stored` (the server walks the image's files).
        """
        request = service_pb2.GetImageRequest(name=name, measure=measure)
        return self._image(self._connection.unary("GetImage", request, image_pb2.Image))

    def list(self, prefix: str = "") -> builtins.list[Image]:
        """The images at or below the path `prefix`, all without one, in order of name."""
        request = service_pb2.ListImagesRequest(prefix=prefix)
        found: builtins.list[Image] = []
        while True:
            page = self._connection.unary("ListImages", request, service_pb2.ListImagesResponse)
            found += map(self._image, page.images)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def delete(self, name: str) -> None:
        """Deletes an image with all its pixels; one that is adopted is only forgotten.

        Raises NotFound, and FailedPrecondition while a stream writes to it, or while it has
        labels.
        """
        request = service_pb2.DeleteImageRequest(name=name)
        self._connection.unary("DeleteImage", request, service_pb2.DeleteImageResponse)

    def status(self) -> ServerStatus:
        """How the server is."""
        request = service_pb2.GetStatusRequest()
        answer = self._connection.unary("GetStatus", request, service_pb2.ServerStatus)
        return server_status(answer)

    def close(self) -> None:
        """Ends the connection and the calls that still run. May be called twice."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ziggurat.Client {self.server}>"

    def _image(self, image: image_pb2.Image) -> Image:
        return Image(self._connection, image_info(image))
