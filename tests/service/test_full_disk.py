"""Does a stream outlive a disk that is really full, and complete once there is room?

A file system of fixed size in memory is filled by a ballast file, which is removed again.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ziggurat

from tests.support.images import assert_exact, assert_stored
from tests.support.pixels import marked
from tests.support.server import ServerProcess
from tests.support.waiting import SECONDS, until

MIB = 2**20
SHAPE = (24, 256, 256)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of 64 MiB."""
    if os.geteuid():
        pytest.skip("only root can mount a file system")
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "ziggurat-test", str(path)]
    mounted = subprocess.run(command, check=False, capture_output=True, timeout=SECONDS)
    if mounted.returncode:
        pytest.skip(f"can't mount here: {mounted.stderr.decode().strip()}")
    yield path
    # Lazily: a server that a failed test left behind may still have files open.
    subprocess.run(["umount", "-l", str(path)], check=True, timeout=SECONDS)


@pytest.mark.parametrize("place", ["data", "log"])
def test_a_stream_completes_once_there_is_room(
    serve: Callable[..., ServerProcess], name: str, tmp_path: Path, small_disk: Path, place: str
) -> None:
    full = small_disk / place
    data = full if place == "data" else tmp_path / "data"
    log = full if place == "log" else tmp_path / "log"
    server = serve(
        data, log=log, log_segment_bytes="4MiB", max_message_bytes="2MiB", cache_bytes="64MiB"
    )
    ballast = small_disk / "ballast"
    pixels = marked(SHAPE, "uint16")
    with ziggurat.connect(server.address) as client:
        image = client.create(
            name, axes="zyx", shape=SHAPE, dtype="uint16", chunk_shape=(4, 64, 64), codec="none"
        )
        writer = image.writer(stream_id="camera", retry_seconds=SECONDS, window_bytes=32 * MIB)
        for z in range(8):
            writer.write(pixels[z], z=z)
        writer.flush(SECONDS)
        fill(ballast)

        def refused() -> bool:
            # Taken for as long as the server has not looked again.
            writer.write(pixels[8], z=8)
            return writer.reconnects >= 1

        until(refused, "the server to refuse", 10)
        for z in range(8, SHAPE[0]):
            # The window holds all of it: nothing waits here.
            writer.write(pixels[z], z=z)
        durable = writer.durable
        with pytest.raises(ziggurat.DeadlineExceeded):
            writer.flush(1)
        assert durable >= 8
        assert (image[:8] == pixels[:8]).all()
        ballast.unlink()
        summary = writer.close(SECONDS)
        assert summary.durable == writer.sequence == summary.regions
        writer.cancel()
        assert_exact(image, pixels)
        assert_stored(server, image, pixels)
    server.stop()


def fill(path: Path) -> None:
    """Takes all that is left of a file system."""
    with path.open("wb", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
