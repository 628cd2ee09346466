"""Which data directory do these tests damage? A copy of one that a real server filled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.operations.directory import fill
from tests.support.server import ServerProcess


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a server left that was stopped. Not to be changed."""
    directory = tmp_path_factory.mktemp("whole")
    server = ServerProcess(directory / "data", directory / "stderr")
    try:
        fill(server.address)
        server.stop()
    finally:
        if server.running:
            server.kill()
    # Preallocated segments that hold nothing would be copied for each test.
    for spare in (server.data / "log").glob("*.log"):
        spare.unlink()
    return server.data


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    copy = tmp_path / "data"
    shutil.copytree(whole, copy)
    return copy
