"""Is what waits to be sent bounded for all readers together, however many take nothing?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ziggurat_engine.config import Settings
from ziggurat_engine.engine import Engine
from ziggurat_engine.images import OpenImage
from ziggurat_engine.reads.ahead import Ahead
from ziggurat_engine.reads.answers import Read
from ziggurat_engine.reads.query import Query
from ziggurat_engine.spec import Axis, ImageSpec, LayoutRequest

PART = 64
AHEAD = 5 * PART


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Query, Ahead, OpenImage]]:
    engine = Engine(
        Settings(data=tmp_path, read_part_bytes=PART, read_ahead_bytes=AHEAD, read_threads=4)
    )
    engine.recover()
    layout = LayoutRequest(chunk_shape=(8, 8), level_count=1)
    axes = tuple(Axis(name=name, size=64) for name in ("y", "x"))
    image = engine.create(ImageSpec(name="a", axes=axes, data_type="uint8", layout=layout))
    yield engine.query, engine._ahead, image
    engine.close()


@pytest.mark.parametrize("batched", [False, True])
def test_readers_that_take_nothing_share_what_is_ready(
    opened: tuple[Query, Ahead, OpenImage], batched: bool
) -> None:
    query, ahead, image = opened

    def begin() -> Iterator[object]:
        answer = query.plan(image, Read())
        if not batched:
            yield from query.parts(answer)
        else:
            for pieces in query.batch([answer] * 3):
                yield from pieces

    every = (3 if batched else 1) * 64 * 64 // PART
    stalled = [begin() for _ in range(6)]
    for reader in stalled:
        next(reader)
    assert 0 <= ahead.room.left < PART
    # Whoever comes now is answered all the same, a piece at a time.
    assert sum(1 for _ in begin()) == every
    for reader in stalled[1:]:
        reader.close()  # type: ignore[attr-defined]
    assert sum(1 for _ in stalled[0]) == every - 1
    assert ahead.room.left == AHEAD
