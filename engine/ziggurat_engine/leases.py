"""Which levels are being read, so that nobody removes them before their last pixel is sent?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Self, TypeVar

from ziggurat_engine.images import OpenImage

_Planned = TypeVar("_Planned")


class Reading:
    """Levels that are being read: they stay until `close`, though others replace them.

    For one thread at a time.
    """

    def __init__(self) -> None:
        self._images: set[OpenImage] = set()
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def plan(self, image: OpenImage, make: Callable[[OpenImage], _Planned]) -> _Planned:
        """What `make` gives for the levels that `image` has now."""
        while True:
            image = image.now
            image.stored.gate.check()
            with ExitStack() as held:
                if image not in self._images:
                    held.enter_context(image.reading.shared())
                answer = make(image)
                # Else they were replaced before: perhaps they are being removed, and
                # what was found of stale is that of others.
                if image.now is image:
                    self._images.add(image)
                    self._held.push(held.pop_all())
                    return answer
