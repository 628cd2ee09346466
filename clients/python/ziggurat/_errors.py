"""What can go wrong for a caller, and which exception stands for which gRPC status?

    ZigguratError
    ├── RequestError          change the request
    │   ├── InvalidArgument       a value is wrong in itself (also a ValueError)
    │   ├── OutOfRange            an index, box or level is not there (also an IndexError)
    │   ├── NotFound              no such image (also a LookupError)
    │   ├── AlreadyExists         the name is taken
    │   └── LimitExceeded         ask for less, or have the limit raised
    ├── AccessError           show who you are, or ask the administrator for the right
    │   ├── Unauthenticated       no token, or one that does not count (any more)
    │   └── PermissionDenied      the token does not reach so far
    ├── StateError            do something else first
    │   ├── FailedPrecondition    not now: a gap in a sequence, a busy image, a closed client
    │   └── StreamHeld            another call writes with this stream id
    ├── Unavailable           no server there, or it is stopping: try again later
    ├── DeadlineExceeded      it took longer than was allowed (also a TimeoutError)
    ├── Cancelled             this side gave up
    ├── DataLoss              stored bytes can't be used: call the administrator
    └── ServerError           anything else the server or the wire did wrong

The same classes are raised for what the client finds itself and for what the server
says. A status carries google.rpc.ErrorInfo, BadRequest and RetryInfo in its trailing metadata
"grpc-status-details-bin", the id of the call "x-request-id"; they are unpacked here alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "ziggurat"
_DETAILS_KEY = "grpc-status-details-bin"
_REQUEST_ID_KEY = "x-request-id"


class ZigguratError(Exception):
    """The root of all errors that this library raises on purpose.

    reason: a stable word in capitals that programs may test ("NOT_FOUND").
    field: the argument or request field at fault ("axes[2].size"), or "".
    details: values that a program may want ({"limit": "max_read_bytes"}).
    retry_seconds: the server asks to wait so long before the same is tried again; None: it
        says nothing of that, or that it would be in vain.
    violations: every (field, what is wrong) the server named.
    sequence: in errors of a Writer, the first sequence number that was not
        acknowledged at the stream's durability; None elsewhere.
    request_id: by which the server's log names the call; "" where no server answered.
        Tracebacks show it.
    """

    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        reason: str = "",
        details: dict[str, str] | None = None,
        violations: Iterable[tuple[str, str]] = (),
        sequence: int | None = None,
        request_id: str = "",
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.reason = reason or self.default_reason
        self.details = dict(details or {})
        self.violations = tuple(violations) or (((field, message),) if field else ())
        self.sequence = sequence
        self.retry_seconds = retry_seconds
        self.request_id = request_id
        if request_id:
            self.add_note(f"request id: {request_id}")

    def __str__(self) -> str:
        """The message alone, also where a parent class would format its arguments."""
        return self.message

    def at(self, sequence: int) -> ZigguratError:
        """A new error of the same kind that carries `sequence`.

        Raising one exception object from several threads would mix their tracebacks.
        """
        again = type(self)(
            self.message,
            field=self.field,
            reason=self.reason,
            details=self.details,
            violations=self.violations,
            sequence=sequence,
            request_id=self.request_id,
            retry_seconds=self.retry_seconds,
        )
        again.__cause__ = self.__cause__
        return again


class RequestError(ZigguratError):
    """The request can't be carried out as it stands; nothing was changed."""

    default_reason = "INVALID_REQUEST"


class InvalidArgument(RequestError, ValueError):
    """A value is wrong whatever the state of the server; `field` names it."""

    default_reason = "INVALID_ARGUMENT"


class OutOfRange(RequestError, IndexError):
    """An index, a box or a level lies outside what the image has."""

    default_reason = "OUT_OF_RANGE"


class NotFound(RequestError, LookupError):
    """There is no such image."""

    default_reason = "NOT_FOUND"


class AlreadyExists(RequestError):
    """The name is taken, or a path above or below it is an image."""

    default_reason = "ALREADY_EXISTS"


class LimitExceeded(RequestError):
    """A configured limit does not allow this; the message names it.

    Where `retry_seconds` is a number others use the limit up for now; a Writer waits so long and
    goes on by itself, for its `retry_seconds` at most. Any other caller may do the same.
    details: "limit", its name; "value", what it is set to; "asked", what was asked for.
    """

    default_reason = "LIMIT_EXCEEDED"


class AccessError(ZigguratError):
    """The server does not let this client do it; nothing was changed."""

    default_reason = "ACCESS_DENIED"


class Unauthenticated(AccessError):
    """The server does not know who calls: no token, or one that does not count (any more)."""

    default_reason = "UNAUTHENTICATED"


class PermissionDenied(AccessError):
    """The token's scope or prefix, which the message names, does not allow this."""

    default_reason = "PERMISSION_DENIED"


class StateError(ZigguratError):
    """The request is well formed, but not now."""

    default_reason = "WRONG_STATE"


class FailedPrecondition(StateError):
    """Something else has to happen first."""

    default_reason = "FAILED_PRECONDITION"


class StreamHeld(StateError):
    """Another call holds this stream id; a stream has one writer."""

    default_reason = "STREAM_HELD"


class Unavailable(ZigguratError):
    """No server answers there, or it is stopping; try again later."""

    default_reason = "UNAVAILABLE"


class DeadlineExceeded(ZigguratError, TimeoutError):
    """It took longer than the time allowed; it may still have been carried out."""

    default_reason = "DEADLINE_EXCEEDED"


class Cancelled(ZigguratError):
    """This side gave up; what was done stays done."""

    default_reason = "CANCELLED"


class DataLoss(ZigguratError):
    """Stored bytes can't be used; nobody's request is at fault."""

    default_reason = "DATA_LOSS"


class ServerError(ZigguratError):
    """The server, or something between here and there, does not do as agreed."""

    default_reason = "INTERNAL"


STATUS_TO_ERROR: dict[grpc.StatusCode, type[ZigguratError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitExceeded,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.ABORTED: StreamHeld,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.DATA_LOSS: DataLoss,
}
"""Every status that is not here is a ServerError, its name put before the message."""

# What grpc itself makes of a connection that broke; a server that says so gives a reason.
_BROKEN = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)

# How gRPC's words tell a TLS that failed from a network that did.
_NO_TLS = ("Tls handshake failed", "CERTIFICATE_", "Hostname Verification", "Peer name")


def from_rpc(error: grpc.RpcError, *, field: str = "", server: str = "") -> ZigguratError:
    """The exception that stands for the status of a failed call.

    field: what to name where the server names nothing.
    server: the address, for the message of Unavailable.
    """
    # Each error that grpc raises from a call is also the call.
    call: Any = error
    code, text = call.code(), call.details() or ""
    reason, details, violations, retry_seconds = _unpack(call.trailing_metadata())
    kind = STATUS_TO_ERROR.get(code, ServerError)
    message = text or f"the server answered {code.name} without a word"
    if code in _BROKEN and not reason:
        reason = "TRANSPORT"
    if kind is ServerError:
        message = f"{code.name}: {message}"
    elif kind is Unavailable and not reason and server:
        if any(sign in text for sign in _NO_TLS):
            reason = "TLS_FAILED"
            message = (
                f"no TLS with the server at {server}: its certificate has to name this address,"
                f" be signed by a CA that is trusted (ca), and be in date: {message}"
            )
        else:
            message = f"the server at {server} can't be reached: {message}"
    if retry_seconds is not None:
        message += f" (the server asks to try again in {retry_seconds:g} s)"
    return kind(
        message,
        field=violations[0][0] if violations else field,
        reason=reason,
        details=details,
        violations=violations,
        request_id=_request_id(call.trailing_metadata()),
        retry_seconds=retry_seconds,
    )


def _request_id(metadata: Any) -> str:
    return next((str(value) for key, value in metadata or () if key == _REQUEST_ID_KEY), "")


def _unpack(metadata: Any) -> tuple[str, dict[str, str], list[tuple[str, str]], float | None]:
    reason, details = "", {}
    violations: list[tuple[str, str]] = []
    retry_seconds: float | None = None
    for key, value in metadata or ():
        if key != _DETAILS_KEY:
            continue
        try:
            status = status_pb2.Status.FromString(value)
            for packed in status.details:
                info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
                retry = error_details_pb2.RetryInfo()
                if packed.Unpack(info) and info.domain == DOMAIN:
                    reason, details = info.reason, dict(info.metadata)
                elif packed.Unpack(bad):
                    violations += [(v.field, v.description) for v in bad.field_violations]
                elif packed.Unpack(retry):
                    retry_seconds = retry.retry_delay.ToNanoseconds() / 1e9
        except DecodeError:
            # Details are an addition: the status itself still says what happened.
            continue
    return reason, details, violations, retry_seconds
