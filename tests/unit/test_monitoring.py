"""Do dashboard, alerts and compose file speak of metrics and places that there are?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ziggurat_engine.server.metrics import METRICS, PROCESS

TOP = Path(__file__).parents[2]
MONITORING = TOP / "engine" / "monitoring"

LABELS = {metric.exposed: set(metric.labels) for metric in METRICS} | {n: set() for n in PROCESS}
for metric in METRICS:
    if metric.kind == "histogram":
        LABELS[f"{metric.name}_bucket"] = {*metric.labels, "le"}
        LABELS[f"{metric.name}_sum"] = LABELS[f"{metric.name}_count"] = set(metric.labels)


def dashboard() -> list[dict]:
    return json.loads((MONITORING / "grafana" / "ziggurat.json").read_text("utf-8"))["panels"]


def alerts() -> list[dict]:
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text("utf-8"))["groups"]
    return group["rules"]


def queries() -> Iterator[tuple[str, str]]:
    """What is asked, and where labels are shown."""
    for panel in dashboard():
        for target in panel.get("targets", ()):
            yield target["expr"], target["legendFormat"]
    for rule in alerts():
        shown = rule["annotations"]["summary"].replace("$labels.", "").replace("{{ $value }}", "")
        yield rule["expr"], shown


@pytest.mark.parametrize(("query", "shown"), list(queries()))
def test_every_query_is_about_what_is_declared(query: str, shown: str) -> None:
    names = set(re.findall(r"\b(?:ziggurat|process)_\w+|\bup\b", query))
    assert names
    assert names <= {*LABELS, "up"}
    known = {"job"}.union(*(LABELS.get(name, set()) for name in names))
    # Below a quantile only what is summed by is left.
    assert set(re.findall(r"{{ ?(\w+) ?}}", shown)) <= known
    grouped = [
        label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")
    ]
    assert {label.strip() for label in grouped} <= known
    assert set(re.findall(r"(\w+)=~?\"", query)) <= known


def test_the_dashboard_shows_all_that_is_declared() -> None:
    asked = " ".join(target["expr"] for panel in dashboard() for target in panel.get("targets", ()))
    for metric in METRICS:
        assert re.search(rf"\b{metric.exposed}(_bucket)?\b", asked), metric.name


def test_panels_have_ids_and_places_of_their_own() -> None:
    panels = dashboard()
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_page_says_what_to_do_about_every_alert() -> None:
    page = (TOP / "docs" / "monitoring.md").read_text("utf-8")
    for rule in alerts():
        assert f"`{rule['alert']}`" in page


def test_prometheus_asks_where_the_engine_answers() -> None:
    compose = yaml.safe_load((TOP / "docker-compose.yml").read_text("utf-8"))["services"]
    asked = yaml.safe_load((MONITORING / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    (target,) = asked[0]["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    for name in ("engine", "gpu"):
        assert host in compose[name]["networks"]["default"]["aliases"]
        assert compose[name]["environment"]["ZIGGURAT_METRICS_LISTEN"] == f"0.0.0.0:{port}"
    for name in ("prometheus", "grafana"):
        service = compose[name]
        assert service["profiles"] == ["monitoring"]
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        assert all(":-127.0.0.1:" in port for port in service["ports"])
        for volume in service["volumes"]:
            if volume.startswith("./"):
                assert (TOP / volume.partition(":")[0]).is_file()
