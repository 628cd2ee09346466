"""Does a server refuse what a newer one wrote, change nothing, and say what to do?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import ziggurat
from ziggurat_engine.errors import NEWER
from ziggurat_engine.log import record, segment
from ziggurat_engine.store.format import document
from ziggurat_engine.upkeep.findings import KINDS

from tests.operations.directory import IMAGES, defects, edit, group, level0
from tests.operations.test_check import newer_directory, newer_frames, newer_image, newer_state
from tests.support.images import assert_exact
from tests.support.server import ServerProcess


def newer_segment(data: Path) -> None:
    """A segment of the log, by a header of another version."""
    head = bytearray(segment.pack_header(segment.Header(segment.State.LIVE, 9, 1, 4096)))
    head[8] = 99
    head[60:64] = record.crc32c(bytes(head[:60])).to_bytes(4, "little")
    content = bytes(head).ljust(segment.SECTOR, b"\0") * 2
    (data / "log" / segment.name_of(9)).write_bytes(content.ljust(4096, b"\0"))


def content(data: Path) -> dict[str, bytes]:
    names = ("format.json", "images", "log/000000000009.log")
    paths = [path for name in names for path in (data / name, *(data / name).rglob("*"))]
    return {str(path): path.read_bytes() for path in paths if path.is_file()}


@pytest.mark.parametrize(
    "newer",
    [newer_directory, newer_state, newer_segment],
    ids=lambda newer: newer.__name__,
)
def test_what_holds_for_all_images_is_refused(data, tmp_path, newer):
    newer(data)
    before = content(data)
    with pytest.raises(AssertionError) as refused:
        ServerProcess(data, tmp_path / "stderr")
    assert NEWER in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert content(data) == before
    assert [each.kind for each in defects(data)] == ["version"]


@pytest.mark.parametrize("newer", [newer_image, newer_frames], ids=lambda newer: newer.__name__)
def test_of_images_only_those_are_left_alone(data, serve: Callable[..., ServerProcess], newer):
    newer(data)
    broken = "lab/gzip" if newer is newer_image else "lab/run"
    before = {p: p.read_bytes() for p in group(data, broken).rglob("*") if p.is_file()}
    server = serve(data)
    with ziggurat.connect(server.address) as client:
        for name in IMAGES.keys() - {broken}:
            assert_exact(client.open(name), level0(name))
        with pytest.raises(ziggurat.ZigguratError, match=NEWER):
            list(client.open(broken).frames().metadata)
    server.stop()
    assert {p: p.read_bytes() for p in group(data, broken).rglob("*") if p.is_file()} == before


def test_a_directory_without_a_format_is_of_the_first(data, serve: Callable[..., ServerProcess]):
    assert not (data / "format.json").exists()
    serve(data).stop()
    (data / "format.json").write_bytes(document())
    serve(data).stop()
    edit(data / "format.json", lambda said: said.pop("version"))
    assert [each.kind for each in defects(data)] == ["unfinished"]
    assert KINDS["version"].defect
