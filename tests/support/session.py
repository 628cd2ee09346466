"""What should an image hold after any mix of writes from several streams?

A Session sends to a real server what it also does to a NumPy array, and compares. The
order of overlapping writes of different streams is made definite: before a stream
writes over what another one has sent, the other's writes are waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import ziggurat
from ziggurat_engine.region import Region

from tests.support.images import assert_exact, factors_of
from tests.support.pixels import difference, reference_cascade, same_bytes
from tests.support.waiting import SECONDS, until


class Sent(NamedTuple):
    """One write of a stream; the n-th has the sequence number n."""

    region: Region
    pixels: np.ndarray


class Session:
    """An image on a server, its model, and the streams that write to it."""

    def __init__(self, client: ziggurat.Client, name: str, streams: int = 2, **spec) -> None:
        self.client = client
        self.image = client.create(name, **spec)
        self.model = np.full(self.image.shape, self.image.fill_value, self.image.dtype)
        self.sent: list[list[Sent]] = [[] for _ in range(streams)]
        self.writers: list[ziggurat.Writer | None] = [None] * streams
        self.opened_at = [0] * streams

    def write(self, stream: int, offset: Sequence[int], pixels: np.ndarray) -> None:
        """One region, one message."""
        region = Region(tuple(offset), pixels.shape)
        for other, log in enumerate(self.sent):
            reached = self._received(other)
            if other != stream and any(
                late.region.intersect(region).size for late in log[reached:]
            ):
                self.wait_received(other)
        self.sent[stream].append(Sent(region, pixels))
        self.model[region.slices()] = pixels
        self._writer(stream).write_region(pixels, offset)

    def wait_received(self, *streams: int) -> None:
        """Until reads see all that these streams (or all) have sent."""
        for stream in streams or range(len(self.sent)):
            wanted = len(self.sent[stream])
            until(lambda: self._received(stream) >= wanted, f"{wanted} to be received")  # noqa: B023

    def read(self, level: int, box: Region) -> bool:
        """Compares a box of a level, unless the reply says that it is stale; says whether."""
        self.wait_received()
        found = self.image.fetch(offset=box.offset, shape=box.shape, level=level)
        assert not (found.stale and level == 0)
        if found.stale:
            return False
        levels = reference_cascade(
            self.model, factors_of(self.image)[:level], self.image.downsampling
        )
        wanted = levels[level][box.slices()]
        assert same_bytes(found.array, wanted), (
            f"level {level} {box}: {difference(found.array, wanted)}"
        )
        return True

    def flush(self, stream: int) -> None:
        """All that was sent since the stream was opened is durable then."""
        writer = self._writer(stream)
        writer.flush(SECONDS)
        if writer.sequence > self.opened_at[stream]:
            assert writer.durable == writer.sequence

    def close(self, stream: int) -> None:
        """Every level is exact then, of all that any stream was acknowledged."""
        summary = self._writer(stream).close(SECONDS)
        self.writers[stream] = None
        assert summary.durable == len(self.sent[stream])
        self.wait_received()

    def abandon(self, stream: int) -> None:
        """The client goes in mid-stream, comes back, and sends what is still wanted."""
        self._writer(stream).cancel()
        self.writers[stream] = None
        self.resume(stream)

    def resume(self, stream: int) -> None:
        """Opens a stream and sends again what the server has not."""
        log = self.sent[stream]
        writer = self._writer(stream)
        assert writer.sequence <= len(log)
        for missing in log[writer.sequence :]:
            writer.write_region(missing.pixels, missing.region.offset)

    def reconnect(self, client: ziggurat.Client) -> None:
        """The server was restarted: its streams stand where they stood."""
        for writer in self.writers:
            if writer is not None:
                writer.cancel()
        self.client, self.image = client, client.open(self.image.name)
        self.writers = [None for _ in self.writers]
        for stream, log in enumerate(self.sent):
            assert self._writer(stream).sequence == len(log)

    def finish(self) -> None:
        """Closes what is open; every level must be exact."""
        for stream in range(len(self.writers)):
            self.close(stream)
        assert_exact(self.image, self.model)

    def discard(self) -> None:
        """Ends the streams and deletes the image, whatever state it is in."""
        for writer in self.writers:
            if writer is not None:
                writer.cancel()

        def deleted() -> bool:
            try:
                self.client.delete(self.image.name)
            except ziggurat.FailedPrecondition:
                return False
            return True

        until(deleted, f"{self.image.name} to be free")

    def _received(self, stream: int) -> int:
        writer = self.writers[stream]
        return len(self.sent[stream]) if writer is None else writer.received

    def _writer(self, stream: int) -> ziggurat.Writer:
        found = self.writers[stream]
        if found is None:
            opened = until(lambda: self._open(stream), f"stream {stream} to be free")
            found = self.writers[stream] = opened
            self.opened_at[stream] = found.sequence
        return found

    def _open(self, stream: int) -> ziggurat.Writer | None:
        try:
            return self.image.writer(f"stream-{stream}")
        except ziggurat.StreamHeld:
            return None
