"""Which chunks answer a read, and in which parts does the answer leave?

A result is cut into parts of about `part_bytes` that follow the chunk grid: small
chunks are joined, large ones cut, so that neither a plane through many chunks nor one
huge chunk makes messages that are slow to send. A few parts are assembled ahead of
the one that is being sent, each in its final memory.

A projection is added up tile by tile: as many pixels of the result as `projection_bytes`
hold the sums of. For each tile the pieces of the box come as parts do; where most of its
chunks are absent, only of those that are not.

A box of many chunks is asked first which of them are there: what nobody wrote to costs nothing.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import numpy as np

from ziggurat_engine.ahead import Ahead
from ziggurat_engine.answers import Answer, Frame, Payload, Piece, PlaneAnswer, Read
from ziggurat_engine.cache import Budget
from ziggurat_engine.chunks import Chunks, Fetched
from ziggurat_engine.errors import Cancelled, InvalidArgument, LimitExceeded
from ziggurat_engine.grid import Grid
from ziggurat_engine.images import OpenImage
from ziggurat_engine.kernels.protocol import Kernels, Points
from ziggurat_engine.lattice import Lattice, Place
from ziggurat_engine.planes import Plane, crossed, place
from ziggurat_engine.projection import (
    Projection,
    accumulator,
    check_projection,
    projection_of,
)
from ziggurat_engine.readahead import ReadAhead
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.selection import select
from ziggurat_engine.settle import never
from ziggurat_engine.spec import Array, Blosc
from ziggurat_engine.staleness import Staleness
from ziggurat_engine.tiles import cut, whole_cells

T = TypeVar("T")

# Larger chunks, in raw bytes, do not come as they are stored: messages have to stay small.
MOST_FRAME_BYTES = 8 * 2**20
# How often who waits to add up looks whether it is still wanted.
LOOK_SECONDS = 0.1
# Chunks that are fetched together, and between two looks.
MOST_FETCHED = 256


class Query:
    """All reads. Methods may be called from any thread.

    ahead: where parts are assembled. read_ahead: is told what is read.
    adding: projections that are added up at a time.
    part_bytes: about how large a part is. max_read_bytes, max_read_chunks: of the results of
    one call, and of what they are made of; max_small_read_bytes: of one that comes whole.
    projection_bytes: for the sums of one projection. max_batch_boxes: reads of one batch.
    """

    def __init__(
        self,
        chunks: Chunks,
        staleness: Staleness,
        budget: Budget,
        kernels: Kernels,
        ahead: Ahead,
        read_ahead: ReadAhead,
        *,
        adding: int,
        part_bytes: int,
        max_read_bytes: int,
        max_read_chunks: int,
        max_small_read_bytes: int,
        projection_bytes: int,
        max_projected_bytes: int,
        max_batch_boxes: int,
    ) -> None:
        self._chunks = chunks
        self._staleness = staleness
        self._budget = budget
        self._kernels = kernels
        self._ahead = ahead
        self._read_ahead = read_ahead
        self._adding = threading.BoundedSemaphore(adding)
        self._part_bytes = part_bytes
        self._max_read_bytes = max_read_bytes
        self._max_read_chunks = max_read_chunks
        self._max_small_read_bytes = max_small_read_bytes
        self._projection_bytes = projection_bytes
        self._max_projected_bytes = max_projected_bytes
        self._max_batch_boxes = max_batch_boxes

    def plan(self, image: OpenImage, read: Read, *, small: bool = False) -> Answer:
        """Checks a read; nothing is read yet. small: it is for `whole`.

        Raises OutOfRange for a level or box that is not there, InvalidArgument for what
        makes no sense, LimitExceeded for a result above max_read_bytes, or
        max_small_read_bytes, or that more than max_read_chunks chunks have to be looked at for.
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
        chunks = lattice.chunks(image.pyramid.levels[level].chunks)
        self.check_total(nbytes, chunks, "shape")
        if small and nbytes > self._max_small_read_bytes:
            raise _above("max_small_read_bytes", self._max_small_read_bytes, nbytes, "shape")
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
            frames=read.frames
            and not small
            and projection is None
            and target == dtype
            and read.conversion.window is None
            and max(lattice.steps) == 1
            and isinstance(image.image.layout.codec, Blosc)
            and not image.image.read_only
            and image.chunk_bytes <= MOST_FRAME_BYTES,
        )

    def parts(
        self, answer: Answer, cancelled: Callable[[], bool] = never
    ) -> Iterator[tuple[Region, Payload]]:
        """The result, part by part: (box of the result, C-order array or Frame).

        Closing the iterator stops the work; raises Cancelled where told to.
        """
        self._follow(answer)
        if answer.projection is not None:
            return self._projected(answer, answer.projection, cancelled)
        if not answer.frames and 0 < math.prod(answer.shape) <= self._pixels(answer.dtype):
            return self._alone(answer, cancelled)
        return self._ahead.in_order(self._tasks(answer, cancelled))

    def whole(self, answer: Answer, cancelled: Callable[[], bool] = never) -> Array:
        """All of a small result, C-contiguous, that holds anything; raises as `parts`."""
        self._follow(answer)
        if answer.projection is None:
            return self._single(answer, cancelled)
        out: Array = np.empty(answer.shape, dtype=answer.dtype)
        for box, pixels in self._projected(answer, answer.projection, cancelled):
            out[box.slices()] = pixels
        return out

    def _alone(
        self, answer: Answer, cancelled: Callable[[], bool]
    ) -> Iterator[tuple[Region, Array]]:
        yield Region.whole(answer.shape), self._single(answer, cancelled)

    def _single(self, answer: Answer, cancelled: Callable[[], bool]) -> Array:
        """A small result, where nothing is projected.

        On this thread: what is at hand is copied faster than it is passed on. The rest
        comes in turn, chunks side by side.
        """
        image = answer.image
        if math.prod(answer.shape) == 0:
            return np.empty(answer.shape, dtype=answer.dtype)
        out, places = self._begin(answer, answer.lattice, cancelled)
        away: list[Place] = []
        for spot in places:
            _check(cancelled)
            at, source, inside = spot
            if not self._chunks.paste_at_hand(image, answer.level, at, source, out[inside]):
                away.append(spot)
        if away:
            self._bring(answer, away, out, cancelled)
        return answer.conversion.apply(out)

    def _follow(self, answer: Answer) -> None:
        if not answer.frames:
            self._read_ahead.follow(answer.image, answer.level, answer.region)

    def _bring(
        self, answer: Answer, away: list[Place], out: Array, cancelled: Callable[[], bool]
    ) -> None:
        """Puts what has to be loaded for a small result into `out`."""

        def paste(spot: Place, fetched: Fetched | None) -> None:
            _check(cancelled)
            at, source, inside = spot
            self._chunks.paste(answer.image, answer.level, at, source, out[inside], fetched)

        for some in _some(away):
            fetched = self._chunks.fetch(answer.image, answer.level, (spot.at for spot in some))
            tasks = ((None, 0, partial(paste, spot, fetched)) for spot in some)
            for _ in self._ahead.in_order(tasks):
                pass

    def _begin(
        self, answer: Answer, lattice: Lattice, cancelled: Callable[[], bool]
    ) -> tuple[Array, Iterable[Place]]:
        """An array for the pixels of `lattice`, and which of them are to be put there."""
        image, grid = answer.image, answer.grid
        among = self._among(answer, lattice, cancelled)
        dtype = image.image.dtype
        if among is None:
            return np.empty(lattice.shape, dtype), lattice.places(grid)
        return np.full(lattice.shape, image.fill_value, dtype), lattice.places(grid, among)

    def _among(
        self, answer: Answer, lattice: Lattice, cancelled: Callable[[], bool]
    ) -> list[Shape] | None:
        """The chunks that may hold something of `lattice`; None: any may."""
        cells = lattice.cells(answer.grid)
        return self._chunks.among(answer.image, answer.level, cells, partial(_check, cancelled))

    def _tasks(
        self, answer: Answer, cancelled: Callable[[], bool]
    ) -> Iterator[tuple[Region, int, Callable[[], Payload]]]:
        """Box of the result, bytes and task of each part, where nothing is projected."""
        pixels = self._pixels(answer.dtype)

        def plain(region: Region) -> Iterator[tuple[Region, int, Callable[[], Payload]]]:
            for box in self._beside(answer, _boxes(answer, region, pixels)):
                yield box, self._part_bytes, partial(self._part, answer, box, cancelled)

        if not answer.frames:
            yield from plain(Region.whole(answer.shape))
            return
        grid = answer.grid
        whole = whole_cells(grid, answer.region)
        for at in grid.indices(whole):
            box = grid.region(at).relative_to(answer.region.offset)
            if self._chunks.held(answer.image, answer.level, at):
                yield from plain(box)
            else:
                task = partial(self._frame, answer, at, box, cancelled)
                yield box, answer.image.chunk_bytes, task
        for region in answer.region.subtract(whole):
            yield from plain(region.relative_to(answer.region.offset))

    def _beside(self, answer: Answer, boxes: Iterator[Region]) -> Iterator[Region]:
        """`boxes` in an order in which neighbours are of different chunks, where there are some.

        Threads that make them then do not wait for one another to load the same chunk.
        """

        def chunk(box: Region) -> Shape:
            first = answer.lattice.part(box).offset
            return tuple(map(int.__floordiv__, first, answer.grid.cell))

        runs = (list(run) for _, run in itertools.groupby(boxes, chunk))
        while some := list(itertools.islice(runs, self._ahead.most)):
            for beside in itertools.zip_longest(*some):
                yield from (box for box in beside if box is not None)

    def _frame(
        self, answer: Answer, at: Shape, box: Region, cancelled: Callable[[], bool]
    ) -> Payload:
        """A whole chunk as it is stored; its pixels where memory has newer ones by now."""
        _check(cancelled)
        data = self._chunks.frame(answer.image, answer.level, at)
        if data is None:
            return self._part(answer, box, cancelled)
        return Frame(data, answer.image.image.layout.chunk_shape)

    def plan_plane(self, image: OpenImage, plane: Plane) -> PlaneAnswer:
        """Checks a read of a plane; raises as `plan` does."""
        placed = place(image, plane)
        dtype = plane.conversion.of(image.image.dtype)
        nbytes = plane.rows * plane.columns * dtype.itemsize
        region = placed.around(placed.points, image.shape(placed.level))
        around = image.pyramid.levels[placed.level].chunks.touched(region).size
        self.check_total(nbytes, min(around, plane.most_pixels), "rows")
        revision, stale = self._seen(image, placed.level, region)
        return PlaneAnswer(image, plane, placed, region, dtype, stale, revision - stale)

    def plane_parts(
        self, answer: PlaneAnswer, cancelled: Callable[[], bool] = never
    ) -> Iterator[tuple[Region, Array]]:
        """As `parts`, of a plane: boxes of rows and columns."""
        limits = answer.image.shape(answer.placed.level)
        pixels = self._pixels(answer.image.image.dtype)
        return self._ahead.in_order(
            (
                Region(points.first, points.shape),
                self._part_bytes,
                partial(self._sample, answer, points, cancelled),
            )
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
        needed = []
        for chosen in sorted(crossed(points, plane.interpolation, spatial, cells)):
            for axis, number in zip(placed.axes, chosen, strict=True):
                index[axis] = number
            needed.append(tuple(index))
        for some in _some(needed):
            fetched = self._chunks.fetch(image, placed.level, some)
            for chosen in some:
                _check(cancelled)
                chunk = grid.region(chosen)
                common = chunk.intersect(around)
                source = common.relative_to(chunk.offset).slices()
                target = block[common.relative_to(around.offset).slices()]
                self._chunks.paste(image, placed.level, chosen, source, target, fetched)
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
        return revision, region.size > 0 and self._staleness.stale(image, level, region)

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

    def check_total(self, nbytes: int, chunks: int, field_: str) -> None:
        """LimitExceeded where one call may not bring, or look at, so much."""
        for what, asked, limit, most in (
            ("bytes", nbytes, "max_read_bytes", self._max_read_bytes),
            ("chunks to look at", chunks, "max_read_chunks", self._max_read_chunks),
        ):
            if asked > most:
                raise LimitExceeded(
                    f"{asked} {what} are more than {limit} = {most}",
                    field=field_,
                    limit=limit,
                    value=most,
                    asked=asked,
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
        begun: set[int] = set()
        groups = self._ahead.in_groups(
            self._pieces(answers, cancelled), self._part_bytes, as_completed=as_completed
        )
        try:
            for group in groups:
                done: list[Piece] = []
                for piece, payload in group:
                    done.append(piece._replace(first=piece.number not in begun, payload=payload))
                    begun.add(piece.number)
                yield done
        finally:
            groups.close()

    def _pieces(
        self, answers: Iterable[Answer], cancelled: Callable[[], bool]
    ) -> Iterator[tuple[Piece, int, Callable[[], Payload | None]]]:
        """For each piece: it, without payload; its bytes; and what makes the payload."""
        for number, answer in enumerate(answers):
            whole = Region.whole(answer.shape)
            if not answer.modified or whole.size == 0:
                yield Piece(number, answer, False, whole, None), 0, lambda: None
                continue
            make, pixels = self._part, self._pixels(answer.dtype)
            if answer.projection is not None:
                make = self._projected_part
                pixels = min(pixels, self._tile_pixels(answer, answer.projection))
            if answer.frames and whole_cells(answer.grid, answer.region).size:
                for box, nbytes, task in self._tasks(answer, cancelled):
                    yield Piece(number, answer, False, box, None), nbytes, task
                continue
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

    def _part(self, answer: Answer, box: Region, cancelled: Callable[[], bool]) -> Array:
        """The pixels of a box of the result, where nothing is projected.

        Those of a chunk that lie in one run need no copy.
        """
        lattice, image = answer.lattice.part(box), answer.image
        if lattice.chunks(answer.grid) == 1:
            at, source, _ = next(lattice.places(answer.grid))
            view = self._chunks.view(image, answer.level, at, source)
            if view is not None and view.flags.c_contiguous:
                return answer.conversion.apply(view)
        return answer.conversion.apply(self._assemble(answer, box, cancelled))

    def _assemble(self, answer: Answer, box: Region, cancelled: Callable[[], bool]) -> Array:
        """The pixels of a box of the lattice, counted in steps from its first pixel."""
        image, lattice = answer.image, answer.lattice.part(box)
        out, places = self._begin(answer, lattice, cancelled)
        for some in _some(places):
            fetched = self._chunks.fetch(image, answer.level, (spot.at for spot in some))
            for at, source, inside in some:
                _check(cancelled)
                self._chunks.paste(image, answer.level, at, source, out[inside], fetched)
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
        among = self._among(answer, answer.lattice.part(region), cancelled)
        if among is None:
            boxes = _boxes(answer, region, self._pixels(dtype))
        else:
            boxes = self._held(answer, region, among)
        tasks = (
            (box, self._part_bytes, partial(self._assemble, answer, box, cancelled))
            for box in boxes
        )
        pieces = self._ahead.in_order(tasks) if ahead else ((box, task()) for box, _, task in tasks)
        sums_bytes = tile.size * projection.bytes_per_pixel(dtype)
        with self._budget.beside(sums_bytes + self._ahead.most * self._part_bytes):
            sums = accumulator(projection, region.shape, dtype)
            missing = None if among is None else projection.counts(region.shape)
            for box, pixels in pieces:
                at = box.relative_to(tile.offset)
                sums.add(at, pixels)
                if missing is not None:
                    missing[projection.inside(at)] -= projection.count(at.shape)
            if missing is not None:
                sums.fill(missing, answer.image.fill_value)
            return sums.result()

    def _held(self, answer: Answer, region: Region, among: Iterable[Shape]) -> Iterator[Region]:
        """What lies in some chunks of a box of the lattice, in pieces."""
        whole = Grid(region.shape, region.shape)
        for _, _, slices in answer.lattice.part(region).places(answer.grid, among):
            inside = Region(
                tuple(part.start for part in slices),
                tuple(part.stop - part.start for part in slices),
            )
            for box in cut(whole, inside, self._pixels(answer.image.image.dtype)):
                yield Region(_sum(region.offset, box.offset), box.shape)

    @contextmanager
    def _turn(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Waits until few enough add up; raises Cancelled where told to."""
        while not self._adding.acquire(timeout=LOOK_SECONDS):
            _check(cancelled)
        try:
            yield
        finally:
            self._adding.release()

    def _pixels(self, dtype: np.dtype[np.generic]) -> int:
        """Of a part."""
        return max(1, self._part_bytes // dtype.itemsize)


def _above(limit: str, value: int, asked: int, field: str) -> LimitExceeded:
    message = f"{asked} bytes are more than {limit} = {value}"
    return LimitExceeded(message, field=field, limit=limit, value=value, asked=asked)


def _boxes(answer: Answer, region: Region, pixels: int) -> Iterator[Region]:
    """Cuts a box of the answer's lattice, counted in steps, along the chunks."""
    grid, lattice = answer.lattice.counted(answer.grid)
    moved = Region(_sum(lattice.offset, region.offset), region.shape)
    for box in cut(grid, moved, max(1, pixels)):
        yield box.relative_to(lattice.offset)


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled("the caller gave up")


def _some(items: Iterable[T]) -> Iterator[list[T]]:
    """`items`, so many at a time as are fetched together."""
    left = iter(items)
    while some := list(itertools.islice(left, MOST_FETCHED)):
        yield some


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
