"""What do the tests of security share? A server that wants tokens, and people who have some."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from ziggurat_proto.v1 import service_pb2

from tests.security.calls import Guarded
from tests.support.server import ServerProcess
from tests.support.waiting import until


@pytest.fixture(scope="module")
def guarded(serve_module: Callable[..., ServerProcess]) -> Iterator[Guarded]:
    """A server with tokens "reader", "writer", "boss" (all of lab/) and images in and around."""
    server = serve_module(auth="token", cache_bytes="64MiB", kernels="reference")
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
    last = made.caller(made.people["boss"])
    request = service_pb2.GetImageRequest(name="lab/run")
    until(lambda: isinstance(last.call("GetImage", request), list), "the tokens to be known")
    yield made
    made.close()
    server.stop()
