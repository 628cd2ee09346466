"""What can go wrong, grouped by what the caller would do about it.

    ZigguratError
    ├── RequestError          change the request
    │   ├── InvalidArgument       a field is wrong in itself
    │   ├── OutOfRange            a field is wrong for this image
    │   ├── NotFound
    │   ├── AlreadyExists
    │   └── LimitExceeded         ask for less, or have the limit raised
    ├── AccessError           show who you are, or ask the administrator for the right
    │   ├── Unauthenticated       no token, or none that counts (any more)
    │   └── PermissionDenied      the token does not reach so far
    ├── StateError            do something else first
    │   ├── FailedPrecondition
    │   └── StreamHeld            another call writes to this stream
    ├── Unavailable           try again later
    │   └── DiskError             a disk refuses; errno and path are in `details`
    │       └── DiskFull              it, or what is kept free on it, has no room
    ├── Cancelled             the caller asked for it
    └── DataError             call the administrator
        ├── Corrupt               stored bytes are not what was written
        ├── DataLoss              a disk, or a directory, that was there is not
        └── UnsupportedVersion    stored by a newer Ziggurat

Each error has a `reason`, a stable word in capitals that programs may test, and
for a RequestError the request's `field` where one is at fault. The words are only
ever added to; the server maps the classes to gRPC status in one table.
"""

from __future__ import annotations

import errno
from typing import ClassVar, Self

# What to do about an UnsupportedVersion.
NEWER = "use the version of Ziggurat that wrote it, or a later one"

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


class ZigguratError(Exception):
    """The root of all errors that the engine raises on purpose.

    message: a sentence that names the value at fault.
    field: path of the request field at fault ("axes[2].size"), or "".
    details: values that a program may want ({"limit_bytes": "1048576"}).
    """

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, field: str = "", **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.details = {name: str(value) for name, value in details.items()}


class RequestError(ZigguratError):
    """The request can't be carried out as it stands; nothing was changed."""

    reason = "INVALID_REQUEST"

    def below(self, prefix: str) -> Self:
        """This error, its fields counted from `prefix`, a field that holds them."""
        if self.field:
            self.field = f"{prefix}.{self.field}"
        return self


class InvalidArgument(RequestError):
    """A field is wrong whatever the state of the server."""

    reason = "INVALID_ARGUMENT"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        violations: tuple[tuple[str, str], ...] = (),
        **details: object,
    ) -> None:
        super().__init__(message, field=field, **details)
        self.violations = violations or (((field, message),) if field else ())

    def below(self, prefix: str) -> Self:
        """Also the fields of `violations`."""
        self.violations = tuple((f"{prefix}.{field}", text) for field, text in self.violations)
        return super().below(prefix)


class OutOfRange(RequestError):
    """A region, level or index lies outside what the image has."""

    reason = "OUT_OF_RANGE"


class NotFound(RequestError):
    """There is no such image."""

    reason = "NOT_FOUND"


class AlreadyExists(RequestError):
    """The name is taken, or a path above or below it is an image."""

    reason = "ALREADY_EXISTS"


class LimitExceeded(RequestError):
    """A configured limit does not allow this.

    limit: its name, that of a setting. value: what it is set to. asked: what was asked for, in
    the same unit. retry_seconds: the same may be allowed after so long, since others use it up;
    None: it never will. All of them are in `details` as well.
    """

    reason = "LIMIT_EXCEEDED"

    def __init__(
        self,
        message: str,
        *,
        limit: str = "",
        value: float = 0,
        asked: float = 0,
        retry_seconds: float | None = None,
        field: str = "",
        **details: object,
    ) -> None:
        if limit:
            details |= {"limit": limit, "value": value, "asked": asked}
        if retry_seconds is not None:
            details["retry_seconds"] = retry_seconds
        super().__init__(message, field=field, **details)
        self.limit = limit
        self.retry_seconds = retry_seconds


class AccessError(ZigguratError):
    """The caller may not do this; nothing was changed, and nothing is said of what is there."""

    reason = "ACCESS_DENIED"


class Unauthenticated(AccessError):
    """Nobody knows who calls: there is no token, or it is unknown, revoked or expired."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(AccessError):
    """The caller's scope or prefix, named in `details`, does not allow this."""

    reason = "PERMISSION_DENIED"


class StateError(ZigguratError):
    """The request is well formed, but not now."""

    reason = "WRONG_STATE"


class FailedPrecondition(StateError):
    """Something else has to happen first (a gap in a sequence, a busy image)."""

    reason = "FAILED_PRECONDITION"


class StreamHeld(StateError):
    """Another call holds this stream id; a stream has one writer."""

    reason = "STREAM_HELD"


class Unavailable(ZigguratError):
    """The server is stopping, or a disk refuses for now; try again later."""

    reason = "UNAVAILABLE"


class DiskError(Unavailable):
    """A disk refuses (EIO, EROFS); nothing acknowledged is lost, and work goes on by itself."""

    reason = "DISK_ERROR"


class DiskFull(DiskError):
    """A disk is full, or too little of it is free to begin anything new."""

    reason = "DISK_FULL"


def disk_error(error: OSError, what: str = "") -> DiskError:
    """What an OSError of log, store or state database is to a caller; `what` it kept from."""
    kind = DiskFull if error.errno in _FULL else DiskError
    message = f"{what}: {error}" if what else str(error)
    return kind(message, errno=error.errno, path=error.filename)


class Cancelled(ZigguratError):
    """The caller gave up; what was done stays done."""

    reason = "CANCELLED"


class DataError(ZigguratError):
    """What is stored can't be used; nobody's request is at fault."""

    reason = "DATA_ERROR"


class Corrupt(DataError):
    """Stored bytes fail their checksum or do not decode."""

    reason = "CORRUPT"


class DataLoss(DataError):
    """What was acknowledged is not there, and nobody said that it may be lost."""

    reason = "DATA_LOSS"


class UnsupportedVersion(DataError):
    """Stored by a newer version, in a format this one does not know."""

    reason = "UNSUPPORTED_VERSION"
