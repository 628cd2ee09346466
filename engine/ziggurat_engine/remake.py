"""How do the levels of an image come to be those of another method, all at once?

    note       state database: which arrays are about to be made, and which they replace
    arrays     made empty beside those that readers see; no document names them
    next       what is stored of level 0 from now on is noted and deferred for both
    defer      all of level 0, for the new levels; then the note says `ready`
    build      the caller completes them like any deferred pyramid (build.py)
    publish    one document names the new arrays and the method: this is the change
    remove     the old arrays, once the reads that began before are over; then the note

The document alone says which levels the image has; the note says what to do with the
others after a crash. Before `ready` the new ones are removed, then they are gone on
with, and behind `publish` the old ones are removed. Stale notes are counted by the
array they make stale (OpenImage.noted), so that those of both lie beside each other,
and those of the new levels are right from the instant of the change.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

from ziggurat_engine.errors import Cancelled, FailedPrecondition, ZigguratError
from ziggurat_engine.grid import Grid
from ziggurat_engine.images import Images, OpenImage
from ziggurat_engine.layout import remade
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.settling.settle import Settler
from ziggurat_engine.spec import Downsampling
from ziggurat_engine.state import Change, State
from ziggurat_engine.store.catalog import Catalog, StoredImage

log = logging.getLogger(__name__)

# Shards noted in one transaction.
BATCH_SHARDS = 256
# Of more than so many only those that are stored are noted: finding them takes a walk.
MOST_NAMED_CHUNKS = 2**18
# How soon who waits for readers sees that the engine is being closed.
STOP_SECONDS = 0.2


class Remaker:
    """Changes of method. All methods may be called from any thread."""

    def __init__(self, catalog: Catalog, images: Images, settler: Settler, state: State) -> None:
        self._catalog = catalog
        self._images = images
        self._settler = settler
        self._state = state
        self._stopping = threading.Event()
        self._threads: set[threading.Thread] = set()

    def close(self) -> None:
        """Waits for nobody who still reads replaced levels: the next start removes them."""
        self._stopping.set()
        for thread in tuple(self._threads):
            thread.join()

    @contextmanager
    def alone(
        self, image: OpenImage, method: Downsampling, cancelled: Callable[[], bool]
    ) -> Iterator[None]:
        """While the block runs nobody else changes the image's method.

        A call for the same method is waited for, and who still reads levels that an earlier
        one replaced. FailedPrecondition while there is one for
        another, Cancelled where told to.
        """
        base = image.base
        while not base.changing.acquire(timeout=0.1):
            if cancelled():
                raise Cancelled("the caller gave up")
            if base.method not in (None, method):
                raise FailedPrecondition(
                    f"method: another call makes the levels of {image.image.name!r} by"
                    f" {base.method}",
                    field="method",
                )
        base.method = method
        try:
            while base.removing is not None and base.removing.is_alive():
                if cancelled():
                    raise Cancelled("the caller gave up")
                base.removing.join(0.1)
            yield
        finally:
            base.method = None
            base.changing.release()

    def begin(self, image: OpenImage, method: Downsampling) -> OpenImage:
        """The levels that `method` is to make, to be completed and published; in `alone`.

        Those that an earlier call for the same method left are gone on with, those of
        another method are dropped. What is not published is left, and follows what is written.

        Raises InvalidArgument where the method can't make the image's levels,
        FailedPrecondition where the image is adopted, NotFound where it is deleted, OSError.
        """
        if image.image.adopted is not None:
            # Its document is not ours to replace.
            raise FailedPrecondition(
                f"method: {image.image.name!r} is adopted, with levels that"
                f" {image.image.downsampling} makes",
                field="method",
            )
        remade(image.image, method)
        waiting = image.base.next
        if waiting is None or waiting.image.downsampling != method:
            self.drop(image)
            waiting = self._make(image.now, method)
        return waiting

    def drop(self, image: OpenImage) -> None:
        """Removes levels that a change of method left unfinished; in `alone`; OSError."""
        change = self._state.change_of(image.image.uid)
        if change is not None:
            # To publish them may have failed when the document named them already.
            self._catalog.publish(image.now.stored)
            self._forget(image.base.next)
            self._end(image.now, change)

    def publish(self, new: OpenImage) -> None:
        """Makes the levels that `begin` gave those of the image; durable when it returns.

        What is not made of them yet is stale for whoever reads them, and is made like
        anything else. The old ones are removed once nobody reads them any more, which is not
        waited for; what keeps them from being removed is logged, and the next start does it.
        """
        old = new.now
        with new.base.storing.alone():
            self._catalog.publish(new.stored)
            # Before: who reads is told of all that is to be made, of the old levels or the new.
            self._settler.share(new, old)
            found = self._images.publish_next(old)
            # Behind it: who finds less stale than the old levels are finds them replaced, too.
            self._settler.adopt(new, found)
        # Not before: who got the old levels is not to have this number.
        self._images.renew(found)
        # Who reads from now on sees that they were replaced.
        if old.reading.wait_unshared(0):
            self._remove(old)
        else:
            thread = threading.Thread(target=self._remove_later, args=(old,), name="remake")
            thread.daemon = True
            self._threads.add(thread)
            old.base.removing = thread
            thread.start()

    def anew(self, image: OpenImage, region: Region) -> None:
        """Has all levels above a box of level 0 made anew, by the method that there is."""
        self._defer(image, region)
        self._images.renew(image)

    def recover(self) -> None:
        """Goes on with, or removes, what a start finds; before anything is stored.

        What can't be removed is left to the next start.
        """
        for change in self._state.changes():
            image = self._images.with_uid(change.image)
            if image is None:
                if not self._images.refused():
                    # Else it may be one of those that can't be used now.
                    self._state.end_change(change.image, range(0))
                continue
            published = image.image.first_array == change.first
            if change.ready and not published and image.image.first_array == change.previous:
                stored = self._other(image.stored, change.method, change.first)
                self._images.add_next(image, stored)
                continue
            try:
                self._end(image, change)
            except (OSError, ZigguratError) as error:
                log.warning("%s: levels that nobody names are left: %s", image.image.name, error)

    def _make(self, image: OpenImage, method: Downsampling) -> OpenImage:
        """New levels, of which nothing is made yet."""
        first = self._catalog.free_array(image.stored)
        change = Change(image.image.uid, method, first, image.image.first_array, ready=False)
        self._save(image, change)
        try:
            other = self._other(image.stored, method, first)
            found = self._images.add_next(
                image, self._catalog.add_levels(image.stored, other.image)
            )
            self._defer(found, Region.whole(image.shape()))
            self._save(image, replace(change, ready=True))
        except BaseException:
            # Not to be gone on with: some of it may not be noted.
            self._forget(image.base.next)
            raise
        return found

    def _save(self, image: OpenImage, change: Change) -> None:
        # A deletion waits for what is inside, and then forgets it.
        with image.stored.gate.inside():
            self._state.save_change(change)

    def _forget(self, waiting: OpenImage | None) -> None:
        if waiting is not None:
            with waiting.base.storing.alone():
                self._images.drop_levels(waiting)
            waiting.stored.upper.close()
            self._settler.discard(waiting, waiting.upper)

    def _remove(self, old: OpenImage) -> None:
        """Removes levels that were the image's, and that nobody reads."""
        self._images.drop_levels(old)
        # What is under way of them ends; nothing new begins, since they have no number.
        old.stored.upper.close()
        self._settler.discard(old, old.upper)
        try:
            self._catalog.remove_levels(old.stored)
            self._state.end_change(old.image.uid, old.noted_levels)
        except (OSError, ZigguratError) as error:
            log.warning(
                "%s: the old levels are left until the next start: %s", old.image.name, error
            )

    def _remove_later(self, old: OpenImage) -> None:
        try:
            while not self._stopping.is_set():
                if old.reading.wait_unshared(STOP_SECONDS):
                    self._remove(old)
                    return
        finally:
            self._threads.discard(threading.current_thread())

    def _end(self, image: OpenImage, change: Change) -> None:
        """Removes what a change left that the image's document does not name."""
        published = image.image.first_array == change.first
        first = change.previous if published else change.first
        if first != image.image.first_array:
            self._catalog.remove_levels(self._other(image.stored, change.method, first))
        start = first - 1
        self._state.end_change(change.image, range(start, start + len(image.recipes) - 1))

    def _other(self, stored: StoredImage, method: str, first: int) -> StoredImage:
        update = {"downsampling": cast(Downsampling, method), "first_array": first}
        return self._catalog.other_levels(stored, stored.image.model_copy(update=update))

    def _defer(self, image: OpenImage, region: Region) -> None:
        """Has the blocks of all chunks of level 0 that `region` touches made anew."""
        if image.recipes[0].factors is None:
            return
        grid = image.pyramid.levels[0]
        lazy = image.lazy(0)
        touched = grid.chunks.touched(region)
        if touched.size <= MOST_NAMED_CHUNKS:
            named = self._all_chunks(image, touched)
        else:
            named = self._stored_chunks(image, touched)
        while batch := list(itertools.islice(named, BATCH_SHARDS)):
            some: dict[Shape, set[Shape]] = {}
            for shard, chunks in batch:
                some.setdefault(shard, set()).update(chunks)
            # A deletion waits for what is inside, and then forgets it.
            with image.stored.gate.inside():
                # First here: were it noted first, what was made before it came here would leave
                # a place without a note.
                for shard, indices in some.items():
                    self._settler.defer(image, 0, shard, sorted(indices), lazy=lazy)
                self._state.mark_all_stale(image.image.uid, image.noted(0), some)

    def _all_chunks(
        self, image: OpenImage, touched: Region
    ) -> Iterator[tuple[Shape, Iterable[Shape]]]:
        """The chunks in the box `touched`, by shard."""
        level = image.pyramid.levels[0]
        counts = zip(level.shards.cell, level.chunks.cell, strict=True)
        per_shard = tuple(s // c for s, c in counts)
        for shard in Grid(level.chunks.counts, per_shard).indices(touched):
            yield shard, level.chunks_of(shard).intersect(touched).indices()

    def _stored_chunks(
        self, image: OpenImage, touched: Region
    ) -> Iterator[tuple[Shape, Iterable[Shape]]]:
        """The chunks in the box `touched` of which level 1 may not have the block; by shard.

        Those that are stored, those of which the blocks depend on them, and those below what
        level 1 has. Of a large image that is mostly empty all would be too many to name, for
        memory and for the database. What is stored from now on brings its own blocks.
        """
        lower, upper = image.pyramid.levels[:2]
        for _, chunks in image.arrays[0].present():
            yield from self._by_shard(image, image.neighbours(0, chunks), touched)
        for _, chunks in image.arrays[1].present():
            regions = (image.pyramid.project(upper.chunks.region(c), 1, 0) for c in chunks)
            below = itertools.chain.from_iterable(map(lower.chunks.indices, regions))
            yield from self._by_shard(image, below, touched)

    def _by_shard(
        self, image: OpenImage, chunks: Iterable[Shape], touched: Region
    ) -> Iterator[tuple[Shape, Iterable[Shape]]]:
        found: dict[Shape, set[Shape]] = {}
        for chunk in chunks:
            if touched.holds(chunk):
                found.setdefault(image.pyramid.levels[0].shard_of(chunk), set()).add(chunk)
        yield from found.items()
