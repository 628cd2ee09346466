"""How does a test wait for something that happens in another process? With a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

SECONDS = 60.0
"""More than anything takes on a busy machine: passing it is a failure, never a measure."""

T = TypeVar("T")


def until(check: Callable[[], T], what: str, seconds: float = SECONDS) -> T:
    """The first true result of `check`; fails loudly once the time is up."""
    end = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:g} s for {what}; last result: {found!r}")
        time.sleep(0.02)
