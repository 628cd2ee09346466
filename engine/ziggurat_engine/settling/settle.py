"""When does a dirty shard reach the store, and how do its parents become right?

Settling a shard: freeze its dirty chunks, encode and downsample them (kernels),
replace the store's object, merge the downsampled blocks into the parents as dirty
chunks of the next level, and only then call the shard clean. A read that asks whether
a level is stale therefore finds a dirty shard below at every instant in which the
level is not exact. Each shard has one owner at a time, so that the blocks of a chunk
reach its parent in the order of its versions.

Which shard settles when is told in schedule.py, what storing one does in storing.py, and
what is done about those that can't be stored in failures.py.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext

from ziggurat_engine.cache import (
    Budget,
    CleanChunks,
    Deferred,
    DirtyDirectory,
    DirtyShard,
    ShardKey,
)
from ziggurat_engine.errors import Cancelled, DataError
from ziggurat_engine.images import Images, OpenImage
from ziggurat_engine.measures import Measures
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.settling.failures import Failures, refused
from ziggurat_engine.settling.schedule import Schedule
from ziggurat_engine.settling.storing import Storing
from ziggurat_engine.spans import span
from ziggurat_engine.spec import Array
from ziggurat_engine.state import StaleShard

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 30.0
OVERTAKE_SECONDS = 1.0


def never() -> bool:
    """Nobody cancels."""
    return False


class Settler:
    """Workers that settle dirty shards. All methods may be called from any thread.

    schedule: which one is next. failures: what can't be stored.
    """

    def __init__(
        self,
        images: Images,
        clean: CleanChunks,
        dirty: DirtyDirectory,
        deferred: Deferred,
        budget: Budget,
        storing: Storing,
        measures: Measures,
        *,
        workers: int,
        idle_seconds: float,
        busy_seconds: float,
    ) -> None:
        self._images = images
        self._clean = clean
        self._dirty = dirty
        self._deferred = deferred
        self._budget = budget
        self._storing = storing
        self._measures = measures
        # Called after a shard of level 0 was stored; they must not block.
        self.observers: list[Callable[[], object]] = []
        self.failures = Failures(images, dirty)
        self.schedule = Schedule(
            dirty,
            budget,
            spare=self._begin_deferred,
            idle_seconds=idle_seconds,
            busy_seconds=busy_seconds,
        )
        self._overtaking = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"settle-{n}", daemon=True)
            for n in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def merge(
        self,
        image: OpenImage,
        level: int,
        box: Region,
        pixels: Array,
        *,
        wait: bool = True,
        awaited: bool = False,
        source: StaleShard | None = None,
    ) -> int:
        """Writes `pixels` of `box`, which lies in one shard, to the dirty chunks of `level`.

        Waits for memory where there is none, if told to. Returns the write's tick.
        awaited: somebody waits until it is stored. source: the note to clear once what was
        written is stored. Raises Unavailable where memory is full because the store fails.
        """
        grid = image.pyramid.levels[level]
        shard_at = tuple(map(int.__floordiv__, box.offset, grid.shards.cell))
        key = ShardKey(image.number_of(level), level, shard_at)
        pinned = self._dirty.pin(key, grid, image.fill_value)
        with span("cache.merge", level=level, pixels=box.size), pinned as shard:
            while True:
                aside = self.failures.aside_bytes(image)
                with shard.lock:
                    needed = shard.absent(box) * image.chunk_bytes
                    if self._budget.reserve(needed, force=not wait, aside=aside):
                        # Before chunks are made: they are to take the place of clean ones.
                        self._clean.shrink()
                        tick, before = self._dirty.next_tick(), shard.whole
                        try:
                            extra = shard.write(box, pixels, tick, time.monotonic(), source)
                        except BaseException:
                            # What was made is dirty, and counted; the rest was not made.
                            self._budget.release(shard.absent(box) * image.chunk_bytes)
                            raise
                        whole = shard.whole
                        break
                self._make_room(image, needed)
        if extra:
            self._budget.reserve(extra, force=True)
            self._clean.shrink()
        if whole and awaited and not shard.failures:
            self.schedule.demand([shard])
        elif whole and not before and not shard.failures:
            self.schedule.offer(shard)
        elif needed and self._budget.pressed:
            self.schedule.rouse()
        return tick

    def drain(
        self,
        image: OpenImage,
        level: int,
        cancelled: Callable[[], bool] = never,
        within: Region | None = None,
    ) -> Iterator[tuple[int, int]]:
        """Settles what is dirty in `level` now; yields (chunks done, chunks in all) as it goes.

        within: only shards of which a chunk in this box of chunk indices is dirty.

        When it is exhausted, all writes to the level that were accepted before the call
        are stored, and merged into the level above. Raises Unavailable (DiskError) where
        a shard can't be stored: it stays dirty and is tried again. Where that is for what
        is stored in its place (DataError), all others are stored before that is raised.
        Cancelled where told to.
        """
        target = self._dirty.next_tick()
        pending = []
        for shard in self._dirty.shards(image.number_of(level), level):
            tick = shard.oldest_tick()
            if tick is not None and tick < target and (within is None or shard.touches(within)):
                pending.append((shard, len(shard.indices()), shard.failures))
        total, done = sum(count for _, count, _ in pending), 0
        yield done, total
        self.schedule.demand(shard for shard, _, _ in pending)
        broken: DataError | None = None
        for shard, count, failures in pending:
            try:
                self._await(shard, target, failures, cancelled)
            except DataError as error:
                broken = broken or error
            done += count
            yield done, total
        if broken is not None:
            raise broken

    def defer(
        self, image: OpenImage, level: int, shard: Shape, chunks: Collection[Shape], *, lazy: bool
    ) -> None:
        """The parents of these stored chunks are to be made anew, and are stale until then.

        lazy: only when `complete` is asked for it; else also where there is nothing better
        to do.
        """
        self._deferred.add(ShardKey(image.number_of(level), level, shard), chunks, lazy=lazy)
        if not lazy:
            self.schedule.rouse()

    def share(self, source: OpenImage, target: OpenImage) -> None:
        """What is deferred of level 0 in `source` is so in `target` as well."""
        self._deferred.share(source.lower, target.lower, 0)

    def adopt(self, source: OpenImage, target: OpenImage) -> None:
        """What is deferred of level 0 in `source` is so in `target`, and nothing else is."""
        lazy = target.lazy(0)
        self._deferred.move(source.lower, target.lower, 0, lazy=lazy)
        if self._images.numbered(target.lower) is None:
            # Deleted meanwhile: nobody will look for it.
            self._deferred.drop_image(target.lower)
        if not lazy:
            self.schedule.rouse()

    def stale(self, image: OpenImage) -> bool:
        """True where something of what is stored has not reached the top level."""
        numbers = ((image.number_of(level), level) for level in range(len(image.recipes)))
        return any(self._deferred.holds(*n) or self._dirty.shards(*n) for n in numbers)

    def complete(
        self,
        image: OpenImage,
        level: int,
        cancelled: Callable[[], bool] = never,
        within: Region | None = None,
    ) -> Iterator[tuple[int, int]]:
        """Makes the blocks of `level` that are deferred, and drains it; as `drain` does.

        What is touched at a time is bounded, however much there is. Waits while memory
        is short.
        """
        if image.lazy(level):
            # What is dirty would else be deferred as it is stored.
            for shard in self._dirty.shards(image.number_of(level), level):
                if within is None or shard.touches(within):
                    shard.touch_dirty(self._dirty.next_tick())
        step = count = done = 0
        # First: what is stored may leave blocks of its neighbours to be made.
        for step, count in self.drain(image, level, cancelled, within):
            yield step, count
        done += step
        shard_of = image.pyramid.levels[level].shard_of
        number = image.number_of(level)
        keys = sorted(self._deferred.keys(number, level, within, shard_of))
        left = done + sum(map(self._deferred.count, keys))
        for batch in self._batches(image, keys):
            self._wait_for_memory(image, cancelled)
            for key in batch:
                self._touch(image, key)
            step = count = 0
            for step, count in self.drain(image, level, cancelled, within):
                yield done + step, max(left, done + count)
            done += step
        step = count = 0
        for step, count in self.drain(image, level, cancelled, within):
            yield done + step, done + count

    def _batches(self, image: OpenImage, keys: list[ShardKey]) -> Iterator[list[ShardKey]]:
        """So few shards at a time that their blocks take an eighth of memory, or one."""
        room = self._budget.dirty_limit_bytes // 8
        batch: list[ShardKey] = []
        nbytes = 0
        for key in keys:
            factors = image.recipes[key.level].factors or ()
            size = self._deferred.count(key) * image.chunk_bytes // math.prod(factors)
            if batch and nbytes + size > room:
                yield batch
                batch, nbytes = [], 0
            batch.append(key)
            nbytes += size
        if batch:
            yield batch

    def _wait_for_memory(self, image: OpenImage, cancelled: Callable[[], bool]) -> None:
        """Returns once there is room for blocks; raises as `_make_room` does.

        Writers that fill memory all the time leave none: then one caller at a time goes on
        all the same, and they wait for what it makes.
        """
        with self._overtaking:
            end = time.monotonic() + OVERTAKE_SECONDS
            while self._budget.pressed and time.monotonic() < end:
                if cancelled():
                    raise Cancelled("the caller gave up")
                seen = self._dirty.changes
                self.schedule.rouse()
                self.failures.check_stuck(image)
                self._dirty.wait_for_change(seen, 0.2)

    def _touch(self, image: OpenImage, key: ShardKey) -> DirtyShard:
        grid = image.pyramid.levels[key.level]
        with self._dirty.pin(key, grid, image.fill_value) as shard:
            chunks = self._deferred.get(key)
            if chunks:
                shard.touch(chunks, self._dirty.next_tick())
                self._deferred.remove(key, chunks)
        return shard

    def drain_all(
        self, image: OpenImage, cancelled: Callable[[], bool] = never, *, deferred: bool = True
    ) -> None:
        """Drains every level, lowest first: all that was written is stored.

        deferred: and every level is exact, but for what is deferred lazily. Raises as
        `drain` does.
        """
        broken: DataError | None = None
        for level in range(len(image.pyramid.levels)):
            step = self.complete if deferred and not image.lazy(level) else self.drain
            try:
                for _ in step(image, level, cancelled):
                    pass
            except DataError as error:
                broken = broken or error
        if broken is not None:
            raise broken

    def discard(self, image: OpenImage, number: int) -> None:
        """Forgets what is dirty and clean of what `number` names of `image`, and is deleted."""
        for shard in self._dirty.shards(number):
            level = image.pyramid.levels[shard.key.level]
            with self._dirty.own(shard.key, level, image.fill_value) as owned:
                self._budget.release(owned.clear())
        self._clean.drop_image(number)
        self._deferred.drop_image(number)
        self.failures.forget(image)

    @property
    def failing(self) -> int:
        """Shards of which the last try to store them failed."""
        return sum(shard.failures > 0 for shard in self._dirty.shards())

    @property
    def waiting(self) -> int:
        """Shards that are dirty or settling, or have blocks to be made."""
        return sum(not shard.idle for shard in self._dirty.shards()) + self._deferred.eager

    def close(self) -> None:
        """Stops the workers: what they are at is finished, what is dirty stays dirty."""
        self.schedule.stop()
        for thread in self._threads:
            thread.join()

    def _make_room(self, image: OpenImage, nbytes: int) -> None:
        self.schedule.rouse()
        if not self._budget.wait(nbytes, 1.0, aside=self.failures.aside_bytes(image)):
            self.failures.check_stuck(image, full=True)

    def _await(
        self, shard: DirtyShard, target: int, failures: int, cancelled: Callable[[], bool]
    ) -> None:
        while True:
            seen = self._dirty.changes
            tick = shard.oldest_tick()
            if tick is None or tick > target:
                return
            if shard.failures > failures:
                raise refused(shard.error, "can't store")
            if cancelled():
                raise Cancelled("the caller gave up")
            if not shard.owned:
                # It was owned when it was asked for, or was written to since it was frozen.
                self.schedule.demand([shard])
            self._dirty.wait_for_change(seen, 0.5)

    def _work(self) -> None:
        while (shard := self.schedule.next()) is not None:
            try:
                self._settle(shard)
            except Exception as error:
                if self._images.numbered(shard.key.image) is None:
                    # Deleted meanwhile: there is nothing to store it in, and nobody to tell.
                    self._budget.release(shard.thaw() + shard.clear())
                else:
                    # Whatever it was, the pixels are still here: keep them, say so, try again.
                    # A worker that ended here would let memory fill up without a word.
                    self._failed(shard, error)
            finally:
                self._dirty.disown(shard)
                self.schedule.done()
            if shard.whole and not shard.failures:
                # Written wholly again meanwhile, when nobody else could own it.
                self.schedule.offer(shard)

    def _begin_deferred(self) -> bool:
        """Now that nothing else is to be done: offers a shard whose blocks are deferred."""
        while (key := self._deferred.next_key()) is not None:
            image = self._images.numbered(key.image)
            if image is not None:
                self.schedule.demand([self._touch(image, key)])
                return True
            self._deferred.drop_image(key.image)
        return False

    def _settle(self, shard: DirtyShard) -> None:
        """Settles an owned shard; what it raises, `_failed` makes good."""
        image = self._images.numbered(shard.key.image)
        # The levels that its blocks go to are the image's until they are there.
        levels = nullcontext() if image is None or shard.key.level else image.base.storing.shared()
        with levels:
            image = self._images.numbered(shard.key.image)
            if image is None:
                # Deleted, with a write under way: nobody will ask for it.
                self._budget.release(shard.clear())
            else:
                self._store(image, shard)

    def _store(self, image: OpenImage, shard: DirtyShard) -> None:
        key = shard.key
        with span("settle", image=image.image.name, level=key.level, shard=key.shard):
            self._stored(image, shard)

    def _stored(self, image: OpenImage, shard: DirtyShard) -> None:
        start = time.perf_counter()
        taken = self._storing.take(image, shard)
        with self._budget.held(taken.block_bytes):
            self._clean.shrink()
            blocks = deque(self._storing.store(taken))
            barren = not blocks
            while blocks:
                # A block's memory goes as soon as it is merged.
                box, pixels = blocks.popleft()
                # The note goes with the last block: whoever stores that one has, or others
                # had before, stored all of them.
                source = None if blocks else taken.note
                self.merge(image, shard.key.level + 1, box, pixels, wait=False, source=source)
        freed, notes = shard.stored()
        self._measures.settled.add(time.perf_counter() - start)
        # Nothing may hold the chunks whose bytes are given back.
        taken.chunks.clear()
        self._budget.release(freed)
        shard.failures, shard.retry_at, shard.error = 0, 0.0, None
        self.failures.stored(image)
        if taken.note is not None and barren:
            notes.append(taken.note)
        self._storing.clear(notes)
        if shard.key.level == 0:
            for observer in (*image.base.observers, *self.observers):
                observer()

    def _failed(self, shard: DirtyShard, error: Exception) -> None:
        self._budget.release(shard.thaw())
        shard.error = error
        shard.failures += 1
        delay = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(shard.failures, 10))
        shard.retry_at = time.monotonic() + delay
        log.error("shard %s can't be stored, next try in %.1f s", shard.key, delay, exc_info=error)
        # It is kept, and its frames would keep the chunks.
        error.__traceback__ = None
        image = self._images.numbered(shard.key.image)
        if image is not None:
            self.failures.failed(image, error)
        self._storing.failed(error)
