"""When may a stream be told that its writes are durable?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ziggurat_engine import engine as engine_module
from ziggurat_engine.cache import DirtyDirectory
from ziggurat_engine.config import Settings
from ziggurat_engine.engine import Engine
from ziggurat_engine.region import Region
from ziggurat_engine.spec import Axis, ImageSpec, LayoutRequest


class Interrupted(DirtyDirectory):
    """Somebody writes just after `oldest_tick` has looked."""

    meanwhile: Callable[[], None] | None = None

    def oldest_tick(self, image: int, level: int) -> int | None:
        found = super().oldest_tick(image, level)
        action, Interrupted.meanwhile = Interrupted.meanwhile, None
        if action is not None:
            action()
        return found


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(engine_module, "DirtyDirectory", Interrupted)
    opened = Engine(Settings(data=tmp_path, settle_idle_seconds=1000, cache_bytes=2**24))
    opened.recover()
    yield opened
    opened.close()


def test_a_write_between_two_looks_is_not_durable(engine: Engine) -> None:
    axes = tuple(Axis(name=name, size=32) for name in ("y", "x"))
    layout = LayoutRequest(chunk_shape=(16, 16), shard_chunks=(1, 1))
    image = engine.create(ImageSpec(name="a", axes=axes, data_type="uint8", layout=layout))
    stream = engine.ingest.open(image, "s")
    # A pixel of a chunk: nothing but a flush stores it.
    pixel = memoryview(b"\x01")
    engine.ingest.write(stream, 1, Region((0, 0), (1, 1)), pixel)
    assert engine.ingest.refresh(stream) == (1, 0)
    engine.ingest.flush(stream)
    Interrupted.meanwhile = lambda: engine.ingest.write(stream, 2, Region((20, 20), (1, 1)), pixel)
    assert engine.ingest.refresh(stream) == (2, 1)
    engine.ingest.flush(stream)
    assert engine.ingest.refresh(stream) == (2, 2)
    engine.ingest.release(stream)
