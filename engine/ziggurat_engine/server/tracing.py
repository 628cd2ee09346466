"""Where do spans go? To an OpenTelemetry collector, by OTLP over gRPC.

The only part that knows OpenTelemetry, which is imported when a Tracing is made. Calls are
spans of its gRPC instrumentation and continue the trace of a client that sends
`traceparent`. What the engine says by spans.py lies within. A region of a write stream is a
trace of its own, linked to the call, which may last for days.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import grpc

from ziggurat_engine import __version__, spans
from ziggurat_engine.config import Settings
from ziggurat_engine.errors import FailedPrecondition
from ziggurat_engine.server.observe import request_id
from ziggurat_engine.server.servicer import SERVICE

# How long a collector may take to accept spans; what it does not is dropped.
EXPORT_SECONDS = 5.0


class Tracing:
    """Traces from when it is made until `close`.

    interceptor: makes the spans of calls. Raises FailedPrecondition where the extra
    `tracing` is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        try:
            from opentelemetry import context, trace
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.instrumentation.grpc import filters, server_interceptor
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
        except ModuleNotFoundError as missing:
            raise FailedPrecondition(
                f"trace_endpoint: {missing.name} is missing; it needs"
                " pip install 'ziggurat-engine[tracing]'"
            ) from None
        self._trace, self._empty = trace, context.Context()
        said = {"service.name": "ziggurat-engine", "service.version": __version__}
        self._provider = TracerProvider(
            resource=Resource.create(said), sampler=ParentBasedTraceIdRatio(settings.trace_ratio)
        )
        exporter = OTLPSpanExporter(endpoint=settings.trace_endpoint, timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ziggurat_engine", __version__)
        self.interceptor: grpc.ServerInterceptor = server_interceptor(  # type: ignore[no-untyped-call]
            tracer_provider=self._provider, filter_=filters.service_name(SERVICE)
        )
        spans.trace_with(self._start)

    def close(self) -> None:
        """Sends what is left."""
        spans.trace_with(None)
        self._provider.shutdown()

    def _start(
        self, name: str, facts: dict[str, spans.Fact], *, root: bool
    ) -> AbstractContextManager[Any]:
        attributes = {f"ziggurat.{key}": fact for key, fact in facts.items()}
        said = request_id.get()
        if said:
            attributes["ziggurat.request_id"] = said
        if not root:
            return self._tracer.start_as_current_span(name, attributes=attributes)
        call = self._trace.get_current_span().get_span_context()
        return self._tracer.start_as_current_span(
            name,
            context=self._empty,
            attributes=attributes,
            links=[self._trace.Link(call)] if call.is_valid else [],
        )
