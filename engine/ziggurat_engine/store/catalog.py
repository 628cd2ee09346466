"""Which images does a data directory hold?

    DIR/images/lab/2026/run-3.ome.zarr    the image "lab/2026/run-3"
               run-3.ome.zarr/labels/cells    its label image "lab/2026/run-3/labels/cells"
               run-3.ome.zarr/0, /1, ...      arrays; those of a change of method among them
    DIR/tmp                               writes under way, and what a crash left

An image that others made is adopted: its directory here has the record of where it lies,
and what is known of its streams and frames; no level.

An image appears and disappears with one rename of its directory. Directories above
images are made as needed and stay when the last image below them goes: removing one
could race with a creation, and they hold nothing.

The group `labels` names the label images of an image. It is written after one of them
appears and before one disappears, so that what it names is there; the next start adds
what a crash kept from being named. An image that has labels is not deleted.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ziggurat_engine.errors import (
    AlreadyExists,
    Corrupt,
    DataError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from ziggurat_engine.layout import pyramid_of
from ziggurat_engine.measures import Tally
from ziggurat_engine.names import check_name
from ziggurat_engine.pyramid import Pyramid
from ziggurat_engine.spec import Image
from ziggurat_engine.store import omezarr
from ziggurat_engine.store.adopted import AdoptedStore
from ziggurat_engine.store.array import ChunkArray
from ziggurat_engine.store.frames import FrameTable
from ziggurat_engine.store.gate import Gate
from ziggurat_engine.store.handles import ShardHandles
from ziggurat_engine.store.keys import DEFAULT_KEYS, Keys
from ziggurat_engine.store.metadata import ImageMetadata
from ziggurat_engine.store.objects import LocalStore, Objects, ObjectStore
from ziggurat_engine.store.usage import SUFFIX, MeteredStore
from ziggurat_engine.vfs import FileSystem, OsFileSystem

LABELS = "labels"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class StoredImage:
    """An image of the catalog, with levels that one method makes.

    arrays[k] holds the chunks of level k. Once the image is deleted they raise NotFound; those
    above level 0 once they are removed (`upper`). What is not of these levels alone is one
    object as long as the image exists.
    There are no arrays where the image is read-only: others know how its chunks are read.
    """

    image: Image
    pyramid: Pyramid
    arrays: tuple[ChunkArray, ...]
    gate: Gate
    upper: Gate
    metadata: ImageMetadata
    frames: FrameTable


class Catalog:
    """The images of an object store. All methods may be called from any thread.

    Names are as `names.check_name` returns them.
    """

    def __init__(
        self,
        store: ObjectStore,
        handles: ShardHandles,
        fs: FileSystem | None = None,
        stages: Tally | None = None,
    ) -> None:
        self._store = store
        self.handles = handles
        self._fs = fs or OsFileSystem()
        self._stages = stages or Tally()
        # Of the adopted images that may be written to.
        self._adopted: dict[str, AdoptedStore] = {}
        self._lock = threading.Lock()
        # Every name that is taken; None until it is loaded. Names in `_busy` are being
        # created or deleted, by one thread each. Label images that lie in another image, and
        # those that are about to, with that image.
        self._attached: dict[str, str] = {}
        self._arriving: dict[str, str] = {}
        self._images: dict[str, StoredImage | None] = {}
        # By uid, of images that are in `_images` or were.
        self._names: dict[str, str] = {}
        self._refused: set[str] = set()
        self._busy: set[str] = set()
        # Held while a list of labels is changed; never with `_lock` held.
        self._listing = threading.Lock()

    @classmethod
    def open(
        cls,
        fs: FileSystem,
        directory: Path,
        *,
        max_open_shards: int = 256,
        stages: Tally | None = None,
        metered: Callable[[str, int], None] | None = None,
    ) -> Catalog:
        """The catalog of `directory`, which is made where missing.

        stages: takes the seconds of "write" and "sync" of what is stored.
        Removes what a crash left in DIR/tmp and finds the images. What can't be read,
        or was not written by Ziggurat, is logged as a warning and skipped; its name
        stays taken. Raises OSError as the disk gives it.

        metered: is told how many bytes the files of each image have: of all that is there,
        before it returns, and then of each change, from any thread; see MeteredStore.

        One process at a time may have a directory open; the caller sees to it.
        """
        files = LocalStore(fs, directory / "images", directory / "tmp", stages)
        files.sweep()
        store: ObjectStore = files
        if metered is not None:
            store = counted = MeteredStore(files, metered)
            counted.count()
        catalog = cls(store, ShardHandles(max_open_shards), fs, stages)
        catalog.scan()
        return catalog

    def scan(self) -> None:
        """Finds the images of the store; to be called once, before the other methods."""
        for name, labels_of in self.find():
            if labels_of is not None:
                self._attached[name] = labels_of
            try:
                image = self._load(name, labels_of)
            except DataError as error:
                _log.warning("image %r is skipped: %s", name, error)
                self._refused.add(name)
            else:
                self._images[name] = None
                # Of copies of a directory the last name counts, whatever order they come in.
                self._names[image.uid] = max(name, self._names.get(image.uid, ""))
        for name, labels_of in self._attached.items():
            if name in self._images:
                self._list_label(name, labels_of, there=True)

    def create(self, image: Image) -> StoredImage:
        """Adds an empty image: all of its metadata, no chunks. Durable when it returns.

        Of an adopted image only a record of where it lies is made.

        It appears whole or not at all. AlreadyExists, with the field "name", where the
        name is taken; of two calls at once exactly one gets through. OSError as the
        disk gives it: only one from the very last sync may leave an image that the
        next start finds. NotFound, with the field "labels_of", where there is no such image.
        """
        name = image.name
        documents = omezarr.documents(image)
        with self._reserved(name, taken=False, labels_of=image.labels_of):
            try:
                self._store.create_tree(key_of(name, image.labels_of), documents)
            except FileExistsError as error:
                raise _taken(name) from error
            if image.labels_of is not None:
                try:
                    self._list_label(name, image.labels_of, there=True)
                except BaseException:
                    self._store.delete_tree(key_of(name, image.labels_of))
                    raise
            stored = self._build(image)
            with self._lock:
                self._images[name] = stored
                self._names[image.uid] = name
                if image.labels_of is not None:
                    self._attached[name] = image.labels_of
            return stored

    def add_levels(self, stored: StoredImage, image: Image) -> StoredImage:
        """Adds empty arrays for the levels of `image`, which no document names yet.

        They have names of their own (first_array). Durable when it returns; OSError, NotFound
        may leave some.
        """
        found = self.other_levels(stored, image)
        documents = omezarr.documents(image)
        with stored.gate.inside():
            for array in found.arrays[1:]:
                name = array.prefix.rpartition("/")[2]
                document = documents[f"{name}/zarr.json"]
                self._store.create_tree(array.prefix, {"zarr.json": document})
        return found

    def other_levels(self, stored: StoredImage, image: Image) -> StoredImage:
        """The same image with the arrays that `image` names, which are there."""
        upper = Gate(image.name, stored.gate)
        arrays = (stored.arrays[0], *self._arrays(image, stored.gate, upper)[1:])
        return replace(stored, image=image, arrays=arrays, upper=upper)

    def free_array(self, stored: StoredImage) -> int:
        """The first of as many array names as the image has levels above 0, none of them taken."""
        image, count = stored.image, len(stored.arrays) - 1
        taken = set(self._store.list(key_of(image.name, image.labels_of))[1])
        first = image.first_array + count
        while taken & {str(first + k) for k in range(count)}:
            first += count
        return first

    def publish(self, stored: StoredImage) -> None:
        """The levels of `stored` are the image's from now on, for whoever opens it.

        Durable when it returns; errors as of ImageMetadata.write_levels.
        """
        stored.metadata.write_levels(stored.image)
        with self._lock:
            there = self._images.get(stored.image.name)
            if there is not None and there.gate is stored.gate:
                self._images[stored.image.name] = stored

    def remove_levels(self, stored: StoredImage) -> None:
        """Removes the arrays above level 0, which no document names; waits for their `replace`s.

        Durable when it returns, and the space is freed; OSError may leave some. None are fine.
        """
        stored.upper.close()
        with suppress(NotFound), stored.gate.inside():
            for array in stored.arrays[1:]:
                try:
                    self._store.delete_tree(array.prefix)
                finally:
                    self.handles.drop_prefix(array.prefix)

    def load(self, name: str) -> StoredImage:
        """The image `name`; the same object each time until its levels are replaced.

        Raises NotFound with the field "name"; Corrupt or UnsupportedVersion for an
        image that was skipped at the start.
        """
        with self._lock:
            stored = self._images.get(name)
            if stored is not None:
                return stored
            if name not in self._images and name not in self._refused:
                raise _missing(name)
            stored = self._images[name] = self._build(self._load(name, self._attached.get(name)))
            self._refused.discard(name)
            return stored

    def name_of(self, uid: str) -> str | None:
        """The name of an image that was there at the start or was made since; None of others.

        It may be deleted by now.
        """
        with self._lock:
            return self._names.get(uid)

    def names(self, prefix: str = "") -> list[str]:
        """The images that are `prefix` or lie below it (whole segments), sorted."""
        return sorted(self._below(prefix))

    def count(self, prefix: str = "") -> int:
        """How many images are `prefix` or lie below it."""
        return len(self._below(prefix)) if prefix else len(self._images)

    def _below(self, prefix: str) -> list[str]:
        with self._lock:
            names = list(self._images)
        prefix = prefix.rstrip("/")
        if prefix:
            names = [n for n in names if n == prefix or n.startswith(prefix + "/")]
        return names

    def refused(self) -> list[str]:
        """The images that can't be used, sorted."""
        with self._lock:
            return sorted(self._refused)

    def delete(self, name: str) -> None:
        """Removes an image: it disappears at once, and durably before it returns.

        An adopted one is forgotten; what others made stays as it is.

        FailedPrecondition while it has labels. Waits for the `replace` calls that run in its
        arrays; later ones, and reads, raise NotFound. Returns when the space is freed. Errors
        as of `load`; after an OSError the image is still there, whole, or gone.
        """
        stored = self.load(name)
        labels_of = stored.image.labels_of
        key = key_of(name, labels_of)
        with self._reserved(name, taken=True):
            with self._lock:
                del self._images[name]
            stored.gate.close()
            try:
                if labels_of is not None:
                    self._list_label(name, labels_of, there=False)
                self._store.delete_tree(key)
            except BaseException:
                if self._store.list(key) != ([], []):
                    with self._lock:
                        self._images[name] = stored
                    stored.gate.reopen()
                raise
            finally:
                self.handles.drop_prefix(key)
            with self._lock:
                if self._names.get(stored.image.uid) == name:
                    del self._names[stored.image.uid]
                self._attached.pop(name, None)
                adopted = self._adopted.pop(name, None)
            if adopted is not None:
                adopted.close()

    def check_no_labels(self, name: str) -> None:
        """Raises FailedPrecondition where the image `name` has labels, or is about to."""
        with self._lock:
            self._check_no_labels(name)

    def _check_no_labels(self, name: str) -> None:
        known = self._attached | self._arriving
        labels = sorted(label for label, image in known.items() if image == name)
        if labels:
            raise FailedPrecondition(
                f"image {name!r} has labels, to be deleted first: {', '.join(labels)}"
            )

    def _list_label(self, name: str, image: str, *, there: bool) -> None:
        """Names a label image in the group `labels` of its image, or no longer.

        What others have written there stays.
        """
        label, key = name.rpartition("/")[2], f"{key_of(image)}/{LABELS}/zarr.json"
        with self._listing:
            old = self._store.get(key)
            new = omezarr.labels_document(old, label, there=there)
            if new != old:
                self._store.put(key, [new])

    def close(self) -> None:
        """Closes the open shards. The catalog is not to be used after."""
        self.handles.close()
        for adopted in self._adopted.values():
            adopted.close()

    @contextmanager
    def _reserved(self, name: str, *, taken: bool, labels_of: str | None = None) -> Iterator[None]:
        """Keeps `name` for one creation (not taken) or deletion (taken) at a time.

        An image is not deleted while labels of it exist or are being created.
        """
        with self._lock:
            if taken and name not in self._images:
                raise _missing(name)
            if not taken and any(name in s for s in (self._images, self._refused, self._busy)):
                raise _taken(name)
            if taken:
                self._check_no_labels(name)
            if labels_of is not None:
                if labels_of not in self._images or labels_of in self._busy:
                    raise _missing(labels_of, "labels_of")
                self._arriving[name] = labels_of
            self._busy.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(name)
                self._arriving.pop(name, None)

    def look(self, name: str, labels_of: str | None = None) -> StoredImage:
        """The image that lies there now, of which the catalog takes no note; errors as `load`."""
        return self._build(self._load(name, labels_of))

    def _load(self, name: str, labels_of: str | None) -> Image:
        data = self._store.get(f"{key_of(name, labels_of)}/zarr.json")
        if data is None:
            raise Corrupt(f"image {name!r} has no zarr.json")
        return omezarr.read_image(data, name, labels_of)

    def _build(self, image: Image) -> StoredImage:
        gate = Gate(image.name)
        upper = Gate(image.name, gate)
        key = key_of(image.name, image.labels_of)
        arrays = self._arrays(image, gate, upper)
        metadata = ImageMetadata(self._store, key, gate, image)
        frames = FrameTable(self._store, key, gate, image)
        return StoredImage(image, pyramid_of(image), arrays, gate, upper, metadata, frames)

    def _arrays(self, image: Image, gate: Gate, upper: Gate) -> tuple[ChunkArray, ...]:
        pyramid = pyramid_of(image)
        key, adopted = key_of(image.name, image.labels_of), image.adopted
        store: Objects = self._store
        places = [(image.array_name(k), DEFAULT_KEYS) for k in range(len(pyramid.levels))]
        if adopted is not None:
            if image.read_only:
                return ()
            store = self._adopted[image.name] = AdoptedStore(self._fs, key, adopted, self._stages)
            places = [(at.path, Keys(at.key_prefix, at.key_separator)) for at in adopted.levels]
        return tuple(
            ChunkArray(store, f"{key}/{path}", level, self.handles, upper if k else gate, keys)
            for k, ((path, keys), level) in enumerate(zip(places, pyramid.levels, strict=True))
        )

    def find(self) -> Iterator[tuple[str, str | None]]:
        """(name, the image it is a label image of), from a walk of the directories above images.

        Whether they can be used or not; nothing is changed.
        """
        above = [""]
        while above:
            parent = above.pop()
            for segment in self._store.list(parent)[1]:
                path = f"{parent}/{segment}" if parent else segment
                name = path.removesuffix(SUFFIX)
                if not _is_name(name):
                    # Nothing below a directory that can't be part of a name is an image.
                    if name != path:
                        _log.warning("directory %r is skipped: no image has this name", path)
                elif name != path:
                    yield name, None
                    yield from self._find_labels(name)
                else:
                    above.append(path)

    def _find_labels(self, image: str) -> Iterator[tuple[str, str]]:
        for segment in self._store.list(f"{key_of(image)}/{LABELS}")[1]:
            name = f"{image}/{LABELS}/{segment}"
            if _is_name(name):
                yield name, image
            else:
                _log.warning("labels %r of %r are skipped: no image has this name", segment, image)


def key_of(name: str, labels_of: str | None = None) -> str:
    """Where an image lies; `labels_of`: the image in which it lies."""
    return name + SUFFIX if labels_of is None else labels_of + SUFFIX + name[len(labels_of) :]


def _is_name(name: str) -> bool:
    try:
        return check_name(name) == name
    except InvalidArgument:
        return False


def _missing(name: str, field: str = "name") -> NotFound:
    return NotFound(f"there is no image {name!r}", field=field)


def _taken(name: str) -> AlreadyExists:
    return AlreadyExists(f"the name {name!r} is taken", field="name")
