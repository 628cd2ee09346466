"""Does a stream that ends wait for those that write beside it, and for nobody else?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ziggurat_engine.region import Region
from ziggurat_engine.writes import streamtable
from ziggurat_engine.writes.streams import Stream

from tests.support.engines import one_chunk
from tests.support.waiting import SECONDS, until

SIDE = 8


class Two:
    """Two streams to an image of one chunk, of which each writes every other row."""

    def __init__(self, directory: Path) -> None:
        self.engine, self.image = one_chunk(directory, SIDE)
        self.one, self.other = (self.engine.streams.open(self.image, id_) for id_ in ("1", "2"))

    def write(self, stream: Stream, *rows: int) -> None:
        for row in rows:
            region = Region((row, 0), (1, SIDE))
            pixels = memoryview(bytes([row + 1]) * SIDE)
            self.engine.ingest.write(stream, stream.received + 1, region, pixels)

    def ending(self, stream: Stream, cancelled: Callable[[], bool] = lambda: False) -> Ending:
        return Ending(lambda: self.engine.streams.end(stream, cancelled), stream)

    @property
    def stored(self) -> int:
        return self.engine.status().settle.chunks_encoded


class Ending:
    """A call on a thread of its own, which is about to wait for other streams."""

    def __init__(self, call: Callable[[], None], stream: Stream) -> None:
        self._thread = threading.Thread(target=call, daemon=True)
        self._thread.start()
        until(lambda: stream.ending, "the stream to end")

    def over(self) -> None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    # Nobody stops being busy, and whoever waits does, before the test fails.
    monkeypatch.setattr(streamtable, "BUSY_SECONDS", 1000.0)
    monkeypatch.setattr(streamtable, "TOGETHER_SECONDS", 1000.0)
    made = Two(tmp_path)
    yield made
    for stream in (made.one, made.other):
        made.engine.streams.release(stream)
    made.engine.close()


def test_what_two_wrote_is_stored_once(two: Two) -> None:
    two.write(two.one, *range(0, SIDE, 2))
    two.write(two.other, 1)
    first = Ending(lambda: two.engine.ingest.finish(two.one), two.one)
    two.write(two.other, 3, 5)
    assert first.waits
    assert two.stored == 0
    two.write(two.other, 7)
    two.engine.ingest.finish(two.other)
    first.over()
    assert two.stored == 1
    assert two.one.durable == two.other.durable == SIDE // 2


def test_who_has_written_nothing_is_not_waited_for(two: Two) -> None:
    two.write(two.one, 0)
    two.engine.streams.end(two.one, lambda: False)


def test_who_is_released_is_not_waited_for(two: Two) -> None:
    two.write(two.other, 1)
    first = two.ending(two.one)
    assert first.waits
    two.engine.streams.release(two.other)
    first.over()


def test_who_does_not_end_is_waited_for_once(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    two.write(two.other, 1)
    monkeypatch.setattr(streamtable, "TOGETHER_SECONDS", 0.0)
    two.engine.streams.end(two.one, lambda: False)
    monkeypatch.setattr(streamtable, "TOGETHER_SECONDS", 1000.0)
    two.write(two.other, 3)
    two.engine.streams.end(two.one, lambda: False)
    # Until it is opened again.
    two.engine.streams.release(two.other)
    two.engine.streams.open(two.image, "2")
    two.write(two.other, 5)
    last = two.ending(two.one)
    assert last.waits
    two.engine.streams.release(two.other)
    last.over()


def test_nobody_waits_who_is_told_not_to(two: Two) -> None:
    two.write(two.other, 1)
    two.engine.streams.end(two.one, lambda: True)
    first = two.ending(two.one)
    assert first.waits
    two.engine.drain()
    first.over()
