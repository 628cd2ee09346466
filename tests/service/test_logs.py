"""Does the server's log say what was called, by a name that client and server share?"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import ziggurat
from ziggurat_engine.server.observe import _IMAGES
from ziggurat_proto.v1 import service_pb2

from tests.support.raw import RawServer
from tests.support.server import ServerProcess
from tests.support.waiting import until

PATH = "/ziggurat.v1.Ziggurat/GetImage"


@pytest.fixture(scope="module")
def logged(serve_module: Callable[..., ServerProcess]) -> ServerProcess:
    return serve_module(log_format="json", access_log_level="info", kernels="reference")


def lines(server: ServerProcess) -> list[dict[str, Any]]:
    whole = [line for line in server.stderr.splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in whole]


def call_of(server: ServerProcess, **facts: str) -> dict[str, Any]:
    """The line of the one call with these facts."""
    found = until(
        lambda: [
            line
            for line in lines(server)
            if line["event"] == "call" and facts.items() <= line.items()
        ],
        f"a line with {facts}",
    )
    assert len(found) == 1
    return found[0]


def get_image(server: ServerProcess, name: str, *metadata: tuple[str, str]) -> grpc.RpcError:
    raw = RawServer(server.address)
    try:
        get = raw.channel.unary_unary(PATH, service_pb2.GetImageRequest.SerializeToString)
        with pytest.raises(grpc.RpcError) as found:
            get(service_pb2.GetImageRequest(name=name), timeout=60, metadata=metadata)
        return found.value
    finally:
        raw.close()


def test_every_line_is_json_with_time_level_and_logger(logged: ServerProcess) -> None:
    for line in lines(logged):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", line["timestamp"])
        assert {"level", "logger", "event"} <= line.keys()


def test_a_call_that_ends_well(logged: ServerProcess) -> None:
    with ziggurat.connect(logged.address) as client:
        image = client.create("logs/one", axes="yx", shape=(8, 8), dtype="uint8")
        with image.writer() as writer:
            writer.write_region(np.ones((8, 8), "uint8"), offset=(0, 0))
        image.read()
    for rpc in ("CreateImage", "WriteStream", "ReadSmall"):
        line = call_of(logged, rpc=rpc, image="logs/one")
        assert (line["code"], line["level"], line["logger"]) == ("OK", "info", "ziggurat.access")
        assert line["peer"].startswith("ipv4:127.0.0.1:")
        assert line["seconds"] >= 0
        assert re.fullmatch("[0-9a-f]{16}", line["request_id"])


def test_the_id_of_the_client_comes_back_with_an_error(logged: ServerProcess) -> None:
    error = get_image(logged, "logs/none", ("x-request-id", "from-the-client"))
    trailing = dict(error.trailing_metadata())
    assert trailing["x-request-id"] == "from-the-client"
    assert "grpc-status-details-bin" in trailing
    line = call_of(logged, request_id="from-the-client")
    assert (line["code"], line["image"]) == ("NOT_FOUND", "logs/none")
    assert "logs/none" in line["details"]


def test_what_a_caller_says_is_shortened(logged: ServerProcess) -> None:
    error = get_image(logged, "x" * 1000)
    line = call_of(logged, request_id=dict(error.trailing_metadata())["x-request-id"])
    assert (line["code"], len(line["image"])) == ("NOT_FOUND", 515)
    assert 480 < len(line["details"]) <= 512


def test_a_caller_who_leaves_before_it_asks_is_no_fault_of_the_server(
    logged: ServerProcess,
) -> None:
    raw, gone = RawServer(logged.address), threading.Event()
    read = raw.channel.stream_stream("/ziggurat.v1.Ziggurat/ReadRegion")

    def found() -> list[dict[str, Any]]:
        with pytest.raises(grpc.RpcError):
            list(read(_nothing(gone), timeout=0.5, metadata=[("x-request-id", "left")]))
        return [line for line in lines(logged) if line.get("request_id") == "left"]

    try:
        said = until(found, "a line for a call that was left")
    finally:
        gone.set()
        raw.close()
    assert {(line["code"], line["level"]) for line in said} == {("CANCELLED", "info")}


def _nothing(gone: threading.Event) -> Iterator[bytes]:
    gone.wait()
    yield from ()


@pytest.mark.parametrize("given", ["", "two words", "x" * 129], ids=["empty", "space", "long"])
def test_an_id_that_can_not_be_shown_is_replaced(logged: ServerProcess, given: str) -> None:
    error = get_image(logged, "logs/none", ("x-request-id", given))
    assert re.fullmatch("[0-9a-f]{16}", dict(error.trailing_metadata())["x-request-id"])


def test_an_error_of_the_client_names_its_line(logged: ServerProcess) -> None:
    with ziggurat.connect(logged.address) as client:
        with pytest.raises(ziggurat.NotFound) as found:
            client.open("logs/missing")
        line = call_of(logged, request_id=found.value.request_id)
        assert line["image"] == "logs/missing"


def test_what_the_engine_says_in_a_call_has_its_id(logged: ServerProcess) -> None:
    with ziggurat.connect(logged.address) as client:
        image = client.create(
            "logs/broken",
            axes="yx",
            shape=(64, 64),
            dtype="uint8",
            chunk_shape=(32, 32),
            shard_chunks=(1, 1),
        )
        with image.writer() as writer:
            writer.write_region(np.ones((64, 64), "uint8"), offset=(0, 0))
        chunk = logged.image_path("logs/broken") / "0" / "c" / "0" / "0"
        chunk.unlink()
        # No file can be opened as one where a directory loops.
        chunk.symlink_to(chunk)
        with pytest.raises(ziggurat.ZigguratError) as found:
            image.read()
        chunk.unlink()
    mine = found.value.request_id
    call_of(logged, request_id=mine, event="call")
    of_call = [line["logger"] for line in lines(logged) if line.get("request_id") == mine]
    assert of_call == ["ziggurat_engine.server.status", "ziggurat.access"]


def test_calls_that_end_well_are_not_logged_unless_asked_for(
    server: ServerProcess, client: ziggurat.Client
) -> None:
    before = server.stderr.count("rpc=GetStatus")
    client.status()
    with pytest.raises(ziggurat.NotFound) as found:
        client.open("logs/quiet")
    said = f"request_id={found.value.request_id}"
    until(lambda: said in server.stderr, "the line of the call that failed")
    assert server.stderr.count("rpc=GetStatus") == before


def test_every_call_says_where_it_names_its_image() -> None:
    service = service_pb2.DESCRIPTOR.services_by_name["Ziggurat"]
    assert {method.name for method in service.methods} == _IMAGES.keys()
