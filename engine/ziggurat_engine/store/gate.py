"""Is an image, or are its levels, still there?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from ziggurat_engine.errors import NotFound


class Gate:
    """One for an image, and within it one for levels that may be replaced.

    Keeps a deletion apart from the writes beside it: a write that started before the
    deletion would create the directories anew. outer: the image's, for levels of it.
    """

    def __init__(self, name: str = "", outer: Gate | None = None) -> None:
        self._name = name
        self._outer = outer
        self._changed = threading.Condition()
        self._open = True
        self._inside = 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Keeps the gate from closing while the block runs; NotFound once it is closed."""
        with self._outer.inside() if self._outer else nullcontext():
            with self._changed:
                self.check()
                self._inside += 1
            try:
                yield
            finally:
                with self._changed:
                    self._inside -= 1
                    self._changed.notify_all()

    @property
    def is_open(self) -> bool:
        """False once it is being deleted."""
        return self._open and (self._outer is None or self._outer.is_open)

    def check(self) -> None:
        """Raises NotFound, with the field "name", once it is being deleted."""
        if self._outer is not None:
            self._outer.check()
        if not self._open:
            what = "was deleted" if self._outer is None else "has other levels now"
            raise NotFound(f"image {self._name!r} {what}", field="name")

    def close(self) -> None:
        """Lets nobody in any more; returns when everybody is out."""
        with self._changed:
            self._open = False
            self._changed.wait_for(lambda: self._inside == 0)

    def reopen(self) -> None:
        """The image stays after all: its deletion failed."""
        with self._changed:
            self._open = True
