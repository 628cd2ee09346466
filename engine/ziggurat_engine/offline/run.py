"""How are all new levels made in one pass over the source, with bounded memory?

A task makes one chunk of the first new level (or a unit of some) from the chunks below
it, and then goes up as far as it completes something:

    source chunks -> decode -> block of level 1 -> chunk of level 1 -> encode, put
                                                        | block
                                            open chunk of level 2, waiting for its parts
                                                        | the last part is in
                                                   encode, put -> level 3 -> ...

So each chunk of the source is decoded once, and no level above is read back, unless
chunks and factors do not fit each other or memory is short: then a parent is made from
its stored children once all are there. Tasks come depth first (tree.py), so that few
chunks are open. Each worker takes the next task when it is done with one.

The thread that calls `run` looks on: it shows progress, and makes durable what was
finished, at least every CHECKPOINT_SECONDS, and notes it in the journal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ziggurat_engine.foreign.reader import ChunkReader, Counter, Reader
from ziggurat_engine.grid import Grid
from ziggurat_engine.kernels import coding, cpu
from ziggurat_engine.kernels._fill import is_filled
from ziggurat_engine.offline.plan import Plan, cell_of
from ziggurat_engine.offline.sink import Entry, LevelSink
from ziggurat_engine.offline.stage import Stage, sync_files
from ziggurat_engine.offline.tree import Nodes, Numbers, Task, Tasks, order
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.spec import Array

CHECKPOINT_SECONDS = 5.0
LOOK_SECONDS = 0.03

Progress = Callable[[int, int], None]
"""(tasks done, tasks in all)"""


class Meter:
    """Bytes of pixels in memory now, and the most there ever were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.peak = 0

    def add(self, nbytes: int) -> None:
        """More, or less where it is negative."""
        with self._lock:
            self._now += nbytes
            self.peak = max(self.peak, self._now)

    @contextmanager
    def holding(self, nbytes: int) -> Iterator[None]:
        """So many bytes while the block runs."""
        self.add(nbytes)
        try:
            yield
        finally:
            self.add(-nbytes)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did. decoded: chunks of the source; stored: new chunks; peak_bytes: of pixels."""

    decoded: int
    stored: int
    absent: int
    peak_bytes: int


@dataclass(eq=False, slots=True)
class _Open:
    """A chunk that waits for its parts; pixels: None until the first one comes."""

    left: int
    pixels: Array | None = None


class Run:
    """One pass. `sinks[k]` takes the chunks of plan.levels[k], `nodes[k]` says which are active."""

    def __init__(
        self,
        plan: Plan,
        source: Reader,
        counter: Counter,
        nodes: Sequence[Nodes],
        sinks: Sequence[LevelSink],
        stage: Stage,
    ) -> None:
        self._plan = plan
        self._nodes = nodes
        self._sinks = sinks
        self._stage = stage
        self._counter = counter
        self._method = cpu.METHODS[plan.method]
        self._grids = plan.grids
        # What level k is made of.
        self._readers: list[Reader] = [source]
        self._below = [plan.base.chunks]
        for k, sink in enumerate(sinks[:-1]):
            reader = ChunkReader(sink, self._grids[k], plan.dtype, plan.codec, plan.fill)
            self._readers.append(reader)
            self._below.append(self._grids[k])
        self._lock = threading.Lock()
        self._open: dict[tuple[int, int], _Open] = {}
        self._finished: list[Entry] = []
        self._meter = Meter()
        self._error: BaseException | None = None
        self._stop = False
        self._next = 0
        self._completed = 0
        self._stored = self._absent = 0
        self._files: set[str] = set()
        self._directories: set[str] = set()
        self._tasks = self._plan_tasks()
        self._changed = threading.Event()

    @property
    def tasks(self) -> int:
        """How many there are."""
        return len(self._tasks)

    def note(self, file: Path) -> None:
        """`sync` is to take care of this one too."""
        self._files.add(str(file))
        self._directories.add(str(file.parent))

    def sync(self) -> None:
        """Makes durable what `run` wrote last, and the names of all that it wrote. OSError."""
        sync_files(self._files | self._directories, self._stage.path)

    def run(self, progress: Progress | None = None) -> Outcome:
        """Makes what is missing; all of it is written, and to be synced, when it returns.

        Raises what a worker raised, the first of them, or KeyboardInterrupt: what was
        finished until then is durable and in the journal.
        """
        cpu.warm([self._plan.dtype], self._plan.method)
        workers = [
            threading.Thread(target=self._work, name=f"build-{n}")
            for n in range(self._plan.threads)
        ]
        for worker in workers:
            worker.start()
        if not len(self._tasks):
            self._changed.set()
        try:
            self._watch(workers, progress)
            if self._error is not None:
                raise self._error
        except BaseException:
            self._stop = True
            for worker in workers:
                worker.join()
            self._checkpoint()
            raise
        for sink in self._sinks:
            sink.seal()
            self._directories |= sink.directories
            self._files |= sink.take_touched()
        return Outcome(self._counter.count, self._stored, self._absent, self._meter.peak)

    def _watch(self, workers: Sequence[threading.Thread], progress: Progress | None) -> None:
        pause, since = LOOK_SECONDS, time.monotonic()
        while not self._changed.wait(LOOK_SECONDS):
            if progress:
                progress(self._completed, len(self._tasks))
            if time.monotonic() - since >= pause and self._error is None:
                began = time.monotonic()
                self._checkpoint()
                since = time.monotonic()
                # Beside the workers, and again and again, so that little is left at the end.
                pause = min(CHECKPOINT_SECONDS, 2 * (since - began))
        for worker in workers:
            worker.join()
        if progress and self._error is None:
            progress(self._completed, len(self._tasks))

    def _checkpoint(self) -> None:
        with self._lock:
            entries, self._finished = self._finished, []
        files: set[str] = set()
        for sink in self._sinks:
            files |= sink.take_touched()
        if entries:
            self._stage.checkpoint(entries, files)

    def _work(self) -> None:
        try:
            while not self._stop:
                with self._lock:
                    number = self._next
                    self._next += 1
                if number >= len(self._tasks):
                    break
                self._do(self._tasks[number])
                with self._lock:
                    self._completed += 1
                    if self._completed == len(self._tasks):
                        self._changed.set()
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
            self._stop = True
            self._changed.set()

    def _do(self, task: Task) -> None:
        if task.level == 0:
            self._make_unit(self._nodes[0].index(task.place))
            return
        # Stored by an earlier run, and wanted above.
        level = task.level - 1
        chunk = None
        if self._plan.pushes[level]:
            index = self._nodes[level].index(task.place)
            chunk = self._readers[level + 1].read(self._grids[level].region(index))
        with self._meter.holding(0 if chunk is None else chunk.nbytes):
            self._go_up(level, task.place, chunk)

    def _make_unit(self, index: Shape) -> None:
        """The chunks of the first new level in the unit that holds chunk `index`."""
        nodes, grid, units = self._nodes[0], self._grids[0], self._plan.units
        if all(u == 1 for u in units):
            self._finish(0, nodes.place(index), self._compute(0, grid.region(index)))
            return
        first = tuple(i // u * u for i, u in zip(index, units, strict=True))
        many = tuple(min(u, n - i) for i, u, n in zip(first, units, grid.counts, strict=True))
        origin = tuple(i * c for i, c in zip(first, grid.cell, strict=True))
        span = tuple(m * c for m, c in zip(many, grid.cell, strict=True))
        whole = Region(origin, span).intersect(Region.whole(grid.shape))
        pixels = self._compute(0, whole)
        with self._meter.holding(0 if pixels is None else pixels.nbytes):
            for chunk in Region(first, many).indices():
                place = nodes.place(chunk)
                if place < 0:
                    continue
                part = None
                if pixels is not None:
                    part = pixels[grid.region(chunk).relative_to(origin).slices()]
                self._finish(0, place, part)

    def _compute(self, level: int, region: Region) -> Array | None:
        """The pixels of a box of new level `level` out of what lies below it."""
        plan, below, reader = self._plan, self._below[level], self._readers[level]
        step = plan.levels[level].factors
        start = tuple(o * f for o, f in zip(region.offset, step, strict=True))
        stop = tuple(min(s * f, n) for s, f, n in zip(region.stop, step, below.shape, strict=True))
        source = Region(start, tuple(b - a for a, b in zip(start, stop, strict=True)))
        piece = cell_of(below.cell, step)
        cut = Grid(below.shape, piece)
        ends = zip(start, stop, piece, below.shape, strict=True)
        if not all(a % p == 0 and (b % p == 0 or b == n) for a, b, p, n in ends):
            # Chunks of the source reach over the border: all at once.
            pieces: Iterable[Region] = (source,)
        else:
            pieces = (cut.region(index) for index in cut.indices(source))
        result: Array | None = None
        for box in pieces:
            pixels = reader.read(box)
            if pixels is None:
                if plan.keeps_fill:
                    continue
                pixels = np.full(box.shape, plan.fill, plan.dtype)
            with self._meter.holding(pixels.nbytes):
                block = self._method(np.ascontiguousarray(pixels), box.shape, step)
                if block.shape == region.shape:
                    return block
                if result is None:
                    result = np.full(region.shape, plan.fill, plan.dtype)
                at = tuple(
                    o // f - r for o, f, r in zip(box.offset, step, region.offset, strict=True)
                )
                result[Region(at, block.shape).slices()] = block
        return result

    def _finish(self, level: int, place: int, pixels: Array | None) -> None:
        """Stores a chunk (its part within the level), and gives it to the one above."""
        while True:
            nodes = self._nodes[level]
            with self._meter.holding(0 if pixels is None else pixels.nbytes):
                if not nodes.done[place]:
                    pixels = self._put(level, nodes.index(place), pixels)
                done = self._part_of_parent(level, place, pixels)
            if done is None:
                return
            level, place, pixels = done

    def _go_up(self, level: int, place: int, pixels: Array | None) -> None:
        done = self._part_of_parent(level, place, pixels)
        if done is not None:
            self._finish(*done)

    def _put(self, level: int, index: Shape, pixels: Array | None) -> Array | None:
        plan = self._plan
        frame = None
        if pixels is not None:
            chunk = pixels
            if pixels.shape != plan.chunk:
                chunk = np.full(plan.chunk, plan.fill, plan.dtype)
                chunk[tuple(map(slice, pixels.shape))] = pixels
            chunk = np.ascontiguousarray(chunk)
            if plan.base.fill_value is not None and is_filled(chunk, plan.fill):
                if plan.keeps_fill:
                    pixels = None
            else:
                frame = coding.encode(chunk, plan.codec)
        entry = self._sinks[level].put(index, frame)
        with self._lock:
            self._finished.append(entry)
            if frame is None:
                self._absent += 1
            else:
                self._stored += 1
        return pixels

    def _part_of_parent(
        self, level: int, place: int, pixels: Array | None
    ) -> tuple[int, int, Array | None] | None:
        """Gives a chunk's block to its parent: (level, place, pixels) of it, once it is whole."""
        above = level + 1
        if above == len(self._nodes):
            return None
        plan, parents = self._plan, self._nodes[above]
        parent = int(self._nodes[level].parent[place])
        if parents.done[parent]:
            return None
        pushed = plan.pushes[level]
        with self._lock:
            waiting = self._open.get((above, parent))
            if waiting is None:
                waiting = _Open(int(parents.children[parent]))
                self._open[above, parent] = waiting
        index = parents.index(parent)
        region = self._grids[above].region(index)
        if pushed and (pixels is not None or not plan.keeps_fill):
            here = self._grids[level].region(self._nodes[level].index(place))
            if pixels is None:
                pixels = np.full(here.shape, plan.fill, plan.dtype)
            step = plan.levels[above].factors
            block = self._method(np.ascontiguousarray(pixels), here.shape, step)
            with self._lock:
                if waiting.pixels is None:
                    waiting.pixels = np.full(region.shape, plan.fill, plan.dtype)
                    self._meter.add(waiting.pixels.nbytes)
            corner = tuple(o // f for o, f in zip(here.offset, step, strict=True))
            at = Region(corner, block.shape).relative_to(region.offset)
            waiting.pixels[at.slices()] = block
        with self._lock:
            waiting.left -= 1
            if waiting.left:
                return None
            del self._open[above, parent]
        made = waiting.pixels
        if made is not None:
            self._meter.add(-made.nbytes)
        elif not pushed:
            made = self._compute(above, region)
        return above, parent, made

    def _plan_tasks(self) -> Tasks:
        """Units that have something left to do, and stored chunks that parents wait for."""
        nodes = self._nodes
        wanted: list[tuple[int, Numbers]] = []
        needed = np.ones(len(nodes[-1].numbers), np.bool_)
        for k in range(len(nodes) - 1, -1, -1):
            missing = needed & ~nodes[k].done
            again = np.flatnonzero(needed & nodes[k].done)
            if k == 0:
                places, again = self._units(np.flatnonzero(missing), again)
                wanted.append((0, places))
            else:
                needed = missing[nodes[k - 1].parent]
            if k < len(nodes) - 1 and len(again):
                wanted.append((k + 1, again))
        return order(nodes, wanted)

    def _units(self, places: Numbers, again: Numbers) -> tuple[Numbers, Numbers]:
        """One place a unit; chunks that are there, in units made again, are not read back."""
        units, level = self._plan.units, self._nodes[0]
        if all(u == 1 for u in units) or not len(places):
            return places, again
        counts = tuple(-(-n // u) for n, u in zip(level.grid.counts, units, strict=True))

        def unit(which: Numbers) -> Numbers:
            index = np.unravel_index(level.numbers[which], level.grid.counts)
            up = tuple(i // u for i, u in zip(index, units, strict=True))
            return np.asarray(np.ravel_multi_index(up, counts), np.int64)

        made, first = np.unique(unit(places), return_index=True)
        return places[first], again[~np.isin(unit(again), made)]
