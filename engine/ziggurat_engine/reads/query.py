"""Which chunks answer a read, and how does the answer leave?

A read is planned first: what it asks for is checked and the answer described, nothing is
read. Then it comes in parts (assembly.py, of projections adding.py), whole where it is small,
into memory of the caller's, or in pieces of many answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.images import OpenImage
from ziggurat_engine.reads.adding import Adding
from ziggurat_engine.reads.ahead import Ahead
from ziggurat_engine.reads.answers import Answer, Payload, Piece, PlaneAnswer, Read
from ziggurat_engine.reads.assembly import Assembly, IsCancelled, Task, boxes
from ziggurat_engine.reads.lattice import Lattice
from ziggurat_engine.reads.planes import Plane, place
from ziggurat_engine.reads.projection import check_projection, projection_of
from ziggurat_engine.reads.readahead import ReadAhead
from ziggurat_engine.reads.readlimits import ReadLimits
from ziggurat_engine.reads.selection import select
from ziggurat_engine.reads.staleness import Staleness
from ziggurat_engine.region import Region, Shape
from ziggurat_engine.settling.settle import never
from ziggurat_engine.spec import Array, Blosc
from ziggurat_engine.tiles import whole_cells

# Larger chunks, in raw bytes, do not come as they are stored: messages have to stay small.
MOST_FRAME_BYTES = 8 * 2**20


class Query:
    """All reads. Methods may be called from any thread.

    ahead: where parts are assembled. read_ahead: is told what is read.
    """

    def __init__(
        self,
        assembly: Assembly,
        adding: Adding,
        ahead: Ahead,
        read_ahead: ReadAhead,
        staleness: Staleness,
        limits: ReadLimits,
    ) -> None:
        self._assembly = assembly
        self._adding = adding
        self._ahead = ahead
        self._read_ahead = read_ahead
        self._staleness = staleness
        self.limits = limits

    def plan(self, image: OpenImage, read: Read, *, whole: bool = False) -> Answer:
        """Checks a read; nothing is read yet. whole: it is for `whole` or `into`.

        Raises OutOfRange for a level or box that is not there, InvalidArgument for what
        makes no sense, LimitExceeded for a result above max_read_bytes, or that more than
        max_read_chunks chunks have to be looked at for.
        """
        level, region = select(image, read.selection)
        dtype = image.image.dtype
        lattice = Lattice.of(region, _checked(read.steps, len(region.shape)))
        projection, shape = None, lattice.shape
        if read.project is not None:
            names = [axis.name for axis in image.image.axes]
            projection = projection_of(names, *read.project)
            check_projection(projection, shape, dtype)
            self.limits.check_projected(math.prod(shape) * dtype.itemsize)
            shape = projection.shape(shape)
        read.conversion.check()
        target = read.conversion.of(dtype)
        nbytes = math.prod(shape) * target.itemsize
        chunks = lattice.chunks(image.pyramid.levels[level].chunks)
        self.limits.check_total(nbytes, chunks, "shape")
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
            and not whole
            and projection is None
            and read.conversion.keeps(dtype)
            and max(lattice.steps) == 1
            and isinstance(image.image.layout.codec, Blosc)
            and not image.image.read_only
            and image.chunk_bytes <= MOST_FRAME_BYTES,
        )

    def parts(
        self, answer: Answer, cancelled: IsCancelled = never
    ) -> Iterator[tuple[Region, Payload]]:
        """The result, part by part: (box of the result, C-order array or Frame).

        Closing the iterator stops the work; raises Cancelled where told to.
        """
        self._follow(answer)
        if answer.projection is not None:
            return self._adding.parts(answer, answer.projection, cancelled)
        if not answer.frames and 0 < math.prod(answer.shape) <= self._assembly.pixels(answer.dtype):
            return self._alone(answer, cancelled)
        return self._ahead.in_order(self._assembly.tasks(answer, cancelled))

    def into(self, answer: Answer, out: Array, cancelled: IsCancelled = never) -> None:
        """Writes the result to `out`, an array of its shape. Not for answers with frames.

        Raises Cancelled where told to. When it returns or raises nothing writes to `out` any more.
        """
        self._follow(answer)
        if answer.projection is None:
            self._assembly.into(answer, out, cancelled)
            return
        for box, pixels in self._adding.parts(answer, answer.projection, cancelled):
            out[box.slices()] = pixels

    def whole(self, answer: Answer, cancelled: IsCancelled = never) -> Array:
        """All of a small result, C-contiguous, that holds anything; raises as `parts`."""
        if answer.projection is None:
            self._follow(answer)
            return self._assembly.single(answer, cancelled)
        out: Array = np.empty(answer.shape, dtype=answer.dtype)
        self.into(answer, out, cancelled)
        return out

    def _alone(self, answer: Answer, cancelled: IsCancelled) -> Iterator[tuple[Region, Array]]:
        yield Region.whole(answer.shape), self._assembly.single(answer, cancelled)

    def _follow(self, answer: Answer) -> None:
        if not answer.frames:
            self._read_ahead.follow(answer.image, answer.level, answer.region)

    def plan_plane(self, image: OpenImage, plane: Plane) -> PlaneAnswer:
        """Checks a read of a plane; raises as `plan` does."""
        placed = place(image, plane)
        dtype = plane.conversion.of(image.image.dtype)
        nbytes = plane.rows * plane.columns * dtype.itemsize
        region = placed.around(placed.points, image.shape(placed.level))
        around = image.pyramid.levels[placed.level].chunks.touched(region).size
        self.limits.check_total(nbytes, min(around, plane.most_pixels), "rows")
        revision, stale = self._seen(image, placed.level, region)
        return PlaneAnswer(image, plane, placed, region, dtype, stale, revision - stale)

    def plane_parts(
        self, answer: PlaneAnswer, cancelled: IsCancelled = never
    ) -> Iterator[tuple[Region, Array]]:
        """As `parts`, of a plane: boxes of rows and columns."""
        return self._ahead.in_order(self._assembly.plane_tasks(answer, cancelled))

    def _seen(self, image: OpenImage, level: int, region: Region) -> tuple[int, bool]:
        """The image's revision, and whether `region` of `level` is stale."""
        # In this order: a write that comes between makes it stale, or newer.
        revision = image.base.revision
        return revision, region.size > 0 and self._staleness.stale(image, level, region)

    def batch(
        self,
        answers: Iterable[Answer],
        *,
        as_completed: bool = False,
        cancelled: IsCancelled = never,
    ) -> Iterator[list[Piece]]:
        """The results of many reads, some pieces at a time, about part_bytes together.

        answers: drawn one by one, as there is room. as_completed: pieces come as they are
        ready; else in order. Closing the iterator stops the work; raises Cancelled where
        told to.
        """
        begun: set[int] = set()
        groups = self._ahead.in_groups(
            self._pieces(answers, cancelled), self.limits.part_bytes, as_completed=as_completed
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
        self, answers: Iterable[Answer], cancelled: IsCancelled
    ) -> Iterator[tuple[Piece, int, Callable[[], Payload | None]]]:
        """For each piece: it, without payload; its bytes; and what makes the payload."""
        for number, answer in enumerate(answers):
            whole = Region.whole(answer.shape)
            if not answer.modified or whole.size == 0:
                yield Piece(number, answer, False, whole, None), 0, lambda: None
                continue
            for box, nbytes, task in self._tasks(answer, whole, cancelled):
                yield Piece(number, answer, False, box, None), nbytes, task

    def _tasks(
        self, answer: Answer, whole: Region, cancelled: IsCancelled
    ) -> Iterator[Task[Payload]]:
        """Those of one answer of many: a small one in one piece, whatever chunks it crosses."""
        if answer.frames and whole_cells(answer.grid, answer.region).size:
            yield from self._assembly.tasks(answer, cancelled)
            return
        made: Iterable[tuple[Region, Callable[[], Payload]]]
        if answer.projection is not None:
            made = self._adding.pieces(answer, answer.projection, cancelled)
        else:
            pixels = self._assembly.pixels(answer.dtype)
            some = [whole] if whole.size <= pixels else boxes(answer, whole, pixels)
            made = ((box, partial(self._assembly.part, answer, box, cancelled)) for box in some)
        for box, task in made:
            yield box, box.size * answer.dtype.itemsize, task


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
