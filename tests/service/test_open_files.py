"""Does a server get along with few open files, and say so where it can't?"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import ziggurat

from tests.support.images import assert_stored
from tests.support.pixels import marked
from tests.support.server import ServerProcess
from tests.support.waiting import SECONDS

FEW = {"max_streams": 6, "max_calls": 6, "read_threads": 2, "settle_workers": 2}
FEW["max_connections"] = 12
LIMIT = 108
IMAGES, SHAPE = 12, (8, 64, 64)


def test_many_shards_of_many_images(serve: Callable[..., ServerProcess], name: str) -> None:
    """More shards than files may be open; streams and readers run beside each other."""
    server = serve(open_files=LIMIT, log_segment_bytes="64KiB", max_message_bytes="32KiB", **FEW)
    assert "max_open_shards is" in server.stderr
    pixels = marked(SHAPE, "uint16")
    failed: list[BaseException] = []
    most = 0

    def work(number: int) -> None:
        nonlocal most
        try:
            with ziggurat.connect(server.address) as client:
                for n in range(number, IMAGES, 4):
                    image = client.create(
                        f"{name}-{n}",
                        axes="zyx",
                        shape=SHAPE,
                        dtype="uint16",
                        chunk_shape=(2, 8, 8),
                        shard_chunks=(1, 2, 2),
                        codec="blosc-lz4",
                    )
                    with image.writer(strip_bytes=2**12) as writer:
                        for z in range(SHAPE[0]):
                            writer.write(pixels[z], z=z)
                    assert (image[...] == pixels).all()
                    # Of all images there are, so that shards are closed and opened again.
                    for other in client.list():
                        other.level(0)[:, ::16, ::16]
                    most = max(most, len(os.listdir(f"/proc/{server.process.pid}/fd")))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * SECONDS)
    assert not failed
    assert 0 < most <= LIMIT
    with ziggurat.connect(server.address) as client:
        for n in range(IMAGES):
            assert_stored(server, client.open(f"{name}-{n}"), pixels)
        assert client.status().settle.failures == 0
    assert "Too many open files" not in server.stderr
    server.stop()


def test_too_few_are_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"does not listen") as error:
        ServerProcess(tmp_path / "data", tmp_path / "stderr", open_files=64, **FEW)
    said = str(error.value)
    assert "may be open (RLIMIT_NOFILE)" in said
    assert "max_streams = 6" in said
    assert not (tmp_path / "data").exists()
