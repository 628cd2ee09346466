"""How does a test call a server as somebody else? Every RPC with a request that names an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import ziggurat
from ziggurat_engine.security.caller import SCOPES
from ziggurat_engine.security.tokens import TokenFile
from ziggurat_proto.v1 import image_pb2, read_pb2, service_pb2, write_pb2

from tests.support.raw import Failure, failure
from tests.support.server import ServerProcess
from tests.support.waiting import SECONDS

SERVICE = service_pb2.DESCRIPTOR.services_by_name["Ziggurat"]


def _spec(name: str, **more: Any) -> image_pb2.ImageSpec:
    axes = [image_pb2.Axis(name=a, size=16, scale=1) for a in "yx"]
    return image_pb2.ImageSpec(name=name, axes=axes, data_type="DATA_TYPE_UINT16", **more)


# Every RPC, about the image that is named. What is not here fails test_every_rpc_is_tried.
REQUESTS: dict[str, Callable[[str], Any]] = {
    "CreateImage": lambda name: service_pb2.CreateImageRequest(spec=_spec(name)),
    "GetImage": lambda name: service_pb2.GetImageRequest(name=name),
    "ListImages": lambda name: service_pb2.ListImagesRequest(prefix=name),
    "DeleteImage": lambda name: service_pb2.DeleteImageRequest(name=name),
    "WriteStream": lambda name: write_pb2.WriteRequest(
        open=write_pb2.Open(image=name, stream_id="s")
    ),
    "BuildPyramid": lambda name: service_pb2.BuildPyramidRequest(image=name),
    "ReadRegion": lambda name: read_pb2.ReadRequest(image=name),
    "ReadSmall": lambda name: read_pb2.ReadRequest(image=name),
    "ReadRegions": lambda name: read_pb2.ReadRegionsRequest(
        reads=[read_pb2.ReadRequest(image=name)]
    ),
    "ReadPlane": lambda name: read_pb2.ReadPlaneRequest(image=name),
    "ListFrames": lambda name: read_pb2.ListFramesRequest(image=name),
    "GetStatus": lambda name: service_pb2.GetStatusRequest(),
}


def bearer(token: str | None) -> list[tuple[str, str]]:
    return [] if token is None else [("authorization", f"Bearer {token}")]


class Caller:
    """Calls of one who shows `metadata`; what a call raises comes back as a Failure."""

    def __init__(self, channel: grpc.Channel, metadata: list[tuple[str, str | bytes]]) -> None:
        self.channel, self.metadata = channel, metadata

    def call(self, method: str, request: Any) -> list[bytes] | Failure:
        """What `method` answers to one request, a message or its bytes; undecoded."""
        stub = self.channel.stream_stream(
            f"/{SERVICE.full_name}/{method}",
            lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
        )
        try:
            return list(stub(iter([request]), metadata=self.metadata, timeout=SECONDS))
        except grpc.RpcError as error:
            return failure(error)

    def refused(self, method: str, request: Any) -> Failure:
        """As `call`, which must fail."""
        found = self.call(method, request)
        assert isinstance(found, Failure), (method, found)
        return found


class Guarded:
    """A server that wants tokens, and who has some."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.address = server.address
        self.tokens = TokenFile(server.data)
        (said,) = [line for line in server.stderr.splitlines() if "admin token" in line]
        self.admin_token = said.rpartition(" ")[2]
        self.people: dict[str, str] = {}
        self.channel = grpc.insecure_channel(
            server.address, [("grpc.use_local_subchannel_pool", 1)]
        )

    def token(self, name: str, scope: str, prefix: str = "", expires: float | None = None) -> str:
        """A new token; it counts as soon as the server has looked, see `known`."""
        return self.tokens.create(name, SCOPES[scope], prefix, expires)[1]

    def caller(self, token: str | None) -> Caller:
        return Caller(self.channel, bearer(token))

    def connect(self, token: str | None = None, **options: Any) -> ziggurat.Client:
        return ziggurat.connect(self.address, token=token or self.admin_token, **options)

    def close(self) -> None:
        self.channel.close()


def certificates(directory: Path, *, days: float = 2, host: str = "127.0.0.1") -> dict[str, Path]:
    """Those that `ziggurat-engine certs` makes, by "ca", "server", "server_key" and so on."""
    from ziggurat_engine.security.certificates import make

    made = make(directory, hosts=["localhost", host], client="microscope", days=days)
    made += [directory / "ca.pem", directory / "ca-key.pem"]
    return {path.stem.replace("-", "_"): path for path in made}
