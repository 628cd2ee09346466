"""Does /metrics tell all that is declared, and do the numbers follow what happens?"""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import ziggurat
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from ziggurat_engine.server.metrics import METRICS, PROCESS, table

from tests.support.command import run
from tests.support.pixels import marked
from tests.support.server import ServerProcess
from tests.support.waiting import until

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
DOCS = Path(__file__).parents[2] / "docs" / "monitoring.md"
SHAPE = (64, 96, 80)
PREFIXES = 3

# What stays as it is while nothing fails and nothing restarts.
AT_REST = {
    "ziggurat_build_info",
    "ziggurat_ready",
    "ziggurat_log_full",
    "ziggurat_log_replayed_bytes",
    "ziggurat_log_spare_segments",
    "ziggurat_log_disk_bytes",
    "ziggurat_cache_budget_bytes",
    "ziggurat_disk_size_bytes",
    "ziggurat_settle_failing_shards",
    # Only a scan is read ahead.
    "ziggurat_read_ahead_chunks_total",
    "ziggurat_read_ahead_used_chunks_total",
    "ziggurat_kernel_cpu_batches_total",
    "process_max_fds",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
}

# Not there without a card; tests/unit/test_cuda_status.py has them.
OF_CARDS = {m.exposed for m in METRICS if m.name.startswith("ziggurat_card_")}


class Scraped(NamedTuple):
    """types: by metric. values: by sample and labels."""

    types: dict[str, str]
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float]

    def of(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name that have these labels."""
        return sum(
            value
            for (found, given), value in self.values.items()
            if found == name and labels.items() <= dict(given).items()
        )


def metrics_url(server: ServerProcess) -> str:
    found = re.search(r"metrics at (http://\S+)", server.stderr)
    assert found, server.tail()
    return found[1]


def fetched(url: str, accept: str = OPENMETRICS) -> tuple[str, str]:
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def scraped(server: ServerProcess) -> Scraped:
    said, text = fetched(metrics_url(server))
    assert said.startswith("application/openmetrics-text")
    types, values = {}, {}
    for family in text_string_to_metric_families(text):
        types[family.name] = family.type
        for sample in family.samples:
            values[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return Scraped(types, values)


@pytest.fixture(scope="module")
def measured(serve_module: Callable[..., ServerProcess]) -> ServerProcess:
    started = serve_module(
        metrics_listen="127.0.0.1:0",
        cache_bytes="512KiB",
        metrics_prefixes=PREFIXES,
        kernels="reference",
    )
    with ziggurat.connect(started.address) as client:
        # The first that come are told apart.
        client.create("lab/first", axes="yx", shape=(8, 8), dtype="uint8")
    scraped(started)
    return started


def test_every_declared_metric_is_there_and_moves(measured: ServerProcess) -> None:
    before = scraped(measured)
    for metric in METRICS:
        assert before.types[metric.name] == metric.kind
    with ziggurat.connect(measured.address) as client:
        image = client.create(
            "lab/run",
            axes="zyx",
            shape=SHAPE,
            dtype="uint16",
            chunk_shape=(16, 16, 16),
            shard_chunks=(1, 1, 1),
        )
        pixels = marked(SHAPE, "uint16")
        changed = set()
        with image.writer() as writer:
            for z in range(SHAPE[0]):
                writer.write(pixels[z], z=z)
            writer.flush()
            during = scraped(measured)
        assert (image.read() == pixels).all()
        assert image.read(level=1).size
        assert image.read(level=1).size
        (measured.image_path("lab/run") / "0" / "c" / "0" / "0" / "0").write_bytes(b"broken")
        with pytest.raises(ziggurat.DataLoss):
            image.read()
        with pytest.raises(ziggurat.NotFound):
            client.open("lab/none")
        # Who stored the last shard gives its memory back a moment later.
        until(lambda: not scraped(measured).of("ziggurat_cache_dirty_bytes"), "nothing to be dirty")
        after = scraped(measured)
    for scrape in (during, after):
        changed |= {name for (name, _), v in (scrape.values.items() - before.values.items()) if v}
        changed |= {name for (name, _), v in (before.values.items() - scrape.values.items()) if v}
    names = {m.exposed + "_count" * (m.kind == "histogram") for m in METRICS}
    names -= OF_CARDS
    assert names | PROCESS.keys() <= {name for name, _ in after.values}
    assert names - AT_REST <= changed

    regions = after.of("ziggurat_ingest_regions_total")
    assert regions == SHAPE[0]
    assert after.of("ziggurat_ingest_bytes_total") == pixels.nbytes
    assert after.of("ziggurat_usage_written_bytes_total", prefix="lab") == pixels.nbytes
    assert after.of("ziggurat_usage_read_bytes_total", prefix="lab") > pixels.nbytes
    assert after.of("ziggurat_store_errors_total", operation="read") == 1
    for durability in ("received", "durable"):
        count = after.of("ziggurat_acknowledgement_seconds_count", durability=durability)
        assert count == regions
        assert count == after.of(
            "ziggurat_acknowledgement_seconds_bucket", durability=durability, le="+Inf"
        )
    assert after.of("ziggurat_streams_open") == 0
    assert during.of("ziggurat_streams_open") == 1
    assert during.of("ziggurat_calls_running", rpc="WriteStream") == 1
    assert after.of("ziggurat_calls_total", rpc="GetImage", code="NOT_FOUND") == 1
    assert after.of("ziggurat_calls_total", rpc="WriteStream", code="OK") == 1
    for stage in ("freeze", "encode", "downsample", "write", "sync"):
        assert after.of("ziggurat_settle_stage_seconds_total", stage=stage, backend="reference") > 0


def test_prefixes_are_bounded(measured: ServerProcess) -> None:
    names = [f"p{number}" for number in range(PREFIXES)]
    with ziggurat.connect(measured.address) as client:
        for name in names:
            image = client.create(name, axes="yx", shape=(8, 8), dtype="uint8")
            with image.writer() as writer:
                writer.write_region(np.ones((8, 8), "uint8"), offset=(0, 0))
    found = scraped(measured)
    prefixes = {dict(labels)["prefix"] for name, labels in found.values if "usage" in name}
    assert prefixes == {"lab", *names[:-1], "_other"}
    assert found.of("ziggurat_usage_written_bytes_total", prefix="_other") == 64
    assert found.of("ziggurat_usage_images", prefix="_other") == 1


def test_what_is_asked_for_otherwise(measured: ServerProcess) -> None:
    url = metrics_url(measured)
    said, text = fetched(url, "text/plain")
    assert said.startswith("text/plain")
    assert "# TYPE ziggurat_ingest_bytes_total counter" in text
    with pytest.raises(urllib.error.HTTPError) as found:
        fetched(url.removesuffix("metrics"))
    assert found.value.code == 404
    found.value.close()


def test_a_port_that_is_taken(measured: ServerProcess, tmp_path: Path) -> None:
    taken = metrics_url(measured).removeprefix("http://").removesuffix("/metrics")
    done = run(
        "ziggurat-engine",
        *("serve", "--data", tmp_path / "other", "--listen", "127.0.0.1:0"),
        *("--set", f"metrics_listen={taken}"),
        code=1,
    )
    assert f"can't listen on {taken} (metrics_listen)" in done.stderr


def test_off_unless_asked_for(server: ServerProcess) -> None:
    assert "metrics at" not in server.stderr


def test_the_page_lists_what_is_declared() -> None:
    assert table() in DOCS.read_text("utf-8")
    assert table() in run("ziggurat-engine", "metrics").stdout
