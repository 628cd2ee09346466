"""How is the metadata of an image that exists replaced?

Documents are changed as JSON, field by field, so that what others have added to them
stays, and each is replaced atomically. The group's own document, which is what an image
is loaded from, comes last.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from ziggurat_engine.errors import Corrupt
from ziggurat_engine.spec import Image
from ziggurat_engine.store import omezarr
from ziggurat_engine.store.gate import Gate
from ziggurat_engine.store.objects import ObjectStore

Json = dict[str, Any]


class ImageMetadata:
    """The zarr.json documents below `prefix`. All methods may be called from any thread.

    Raises OSError as the disk gives it, Corrupt where a document is none, NotFound once
    the image is deleted; a document is then as it was, or the new one.
    """

    def __init__(self, store: ObjectStore, prefix: str, gate: Gate, image: Image) -> None:
        self._store = store
        self._extent = image.shape[0]
        self._arrays = _arrays(image)
        self._prefix = prefix
        self._gate = gate
        self._lock = threading.Lock()

    def write_streams(self, streams: list[Json]) -> None:
        """Says what became of the image's streams; durable when it returns."""

        def change(document: Json) -> None:
            document["attributes"][omezarr.ATTRIBUTE]["streams"] = streams

        with self._lock, self._gate.inside():
            self._change("zarr.json", change)

    def write_extent(self, extent: int) -> None:
        """Says that an unbounded image reaches to `extent` along t, if that is further.

        Durable when it returns. Until then, and after an error, some levels may reach
        further than others.
        """

        def change_level(document: Json) -> None:
            document["shape"][0] = extent

        def change_group(document: Json) -> None:
            document["attributes"][omezarr.ATTRIBUTE]["image"]["axes"][0]["size"] = extent

        if extent <= self._extent:
            return
        with self._lock, self._gate.inside():
            if extent <= self._extent:
                return
            for array in self._arrays:
                self._change(f"{array}/zarr.json", change_level)
            self._change("zarr.json", change_group)
            self._extent = extent

    def write_levels(self, image: Image) -> None:
        """Names the levels of `image`, which are there, in place of those of before.

        All at once, in one document; durable when it returns. OSError may leave open which
        of them it names: the caller tries again before it removes anything.
        """

        def change_level(document: Json) -> None:
            document["shape"][0] = self._extent

        def change_group(document: Json) -> None:
            omezarr.replace_levels(document, image)

        with self._lock, self._gate.inside():
            if image.unbounded:
                for array in _arrays(image):
                    self._change(f"{array}/zarr.json", change_level)
            self._change("zarr.json", change_group, anew=True)
            self._arrays = _arrays(image)

    def _change(self, name: str, change: Callable[[Json], None], *, anew: bool = False) -> None:
        """anew: also where nothing changes, since what is there may not be durable."""
        key = f"{self._prefix}/{name}"
        old = self._store.get(key)
        try:
            document = json.loads(old or b"")
            change(document)
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"{key} is not what was written there: {error!r}") from error
        new = json.dumps(document, indent=2).encode()
        if new != old or anew:
            self._store.put(key, [new])


def _arrays(image: Image) -> list[str]:
    return [image.array_name(level) for level in range(len(image.layout.factors) + 1)]
