"""Does a real server on a real card store what was written, and say so?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import ziggurat

from tests.support.images import assert_exact
from tests.support.server import ServerProcess

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("codec", ["blosc-lz4", "blosc-zstd", "zstd"])
def test_a_server_on_a_card(serve: Callable[..., ServerProcess], codec: str) -> None:
    server = serve(kernels="cuda")
    rng = np.random.default_rng()
    pixels = rng.poisson(700, (70, 301, 403)).astype("uint16")
    with ziggurat.connect(server.address) as client:
        image = client.create("image", axes="zyx", shape=pixels.shape, dtype="uint16", codec=codec)
        with image.writer() as writer:
            for z, plane in enumerate(pixels):
                writer.write(plane, z=z)
        assert_exact(image, pixels)
        status = client.status()
    assert status.kernels == "cuda"
    assert [device.state for device in status.devices] == ["ready"] * len(status.devices)
    assert sum(device.failures for device in status.devices) == 0
    if codec == "blosc-lz4":
        assert sum(device.batches for device in status.devices) > 0
        assert status.kernel_totals.cpu_batches == 0
