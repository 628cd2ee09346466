"""What do the tests of security share? A server that wants tokens, and people who have some."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.security.calls import Guarded
from tests.support.server import ServerProcess


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server with tokens "reader", "writer", "boss" (all of lab/) and images in and around.

    Tests share it: each takes away what it made, of images and of tokens.
    """
    directory = tmp_path_factory.mktemp("guarded")
    server = ServerProcess(
        directory / "data",
        directory / "stderr",
        auth="token",
        cache_bytes="64MiB",
        kernels="reference",
    )
    made = Guarded(server)
    with made.connect() as client:
        for name in ("lab", "lab/run", "lab2/run", "other/run"):
            image = client.create(name, axes="yx", shape=(16, 16), dtype="uint16", levels=1)
            with image.writer() as writer:
                writer.write_region(np.ones((16, 16), "uint16"), (0, 0))
    made.people = {
        name: made.token(name, scope, "lab/")
        for name, scope in {"reader": "read", "writer": "write", "boss": "admin"}.items()
    }
    yield made
    made.close()
    server.stop()
