"""Which chunks answer a read, and in which parts does the answer leave?

A result is cut into parts of about `part_bytes` that follow the chunk grid: small
chunks are joined, large ones cut, so that neither a plane through many chunks nor one
huge chunk makes messages that are slow to send. A few parts are assembled ahead of
the one that is being sent, on a pool, each in its final memory.

A projection is added up tile by tile: as many pixels of the result as `projection_bytes`
hold the sums of. For each tile the pieces of the box come as parts do.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ziggurat_engine.cache import Budget, Deferred, DirtyDirectory
from ziggurat_engine.chunks import Chunks
from ziggurat_engine.conversion import Conversion
from ziggurat_engine.errors import Cancelled, InvalidArgument, LimitExceeded
from ziggurat_engine.grid import Grid
from ziggurat_engine.images import OpenImage
from ziggurat_engine.kernels.protocol import Kernels, Points
from ziggurat_engine.lattice import Lattice
from ziggurat_engine.planes import Placed, Plane, crossed, place
from ziggurat_engine.projection import (
    Method,
    Projection,
    accumulator,
    check_projection,
    projection_of,
)
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.selection import Selection, select
from ziggurat_engine.settle import never
from ziggurat_engine.spec import Array

# How often who waits to add up looks whether it is still wanted.
LOOK_SECONDS = 0.1
# Pieces of a batch that go on at a time, for each part of a single read that would: they
# may be small.
BATCH_AHEAD = 16

_Key = TypeVar("_Key")
_Planned = TypeVar("_Planned")


@dataclass(frozen=True, slots=True)
class Read:
    """What a read asks for, in the order in which it is done.

    steps: one number >= 1 an axis; (): all pixels. project: a method and names of axes.
    if_newer_than: the revision of an earlier answer.
    """

    selection: Selection = field(default_factory=Selection)
    steps: Shape = ()
    project: tuple[Method, tuple[str, ...]] | None = None
    conversion: Conversion = field(default_factory=Conversion)
    if_newer_than: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a read will bring; stale and revision as it began.

    region: the box in pixels of `level`. lattice: its pixels that are taken. shape, dtype: of
    the result. revision: one less than the image's where stale: the answer will change
    though nobody writes. modified: False where there is nothing newer to bring.
    """

    image: OpenImage
    level: int
    region: Region
    lattice: Lattice
    projection: Projection | None
    conversion: Conversion
    shape: Shape
    dtype: np.dtype[np.generic]
    stale: bool
    revision: int
    modified: bool

    @property
    def grid(self) -> Grid:
        """The chunks of the level."""
        return self.image.pyramid.levels[self.level].chunks


@dataclass(frozen=True, slots=True)
class PlaneAnswer:
    """What a read of a plane will bring; region: of the level, what it is made of."""

    image: OpenImage
    plane: Plane
    placed: Placed
    region: Region
    dtype: np.dtype[np.generic]
    stale: bool
    revision: int
    modified: Literal[True] = True

    @property
    def level(self) -> int:
        """Which one was chosen."""
        return self.placed.level


class Piece(NamedTuple):
    """A part of one of many answers. number: which one. first: none of it came before.

    pixels: None where there are none.
    """

    number: int
    answer: Answer
    first: bool
    box: Region
    pixels: Array | None


class _Room:
    """Bytes that all reads together may have ready, beyond the piece that each has anyhow.

    So clients that take nothing hold little memory, however many they are.
    """

    def __init__(self, nbytes: int) -> None:
        self._lock = threading.Lock()
        self._left = nbytes

    def take(self, nbytes: int) -> bool:
        """Takes so many, if there are."""
        with self._lock:
            if nbytes > self._left:
                return False
            self._left -= nbytes
            return True

    def give(self, nbytes: int) -> None:
        """Gives back what was taken."""
        with self._lock:
            self._left += nbytes


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


class Query:
    """All reads. Methods may be called from any thread.

    threads: parts that are assembled at a time, for all reads together, and projections
    that are added up. part_bytes: about how large a part is. max_read_bytes: of one
    result. projection_bytes: for the sums of one projection. ahead_bytes: what may be
    ready and not sent, of all reads, beyond a piece of each. max_batch_boxes: reads of one batch.
    """

    def __init__(
        self,
        chunks: Chunks,
        dirty: DirtyDirectory,
        deferred: Deferred,
        budget: Budget,
        kernels: Kernels,
        *,
        threads: int,
        part_bytes: int,
        max_read_bytes: int,
        projection_bytes: int,
        max_projected_bytes: int,
        ahead_bytes: int,
        max_batch_boxes: int,
    ) -> None:
        self._chunks = chunks
        self._dirty = dirty
        self._deferred = deferred
        self._budget = budget
        self._kernels = kernels
        self._part_bytes = part_bytes
        self._max_read_bytes = max_read_bytes
        self._projection_bytes = projection_bytes
        self._max_projected_bytes = max_projected_bytes
        self._room = _Room(ahead_bytes)
        self._max_batch_boxes = max_batch_boxes
        self._ahead = 2 * threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
        self._adding = threading.BoundedSemaphore(threads)

    def plan(self, image: OpenImage, read: Read) -> Answer:
        """Checks a read; nothing is read yet.

        Raises OutOfRange for a level or box that is not there, InvalidArgument for what
        makes no sense, LimitExceeded for a result above max_read_bytes.
        """
        level, region = select(image, read.selection)
        dtype = image.image.dtype
        lattice = Lattice.of(region, _checked(read.steps, len(region.shape)))
        projection, shape = None, lattice.shape
        if read.project is not None:
            names = [axis.name for axis in image.image.axes]
            projection = projection_of(names, *read.project)
            check_projection(projection, shape, dtype)
            self._check_projected(math.prod(shape) * dtype.itemsize)
            shape = projection.shape(shape)
        read.conversion.check()
        target = read.conversion.of(dtype)
        nbytes = math.prod(shape) * target.itemsize
        if nbytes > self._max_read_bytes:
            raise self._too_much(nbytes, "shape")
        revision, stale = self._seen(image, level, region)
        modified = read.if_newer_than is None or revision > read.if_newer_than
        return Answer(
            image,
            level,
            region,
            lattice,
            projection,
            read.conversion,
            shape,
            target,
            stale,
            revision - stale,
            modified,
        )

    def stale(self, image: OpenImage, level: int, region: Region | None = None) -> bool:
        """True where a write below has not reached `region` of `level` (or any of it) yet."""
        if image.image.read_only:
            # Nothing is ever written, and factors need not lead from level to level.
            return False
        pyramid = image.pyramid
        region = region or Region.whole(image.shape(level))
        for below in range(level):
            grid, number = pyramid.levels[below], image.number_of(below)
            chunks = grid.chunks.touched(image.below(region, level, below))
            while True:
                seen = self._deferred.changes
                # In this order: what is deferred goes from there once it is touched.
                if self._deferred.touches(number, below, chunks, grid.shard_of):
                    return True
                if self._dirty.touches(number, below, chunks):
                    return True
                # The other way about, what was dirty may have been deferred meanwhile.
                if seen == self._deferred.changes:
                    break
        return False

    def stale_chunks(self, image: OpenImage) -> list[int]:
        """How many chunks of each level a write below has not reached yet."""
        rank = len(image.image.axes)
        counts: list[int] = []
        stale: NDArray[np.int64] = np.empty((0, rank), np.int64)
        for below, level in enumerate(image.pyramid.levels):
            if below:
                stale = distinct(stale // level.factors)
            counts.append(len(stale))
            # In this order: what is deferred goes from there once it is touched.
            found = self._deferred.sets(image.number_of(below), below)
            dirty = self._dirty.indices(image.number_of(below), below)
            found.append(frozenset(image.neighbours(below, dirty)))
            # Perhaps a million: no array is made of each.
            numbers = itertools.chain.from_iterable(itertools.chain.from_iterable(found))
            more = np.fromiter(numbers, np.int64).reshape(-1, rank)
            stale = np.concatenate([stale, more])
        return counts

    def parts(
        self, answer: Answer, cancelled: Callable[[], bool] = never
    ) -> Iterator[tuple[Region, Array]]:
        """The result, part by part: (box of the result, C-order array).

        Closing the iterator stops the work; raises Cancelled where told to.
        """
        if answer.projection is not None:
            return self._projected(answer, answer.projection, cancelled)
        whole = Region.whole(answer.shape)
        return self._each(
            (box, partial(self._part, answer, box, cancelled))
            for box in _boxes(answer, whole, self._pixels(answer.dtype))
        )

    def plan_plane(self, image: OpenImage, plane: Plane) -> PlaneAnswer:
        """Checks a read of a plane; raises as `plan` does."""
        placed = place(image, plane)
        dtype = plane.conversion.of(image.image.dtype)
        nbytes = plane.rows * plane.columns * dtype.itemsize
        if nbytes > self._max_read_bytes:
            raise self._too_much(nbytes, "rows")
        region = placed.around(placed.points, image.shape(placed.level))
        revision, stale = self._seen(image, placed.level, region)
        return PlaneAnswer(image, plane, placed, region, dtype, stale, revision - stale)

    def plane_parts(
        self, answer: PlaneAnswer, cancelled: Callable[[], bool] = never
    ) -> Iterator[tuple[Region, Array]]:
        """As `parts`, of a plane: boxes of rows and columns."""
        limits = answer.image.shape(answer.placed.level)
        pixels = self._pixels(answer.image.image.dtype)
        return self._each(
            (Region(points.first, points.shape), partial(self._sample, answer, points, cancelled))
            for points in answer.placed.tiles(limits, pixels)
        )

    def _sample(self, answer: PlaneAnswer, points: Points, cancelled: Callable[[], bool]) -> Array:
        """The values at some points of a plane; only the chunks that hold them are looked at."""
        image, placed, plane = answer.image, answer.placed, answer.plane
        grid, limits = image.pyramid.levels[placed.level].chunks, image.shape(placed.level)
        spatial = tuple(limits[axis] for axis in placed.axes)
        around = placed.around(points, limits)
        block: Array = np.full(around.shape, image.fill_value)
        cells = tuple(grid.cell[axis] for axis in placed.axes)
        index = [0] * len(limits)
        for axis, at in placed.at.items():
            index[axis] = at // grid.cell[axis]
        for chosen in crossed(points, plane.interpolation, spatial, cells):
            if cancelled():
                raise Cancelled("the caller gave up")
            for axis, number in zip(placed.axes, chosen, strict=True):
                index[axis] = number
            chunk = grid.region(tuple(index))
            common = chunk.intersect(around)
            source = common.relative_to(chunk.offset).slices()
            target = block[common.relative_to(around.offset).slices()]
            self._chunks.paste(image, placed.level, tuple(index), source, target)
        # An image without z is one of a single plane.
        flat = 3 - len(placed.axes)
        shape = tuple(around.shape[axis] for axis in placed.axes)
        values = self._kernels.sample(
            block.reshape((1,) * flat + shape),
            (0,) * flat + tuple(around.offset[axis] for axis in placed.axes),
            (1,) * flat + spatial,
            points.raised(flat),
            plane.interpolation,
            image.fill_value,
        )
        return plane.conversion.apply(values)

    def _seen(self, image: OpenImage, level: int, region: Region) -> tuple[int, bool]:
        """The image's revision, and whether `region` of `level` is stale."""
        # In this order: a write that comes between makes it stale, or newer.
        revision = image.base.revision
        return revision, region.size > 0 and self.stale(image, level, region)

    def _check_projected(self, nbytes: int) -> None:
        if nbytes > self._max_projected_bytes:
            raise LimitExceeded(
                f"projection: {nbytes} bytes of pixels are more than max_projected_bytes ="
                f" {self._max_projected_bytes}; a coarser level, or steps, have fewer",
                field="projection",
                limit="max_projected_bytes",
                value=self._max_projected_bytes,
                asked=nbytes,
            )

    def check_total(self, nbytes: int) -> None:
        """LimitExceeded where the results of one call have so many bytes together."""
        if nbytes > self._max_read_bytes:
            raise self._too_much(nbytes, "reads")

    def _too_much(self, nbytes: int, field_: str) -> LimitExceeded:
        return LimitExceeded(
            f"{nbytes} bytes are more than max_read_bytes = {self._max_read_bytes}",
            field=field_,
            limit="max_read_bytes",
            value=self._max_read_bytes,
            asked=nbytes,
        )

    def check_batch(self, count: int) -> None:
        """LimitExceeded where a batch may not have so many reads."""
        if count > self._max_batch_boxes:
            raise LimitExceeded(
                f"{count} reads are more than max_batch_boxes = {self._max_batch_boxes}",
                field="reads",
                limit="max_batch_boxes",
                value=self._max_batch_boxes,
                asked=count,
            )

    def batch(
        self,
        answers: Iterable[Answer],
        *,
        as_completed: bool = False,
        cancelled: Callable[[], bool] = never,
    ) -> Iterator[list[Piece]]:
        """The results of many reads, some pieces at a time, about part_bytes together.

        answers: drawn one by one, as there is room. as_completed: pieces come as they are
        ready; else in order. Closing the iterator stops the work; raises Cancelled where
        told to.
        """
        pieces = self._pieces(answers, cancelled)
        # held: bytes of `_room`.
        going: deque[tuple[Piece, int, Future[Array | None]]] = deque()
        begun: set[int] = set()
        following = next(pieces, None)
        try:
            while True:
                while following is not None and len(going) < BATCH_AHEAD * self._ahead:
                    piece, nbytes, task = following
                    held = nbytes if going else 0
                    if not self._room.take(held):
                        break
                    going.append((piece, held, self._pool.submit(task)))
                    following = next(pieces, None)
                if not going:
                    return
                if as_completed:
                    wait([future for *_, future in going], return_when=FIRST_COMPLETED)
                    # What is ready comes to the front.
                    going = deque(sorted(going, key=lambda entry: not entry[2].done()))
                done: list[Piece] = []
                done_bytes = 0
                while going and (not done or going[0][2].done()):
                    piece, held, future = going.popleft()
                    self._room.give(held)
                    first = piece.number not in begun
                    begun.add(piece.number)
                    pixels = future.result()
                    done.append(piece._replace(first=first, pixels=pixels))
                    done_bytes += 0 if pixels is None else pixels.nbytes
                    if done_bytes >= self._part_bytes:
                        break
                yield done
        finally:
            for _, held, future in going:
                self._room.give(held)
                future.cancel()
            wait([future for *_, future in going])

    def _pieces(
        self, answers: Iterable[Answer], cancelled: Callable[[], bool]
    ) -> Iterator[tuple[Piece, int, Callable[[], Array | None]]]:
        """For each piece: it, without pixels; its bytes; and what makes the pixels."""
        for number, answer in enumerate(answers):
            whole = Region.whole(answer.shape)
            if not answer.modified or whole.size == 0:
                yield Piece(number, answer, False, whole, None), 0, lambda: None
                continue
            make, pixels = self._part, self._pixels(answer.dtype)
            if answer.projection is not None:
                make = self._projected_part
                pixels = min(pixels, self._tile_pixels(answer, answer.projection))
            # A small one in one piece, whatever chunks it crosses: others are read beside it.
            small = whole.size <= pixels
            for box in [whole] if small else _boxes(answer, whole, pixels):
                nbytes = box.size * answer.dtype.itemsize
                piece = Piece(number, answer, False, box, None)
                yield piece, nbytes, partial(make, answer, box, cancelled)

    def _projected_part(self, answer: Answer, box: Region, cancelled: Callable[[], bool]) -> Array:
        """The pixels of a box of a projected result, all on this thread."""
        assert answer.projection is not None
        tile = self._tile(answer, answer.projection, box, cancelled, ahead=False)
        return answer.conversion.apply(tile)

    def _tile_pixels(self, answer: Answer, projection: Projection) -> int:
        """Of a result: as many as there is room for the sums of."""
        return self._projection_bytes // projection.bytes_per_pixel(answer.image.image.dtype)

    def close(self) -> None:
        """Ends the pool; no read may be running."""
        self._pool.shutdown()

    def _each(
        self, tasks: Iterable[tuple[_Key, Callable[[], Array]]]
    ) -> Iterator[tuple[_Key, Array]]:
        """What the tasks return, in their order; some run ahead on the pool."""
        # held: bytes of `_room`.
        going: deque[tuple[_Key, int, Future[Array]]] = deque()

        def first() -> tuple[_Key, Array]:
            done, held, future = going.popleft()
            self._room.give(held)
            return done, future.result()

        try:
            for key, task in tasks:
                held = self._part_bytes if going else 0
                while len(going) == self._ahead or not self._room.take(held):
                    yield first()
                    held = held if going else 0
                going.append((key, held, self._pool.submit(task)))
            while going:
                yield first()
        finally:
            for _, held, future in going:
                self._room.give(held)
                future.cancel()
            wait([future for *_, future in going])

    def _part(self, answer: Answer, box: Region, cancelled: Callable[[], bool]) -> Array:
        """The pixels of a box of the result, where nothing is projected."""
        return answer.conversion.apply(self._assemble(answer, box, cancelled))

    def _assemble(self, answer: Answer, box: Region, cancelled: Callable[[], bool]) -> Array:
        """The pixels of a box of the lattice, counted in steps from its first pixel."""
        image, lattice = answer.image, answer.lattice.part(box)
        out: Array = np.empty(box.shape, dtype=image.image.dtype)
        for at, source, inside in lattice.places(answer.grid):
            if cancelled():
                raise Cancelled("the caller gave up")
            self._chunks.paste(image, answer.level, at, source, out[inside])
        return out

    def _projected(
        self, answer: Answer, projection: Projection, cancelled: Callable[[], bool]
    ) -> Iterator[tuple[Region, Array]]:
        """The parts of a projection: tile by tile, each cut into parts."""
        room = self._tile_pixels(answer, projection)
        for tile in _boxes(answer, Region.whole(answer.shape), room):
            # Not while a part is sent: a client that takes its time holds up nobody.
            with self._turn(cancelled):
                pixels = answer.conversion.apply(self._tile(answer, projection, tile, cancelled))
            grid = Grid(tile.shape, tile.shape)
            for box in cut(grid, Region.whole(tile.shape), self._pixels(answer.dtype)):
                part = np.ascontiguousarray(pixels[box.slices()])
                yield Region(_sum(tile.offset, box.offset), box.shape), part

    def _tile(
        self,
        answer: Answer,
        projection: Projection,
        tile: Region,
        cancelled: Callable[[], bool],
        *,
        ahead: bool = True,
    ) -> Array:
        """What becomes of all pixels below a box of the result.

        ahead: its pieces come from the pool; False on a thread of the pool.
        """
        dtype = answer.image.image.dtype
        below = tuple(
            answer.lattice.shape[axis] if axis in projection.axes else n
            for axis, n in enumerate(tile.shape)
        )
        region = Region(tile.offset, below)
        tasks = (
            (box, partial(self._assemble, answer, box, cancelled))
            for box in _boxes(answer, region, self._pixels(dtype))
        )
        pieces = self._each(tasks) if ahead else ((box, task()) for box, task in tasks)
        sums_bytes = tile.size * projection.bytes_per_pixel(dtype)
        with self._budget.beside(sums_bytes + self._ahead * self._part_bytes):
            sums = accumulator(projection, region.shape, dtype)
            for box, pixels in pieces:
                sums.add(box.relative_to(tile.offset), pixels)
            return sums.result()

    @contextmanager
    def _turn(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Waits until few enough add up; raises Cancelled where told to."""
        while not self._adding.acquire(timeout=LOOK_SECONDS):
            if cancelled():
                raise Cancelled("the caller gave up")
        try:
            yield
        finally:
            self._adding.release()

    def _pixels(self, dtype: np.dtype[np.generic]) -> int:
        """Of a part."""
        return max(1, self._part_bytes // dtype.itemsize)


def _boxes(answer: Answer, region: Region, pixels: int) -> Iterator[Region]:
    """Cuts a box of the answer's lattice, counted in steps, along the chunks."""
    grid, lattice = answer.lattice.counted(answer.grid)
    moved = Region(_sum(lattice.offset, region.offset), region.shape)
    for box in cut(grid, moved, max(1, pixels)):
        yield box.relative_to(lattice.offset)


def _sum(left: Shape, right: Shape) -> Shape:
    return tuple(map(int.__add__, left, right))


def _checked(steps: Shape, rank: int) -> Shape:
    if not steps:
        return (1,) * rank
    if len(steps) != rank:
        raise InvalidArgument(f"steps has {len(steps)} numbers for {rank} axes", field="steps")
    for axis, step in enumerate(steps):
        if step < 1:
            raise InvalidArgument(
                f"steps[{axis}] is {step}, not at least 1", field=f"steps[{axis}]"
            )
    return steps


def distinct(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of `indices`, each once."""
    if len(indices) == 0:
        return indices
    low, high = indices.min(axis=0), indices.max(axis=0)
    spans = tuple(map(int, high - low + 1))
    if math.prod(spans) >= 2**63:
        return np.unique(indices, axis=0)
    # Numbers are sorted many times faster than rows.
    numbers = np.unique(np.ravel_multi_index(tuple((indices - low).T), spans))
    rows: NDArray[np.int64] = np.stack(np.unravel_index(numbers, spans), axis=1) + low
    return rows


def cut(grid: Grid, region: Region, pixels: int) -> Iterator[Region]:
    """Cuts `region` into boxes of at most about `pixels`, chunk-aligned where possible.

    Each pixel of `region` is in one box. A box is a run of whole chunks (as far as
    they lie in the region), or a slab of one chunk where a chunk is larger.
    """
    if region.size == 0:
        return
    rank = len(region.shape)
    step = [min(c, n) for c, n in zip(grid.cell, region.shape, strict=True)]
    # Join chunks along the fastest axes first, so that parts are long runs of the result;
    # if one chunk is too large, cut it along the slowest axes.
    for axis in reversed(range(rank)):
        others = math.prod(step) // step[axis]
        fit = pixels // (others * grid.cell[axis])
        if fit > 1:
            step[axis] = min(fit * grid.cell[axis], region.shape[axis])
    for axis in range(rank):
        others = math.prod(step) // step[axis]
        if others * step[axis] > pixels:
            step[axis] = max(1, pixels // others)
    for bounds in _bounds(grid, region, step, rank):
        yield Region(tuple(a for a, _ in bounds), tuple(b - a for a, b in bounds))


def _bounds(
    grid: Grid, region: Region, step: list[int], rank: int
) -> Iterator[tuple[tuple[int, int], ...]]:
    """(start, stop) along the first `rank` axes of each box, the last axis fastest.

    Nothing is listed ahead: there may be more boxes than memory holds.
    """
    if rank == 0:
        yield ()
        return
    axis = rank - 1
    first, last, cell = region.offset[axis], region.stop[axis], grid.cell[axis]
    for before in _bounds(grid, region, step, axis):
        here = first
        while here < last:
            if step[axis] < cell:
                # Stay within the chunk.
                end = min(here + step[axis], (here // cell + 1) * cell)
            else:
                end = (here // cell) * cell + max(step[axis] // cell, 1) * cell
            end = min(end, last)
            yield (*before, (here, end))
            here = end
