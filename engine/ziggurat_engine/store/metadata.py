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
from ziggurat_engine.store import omezarr
from ziggurat_engine.store.array import Gate
from ziggurat_engine.store.objects import ObjectStore

Json = dict[str, Any]


class ImageMetadata:
    """The zarr.json documents below `prefix`. All methods may be called from any thread.

    Raises OSError as the disk gives it, Corrupt where a document is none, NotFound once
    the image is deleted; a document is then as it was, or the new one.
    """

    def __init__(self, store: ObjectStore, prefix: str, gate: Gate) -> None:
        self._store = store
        self._prefix = prefix
        self._gate = gate
        self._lock = threading.Lock()

    def write_streams(self, streams: list[Json]) -> None:
        """Says what became of the image's streams; durable when it returns."""

        def change(document: Json) -> None:
            document["attributes"][omezarr.ATTRIBUTE]["streams"] = streams

        with self._lock, self._gate.inside():
            self._change("zarr.json", change)

    def _change(self, name: str, change: Callable[[Json], None]) -> None:
        key = f"{self._prefix}/{name}"
        old = self._store.get(key)
        try:
            document = json.loads(old or b"")
            change(document)
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"{key} is not what was written there: {error!r}") from error
        new = json.dumps(document, indent=2).encode()
        if new != old:
            self._store.put(key, [new])
