"""Which data directory do these tests damage? A copy of one that a real server filled."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.operations.directory import fill
from tests.support.server import ServerProcess


@pytest.fixture(scope="module")
def whole(serve_module: Callable[..., ServerProcess]) -> Path:
    """What a server left that was stopped. Not to be changed."""
    server = serve_module()
    fill(server.address)
    server.stop()
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
