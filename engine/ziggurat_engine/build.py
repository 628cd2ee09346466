"""How does a caller make a pyramid exact, all of it or some, and watch it?

What is stale is dirty, touched or deferred somewhere below, so that completing the
levels, lowest first, makes all of them exact. `force` first defers all of level 0: what
is not stale is then computed anew as well, and what a restart interrupts goes on after it.
Another method makes other levels, which replace these once they are exact (remake.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ziggurat_engine.errors import InvalidArgument, OutOfRange
from ziggurat_engine.images import OpenImage
from ziggurat_engine.region import Region
from ziggurat_engine.remake import Remaker
from ziggurat_engine.settling.settle import Settler, never
from ziggurat_engine.spec import Downsampling

# How often levels of another method catch up with writers before they are published.
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is: the level it reads from, and chunks and raw bytes done so far.

    The totals grow as the chunks of the next levels become known; what others stored before
    the build came to it is not in them.
    """

    level: int
    chunks_done: int
    chunks_total: int
    bytes_done: int
    bytes_total: int
    elapsed_seconds: float


class _Meter:
    """Adds up the steps of a build."""

    def __init__(self, image: OpenImage) -> None:
        self._chunk_bytes = image.chunk_bytes
        self._started = time.monotonic()
        self._done = self._total = 0

    def passed(self, level: int, steps: Iterator[tuple[int, int]]) -> Iterator[Progress]:
        """What `steps` say, (chunks done, chunks in all), behind those of before."""
        step_done = step_total = 0
        for step_done, step_total in steps:
            chunks, known = self._done + step_done, self._total + step_total
            yield Progress(
                level,
                chunks,
                known,
                chunks * self._chunk_bytes,
                known * self._chunk_bytes,
                time.monotonic() - self._started,
            )
        self._done += step_done
        self._total += step_total


class Builder:
    """Builds pyramids. All methods may be called from any thread."""

    def __init__(self, settler: Settler, remaker: Remaker) -> None:
        self._settler = settler
        self._remaker = remaker

    def build(
        self,
        image: OpenImage,
        *,
        region: Region | None = None,
        top: int | None = None,
        force: bool = False,
        method: Downsampling | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> Iterator[Progress]:
        """Makes levels exact and stored, as of the call; yields as the work goes on.

        region: only above this box of level 0. top: enough if the levels up to this one
        are; None: all. force: computes them anew from level 0, though they are not stale; that is
        remembered, and goes on in the background if the call or the server ends before.
        method: what makes the levels from now on. Where that is another one than now, all
        levels are made beside those that readers see, and replace them at once; writes may
        go on. What a call that ends before has made of them is kept, follows what is
        written, and is gone on with when the method is asked for again; asking for
        another one, or for the present one, removes it.

        Raises FailedPrecondition for an image that is adopted read-only, for a method of one
        that is adopted at all, and while another call changes the method; OutOfRange for a box
        or level that is not there; InvalidArgument for a method that can't make the levels, or
        not of a box or of some levels; Unavailable where a shard can't be stored, Cancelled
        where told to, NotFound where the image is deleted meanwhile, OSError; what is done
        stays done.
        """
        image.stored.gate.check()
        image.check_writable()
        if method is not None and (region is not None or top is not None):
            field = "up_to_level" if region is None else "offset"
            raise InvalidArgument(
                f"{field}: method, here {method}, is of all levels: neither a box nor"
                " up_to_level goes with it",
                field=field,
            )
        meter = _Meter(image)
        if method is not None:
            with self._remaker.alone(image, method, cancelled):
                if method == image.now.image.downsampling:
                    self._remaker.drop(image)
                else:
                    yield from self._remake(image, method, meter, cancelled)
                    force = False
        for now in image.steady():
            yield from self._build(now, region, top, force, meter, cancelled)

    def _build(
        self,
        image: OpenImage,
        region: Region | None,
        top: int | None,
        force: bool,
        meter: _Meter,
        cancelled: Callable[[], bool],
    ) -> Iterator[Progress]:
        levels = len(image.pyramid.levels)
        top = levels - 1 if top is None else top
        if top >= levels:
            raise OutOfRange(
                f"level {top} is not there: levels 0 to {levels - 1}", field="up_to_level"
            )
        if region is not None:
            image.check_box(0, region)
        if force and top > 0:
            self._remaker.anew(image, region or Region.whole(image.shape()))
        for level in range(top + 1):
            within = None
            if region is not None:
                # And what depends on it.
                below = image.around(image.pyramid.project(region, 0, level), level)
                within = image.pyramid.levels[level].chunks.touched(below)
            # The last one only has to be stored.
            step = self._settler.drain if level == top else self._settler.complete
            yield from meter.passed(level, step(image, level, cancelled, within))
            image.stored.gate.check()

    def _remake(
        self,
        image: OpenImage,
        method: Downsampling,
        meter: _Meter,
        cancelled: Callable[[], bool],
    ) -> Iterator[Progress]:
        """Has `method` make all levels, and replaces those that there are."""
        new = self._remaker.begin(image, method)
        top = len(new.pyramid.levels) - 1
        for _ in range(ROUNDS):
            # What is stored of level 0 is deferred for the new levels.
            yield from meter.passed(0, self._settler.drain(image, 0, cancelled))
            for level in range(top):
                yield from meter.passed(level, self._settler.complete(new, level, cancelled))
            yield from meter.passed(top, self._settler.drain(new, top, cancelled))
            image.stored.gate.check()
            if not self._settler.stale(new):
                break
        self._remaker.publish(new)

    def exact(
        self,
        image: OpenImage,
        level: int,
        region: Region,
        cancelled: Callable[[], bool] = never,
    ) -> None:
        """Returns once reads of this box of `level` are exact, as of the call.

        Computes just the parents that it needs. Raises as `build` does.
        """
        for now in image.steady():
            for below in range(level):
                box = now.below(region, level, below)
                within = now.pyramid.levels[below].chunks.touched(box)
                for _ in self._settler.complete(now, below, cancelled, within):
                    pass
