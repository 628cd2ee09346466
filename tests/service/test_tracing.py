"""Does a collector learn which steps a call took, and nobody who did not ask?"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import ziggurat
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from ziggurat_proto.v1 import read_pb2

from tests.support.command import run
from tests.support.pixels import marked
from tests.support.raw import RawServer
from tests.support.server import ServerProcess, clean_environment

CALL = "ziggurat.v1.Ziggurat"


class Collector(service_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            for resource in request.resource_spans:
                self.resources.append(attributes(resource.resource))
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        return service.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def above(self, span: Span) -> list[str]:
        """The names of all that a span is part of, the next first."""
        by_id = {each.span_id: each for each in self.spans}
        names = []
        while span.parent_span_id in by_id:
            span = by_id[span.parent_span_id]
            names.append(span.name)
        return names


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    kept = Collector()
    with ThreadPoolExecutor() as pool:
        server = grpc.server(pool)
        service_grpc.add_TraceServiceServicer_to_server(kept, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield kept, f"http://127.0.0.1:{port}"
        server.stop(None).wait()


def test_the_steps_of_writing_storing_and_reading(
    serve: Callable[..., ServerProcess], collector: tuple[Collector, str]
) -> None:
    kept, endpoint = collector
    server = serve(trace_endpoint=endpoint, trace_ratio=1, kernels="reference")
    pixels = marked((8, 32, 32), "uint16")
    with ziggurat.connect(server.address) as client:
        image = client.create(
            "lab/run", axes="zyx", shape=(8, 32, 32), dtype="uint16", chunk_shape=(4, 16, 16)
        )
        with image.writer("camera") as writer:
            for z in range(8):
                writer.write(pixels[z], z=z)
        raw = RawServer(server.address)
        trace = "0af7651916cd43dd8448eb211c80319c"
        sent = (("traceparent", f"00-{trace}-b7ad6b7169203331-01"), ("x-request-id", "mine"))
        read = raw.channel.unary_stream(
            f"/{CALL}/ReadRegion", read_pb2.ReadRequest.SerializeToString
        )
        assert list(read(read_pb2.ReadRequest(image="lab/run"), metadata=sent, timeout=60))
        with pytest.raises(ziggurat.NotFound):
            client.open("lab/none")
        raw.close()
    server.stop()

    assert {resource["service.name"] for resource in kept.resources} == {"ziggurat-engine"}
    (stream,) = kept.named(f"/{CALL}/WriteStream")
    regions = kept.named("ingest.write")
    assert [attributes(span)["ziggurat.sequence"] for span in regions] == list(range(1, 9))
    # Each is a trace of its own: a stream may last for days.
    assert len({span.trace_id for span in regions} | {stream.trace_id}) == 9
    assert all(span.links[0].span_id == stream.span_id for span in regions)
    facts = attributes(regions[0])
    assert (facts["ziggurat.image"], facts["ziggurat.stream"]) == ("lab/run", "camera")
    for step in ("log.append", "cache.merge"):
        within = [span for span in kept.named(step) if kept.above(span) == ["ingest.write"]]
        assert len(within) == 8, step
    assert kept.named("log.sync")
    for step in ("settle.freeze", "store.replace"):
        found = kept.named(step)
        assert found
        assert all(kept.above(span) == ["settle"] for span in found), step
    assert {attributes(span)["ziggurat.level"] for span in kept.named("settle")} >= {0, 1}

    (call,) = kept.named(f"/{CALL}/ReadRegion")
    assert call.trace_id.hex() == trace
    loads = [span for span in kept.named("cache.load") if span.trace_id == call.trace_id]
    assert len(loads) == 2 * 2 * 2
    assert {attributes(span)["ziggurat.request_id"] for span in loads} == {"mine"}
    stored = [span for span in kept.named("store.read") if span.trace_id == call.trace_id]
    # A chunk alone is read where it is loaded; those beside each other are before, together.
    assert stored
    assert all(kept.above(span)[-1] == call.name for span in stored)
    codes = {attributes(span)["rpc.grpc.status_code"] for span in kept.named(f"/{CALL}/GetImage")}
    assert grpc.StatusCode.NOT_FOUND.value[0] in codes


def test_a_collector_that_is_not_there_stops_nothing(serve: Callable[..., ServerProcess]) -> None:
    server = serve(trace_endpoint="http://127.0.0.1:1", trace_ratio=1, kernels="reference")
    with ziggurat.connect(server.address) as client:
        image = client.create("lab/run", axes="yx", shape=(8, 8), dtype="uint8")
        with image.writer() as writer:
            writer.write_region(np.ones((8, 8), "uint8"), offset=(0, 0))
        assert image.read().all()
    server.stop()


def test_nothing_is_imported_that_is_not_asked_for() -> None:
    program = (
        "import sys; from ziggurat_engine.server import logs, metrics, serve, tracing;"
        "heavy = ('opentelemetry', 'prometheus_client');"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env=clean_environment(),
    )
    assert done.stdout.strip() == "[]"


def test_without_the_extra_it_says_so(tmp_path: Path) -> None:
    blocked = tmp_path / "opentelemetry"
    blocked.mkdir()
    (blocked / "__init__.py").write_text("raise ModuleNotFoundError(name='opentelemetry')", "utf-8")
    done = run(
        "ziggurat-engine",
        *("serve", "--data", tmp_path / "data", "--listen", "127.0.0.1:0"),
        *("--set", "trace_endpoint=http://127.0.0.1:1"),
        code=1,
        PYTHONPATH=str(tmp_path),
    )
    assert "pip install 'ziggurat-engine[tracing]'" in done.stderr
