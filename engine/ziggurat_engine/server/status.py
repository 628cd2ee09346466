"""Which gRPC status does an error become?

One table, from the engine's classes to codes. Every status carries a google.rpc.ErrorInfo
(domain "ziggurat", the error's reason, its details), a google.rpc.BadRequest where a field
of the request is at fault, and, where a limit is, a google.rpc.QuotaFailure that names it, with
a google.rpc.RetryInfo where the same may be allowed later.

All of it travels as trailing metadata, of which gRPC takes 8 KiB: long texts, which quote what
a client said, lose their middle.
"""

from __future__ import annotations

import logging
from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from ziggurat_engine import errors

log = logging.getLogger(__name__)

DOMAIN = "ziggurat"

# In UTF-8: of a message, of a name or value, and of all fields at fault. A byte of the message
# may take three as text, and it comes again in details, which are base64.
MOST_MESSAGE_BYTES = 512
MOST_VALUE_BYTES = 192
MOST_VIOLATIONS_BYTES = 1024

# The first class that fits counts.
CODES: tuple[tuple[type[errors.ZigguratError], grpc.StatusCode], ...] = (
    (errors.InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.OutOfRange, grpc.StatusCode.OUT_OF_RANGE),
    (errors.NotFound, grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (errors.LimitExceeded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.RequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (errors.AccessError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.StreamHeld, grpc.StatusCode.ABORTED),
    (errors.StateError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.DiskFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.Unavailable, grpc.StatusCode.UNAVAILABLE),
    (errors.Cancelled, grpc.StatusCode.CANCELLED),
    (errors.DataError, grpc.StatusCode.DATA_LOSS),
    (errors.ZigguratError, grpc.StatusCode.INTERNAL),
)


def code_of(error: errors.ZigguratError) -> grpc.StatusCode:
    """The status code of an error."""
    return next(code for kind, code in CODES if isinstance(error, kind))


def status_of(error: Exception) -> status_pb2.Status:
    """The whole status of any exception; what nobody expected is logged, and INTERNAL."""
    if isinstance(error, OSError):
        error = errors.disk_error(error)
        log.error("a call failed: %s", error)
    if isinstance(error, errors.ZigguratError):
        code, message, reason = code_of(error), error.message, error.reason
        details = dict(error.details)
        if error.field:
            details.setdefault("field", error.field)
    else:
        log.error("a call failed in a way nobody expected", exc_info=error)
        code, message, reason = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}", "BUG"
        details = {}
    message = shortened(message, MOST_MESSAGE_BYTES)
    status = status_pb2.Status(code=code.value[0], message=message)
    details = {name: shortened(value, MOST_VALUE_BYTES) for name, value in details.items()}
    _add(status, error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=details))
    violations = violations_of(error)
    if violations:
        bad = error_details_pb2.BadRequest()
        for field, description in violations:
            bad.field_violations.add(
                field=shortened(field, MOST_VALUE_BYTES),
                description=shortened(description, MOST_MESSAGE_BYTES),
            )
            if bad.ByteSize() > MOST_VIOLATIONS_BYTES:
                del bad.field_violations[-1]
                break
        _add(status, bad)
    if isinstance(error, errors.LimitExceeded) and error.limit:
        quota = error_details_pb2.QuotaFailure()
        quota.violations.add(subject=error.limit, description=message)
        _add(status, quota)
        if error.retry_seconds is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(round(error.retry_seconds * 1e9))
            _add(status, retry)
    return status


def shortened(text: str, most: int) -> str:
    """`text` in at most `most` bytes of UTF-8: without its middle, where it is longer."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= most:
        return text
    left = f" ... ({len(text)} characters) ... "
    room = most - len(left)
    head, tail = encoded[: room * 2 // 3], encoded[-(room // 3) :]
    return head.decode(errors="ignore") + left + tail.decode(errors="ignore")


def violations_of(error: Exception) -> tuple[tuple[str, str], ...]:
    """(field, what is wrong with it) of an error that a request's fields caused."""
    if isinstance(error, errors.InvalidArgument):
        return error.violations
    if isinstance(error, errors.RequestError) and error.field:
        return ((error.field, error.message),)
    return ()


def abort(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    """Ends the call with the status of `error`; trailing metadata that is set already stays."""
    status = rpc_status.to_status(status_of(error))
    # Of several that end a call the last one counts.
    said = {**dict(context.trailing_metadata() or ()), **dict(status.trailing_metadata)}
    context.set_trailing_metadata(tuple(said.items()))
    context.abort(status.code, status.details)
    raise AssertionError("abort raises")


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)
