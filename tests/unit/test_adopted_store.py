"""Is a directory that others made written to by one process, and only while it is what it was?"""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
from ziggurat_engine.errors import Corrupt
from ziggurat_engine.spec import Adopted, AdoptedLevel
from ziggurat_engine.store.adopted import TMP, AdoptedStore, layout_of
from ziggurat_engine.vfs import OsFileSystem

AT = "lab/a.ome.zarr"
KEY = f"{AT}/s0/c/0/0"


def array(**changes: object) -> bytes:
    return json.dumps({"shape": [4, 4], "attributes": {}, **changes}).encode()


@pytest.fixture
def adopted(tmp_path: Path) -> Adopted:
    group = tmp_path / "a.zarr"
    (group / "s0").mkdir(parents=True)
    (group / "zarr.json").write_text("{}")
    (group / "s0/zarr.json").write_bytes(array())
    box = {"shape": (4, 4), "chunk_shape": (4, 4), "shard_shape": (4, 4), "factors": (1, 1)}
    said = {"key_prefix": "c", "key_separator": "/", "scale": (1, 1), "translation": (0, 0)}
    level = AdoptedLevel(path="s0", layout=layout_of(array()), **box, **said)
    return Adopted(
        path=str(group),
        document="zarr.json",
        writable=True,
        codec_known=True,
        method_known=True,
        levels=(level,),
    )


def open_store(adopted: Adopted) -> AdoptedStore:
    return AdoptedStore(OsFileSystem(), AT, adopted)


def test_objects_lie_below_the_group(adopted: Adopted) -> None:
    store, group = open_store(adopted), Path(adopted.path)
    assert store.get(KEY) is None
    store.delete(KEY)
    assert store.put(KEY, [b"pix", b"els"]) == 6
    assert (group / "s0/c/0/0").read_bytes() == b"pixels"
    assert store.get(KEY) == b"pixels"
    assert [(entry.key, entry.size) for entry in store.walk(f"{AT}/s0/c")] == [(KEY, 6)]
    with pytest.raises(ValueError, match="not below"):
        store.put("lab/b.ome.zarr/s0/c/0/0", [b""])
    assert (group / TMP).is_dir()
    store.close()
    assert not (group / TMP).exists()


def test_what_a_crash_left_is_swept_by_the_first_write(adopted: Adopted) -> None:
    left = Path(adopted.path) / TMP / "left"
    left.parent.mkdir()
    left.write_bytes(b"half")
    store = open_store(adopted)
    assert store.get(KEY) is None
    assert left.exists(), "reading changes nothing"
    store.put(KEY, [b"pixels"])
    assert not left.exists()


def test_one_process_writes(adopted: Adopted) -> None:
    first, second = open_store(adopted), open_store(adopted)
    first.put(KEY, [b"1"])
    with pytest.raises(BlockingIOError, match="another server"):
        second.put(KEY, [b"2"])
    assert second.get(KEY) == b"1"
    first.close()
    second.put(KEY, [b"2"])
    assert first.get(KEY) == b"2"


def test_nothing_is_made_where_the_group_is_not(adopted: Adopted) -> None:
    store, group = open_store(adopted), Path(adopted.path)
    store.put(KEY, [b"pixels"])
    group.rename(group.with_name("away"))
    group.mkdir()
    for call in (lambda: store.get(KEY), lambda: store.open(KEY), lambda: store.put(KEY, [b"1"])):
        with pytest.raises(OSError, match="the adopted image is not there") as error:
            call()
        assert error.value.errno == errno.ENOENT
        assert error.value.filename == adopted.path
    assert not list(group.iterdir())
    group.rmdir()
    group.with_name("away").rename(group)
    assert store.get(KEY) == b"pixels"


def test_another_layout_is_neither_read_nor_written(adopted: Adopted) -> None:
    document = Path(adopted.path) / "s0/zarr.json"
    document.write_bytes(array(attributes={"said": "of pixels"}, dimension_names=["y", "x"]))
    assert open_store(adopted).get(KEY) is None
    document.write_bytes(array(shape=[4, 5]))
    for call in (
        lambda: open_store(adopted).get(KEY),
        lambda: open_store(adopted).put(KEY, [b"1"]),
    ):
        with pytest.raises(Corrupt, match="adopt it again"):
            call()
    assert sorted(p.name for p in Path(adopted.path).iterdir()) == ["s0", "zarr.json"]


def test_nothing_is_written_behind_a_link_within(adopted: Adopted) -> None:
    store, raw = open_store(adopted), Path(adopted.path) / "raw"
    (raw / "0").mkdir(parents=True)
    (raw / "0/0").write_bytes(b"raw")
    (Path(adopted.path) / "s0/c").symlink_to(raw)
    assert store.get(KEY) == b"raw"
    for call in (lambda: store.put(KEY, [b"1"]), lambda: store.delete(KEY)):
        with pytest.raises(OSError, match="a link leads to") as error:
            call()
        assert error.value.errno == errno.EXDEV
    assert [p.read_bytes() for p in raw.rglob("*") if p.is_file()] == [b"raw"]


def test_nothing_is_read_behind_a_link_that_leads_out(adopted: Adopted, tmp_path: Path) -> None:
    (tmp_path / "raw/0").mkdir(parents=True)
    (tmp_path / "raw/0/0").write_bytes(b"raw")
    (Path(adopted.path) / "s0/c").symlink_to(tmp_path / "raw")
    store = open_store(adopted)
    for call in (store.get, store.open, store.delete, lambda key: store.put(key, [b"1"])):
        with pytest.raises(OSError, match="a link leads") as error:
            call(KEY)
        assert error.value.errno in (errno.ELOOP, errno.EXDEV)
    assert (tmp_path / "raw/0/0").read_bytes() == b"raw"


def test_what_took_its_place_is_neither_read_nor_written(adopted: Adopted) -> None:
    store, group = open_store(adopted), Path(adopted.path)
    store.put(KEY, [b"pixels"])
    away = group.with_name("away")
    group.rename(away)
    shutil.copytree(away, group)
    calls = (lambda: store.get(KEY), lambda: store.open(KEY), lambda: store.put(KEY, [b"1"]))
    for call in calls:
        with pytest.raises(OSError, match="was replaced while the server runs") as error:
            call()
        assert error.value.errno == errno.ESTALE
    (group / "s0/zarr.json").write_bytes(array(shape=[4, 5]))
    for call in calls:
        with pytest.raises(Corrupt, match="adopt it again"):
            call()
    assert (group / "s0/c/0/0").read_bytes() == b"pixels"
    shutil.rmtree(group)
    away.rename(group)
    store.put(KEY, [b"1"])
    assert store.get(KEY) == b"1"


def test_a_level_that_is_gone_holds_no_fill_values(adopted: Adopted) -> None:
    store, level = open_store(adopted), Path(adopted.path) / "s0"
    assert store.get(KEY) is None
    level.rename(level.with_name("away"))
    level.mkdir()
    for call in (lambda: store.get(KEY), lambda: store.open(KEY), lambda: store.put(KEY, [b"1"])):
        with pytest.raises(OSError, match="level 0 of the adopted image is not there") as error:
            call()
        assert error.value.filename == str(level)
    assert not list(level.iterdir())
