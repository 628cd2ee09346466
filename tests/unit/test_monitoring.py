"""Do dashboard, alerts and compose file speak of metrics and places that there are?"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
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


def promtool(*arguments: str | Path) -> str:
    """What Prometheus' own checker says; where there is none the test is skipped."""
    if shutil.which("promtool") is None:
        pytest.skip("no promtool: Debian's package prometheus has it")
    done = subprocess.run(["promtool", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_its_configuration() -> None:
    said = promtool("check", "config", MONITORING / "prometheus.yml")
    assert f"{len(alerts())} rules found" in said


def test_prometheus_takes_every_query_of_the_dashboard(tmp_path: Path) -> None:
    asked = [target["expr"] for panel in dashboard() for target in panel.get("targets", ())]
    rules = [
        {
            "record": f"asked:{k}",
            "expr": query.replace("$__rate_interval", "5m").replace("$__range", "5m"),
        }
        for k, query in enumerate(asked)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), "utf-8")
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


def test_alerts_go_off(tmp_path: Path) -> None:
    """Of a server that is down, one that is not ready and a disk that is nearly full."""
    series = {
        'up{job="ziggurat", instance="a"}': "0x30",
        'ziggurat_ready{job="ziggurat", instance="b"}': "0x30",
        'ziggurat_disk_free_bytes{disk="data", instance="c"}': "1x30",
        'ziggurat_disk_size_bytes{disk="data", instance="c"}': "100x30",
    }
    labels = {
        "ZigguratDown": {"job": "ziggurat", "instance": "a", "severity": "critical"},
        "ZigguratNotReady": {"job": "ziggurat", "instance": "b", "severity": "warning"},
        "ZigguratDiskFull": {"disk": "data", "instance": "c", "severity": "critical"},
    }
    summaries = {rule["alert"]: rule["annotations"]["summary"] for rule in alerts()}
    summaries["ZigguratDiskFull"] = summaries["ZigguratDiskFull"].replace(
        "{{ $labels.disk }}", "data"
    )
    tests = {
        "rule_files": [str(MONITORING / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": s, "values": v} for s, v in series.items()],
                "alert_rule_test": [
                    {
                        "eval_time": "20m",
                        "alertname": name,
                        "exp_alerts": [
                            {"exp_labels": said, "exp_annotations": {"summary": summaries[name]}}
                        ],
                    }
                    for name, said in labels.items()
                ],
            }
        ],
    }
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump(tests), "utf-8")
    promtool("test", "rules", file)
