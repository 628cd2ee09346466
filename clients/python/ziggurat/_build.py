"""How far is a pyramid build that this client asked for?"""

from __future__ import annotations

from typing import Any, Self

from ziggurat_proto.v1 import service_pb2

from ziggurat._rpc import messages
from ziggurat._values import BuildProgress


class PyramidBuild:
    """A build that is running; made by `Image.build_pyramid`.

    An iterator of BuildProgress that ends when the levels are exact and stored. The
    server works only while someone listens: iterate to the end, or call `wait`.
    Iterating raises the errors of the call, NotFound and Cancelled among them. One
    thread at a time; cancel() may come from any.
    """

    def __init__(self, call: Any, server: str) -> None:
        self._call = call
        self._progress = messages(call, _progress, server)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> BuildProgress:
        return next(self._progress)

    def wait(self) -> BuildProgress | None:
        """Returns when the build is done: the last progress, None where nothing was stale."""
        last = None
        for progress in self:
            last = progress
        return last

    def cancel(self) -> None:
        """Stops the work at the next shard; what is done stays done. Never raises."""
        self._call.cancel()


def _progress(message: service_pb2.BuildPyramidProgress) -> BuildProgress:
    return BuildProgress(
        level=message.level,
        chunks_done=message.chunks_done,
        chunks_total=message.chunks_total,
        bytes_done=message.bytes_done,
        bytes_total=message.bytes_total,
        elapsed_seconds=message.elapsed_seconds,
    )
