"""Does an image hold what a NumPy array would, for any writes in any order?

Two clients write random overlapping regions to one image in a server with little
memory; in between they read at every level, flush, close, vanish and come back. Level 0
must be right at any time, another level whenever its reply does not call it stale, and
all of them after close.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import ziggurat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.images import assert_stored, factors_of
from tests.support.pixels import marked
from tests.support.server import ServerProcess
from tests.support.session import Session
from tests.support.strategies import fill_like, image_specs, level_shape, regions

_names = itertools.count()


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Memory for a few chunks, and shards that settle as soon as nobody writes to them."""
    directory = tmp_path_factory.mktemp("regions")
    server = ServerProcess(
        directory / "data", directory / "stderr", cache_bytes="128KiB", settle_idle_seconds=0.05
    )
    yield server
    server.stop()


@pytest.fixture(scope="module")
def clients(small_server: ServerProcess) -> Iterator[list[ziggurat.Client]]:
    found = [ziggurat.connect(small_server.address) for _ in range(2)]
    yield found
    for client in found:
        client.close()


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), spec=image_specs())
def test_two_clients_and_a_model(
    small_server: ServerProcess, clients: list[ziggurat.Client], data: st.DataObject, spec: dict
) -> None:
    session = Session(clients[0], f"regions/{next(_names)}", **spec)
    # The second stream has a connection of its own.
    session.writers[1] = clients[1].open(session.image.name).writer("stream-1")
    factors = factors_of(session.image)
    steps = st.sampled_from(["write"] * 6 + ["read"] * 3 + ["flush", "close", "abandon"])
    try:
        for number, step in enumerate(data.draw(st.lists(steps, max_size=25), label="steps")):
            stream = data.draw(st.integers(0, 1), label="stream")
            if step == "write":
                box = data.draw(regions(session.image.shape), label="region")
                blank = data.draw(st.integers(0, 5), label="blank") == 0
                pixels = marked(box.shape, spec["dtype"], box.offset, number + 1)
                session.write(stream, box.offset, fill_like(box.shape, spec) if blank else pixels)
            elif step == "read":
                level = data.draw(st.integers(0, len(factors)), label="level")
                shape = level_shape(session.image.shape, factors[:level])
                session.read(level, data.draw(regions(shape), label="box"))
            elif step == "flush":
                session.flush(stream)
            elif step == "close":
                session.close(stream)
            else:
                session.abandon(stream)
        session.finish()
        assert_stored(small_server, session.image, session.model)
    finally:
        session.discard()
