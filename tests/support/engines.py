"""How does a test get an engine, without a server, that settles nothing by itself?"""

from __future__ import annotations

from pathlib import Path

from ziggurat_engine.config import Settings
from ziggurat_engine.engine import Engine
from ziggurat_engine.images import OpenImage
from ziggurat_engine.spec import Axis, ImageSpec, LayoutRequest


def one_chunk(directory: Path, side: int) -> tuple[Engine, OpenImage]:
    """An engine over `directory`, with an image of one chunk of `side` x `side` uint8."""
    engine = Engine(Settings(data=directory, settle_idle_seconds=1000))
    engine.recover()
    axes = tuple(Axis(name=name, size=side) for name in ("y", "x"))
    layout = LayoutRequest(chunk_shape=(side, side), shard_chunks=(1, 1), level_count=1)
    return engine, engine.create(ImageSpec(name="a", axes=axes, data_type="uint8", layout=layout))
