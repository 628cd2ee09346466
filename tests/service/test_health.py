"""Do standard tools learn whether the server is ready, and what it can do?"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import ziggurat
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from ziggurat_proto.v1 import service_pb2

from tests.support import held_server
from tests.support.raw import RawServer
from tests.support.server import ServerProcess
from tests.support.waiting import SECONDS

ENGINE = "ziggurat.v1.Ziggurat"
STATUS = health_pb2.HealthCheckResponse.ServingStatus


@contextlib.contextmanager
def stubs(address: str) -> Iterator[health_pb2_grpc.HealthStub]:
    with grpc.insecure_channel(address) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def check(stub: health_pb2_grpc.HealthStub, service: str = "") -> str:
    request = health_pb2.HealthCheckRequest(service=service)
    return STATUS.Name(stub.Check(request, timeout=SECONDS, wait_for_ready=True).status)


def watch(stub: health_pb2_grpc.HealthStub, service: str = "") -> Iterator[str]:
    request = health_pb2.HealthCheckRequest(service=service)
    for answer in stub.Watch(request, timeout=SECONDS, wait_for_ready=True):
        yield STATUS.Name(answer.status)


@pytest.mark.parametrize("service", ["", ENGINE], ids=["whole", "engine"])
def test_ready_for_each_service(server: ServerProcess, service: str) -> None:
    with stubs(server.address) as stub:
        assert check(stub, service) == "SERVING"
        assert next(watch(stub, service)) == "SERVING"


def test_a_service_that_is_not_there(server: ServerProcess) -> None:
    with stubs(server.address) as stub:
        with pytest.raises(grpc.RpcError) as found:
            check(stub, "no.such.Service")
        assert found.value.code() is grpc.StatusCode.NOT_FOUND
        assert next(watch(stub, "no.such.Service")) == "SERVICE_UNKNOWN"


def test_not_ready_while_it_recovers(serve: Callable[..., ServerProcess], tmp_path: Path) -> None:
    first = serve(settle_idle_seconds=1000, kernels="reference")
    with ziggurat.connect(first.address) as client:
        image = client.create("health/one", axes="yx", shape=(64, 64), dtype="uint8")
        writer = image.writer(retry_seconds=0)
        writer.write_region(np.ones((32, 64), "uint8"), offset=(0, 0))
        writer.flush(SECONDS)
        first.kill()
        writer.cancel()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def again() -> ServerProcess:
        return serve(
            first.data, program=[held_server.__file__], listen=address, kernels="reference"
        )

    with ThreadPoolExecutor() as pool, stubs(address) as stub:
        started = pool.submit(again)
        try:
            seen = watch(stub, ENGINE)
            assert next(seen) == "NOT_SERVING"
            assert check(stub) == check(stub, ENGINE) == "NOT_SERVING"
            raw = RawServer(address)
            with pytest.raises(grpc.RpcError) as found:
                raw.call("GetImage", service_pb2.GetImageRequest(name="health/one"))
            assert found.value.code() is grpc.StatusCode.UNAVAILABLE
            assert raw.call("GetStatus", service_pb2.GetStatusRequest()).recovering
            raw.close()
        finally:
            (first.data / "go").touch()
        started.result()
        assert next(seen) == "SERVING"
        assert check(stub) == "SERVING"


def test_not_ready_while_it_drains_and_held_up_by_no_watcher(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve(drain_seconds=10 * SECONDS, kernels="reference")
    with stubs(server.address) as stub:
        whole, engine = watch(stub), watch(stub, ENGINE)
        assert next(whole) == next(engine) == "SERVING"
        server.terminate()
        assert next(whole) == next(engine) == "NOT_SERVING"
        # Within less than it may wait for calls; see `wait`.
        assert server.wait() == 0


def listed(address: str) -> list[str]:
    with grpc.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=SECONDS)
        return [service.name for service in answer.list_services_response.service]


def test_reflection_tells_the_services(server: ServerProcess) -> None:
    assert {ENGINE, "grpc.health.v1.Health"} <= set(listed(server.address))
    with grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=ENGINE)
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=SECONDS)
        files = answer.file_descriptor_response.file_descriptor_proto
        assert any(b"WriteStream" in each for each in files)


def test_reflection_may_be_switched_off(serve: Callable[..., ServerProcess]) -> None:
    with pytest.raises(grpc.RpcError) as found:
        listed(serve(reflection=False, kernels="reference").address)
    assert found.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_status_says_what_moved_and_what_is_free(
    raw: RawServer, client: ziggurat.Client, name: str
) -> None:
    before = raw.call("GetStatus", service_pb2.GetStatusRequest())
    image = client.create(name, axes="yx", shape=(16, 16), dtype="uint8")
    with image.writer() as writer:
        writer.write_region(np.ones((8, 16), "uint8"), offset=(0, 0))
    image.read()
    after = raw.call("GetStatus", service_pb2.GetStatusRequest())
    assert after.traffic.regions_written == before.traffic.regions_written + 1
    assert after.traffic.written_bytes == before.traffic.written_bytes + 128
    assert after.traffic.read_bytes == before.traffic.read_bytes + 256
    assert [disk.use for disk in after.disks] == ["data", "log"]
    assert all(0 < disk.free_bytes <= disk.size_bytes for disk in after.disks)
    assert after.log.segments >= 1
    assert after.log.sync_seconds_total > 0
    client.delete(name)
