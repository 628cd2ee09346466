"""What can't be stored now, and whom does that stop?

Where a disk is full or broken, what was written stays in memory, which ends. An image that
others made (adopted) lies on a disk of its own: what waits for that is set aside, takes no more
writes, and stops no other image.
"""

from __future__ import annotations

import threading

from ziggurat_engine.cache import DirtyDirectory
from ziggurat_engine.errors import DataError, NotFound, Unavailable, ZigguratError, disk_error
from ziggurat_engine.images import Images, OpenImage

# The data directory; no image has this number.
_OWN_DISK = 0


class Failures:
    """Of all images. Methods may be called from any thread."""

    def __init__(self, images: Images, dirty: DirtyDirectory) -> None:
        self._images = images
        self._dirty = dirty
        self._lock = threading.Lock()
        # Why nothing can be stored now, by what it is to be stored on (`_disk`).
        self._failing: dict[int, Exception] = {}

    def failed(self, image: OpenImage, error: Exception) -> None:
        """A shard of `image` could not be stored."""
        if isinstance(error, DataError):
            # What is broken in one place keeps nothing else from being stored.
            return
        with self._lock:
            self._failing[_disk(image)] = error

    def stored(self, image: OpenImage) -> None:
        """A shard of `image` was stored."""
        if self._failing:
            with self._lock:
                self._failing.pop(_disk(image), None)

    def forget(self, image: OpenImage) -> None:
        """The image is deleted."""
        with self._lock:
            self._failing.pop(image.number, None)

    def check_storable(self, image: OpenImage) -> None:
        """Raises OSError, Unavailable, where what is written to an adopted image can't be stored.

        All that is not stored waits in memory, which other images need.
        """
        if image.image.adopted is not None:
            image.check_there()
            error = self._failing.get(_disk(image))
            if error is not None:
                raise refused(error, f"can't store below {image.image.adopted.path}")

    def check_stuck(self, image: OpenImage, *, full: bool = False) -> None:
        """Memory is short: raises Unavailable where nothing will change that soon.

        full: there is no room beside what is set aside either.
        """
        error = self._failing.get(_disk(image))
        if error is not None:
            raise refused(error, "memory is full and the store fails")
        aside = () if full else self._aside()
        held = [
            shard
            for shard in self._dirty.shards()
            if not shard.idle and shard.key.image not in aside
        ]
        if held and all(shard.failures for shard in held):
            # Broken, each in its place: what would free memory is settled already.
            raise Unavailable(f"memory is full of what can't be stored: {held[0].error}")

    def aside_bytes(self, image: OpenImage) -> int:
        """Of what is set aside for others; `image` itself must leave them room (at a start)."""
        aside = self._aside()
        if image.lower in aside:
            return 0
        return sum(self.dirty_bytes(other, number) for number, other in aside.items())

    def dirty_bytes(self, image: OpenImage, number: int) -> int:
        """Bytes of chunks that are dirty, of what `number` names of `image`."""
        return sum(len(s.indices()) for s in self._dirty.shards(number)) * image.chunk_bytes

    def _aside(self) -> dict[int, OpenImage]:
        """By number what can't be stored where others made it, which stops no other image.

        It stays bounded: no more is taken of it (`check_storable`).
        """
        with self._lock:
            failing = self._failing.keys() - {_OWN_DISK}
        if not failing:
            return {}
        found = [image for image in self._images.opened() if image.image.adopted is not None]
        aside = [image for image in found if _disk(image) in failing]
        return {number: image for image in aside for number in (image.lower, image.upper)}


def _disk(image: OpenImage) -> int:
    """Names where an image is stored: what others made has a disk of its own."""
    return _OWN_DISK if image.image.adopted is None else image.number


def refused(error: Exception | None, what: str) -> ZigguratError:
    """Why a shard can't be stored, as an error for one more caller."""
    if isinstance(error, OSError):
        return disk_error(error, what)
    if isinstance(error, DataError):
        return type(error)(f"{what}: {error.message}", field=error.field, **error.details)
    if isinstance(error, NotFound):
        # The image was deleted meanwhile: nobody is to try again.
        return NotFound(error.message, field=error.field)
    return Unavailable(f"{what}: {error}")
