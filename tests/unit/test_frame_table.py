"""Is a row in the table once it was appended, and is nothing there that was not?"""

from __future__ import annotations

from pathlib import Path

import pytest
import zarr
from ziggurat_engine.errors import Corrupt, UnsupportedVersion
from ziggurat_engine.layout import pyramid_of, resolve
from ziggurat_engine.spec import Axis, Image, ImageSpec
from ziggurat_engine.store.frames import ROWS, FrameTable, Row
from ziggurat_engine.store.gate import Gate
from ziggurat_engine.store.objects import LocalStore
from ziggurat_engine.vfs import OsFileSystem


class Failing(LocalStore):
    """Fails with the n-th put."""

    left = -1

    def put(self, key, parts):
        self.left -= 1
        if self.left == 0:
            raise OSError(28, "full", key)
        return super().put(key, parts)


@pytest.fixture
def store(tmp_path: Path) -> Failing:
    made = Failing(OsFileSystem(), tmp_path / "images", tmp_path / "tmp")
    made.sweep()
    return made


def image() -> Image:
    axes = [Axis(name="t", size=0, unbounded=True), Axis(name="y", size=4), Axis(name="x", size=4)]
    return resolve(ImageSpec(name="a", axes=tuple(axes), data_type="uint8"))


def opened(store: Failing) -> FrameTable:
    return FrameTable(store, "a.ome.zarr", Gate("a"), image())


def rows(stream: str, first: int, count: int) -> list[Row]:
    return [Row(stream, n, (n, 0, 0), (1, 4, 4), -n, "é" * n) for n in range(first, first + count)]


def test_blocks_are_filled_and_gone_on_with(store: Failing) -> None:
    table, wanted = opened(store), []
    assert list(table.read()) == []
    for first, count in ((1, 3), (4, ROWS), (ROWS + 4, 1), (ROWS + 5, 2 * ROWS)):
        for stream in ("p", "q"):
            more = [row._replace(metadata="") for row in rows(stream, first, count)]
            table.append(more)
            wanted += more
        table = opened(store)
        assert list(table.read()) == wanted
        assert (table.last("p"), table.last("q")) == (first + count - 1,) * 2
    assert table.last("r") == 0


@pytest.mark.parametrize("k", range(1, 14))
def test_what_failed_half_way_never_happened(store: Failing, tmp_path: Path, k: int) -> None:
    table = opened(store)
    table.append(rows("p", 1, 5))
    store.left = k
    with pytest.raises(OSError, match="full"):
        table.append(rows("p", 6, 3))
    for found in (table, opened(store)):
        assert list(found.read()) == rows("p", 1, 5)
        assert found.last("p") == 5
    group = zarr.open_group(tmp_path / "images/a.ome.zarr/frames", mode="r")
    assert {len(array[...]) for _, array in group.arrays()} <= {5, 8}
    other = rows("q", 1, 2)
    opened(store).append(other)
    assert list(opened(store).read()) == [*rows("p", 1, 5), *other]
    assert {len(array[...]) for _, array in group.arrays()} <= {5, 7, 8}
    group = zarr.open_group(tmp_path / "images/a.ome.zarr/frames", mode="r")
    assert {len(array[...]) for _, array in group.arrays()} == {7}


def test_damage_is_said(store: Failing, tmp_path: Path) -> None:
    opened(store).append(rows("p", 1, 5))
    path = tmp_path / "images/a.ome.zarr/frames"
    (path / "sequence/c/0").write_bytes(b"short")
    with pytest.raises(Corrupt, match="sequence/c/0"):
        list(opened(store).read())
    document = path / "zarr.json"
    document.write_text(document.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(UnsupportedVersion):
        opened(store).last("p")
    document.write_text("{}")
    with pytest.raises(Corrupt):
        opened(store).last("p")


def test_an_unbounded_image_has_room_for_planes_without_end() -> None:
    made = image()
    assert made.limits == (2**40, 4, 4)
    assert pyramid_of(made).levels[0].shape == (2**40, 4, 4)
    assert made.layout.shard_chunks == (1024, 1, 1)
