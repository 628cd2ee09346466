"""Which images do the tests of the client's arrays and plugins share?"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import ziggurat

from tests.support.pixels import marked

_numbers = itertools.count(1)

Make = Callable[..., tuple[ziggurat.Image, np.ndarray]]


@pytest.fixture
def make(client: ziggurat.Client, name: str) -> Make:
    """Makes an image and writes known pixels: (the image, level 0)."""

    def made(axes: str = "zyx", shape=(5, 50, 70), dtype="uint16", **spec):
        image = client.create(
            f"{name}-{next(_numbers)}", axes=axes, shape=shape, dtype=dtype, **spec
        )
        pixels = marked(shape, dtype)
        with image.writer() as writer:
            writer.write_region(pixels, (0,) * len(shape))
        return image.refresh(), pixels

    return made
