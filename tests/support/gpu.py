"""Is there a device for the tests that are marked `gpu`?"""

from __future__ import annotations

import os
from functools import cache

import pytest
from ziggurat_engine.kernels.cuda.cupy_device import find
from ziggurat_engine.kernels.cuda.errors import DeviceError


@cache
def missing() -> str:
    """Why there is no device; "" where there is one."""
    try:
        find()
    except DeviceError as error:
        return str(error)
    return ""


def need_device() -> None:
    """Skips the test where there is none, or fails it where REQUIRE_GPU=1."""
    why = missing()
    if why and os.environ.get("REQUIRE_GPU") == "1":
        pytest.fail(f"REQUIRE_GPU=1, but {why}", pytrace=False)
    if why:
        pytest.skip(why)
