"""How do the pixels of a box of a result come together out of chunks?

A result that is sent is cut into parts of about `part_bytes` that follow the chunk grid: small
chunks are joined, large ones cut, so that neither a plane through many chunks nor one
huge chunk makes messages that are slow to send. A few parts are assembled ahead of
the one that is being sent, each in its final memory. A result that goes to one array is not
cut: what is decoded is copied there first, and then what is not is loaded.

Which of many chunks are there is asked before they are looked for: what nobody wrote to costs
nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np

from ziggurat_engine.chunks import WORTH_ASKING, Chunks, Fetched
from ziggurat_engine.errors import Cancelled
from ziggurat_engine.kernels.protocol import Kernels, Points
from ziggurat_engine.reads.ahead import Ahead
from ziggurat_engine.reads.answers import Answer, Frame, Payload, PlaneAnswer
from ziggurat_engine.reads.crossing import crossed
from ziggurat_engine.reads.lattice import Lattice, Place
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.spec import Array
from ziggurat_engine.tiles import cut, whole_cells

T = TypeVar("T")
IsCancelled: TypeAlias = Callable[[], bool]
# Box of the result, bytes of its room (Ahead) and what makes it.
Task: TypeAlias = tuple[Region, int, Callable[[], T]]

# Chunks that are fetched together, and between two looks.
MOST_FETCHED = 256
# Of a result in one array: copied out of decoded chunks in one go.
SLAB_BYTES = 4 * 2**20
# Where less of each chunk is decoded, a thread holds the interpreter's lock for most of the time:
# then chunks come sooner one after the other than side by side.
LEAST_APART_BYTES = 2**17
# So much of all of them is for one thread: a slow disk is better asked by several.
THIN_TASK_BYTES = 2**20
# A bound on memory: a result that touches more chunks comes in parts.
MOST_LISTED = 4096


class Assembly:
    """Pixels of answers in which nothing is projected. Methods may be called from any thread.

    cancelled: asked now and then; Cancelled is raised where it says so. ahead: where parts are
    assembled.
    """

    def __init__(self, chunks: Chunks, kernels: Kernels, ahead: Ahead, part_bytes: int) -> None:
        self._chunks = chunks
        self._kernels = kernels
        self._ahead = ahead
        self._part_bytes = part_bytes

    def pixels(self, dtype: np.dtype[np.generic]) -> int:
        """Of a part."""
        return max(1, self._part_bytes // dtype.itemsize)

    def single(self, answer: Answer, cancelled: IsCancelled) -> Array:
        """A small result, in one array."""
        out: Array = np.empty(answer.lattice.shape, answer.image.image.dtype)
        self._bring(answer, out, cancelled)
        return answer.conversion.apply(out)

    def into(self, answer: Answer, out: Array, cancelled: IsCancelled) -> None:
        """Writes a result to `out`, an array of its shape; nobody does any more when it ends."""
        if answer.conversion.keeps(answer.image.image.dtype):
            self._bring(answer, out, cancelled)
            return

        def put(box: Region) -> None:
            out[box.slices()] = self.part(answer, box, cancelled)

        self._side_by_side(answer, self.pixels(answer.dtype), put)

    def _bring(self, answer: Answer, out: Array, cancelled: IsCancelled) -> None:
        """Puts the pixels of an answer into `out`.

        What is at hand first, in slabs: it is copied faster than it is passed on, so that a
        single one is copied here. The rest some chunks at a time, side by side.
        """
        if out.size == 0:
            return
        if answer.chunks > MOST_LISTED:

            def fill(box: Region) -> None:
                self._fill(answer, answer.lattice.part(box), out[box.slices()], cancelled)

            self._side_by_side(answer, self.pixels(out.dtype), fill)
            return

        def at_hand(box: Region) -> tuple[Array, list[Place]]:
            slab = out[box.slices()]
            return slab, self._at_hand(answer, answer.lattice.part(box), slab, cancelled)

        small = out.nbytes <= SLAB_BYTES
        if small:
            left = [at_hand(Region.whole(out.shape))]
        else:
            left = self._side_by_side(answer, SLAB_BYTES // out.itemsize, at_hand)
        self._load(answer, left, cancelled, together=small)

    def _load(
        self,
        answer: Answer,
        left: list[tuple[Array, list[Place]]],
        cancelled: IsCancelled,
        *,
        together: bool,
    ) -> None:
        """Puts the pixels of chunks into arrays, some chunks at a time, side by side.

        together: frames that lie beside each other are read at once for all of them.
        """
        image, extents = answer.image, answer.extents
        spots = [spot for _, away in left for spot in away]
        if not spots:
            return
        total = sum(self._chunks.decoded_bytes(image, spot.at, extents) for spot in spots)
        each = -(-total // len(spots))
        thin = each < LEAST_APART_BYTES and each <= image.chunk_bytes // 2
        least = THIN_TASK_BYTES if thin else 0
        task_bytes = max(least, min(total // self._ahead.most, self._part_bytes))
        count = max(1, task_bytes // each)

        def tasks() -> Iterator[Task[None]]:
            for out, away in left:
                for many in _some(away, MOST_FETCHED):
                    fetched = self._fetch(answer, many) if together else None
                    for some in _some(many, count):
                        task = partial(self._paste, answer, some, out, cancelled, fetched)
                        yield Region.whole(out.shape), 0, task

        for _ in self._ahead.in_order(tasks()):
            pass

    def _side_by_side(self, answer: Answer, pixels: int, make: Callable[[Region], T]) -> list[T]:
        """What `make` returns for boxes of a result, of about so many pixels."""
        parts = self._beside(answer, boxes(answer, Region.whole(answer.shape), pixels))
        # Where the pixels go is there already: they take no room.
        tasks = ((box, 0, partial(make, box)) for box in parts)
        return [made for _, made in self._ahead.in_order(tasks)]

    def _at_hand(
        self, answer: Answer, lattice: Lattice, out: Array, cancelled: IsCancelled
    ) -> list[Place]:
        """Puts those pixels of `lattice` into `out` that nothing is waited for; what is left."""
        away = []
        left = self._left(answer, lattice, out, cancelled)
        if max(lattice.steps) == 1 and not self._chunks.writes(answer.image, answer.level):
            # What came since then `paste` finds.
            return list(left)
        for spot in left:
            check(cancelled)
            at, source, inside = spot
            pasted = self._chunks.paste_at_hand(answer.image, answer.level, at, source, out[inside])
            if not pasted:
                away.append(spot)
        return away

    def part(self, answer: Answer, box: Region, cancelled: IsCancelled) -> Array:
        """The pixels of a box of the result.

        Those of a chunk that lie in one run need no copy.
        """
        lattice, image = answer.lattice.part(box), answer.image
        if lattice.chunks(answer.grid) == 1:
            at, source, _ = next(lattice.places(answer.grid))
            view = self._chunks.view(image, answer.level, at, source, answer.extents)
            if view is not None and view.flags.c_contiguous:
                return answer.conversion.apply(view)
        return answer.conversion.apply(self.assemble(answer, box, cancelled))

    def assemble(self, answer: Answer, box: Region, cancelled: IsCancelled) -> Array:
        """The pixels of a box of the lattice, counted in steps from its first pixel."""
        out: Array = np.empty(box.shape, answer.image.image.dtype)
        self._fill(answer, answer.lattice.part(box), out, cancelled)
        return out

    def _fill(self, answer: Answer, lattice: Lattice, out: Array, cancelled: IsCancelled) -> None:
        """Puts the pixels of `lattice` into `out`."""
        for some in _some(self._left(answer, lattice, out, cancelled), MOST_FETCHED):
            self._paste(answer, some, out, cancelled)

    def _paste(
        self,
        answer: Answer,
        some: list[Place],
        out: Array,
        cancelled: IsCancelled,
        fetched: Fetched | None = None,
    ) -> None:
        """Puts the pixels of some chunks into `out`; frames that lie together are read at once."""
        fetched = fetched or self._fetch(answer, some)
        image, level, extents = answer.image, answer.level, answer.extents
        for at, source, inside in some:
            check(cancelled)
            self._chunks.paste(image, level, at, source, out[inside], fetched, extents)

    def _fetch(self, answer: Answer, some: list[Place]) -> Fetched | None:
        places = (spot.at for spot in some)
        return self._chunks.fetch(answer.image, answer.level, places, answer.extents)

    def _left(
        self, answer: Answer, lattice: Lattice, out: Array, cancelled: IsCancelled
    ) -> Iterator[Place]:
        """Puts what is decoded into `out`, and fill value where nothing can be; what is left."""
        check(cancelled)
        left: list[Shape] | None = None
        dense = max(lattice.steps) == 1
        if dense and lattice.chunks(answer.grid) <= MOST_FETCHED:
            left = self._gather(answer, lattice, out)
            if len(left) < WORTH_ASKING:
                return lattice.places(answer.grid, left)
        among = self.among(answer, lattice, cancelled)
        if among is not None:
            out[...] = answer.image.fill_value
            if left is not None and len(left) < lattice.chunks(answer.grid):
                again = set(self._gather(answer, lattice, out))
                among = [at for at in among if at in again]
            return lattice.places(answer.grid, among)
        if dense and left is None:
            left = self._gather(answer, lattice, out)
        return lattice.places(answer.grid, left)

    def _gather(self, answer: Answer, lattice: Lattice, out: Array) -> list[Shape]:
        region = Region(lattice.offset, lattice.shape)
        return self._chunks.gather(answer.image, answer.level, region, out)

    def among(self, answer: Answer, lattice: Lattice, cancelled: IsCancelled) -> list[Shape] | None:
        """The chunks that may hold something of `lattice`; None: any may."""
        cells = lattice.cells(answer.grid)
        return self._chunks.among(answer.image, answer.level, cells, partial(check, cancelled))

    def tasks(self, answer: Answer, cancelled: IsCancelled) -> Iterator[Task[Payload]]:
        """Those that make the parts of a result."""
        pixels = self.pixels(answer.dtype)

        def plain(region: Region) -> Iterator[Task[Payload]]:
            for box in self._beside(answer, boxes(answer, region, pixels)):
                yield box, self._part_bytes, partial(self.part, answer, box, cancelled)

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

    def _frame(self, answer: Answer, at: Shape, box: Region, cancelled: IsCancelled) -> Payload:
        """A whole chunk as it is stored; its pixels where memory has newer ones by now."""
        check(cancelled)
        data = self._chunks.frame(answer.image, answer.level, at)
        if data is None:
            return self.part(answer, box, cancelled)
        return Frame(data, answer.image.image.layout.chunk_shape)

    def plane_tasks(self, answer: PlaneAnswer, cancelled: IsCancelled) -> Iterator[Task[Array]]:
        """Those that make the parts of a plane, boxes of rows and columns."""
        limits = answer.image.shape(answer.placed.level)
        for points in answer.placed.tiles(limits, self.pixels(answer.image.image.dtype)):
            box = Region(points.first, points.shape)
            yield box, self._part_bytes, partial(self._sample, answer, points, cancelled)

    def _sample(self, answer: PlaneAnswer, points: Points, cancelled: IsCancelled) -> Array:
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
        for some in _some(needed, MOST_FETCHED):
            fetched = self._chunks.fetch(image, placed.level, some)
            for chosen in some:
                check(cancelled)
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


def boxes(answer: Answer, region: Region, pixels: int) -> Iterator[Region]:
    """Cuts a box of the answer's lattice, counted in steps, along the chunks."""
    grid, lattice = answer.lattice.counted(answer.grid)
    moved = region.moved(lattice.offset)
    for box in cut(grid, moved, max(1, pixels)):
        yield box.relative_to(lattice.offset)


def check(cancelled: IsCancelled) -> None:
    """Raises Cancelled where told to."""
    if cancelled():
        raise Cancelled("the caller gave up")


def _some(items: Iterable[T], count: int) -> Iterator[list[T]]:
    """`items`, so many at a time."""
    left = iter(items)
    while some := list(itertools.islice(left, count)):
        yield some
