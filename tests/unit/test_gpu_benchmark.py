"""Does the benchmark of cards run to its end, on the tests' card where there is no other?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import shim
from tests.support.gpu import missing

ROOT = Path(__file__).resolve().parents[2]
# As `python -m benchmarks.gpu`, where nothing but what docs/gpu.md has installed can be imported;
# _writing: what ingest runs.
BARE = """
import runpy, sys
sys.modules.update(dict.fromkeys(
    ["rich", "psutil", "matplotlib", "tensorstore", "tifffile", "lz4", "dask", "xarray", "pytest"]
))
import benchmarks._writing
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
"""


def benchmark(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.skipif(not missing(), reason="there is a card")
def test_without_a_card_it_says_so(tmp_path: Path) -> None:
    done = benchmark("--json", tmp_path / "result.json")
    assert done.returncode == 2
    assert done.stderr.startswith("no card to measure: ")
    assert not (tmp_path / "result.json").exists()


def test_the_extras_for_cards_are_all_that_it_needs() -> None:
    command = [sys.executable, "-c", BARE, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--no-ingest" in done.stdout


@pytest.mark.skipif(not shim.available(), reason="needs g++")
def test_every_part_of_it_runs(tmp_path: Path) -> None:
    done = benchmark("--shim", "--no-ingest", "--json", tmp_path / "result.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["card"] == "Test Card"
    assert result["batches_compared"] == 26
    for part in ("copies", "kernels", "lz4", "zstd", "settle", "decode"):
        assert result[part], part
    assert result["devices"][0]["batches"] > 0
    assert result["devices"][0]["failures"] == 0
    judged = {row["name"]: row["met"] for row in result["verdict"]}
    assert judged["ingest, cuda over cpu"] is None
    assert judged["settle lz4"] is not None
    assert "targets" in done.stdout
