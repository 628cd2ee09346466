"""Each gRPC status becomes one exception, with the server's details."""

import traceback

import grpc
import pytest
import ziggurat
from ziggurat._errors import STATUS_TO_ERROR, from_rpc

from tests.unit.client.support import RpcFailure

EXPECTED = {
    "INVALID_ARGUMENT": ziggurat.InvalidArgument,
    "OUT_OF_RANGE": ziggurat.OutOfRange,
    "NOT_FOUND": ziggurat.NotFound,
    "ALREADY_EXISTS": ziggurat.AlreadyExists,
    "RESOURCE_EXHAUSTED": ziggurat.LimitExceeded,
    "FAILED_PRECONDITION": ziggurat.FailedPrecondition,
    "UNAUTHENTICATED": ziggurat.Unauthenticated,
    "PERMISSION_DENIED": ziggurat.PermissionDenied,
    "ABORTED": ziggurat.StreamHeld,
    "UNAVAILABLE": ziggurat.Unavailable,
    "DEADLINE_EXCEEDED": ziggurat.DeadlineExceeded,
    "CANCELLED": ziggurat.Cancelled,
    "DATA_LOSS": ziggurat.DataLoss,
}


def test_the_table_is_pinned():
    assert {code.name: error for code, error in STATUS_TO_ERROR.items()} == EXPECTED


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK])
def test_every_status_has_an_error(code):
    error = from_rpc(RpcFailure(code, "what happened"))
    assert type(error) is EXPECTED.get(code.name, ziggurat.ServerError)
    assert "what happened" in str(error)
    if type(error) is ziggurat.ServerError:
        assert code.name in str(error)


def test_a_retry_hint_is_shown():
    failure = RpcFailure(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "LIMIT_EXCEEDED", retry_seconds=2.5, limit="x"
    )
    error = from_rpc(failure)
    assert (error.retry_seconds, error.details) == (2.5, {"limit": "x"})
    assert str(error) == "full (the server asks to try again in 2.5 s)"
    assert error.at(3).retry_seconds == 2.5


def test_details_are_unpacked():
    failure = RpcFailure(
        grpc.StatusCode.INVALID_ARGUMENT, "too long", "INVALID_ARGUMENT", "spec.name", limit="128"
    )
    error = from_rpc(failure)
    assert (error.reason, error.field, error.details) == (
        "INVALID_ARGUMENT",
        "spec.name",
        {"limit": "128"},
    )
    assert error.violations == (("spec.name", "too long"),)


def test_the_request_id_is_shown():
    failure = RpcFailure(grpc.StatusCode.DATA_LOSS, "broken", "CORRUPT")
    assert from_rpc(failure).request_id == ""
    failure.metadata += (("x-request-id", "abc-7"),)
    error = from_rpc(failure)
    assert (error.request_id, error.at(3).request_id) == ("abc-7", "abc-7")
    assert str(error) == "broken"
    assert "request id: abc-7" in "".join(traceback.format_exception(error))


def test_foreign_and_broken_details_are_ignored():
    foreign = RpcFailure(grpc.StatusCode.NOT_FOUND, "gone", "THEIRS", domain="googleapis.com")
    assert from_rpc(foreign).reason == "NOT_FOUND"
    broken = RpcFailure(grpc.StatusCode.NOT_FOUND, "gone")
    broken.metadata = (("grpc-status-details-bin", b"\xff\xff"),)
    assert from_rpc(broken).reason == "NOT_FOUND"
    broken.metadata = None
    assert str(from_rpc(broken)) == "gone"


def test_nobody_there_names_the_server():
    error = from_rpc(RpcFailure(grpc.StatusCode.UNAVAILABLE, "refused"), server="host:7447")
    assert "host:7447" in str(error)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ziggurat.InvalidArgument, ValueError),
        (ziggurat.OutOfRange, IndexError),
        (ziggurat.NotFound, LookupError),
        (ziggurat.DeadlineExceeded, TimeoutError),
    ],
)
def test_builtin_parents(error, builtin):
    made = error("it is so", field="f")
    assert isinstance(made, builtin)
    assert str(made) == "it is so"
    assert made.violations == (("f", "it is so"),)
    again = made.at(7)
    assert type(again) is error
    assert (again.sequence, again.field, str(again)) == (7, "f", "it is so")


def test_one_tree_and_not_found_is_no_value_error():
    for error in EXPECTED.values():
        assert issubclass(error, ziggurat.ZigguratError)
    assert not issubclass(ziggurat.NotFound, ValueError)
