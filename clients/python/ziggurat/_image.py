"""What can be done with one image: look at it, read it, write it, build its pyramid.

An Image holds what the server last said about it; `refresh` asks again. Pixels are
never kept. Indexing is level 0; `level(k)` gives the others.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Unpack, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray
from ziggurat_proto.v1 import image_pb2, read_pb2, service_pb2

from ziggurat._answers import ImageInfo, image_info
from ziggurat._batch import read_each, read_stack
from ziggurat._build import PyramidBuild
from ziggurat._described import Described
from ziggurat._errors import OutOfRange
from ziggurat._extras import extra
from ziggurat._frametable import Frames, frames_of
from ziggurat._index import box_of
from ziggurat._level import LevelView
from ziggurat._read import ReadResult, read, read_plane
from ziggurat._request import Asked, ReadOptions, asked, asked_plane
from ziggurat._rpc import messages
from ziggurat._spec import method_of
from ziggurat._stream import Durability
from ziggurat._writer import Writer


class Image(Described):
    """One image on a server; from `Client.create`, `open` or `list`.

    Shapes, offsets and indices are in pixels and axis order (t, c, z, y, x). Threads
    may share an image. It may be pickled: in another process it has a connection to the
    same server, shared by all that is unpickled there. (gRPC does not survive a fork: start
    processes by "spawn" or "forkserver".)

        image[0, 1, 10:20]         a box of level 0, as NumPy would index it
        image.level(2)[...]        all of level 2
        np.asarray(image)          all of level 0
    """

    def refresh(self, *, measure: bool = False) -> Image:
        """Asks the server again and returns this image.

        measure: also fill `Level.stored` (the server walks the image's files).
        Raises NotFound where the image is gone.
        """
        request = service_pb2.GetImageRequest(name=self.name, measure=measure)
        answer = self._connection.unary("GetImage", request, image_pb2.Image)
        self._info = image_info(answer)
        return self

    def level(self, index: int) -> LevelView:
        """A view of one level, to index or to hand to NumPy. Raises OutOfRange."""
        if not 0 <= index < len(self.levels):
            raise OutOfRange(
                f"level {index} is not there: {self.name} has levels 0 to {len(self.levels) - 1}",
                field="level",
            )
        return LevelView(self._connection, self._info, self.levels[index])

    def read(
        self,
        box: slice | tuple[slice, ...] | None = None,
        *,
        offset: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
        out: NDArray[Any] | None = None,
        timeout_seconds: float | None = None,
        **options: Unpack[ReadOptions],
    ) -> NDArray[Any]:
        """The pixels of a box; every axis stays, in the image's order.

        box: slices without a step, one an axis; axes left out are taken whole. Instead,
            offset and shape: one number an axis. In pixels of `level`; with `resolution`,
            `max_voxels` or `level0` in pixels of level 0, and rounded outward to pixels
            of the level that is read. None: all.
        physical: instead of a box, {"z": (start, stop), ...} in axis units, rounded outward;
            the centre of pixel 0 of level 0 is 0. Axes left out are taken whole, what
            reaches beyond the image is left off.
        level: 0 where nothing else is said. resolution: instead, the coarsest level whose
            pixels lie at most so far apart, {"z": 2.0, "y": 0.5} in axis units or one
            number for z, y and x. max_voxels: instead, the finest level at which the box
            has at most so many pixels.
        level0: True: box, offset and shape are in pixels of level 0 whatever `level` is.
        steps: every n-th pixel along each axis, one number an axis or {"z": 4}; nothing
            is averaged.
        projection, along: "max", "min" or "mean" of all pixels along the axes named
            ("z", "tz"), which then have size 1; made on the server. Means of integers are
            exact and rounded half to even; max and min pass NaNs over.
        dtype: the result's type; values are rounded half to even and clipped to its range.
        window: (low, high): stretched linearly over the range of the result's type (0 to its
            largest number; 0 to 1 for floats), clipped, rounded half to even.
        exact: wait until the level is exact there, as of now; the server computes just
            what the box needs. Else it may be behind writes that were just acknowledged:
            see `fetch`.
        encoding: how pixels travel: "raw"; "blosc": whole chunks as the server has stored
            them, if it uses Blosc, decoded here (needs the extra "numcodecs"); "auto": "blosc"
            where it can be had and the server's address is none of this machine.
        out: an array of the result's shape and dtype to fill in place, with
            any strides and byte order; it is also returned.
        timeout_seconds: None waits as long as it takes.

        Returns once all pixels are there. Raises InvalidArgument for what makes no sense or
        not together, OutOfRange, LimitExceeded (read less at a time), NotFound,
        DeadlineExceeded; after an error `out` holds part of the result.
        """
        return self.fetch(
            box,
            offset=offset,
            shape=shape,
            out=out,
            timeout_seconds=timeout_seconds,
            **options,
        ).array

    @overload
    def fetch(
        self,
        box: slice | tuple[slice, ...] | None = None,
        *,
        offset: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
        if_newer_than: None = None,
        out: NDArray[Any] | None = None,
        timeout_seconds: float | None = None,
        **options: Unpack[ReadOptions],
    ) -> ReadResult: ...

    @overload
    def fetch(
        self,
        box: slice | tuple[slice, ...] | None = None,
        *,
        offset: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
        if_newer_than: int,
        out: NDArray[Any] | None = None,
        timeout_seconds: float | None = None,
        **options: Unpack[ReadOptions],
    ) -> ReadResult | None: ...

    def fetch(
        self,
        box: slice | tuple[slice, ...] | None = None,
        *,
        offset: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
        if_newer_than: int | None = None,
        out: NDArray[Any] | None = None,
        timeout_seconds: float | None = None,
        **options: Unpack[ReadOptions],
    ) -> ReadResult | None:
        """As `read`, with what the server said: the level and box chosen, whether it is stale.

        if_newer_than: the `revision` of an earlier result of the same read; None is returned
            where nothing changed since. It also holds over restarts of the server.
        """
        request = asked(self._info, box, offset, shape, options, if_newer_than)
        return read(self._connection, request, out, timeout_seconds)

    def plane(
        self,
        origin: Sequence[float],
        down: Sequence[float],
        across: Sequence[float],
        shape: tuple[int, int],
        spacing: float,
        *,
        interpolation: str = "linear",
        level: int | None = None,
        dtype: DTypeLike | None = None,
        window: tuple[float, float] | None = None,
        exact: bool = False,
        out: NDArray[Any] | None = None,
        timeout_seconds: float | None = None,
        **indices: int,
    ) -> NDArray[Any]:
        """A plane in any direction, as an array (rows, columns).

        Its pixel (i, j) lies at origin + i * spacing * down + j * spacing * across.

        origin, down, across: one number for each of z, y, x that the image has, in axis
            units, the centre of pixel 0 of level 0 being 0. down and across are taken as
            directions, whatever their lengths; they may not be parallel.
        shape: rows and columns. spacing: of neighbouring pixels, in axis units.
        interpolation: "linear" between up to 8 pixels, integers rounded half to even; or
            "nearest".
        level: None: the coarsest whose pixels lie at most `spacing` apart.
        indices: t and c, 0 where they are not named.
        dtype, window, exact, out, timeout_seconds: as of `read`.

        Points outside of the image have its fill value. The server reads only the chunks that
        the plane crosses. Raises as `read` does.
        """
        message, kind, size = asked_plane(
            self._info,
            origin,
            down,
            across,
            shape,
            spacing,
            interpolation=interpolation,
            indices=indices,
            level=level,
            dtype=dtype,
            window=window,
            exact=exact,
        )
        return read_plane(self._connection, message, kind, size, out, timeout_seconds)

    def read_each(
        self,
        boxes: Iterable[Any],
        *,
        as_completed: bool = False,
        timeout_seconds: float | None = None,
        **options: Unpack[ReadOptions],
    ) -> Generator[tuple[int, ReadResult], None, None]:
        """Many boxes in one call: (which of `boxes`, result), one after the other.

        boxes: as `box` of `read`, or (offset, shape); options: as of `read`, for all of
            them. as_completed: results come as they are ready, else in order.

        The call begins with the first result; the server reads some MiB ahead of what is
        taken. Closing the generator ends it. Raises as `read` does; fields at fault are below
        reads[NUMBER] where the server finds them.
        """
        requests = [_box_request(self._info, box, options) for box in boxes]
        return read_each(self._connection, requests, None, as_completed, timeout_seconds)

    def read_stack(
        self,
        offsets: Sequence[Sequence[int]],
        shape: Sequence[int],
        *,
        out: NDArray[Any] | None = None,
        timeout_seconds: float | None = None,
        **options: Unpack[ReadOptions],
    ) -> NDArray[Any]:
        """Boxes of one shape in one array: (boxes, ...), the axes of the image behind.

        offsets: of each box; with shape in pixels of `level`, one number an axis. options:
            as of `read`, but results must be of one shape: no `resolution`, `max_voxels`,
            `level0` or `physical`.
        out: of this shape and the result's dtype, to fill in place.

        Returns once all is there. Raises as `read` does.
        """
        requests = [_box_request(self._info, (offset, shape), options) for offset in offsets]
        return read_stack(self._connection, requests, out, timeout_seconds)

    def writer(
        self,
        stream_id: str | None = None,
        *,
        durability: Durability = "durable",
        expected_frames: int | None = None,
        window_bytes: int = 64 * 2**20,
        strip_bytes: int | None = None,
        retry_seconds: float = 300.0,
        spool: str | os.PathLike[str] | None = None,
        spool_bytes: int | None = None,
    ) -> Writer:
        """Opens a stream of writes; returns once the server has answered.

        stream_id: 1 to 128 bytes; None makes a new one. The same id resumes the same
            sequence: `Writer.sequence` then begins where the server stands.
        durability: when a write counts as acknowledged. "durable": once it is on the
            server's disk, safe from a power cut. "received": once it is in the server's
            memory; it is then lost, and the writer raises DataLoss, where the server
            dies before it has stored it.
        expected_frames: how many frames the run should have; kept with the stream, for
            whoever asks later whether it was all (`Image.streams`).
        window_bytes: how much may be written and not yet acknowledged; past it write()
            blocks, or uses the spool. The most memory that the writer takes, one
            message aside.
        strip_bytes: the size of the parts that frames are cut into, a message each; None:
            2 MiB, or 4 where pixels go through shared memory (`Writer.transport`), less for
            a small window. Never more than the server takes.
        retry_seconds: how long the writer goes without a connection, in all since the
            last acknowledgement, until it raises Unavailable; it reconnects by itself
            before, and sends again what was not acknowledged.
        spool: a directory of this writer's own, made where it is not there. What the
            window has no room for waits in files there, so that a cut of minutes stops
            no camera. A writer that ends without Close leaves there what was not
            acknowledged; the next one with the same stream_id sends that first. A
            process that is killed loses what was in memory alone: see `Writer.lost`.
            Files are not synced: they outlive the process, not a power cut.
        spool_bytes: what those files may take; None: half of what the disk has left.

        Raises NotFound, InvalidArgument; what does not go away in the client's
        `timeout_seconds` of Unavailable and DeadlineExceeded, and of StreamHeld in
        5 s; FailedPrecondition where the spool is in use or another stream's; DataLoss
        where it is damaged, or the server has less than it acknowledged; OSError where
        the directory can't be used.
        """
        return Writer(
            self._connection,
            self.name,
            self.axes,
            self.limits,
            self.dtype,
            stream_id=stream_id,
            durability=durability,
            expected_frames=expected_frames,
            window_bytes=window_bytes,
            strip_bytes=strip_bytes,
            retry_seconds=retry_seconds,
            spool=spool,
            spool_bytes=spool_bytes,
        )

    def to_dask(self, level: int = 0, chunks: Any = "auto") -> Any:
        """A level as a dask array: see `LevelView.to_dask`. Raises OutOfRange."""
        return self.level(level).to_dask(chunks)

    def store(self, array: Any, *, offset: Sequence[int] | None = None, **compute: Any) -> None:
        """Computes a dask array and writes it to level 0, block by block.

        array: a dask array of the image's dtype and axes. Its blocks may have any shape;
            those of whole stored chunks, as `to_dask` gives them, are fastest.
        offset: where its first pixel goes, one number an axis; the image's first without it.
        compute: what dask's compute takes, such as scheduler="processes".

        Returns once all is stored and every level is exact, unless `pyramid` is "deferred";
        the image is refreshed. Blocks are computed and written side by side in the order that
        dask chooses; what `map_blocks` makes of `to_dask` is in memory once a thread, and the
        Writer's window beside it. A function that looks beyond its block (map_overlap) should
        not write to the image it reads: its neighbours may be written already.

        Raises InvalidArgument and OutOfRange before anything is computed, then what the
        computation or the Writer raises; blocks written by then stay. Needs dask (the extra
        "dask").
        """
        extra("dask", "_dask", "store").store(self, array, offset, compute)

    def frames(self) -> Frames:
        """What is known of the frames: timestamps, metadata, and which were skipped."""
        request = read_pb2.ListFramesRequest(image=self.name)
        call = self._connection.frames(request)
        answers = messages(call, lambda answer: answer, self._connection.server)
        return frames_of(answers, self.ndim)

    def build_pyramid(
        self,
        box: slice | tuple[slice, ...] | None = None,
        *,
        up_to_level: int | None = None,
        force: bool = False,
        method: str | None = None,
    ) -> PyramidBuild:
        """Starts making levels exact and stored; iterate the result for progress.

        box: only above this box of level 0, slices as for `read`. up_to_level: enough if
            the levels up to this one are.
        force: compute them anew, also where they are not stale. The server remembers
            that: what it has not come to when the call ends, or it restarts, it makes in
            the background, or at the next build where `pyramid` is "deferred".
        method: have the levels made by another method from now on ("median": see
            Client.create), all of them, without `box` and `up_to_level`. Readers see the old
            levels until the new ones are exact and replace them at once; writers may go
            on. What a cancelled call has made is kept, and gone on with when the same
            method is asked for again; asking for another one removes it.

        Nothing is waited for here: see PyramidBuild.
        """
        chosen = None if box is None else box_of(box, None, None, self.shape)
        request = service_pb2.BuildPyramidRequest(
            image=self.name,
            force=force,
            offset=chosen.offset if chosen else (),
            shape=chosen.shape if chosen else (),
            up_to_level=up_to_level,
            method=None if method is None else method_of("method", method),
        )
        return PyramidBuild(self._connection.build(request), self._connection.server)

    def __getitem__(self, index: Any) -> Any:
        return self.level(0)[index]

    def __array__(
        self, dtype: np.dtype[Any] | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        return self.level(0).__array__(dtype, copy)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.level(0))

    def __repr__(self) -> str:
        return (
            f"<ziggurat.Image {self.name!r} {self.axes} {self.shape} {self.dtype.name},"
            f" {len(self.levels)} levels>"
        )


def _box_request(info: ImageInfo, box: Any, options: ReadOptions) -> Asked:
    if isinstance(box, tuple) and len(box) == 2 and not isinstance(box[0], slice):
        return asked(info, None, box[0], box[1], options)
    return asked(info, box, None, None, options)
