"""How does Prometheus get the metrics? By HTTP, on an address of its own.

GET /metrics answers in the format that is asked for, OpenMetrics or Prometheus' text; there
is no login and nothing else. What it tells is gathered then, on a thread of its own.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer

from prometheus_client import CollectorRegistry, MetricsHandler, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from ziggurat_engine.measures import Counted
from ziggurat_engine.server.metrics import METRICS, Facts, Metric

# How long a client may take to say what it wants.
REQUEST_SECONDS = 10.0


class Exporter:
    """Serves what `gather` returns at `listen`, host:port, from when it is made until `close`.

    Raises OSError where it can't listen there. url: where /metrics is.
    """

    def __init__(self, listen: str, gather: Callable[[], Facts]) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(gather))
        ProcessCollector(registry=registry)
        host, _, port = listen.rpartition(":")
        handler = type("Handler", (_Handler,), {"registry": registry})
        try:
            self._server = _Server((host.strip("[]"), int(port)), handler)
        except OSError as error:
            raise OSError(f"can't listen on {listen} (metrics_listen): {error}") from error
        self.url = f"http://{host}:{self._server.server_address[1]}/metrics"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Answers no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is no affair of the server's."""


class _Handler(MetricsHandler):
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:  # noqa: N802 - http.server calls it so
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        super().do_GET()


class _Collector(Collector):
    def __init__(self, gather: Callable[[], Facts]) -> None:
        self._gather = gather

    def collect(self) -> Iterator[Family]:
        facts = self._gather()
        for metric in METRICS:
            yield family(metric, facts)

    def describe(self) -> list[Family]:
        """What names it will have is not asked: nothing else is registered beside it."""
        return []


def family(metric: Metric, facts: Facts) -> Family:
    """One metric with all its values."""
    made: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
    if metric.kind == "histogram":
        made = HistogramMetricFamily(
            metric.name, metric.meaning, labels=metric.labels, unit=metric.unit
        )
        for labels, found in metric.values(facts):
            assert isinstance(found, Counted)
            counts = list(itertools.accumulate(found.counts))
            bounds = [*map(str, found.bounds), "+Inf"]
            made.add_metric(labels, list(zip(bounds, counts, strict=True)), found.total)
        return made
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    made = kind(metric.name, metric.meaning, labels=metric.labels, unit=metric.unit)
    for labels, value in metric.values(facts):
        assert not isinstance(value, Counted)
        made.add_metric(labels, value)
    return made
