"""Which real servers, clients and files do tests share?"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ziggurat
from hypothesis import settings

from tests.support.raw import RawServer
from tests.support.server import ServerProcess

# Examples talk to other processes on a shared machine: their times say nothing.
settings.register_profile("ziggurat", deadline=None)
settings.load_profile("ziggurat")

# Hundreds of processes start: what they import is to be compiled once, not by each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_running: list[ServerProcess] = []
_names = itertools.count(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for server in _running:
            report.sections.append((f"stderr of the server at {server.address}", server.tail()))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        from tests.support.gpu import need_device

        need_device()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What takes longest begins first: nobody waits for it at the end.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that tests share; each takes image names of its own."""
    directory = tmp_path_factory.mktemp("server")
    shared = ServerProcess(
        directory / "data", directory / "stderr", max_read_bytes="16MiB", cache_bytes="256MiB"
    )
    _running.append(shared)
    yield shared
    _running.remove(shared)
    shared.stop()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers with settings of their own; `data` may name a directory again.

    Those that still run when the test ends must stop with exit code 0.
    """
    with _starter(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def serve_module(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., ServerProcess]]:
    """As `serve`, for servers that tests of a module share."""
    with _starter(tmp_path_factory.mktemp("servers")) as start:
        yield start


@contextlib.contextmanager
def _starter(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    count = itertools.count()
    started: list[ServerProcess] = []

    def start(data: Path | None = None, **settings: Any) -> ServerProcess:
        number = next(count)
        directory = data or tmp_path / f"data-{number}"
        started.append(ServerProcess(directory, tmp_path / f"stderr-{number}", **settings))
        _running.append(started[-1])
        return started[-1]

    yield start
    try:
        for server in started:
            if server.running:
                server.stop()
    finally:
        for server in started:
            _running.remove(server)
            if server.running:
                server.kill()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[ziggurat.Client]:
    with ziggurat.connect(server.address) as connected:
        yield connected


@pytest.fixture
def raw(server: ServerProcess) -> Iterator[RawServer]:
    calls = RawServer(server.address)
    yield calls
    calls.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """An image name that nothing else uses."""
    return f"tests/{re.sub('[^a-z0-9]+', '-', request.node.name.lower())[:60]}-{next(_names)}"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The directory of real images: ZIGGURAT_TEST_DATA, or shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    directory = Path(os.environ.get("ZIGGURAT_TEST_DATA") or beside)
    if not directory.is_dir():
        message = f"no directory {directory}; ZIGGURAT_TEST_DATA names another"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return directory
