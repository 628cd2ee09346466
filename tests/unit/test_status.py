"""Which gRPC status has each error? Pinned: programs out there test for these."""

from __future__ import annotations

import errno
from base64 import b64encode
from urllib.parse import quote

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2
from ziggurat_engine import errors
from ziggurat_engine.server.status import (
    CODES,
    DOMAIN,
    code_of,
    shortened,
    status_of,
    violations_of,
)

Code = grpc.StatusCode
PINNED = {
    # class: (parent, reason, code)
    "ZigguratError": ("Exception", "INTERNAL", Code.INTERNAL),
    "RequestError": ("ZigguratError", "INVALID_REQUEST", Code.INVALID_ARGUMENT),
    "InvalidArgument": ("RequestError", "INVALID_ARGUMENT", Code.INVALID_ARGUMENT),
    "OutOfRange": ("RequestError", "OUT_OF_RANGE", Code.OUT_OF_RANGE),
    "NotFound": ("RequestError", "NOT_FOUND", Code.NOT_FOUND),
    "AlreadyExists": ("RequestError", "ALREADY_EXISTS", Code.ALREADY_EXISTS),
    "LimitExceeded": ("RequestError", "LIMIT_EXCEEDED", Code.RESOURCE_EXHAUSTED),
    "AccessError": ("ZigguratError", "ACCESS_DENIED", Code.PERMISSION_DENIED),
    "Unauthenticated": ("AccessError", "UNAUTHENTICATED", Code.UNAUTHENTICATED),
    "PermissionDenied": ("AccessError", "PERMISSION_DENIED", Code.PERMISSION_DENIED),
    "StateError": ("ZigguratError", "WRONG_STATE", Code.FAILED_PRECONDITION),
    "FailedPrecondition": ("StateError", "FAILED_PRECONDITION", Code.FAILED_PRECONDITION),
    "StreamHeld": ("StateError", "STREAM_HELD", Code.ABORTED),
    "Unavailable": ("ZigguratError", "UNAVAILABLE", Code.UNAVAILABLE),
    "DiskError": ("Unavailable", "DISK_ERROR", Code.UNAVAILABLE),
    "DiskFull": ("DiskError", "DISK_FULL", Code.RESOURCE_EXHAUSTED),
    "Cancelled": ("ZigguratError", "CANCELLED", Code.CANCELLED),
    "DataError": ("ZigguratError", "DATA_ERROR", Code.DATA_LOSS),
    "Corrupt": ("DataError", "CORRUPT", Code.DATA_LOSS),
    "DataLoss": ("DataError", "DATA_LOSS", Code.DATA_LOSS),
    "UnsupportedVersion": ("DataError", "UNSUPPORTED_VERSION", Code.DATA_LOSS),
}
CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.ZigguratError)
}


def details(error: Exception) -> tuple[error_details_pb2.ErrorInfo, list[tuple[str, str]]]:
    info, fields = error_details_pb2.ErrorInfo(), []
    for packed in status_of(error).details:
        assert isinstance(packed, any_pb2.Any)
        bad = error_details_pb2.BadRequest()
        if packed.Unpack(bad):
            fields = [(v.field, v.description) for v in bad.field_violations]
        else:
            assert packed.Unpack(info)
    return info, fields


def test_a_limit_says_its_name_and_when_to_try_again() -> None:
    asked = {"limit": "max_streams", "value": 4, "asked": 5}
    status = status_of(errors.LimitExceeded("4 are open", **asked, retry_seconds=1.5))
    info, quota, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.QuotaFailure(),
        error_details_pb2.RetryInfo(),
    )
    for packed, message in zip(status.details, (info, quota, retry), strict=True):
        assert packed.Unpack(message)
    said = {name: str(value) for name, value in asked.items()}
    assert dict(info.metadata) == said | {"retry_seconds": "1.5"}
    assert [(v.subject, v.description) for v in quota.violations] == [("max_streams", "4 are open")]
    assert retry.retry_delay.ToMilliseconds() == 1500
    never = status_of(errors.LimitExceeded("too much", limit="max_read_bytes", value=1, asked=2))
    assert len(never.details) == 2, "no hint where it would be in vain"


@pytest.mark.parametrize("character", ["a", "\u00e9", "\U0001f600", "\0"])
def test_what_a_client_said_at_length_has_room_in_metadata(character: str) -> None:
    name = character * 100_000
    message = f"name is {name!r}, longer than it may be"
    violations = tuple((f"axes[{k}].{name}", message) for k in range(100))
    for error in (
        errors.InvalidArgument(message, field=f"labels[{name}]", violations=violations, name=name),
        errors.LimitExceeded(message, field=name, limit="max_images", value=1, asked=name),
        RuntimeError(message),
    ):
        status = status_of(error)
        encoded = b64encode(status.SerializeToString())
        assert len(quote(status.message)) + len(encoded) < 6500
        assert "name is " in status.message
        assert "characters" in status.message
        assert status.message.endswith("longer than it may be")


def test_what_has_room_is_not_shortened() -> None:
    assert shortened("\u00e9" * 50, 100) == "\u00e9" * 50
    assert len(shortened("\u00e9" * 51, 100).encode()) <= 100


def test_the_tree() -> None:
    found = {
        name: (kind.__bases__[0].__name__, kind.reason, code_of(kind("x")))
        for name, kind in CLASSES.items()
    }
    assert found == PINNED


def test_the_tree_is_drawn() -> None:
    assert errors.__doc__ is not None
    drawn = [word for word in errors.__doc__.replace("──", " ").split() if word in PINNED]
    assert list(dict.fromkeys(drawn)) == list(PINNED)


def test_every_error_has_a_code() -> None:
    """Whichever class comes later: the root is in the table, and last."""
    assert CODES[-1][0] is errors.ZigguratError


@pytest.mark.parametrize("name", PINNED)
def test_details(name: str) -> None:
    error = CLASSES[name]("what happened", limit_bytes=7)
    status = status_of(error)
    assert status.code == PINNED[name][2].value[0]
    assert status.message == "what happened"
    info, fields = details(error)
    assert (info.domain, info.reason) == (DOMAIN, PINNED[name][1])
    assert dict(info.metadata) == {"limit_bytes": "7"}
    assert fields == []


@pytest.mark.parametrize("name", [n for n in PINNED if issubclass(CLASSES[n], errors.RequestError)])
def test_fields(name: str) -> None:
    error = CLASSES[name]("what happened", field="axes[0].size").below("spec")
    info, fields = details(error)
    assert fields == [("spec.axes[0].size", "what happened")]
    assert info.metadata["field"] == "spec.axes[0].size"


def test_several_fields() -> None:
    error = errors.InvalidArgument("two", field="a", violations=(("a", "x"), ("b", "y")))
    assert violations_of(error.below("spec")) == (("spec.a", "x"), ("spec.b", "y"))


def test_a_state_is_no_fields_fault() -> None:
    assert violations_of(errors.FailedPrecondition("a gap", field="region.sequence")) == ()


OS_ERRORS = {
    errno.ENOSPC: (Code.RESOURCE_EXHAUSTED, "DISK_FULL"),
    errno.EDQUOT: (Code.RESOURCE_EXHAUSTED, "DISK_FULL"),
    errno.EIO: (Code.UNAVAILABLE, "DISK_ERROR"),
    errno.EACCES: (Code.UNAVAILABLE, "DISK_ERROR"),
}


@pytest.mark.parametrize(("number", "wanted"), OS_ERRORS.items(), ids=errno.errorcode.get)
def test_disk_errors(number: int, wanted: tuple[Code, str]) -> None:
    error = OSError(number, "what the disk says", "/data/x")
    info, _ = details(error)
    assert (status_of(error).code, info.reason) == (wanted[0].value[0], wanted[1])
    assert info.metadata["path"] == "/data/x"


def test_what_nobody_expected(caplog: pytest.LogCaptureFixture) -> None:
    status = status_of(ZeroDivisionError("oops"))
    info, _ = details(ZeroDivisionError("oops"))
    assert (status.code, info.reason) == (Code.INTERNAL.value[0], "BUG")
    assert "ZeroDivisionError: oops" in status.message
    assert "nobody expected" in caplog.text
