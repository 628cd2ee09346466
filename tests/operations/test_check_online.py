"""Does `check` see nothing wrong beside a server at work, and what is wrong all the same?"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import ziggurat

from tests.operations.directory import defects, flip, found
from tests.support.server import ServerProcess

SHAPE = (8, 96, 96)


def test_beside_a_server_that_writes(serve: Callable[..., ServerProcess]):
    server = serve(
        settle_idle_seconds=0.05,
        settle_busy_seconds=0.05,
        max_message_bytes="1200KiB",
        log_segment_bytes="2MiB",
    )
    stop = threading.Event()
    wrote = threading.Event()
    with ziggurat.connect(server.address) as client:
        quiet = client.create(
            "quiet", axes="zyx", shape=SHAPE, dtype="uint16", codec="gzip", shard_chunks=(1, 1, 1)
        )
        with quiet.writer() as writer:
            writer.write_region(np.ones(SHAPE, "uint16"), offset=(0, 0, 0))
        busy = client.create(
            "busy", axes="zyx", shape=SHAPE, dtype="uint16", chunk_shape=(4, 32, 32)
        )

        def work() -> None:
            dice = np.random.default_rng(1)
            count = 0
            with busy.writer() as writer:
                while not stop.is_set():
                    low = dice.integers(0, (4, 32, 32))
                    pixels = dice.integers(0, 9999, (4, 32, 32)).astype("uint16")
                    writer.write_region(pixels, offset=tuple(map(int, low)))
                    count += 1
                    if count == 20:
                        writer.flush()
                        wrote.set()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            assert wrote.wait(60)
            assert defects(server.data, pixels=True) == []
            assert defects(server.data) == []
            path = server.image_path("quiet") / "0" / "c" / "0" / "0" / "0"
            flip(path, -1)
            said = {(each.kind, each.image) for each in defects(server.data)}
            assert said == {("chunk", "quiet")}
        finally:
            stop.set()
            thread.join(60)
        assert not thread.is_alive()
    server.stop()
    assert {each.kind for each in found(server.data)} == {"chunk"}
