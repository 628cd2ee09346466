"""Can a program in another language, with standard tools and the bare .proto, use a server?"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import ziggurat

from tests.support.server import ServerProcess, clean_environment
from tests.support.waiting import SECONDS

HERE = Path(__file__).parent
PROTOS = HERE.parents[1] / "proto"
PACKAGES = ("@grpc/grpc-js@1.14.7", "@grpc/proto-loader@0.8.1")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ziggurat-tests"


@pytest.fixture(scope="module")
def modules() -> Path:
    """A directory of node modules that holds PACKAGES, outside the repository."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on this machine")
    there = CACHE / "-".join(["node", *(each.rpartition("@")[2] for each in PACKAGES)])
    if not there.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
            command = [*install, f"--prefix={work}/made", *PACKAGES]
            try:
                done = subprocess.run(
                    command, check=False, capture_output=True, text=True, timeout=5 * SECONDS
                )
            except subprocess.TimeoutExpired:
                pytest.skip("the packages of npm did not come in time")
            if done.returncode:
                pytest.skip(f"npm can't install {PACKAGES}: {done.stderr.strip()[-300:]}")
            try:
                Path(work, "made").rename(there)
            except OSError:
                # Another process was first.
                assert there.is_dir()
    return there / "node_modules"


def test_write_and_read(
    server: ServerProcess, client: ziggurat.Client, modules: Path, name: str
) -> None:
    done = subprocess.run(
        ["node", str(HERE / "node_client.js"), server.address, str(PROTOS), name],
        check=False,
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        env=clean_environment(NODE_PATH=str(modules)),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["same"]
    assert found["dataType"] == "DATA_TYPE_UINT16"
    assert found["closed"] == {
        "durable": 5,
        "regions": 5,
        "bytes": 300 * 200 * 2,
    }
    assert found["halfShape"] == [150, 100]
    assert (found["error"], found["requestId"]) == (5, "from-node")
    pixels = np.arange(300 * 200).astype("uint16").reshape(300, 200)
    image = client.open(name)
    assert np.array_equal(image[...], pixels)
    assert image.read(level=1)[0, 0] == found["halfFirst"]
    client.delete(name)
