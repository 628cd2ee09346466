"""What does each call need, and which images is it about? One table.

A call that is not in it is refused, whoever makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ziggurat_proto.v1 import service_pb2, write_pb2

from ziggurat_engine.errors import PermissionDenied
from ziggurat_engine.security.caller import Caller, Scope
from ziggurat_engine.server import wire

Names = Iterable[tuple[str, str]]


def _nothing(_: Any) -> Names:
    return ()


def _of(field: str) -> Callable[[Any], Names]:
    return lambda request: ((field, getattr(request, field)),)


def _created(request: service_pb2.CreateImageRequest) -> Names:
    spec = request.spec
    if spec.labels_of:
        # They lie in the image that they belong to.
        return (("spec.labels_of", f"{spec.labels_of}/labels/{spec.name}"),)
    return (("spec.name", spec.name),)


def _each(request: Any) -> Names:
    return ((f"reads[{index}].image", read.image) for index, read in enumerate(request.reads))


def _opened(request: Any) -> Names:
    # Whatever is no Open the handler refuses.
    opens = isinstance(request, write_pb2.WriteRequest) and request.HasField("open")
    return (("open.image", request.open.image),) if opens else ()


@dataclass(frozen=True, slots=True)
class Rule:
    """What a call needs.

    names: (field, image) of its request, or of the first of a stream: the caller's prefix
    has to cover each. whole: it is about all images: for callers without a prefix.
    change: what the audit log calls it; empty: it changes nothing.
    """

    scope: Scope
    names: Callable[[Any], Names] = _nothing
    whole: bool = False
    change: str = ""

    def check(self, caller: Caller) -> None:
        """PermissionDenied where the caller may not make this call at all."""
        if caller.scope < self.scope:
            raise PermissionDenied(
                f"{caller.name!r} has scope {caller.scope.word}; {self.scope.word} is needed",
                scope=caller.scope.word,
                needed=self.scope.word,
            )
        if self.whole and caller.prefix:
            raise PermissionDenied(
                f"{caller.name!r} may only see {caller.prefix!r}; this is about all images",
                prefix=caller.prefix,
            )

    def check_names(self, caller: Caller, request: Any) -> None:
        """PermissionDenied where it is about an image that is not the caller's.

        Whether there is one is not looked at, and so not told.
        """
        # What is no message names nothing, and the handler refuses it.
        if caller.prefix and not isinstance(request, wire.Malformed):
            for field, name in self.names(request):
                if not caller.covers(name):
                    raise PermissionDenied(
                        f"{field} {_shown(name)} is not at or below {caller.prefix!r}, which is"
                        f" all that {caller.name!r} may see",
                        field=field,
                        prefix=caller.prefix,
                    )


_ENGINE = "/ziggurat.v1.Ziggurat/"
_HEALTH = "/grpc.health.v1.Health/"

RULES: dict[str, Rule] = {
    _ENGINE + "CreateImage": Rule(Scope.WRITE, _created, change="image.create"),
    _ENGINE + "GetImage": Rule(Scope.READ, _of("name")),
    # The handler leaves out what is not the caller's.
    _ENGINE + "ListImages": Rule(Scope.READ),
    _ENGINE + "DeleteImage": Rule(Scope.ADMIN, _of("name"), change="image.delete"),
    _ENGINE + "WriteStream": Rule(Scope.WRITE, _opened, change="stream"),
    _ENGINE + "BuildPyramid": Rule(Scope.WRITE, _of("image"), change="pyramid.build"),
    _ENGINE + "ReadRegion": Rule(Scope.READ, _of("image")),
    _ENGINE + "ReadSmall": Rule(Scope.READ, _of("image")),
    _ENGINE + "ReadRegions": Rule(Scope.READ, _each),
    _ENGINE + "ReadPlane": Rule(Scope.READ, _of("image")),
    _ENGINE + "ListFrames": Rule(Scope.READ, _of("image")),
    # Counts and errors of all images, and paths of the server.
    _ENGINE + "GetStatus": Rule(Scope.READ, whole=True),
    # Orchestrators ask, who have no token.
    _HEALTH + "Check": Rule(Scope.NONE),
    _HEALTH + "List": Rule(Scope.NONE),
    _HEALTH + "Watch": Rule(Scope.NONE),
    # It tells what the .proto tells, which is public.
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Rule(Scope.READ),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Rule(Scope.READ),
}


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "...")
