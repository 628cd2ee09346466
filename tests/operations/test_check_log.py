"""Does `check` tell a torn tail of the log from damage, and see what a start would refuse?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ziggurat
from ziggurat_engine.log import record, segment
from ziggurat_engine.upkeep.journal import live
from ziggurat_engine.vfs import OsFileSystem

from tests.operations.directory import defects, flip, found
from tests.support.server import ServerProcess

# All stays in the log, in several segments.
SETTINGS = {
    "max_message_bytes": "1200KiB",
    "log_segment_bytes": "2MiB",
    "max_log_bytes": "64MiB",
    "settle_idle_seconds": 3600,
    "settle_busy_seconds": 3600,
}
SHAPE = (40, 256, 256)


@pytest.fixture(scope="module")
def killed(serve_module: Callable[..., ServerProcess]) -> Path:
    """What a server left that was killed. Not to be changed."""
    server = serve_module(**SETTINGS)
    with ziggurat.connect(server.address) as client:
        image = client.create("a", axes="zyx", shape=SHAPE, dtype="uint16")
        writer = image.writer("camera", retry_seconds=0.1)
        for z in range(SHAPE[0]):
            writer.write(np.full(SHAPE[1:], z + 1, "uint16"), z=z)
        writer.flush()
        server.kill()
        with pytest.raises(ziggurat.ZigguratError):
            writer.close()
    return server.data


@pytest.fixture
def data(killed: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "data"
    shutil.copytree(killed, copy)
    return copy


def records(data: Path) -> list[tuple[Path, int, int]]:
    """(file, offset, bytes) of every record, as they follow each other."""
    places = []
    for each in live(OsFileSystem(), data / "log"):
        content, offset = each.path.read_bytes(), segment.FIRST
        while header := record.unpack_header(content[offset : offset + record.HEADER_BYTES]):
            places.append((each.path, offset, header.length))
            offset += header.length
    return places


def kinds(data: Path) -> list[str]:
    return [each.kind for each in found(data) if each.kind not in ("leftover", "stale")]


def test_a_log_that_is_whole(data):
    assert len(live(OsFileSystem(), data / "log")) > 2
    assert kinds(data) == []


def test_damage_before_what_was_durable(data):
    path, offset, nbytes = records(data)[4]
    flip(path, offset + nbytes // 2)
    (said,) = defects(data)
    assert said.kind == "log"
    assert said.path == str(path)


def test_a_torn_tail(data):
    path, offset, nbytes = records(data)[-1]
    with path.open("r+b") as file:
        # As if the last record had been half written.
        file.seek(offset + nbytes // 2)
        file.write(bytes(nbytes))
    said = [each for each in found(data) if each.kind not in ("leftover", "stale")]
    assert [(each.kind, each.defect) for each in said] == [("torn", False)]


def test_both_headers_of_a_segment(data):
    path = live(OsFileSystem(), data / "log")[0].path
    flip(path, 5)
    flip(path, segment.SECTOR + 5)
    assert [each.kind for each in defects(data)] == ["log"]


def test_a_segment_of_a_newer_version(data):
    path = live(OsFileSystem(), data / "log")[0].path
    content = bytearray(path.read_bytes())
    for start in (0, segment.SECTOR):
        content[start + 8] = 99
        head = bytes(content[start : start + 60])
        content[start + 60 : start + 64] = record.crc32c(head).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    (said,) = defects(data)
    assert said.kind == "version"


def test_a_log_that_is_not_there(data):
    shutil.rmtree(data / "log")
    assert "log-missing" in [each.kind for each in defects(data)]


def test_another_log(data):
    (data / "log" / "identity").write_text("0" * 32)
    assert [each.kind for each in defects(data)] == ["log-missing"]


def test_frames_of_an_image_that_is_gone(data):
    shutil.rmtree(data / "images" / "a.ome.zarr")
    (said,) = defects(data)
    assert said.kind == "log-missing"
    assert "image" in said.what
