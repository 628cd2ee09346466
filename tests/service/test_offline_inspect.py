"""Does `ziggurat-engine inspect` say what is on disk, of every layout, without a pixel?"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from ziggurat_engine.cli import main
from ziggurat_engine.offline.build import Wish, build
from ziggurat_engine.offline.inspect import inspect, read_per_voxel

from tests.support.pixels import marked


def said(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, ["inspect", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(params=["v2", "v3", "sharded"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind = request.param
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2 if kind == "v2" else 3)
    array = group.create_array(
        "0",
        shape=(20, 64, 64),
        chunks=(8, 16, 16),
        shards=(16, 32, 32) if kind == "sharded" else None,
        dtype="uint16",
    )
    array[:8, :32, :32] = marked((8, 32, 32), "uint16")
    build(tmp_path / "a.zarr", Wish(levels=3, axes="zyx"))
    return tmp_path / "a.zarr"


def test_what_is_there(image: Path) -> None:
    found = json.loads(said(image, "--json"))
    assert found["version"] == 1
    assert [level["shape"] for level in found["levels"]] == [
        [20, 64, 64],
        [10, 32, 32],
        [5, 16, 16],
    ]
    first = found["levels"][0]
    assert first["chunks"] == {"expected": 48, "present": 4, "absent": 44}
    sharded = first["shard"] is not None
    assert first["shards"] == ({"expected": 8, "present": 1, "absent": 7} if sharded else None)
    files = [p for p in (image / "0").rglob("*") if p.is_file()]
    assert first["files"] == len(files)
    objects = [p for p in files if p.name not in (".zarray", ".zattrs", "zarr.json")]
    assert first["stored_bytes"] == sum(p.stat().st_size for p in objects)
    sizes = first["chunk_bytes"]
    assert 0 < sizes["smallest"] <= sizes["median"] <= sizes["largest"]
    index = 16 * 8 + 4 if sharded else 0
    assert first["ratio"] == pytest.approx(4 * 4096 / (first["stored_bytes"] - index))
    assert found["levels"][1]["factors"] == [2, 2, 2]
    totals = found["totals"]
    stored = [level["stored_bytes"] for level in found["levels"]]
    assert totals["overhead"] == pytest.approx(sum(stored) / stored[0])
    assert totals["theoretical_overhead"] == pytest.approx(8 / 7)


def test_a_table(image: Path) -> None:
    text = said(image)
    for word in ("axes zyx", "4/48", "20x64x64", "in theory", "plane"):
        assert word in text


def test_a_picture(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = pytest.importorskip("PIL.Image")
    said(image, "--png", tmp_path / "levels.png")
    with pictures.open(tmp_path / "levels.png") as picture:
        assert picture.height > 256
        assert np.asarray(picture).std() > 10
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "ziggurat-engine[png]" in said(image, "--png", tmp_path / "no.png", code=1)


def test_no_pixel_is_read(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("ziggurat_engine.kernels.codec.decode", refuse)
    monkeypatch.setattr(zarr.Array, "__getitem__", refuse)
    assert inspect(image)["totals"]["files"] > 3


def test_a_broken_shard_and_a_missing_level(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    array = group.create_array("0", shape=(64, 64), chunks=(8, 8), shards=(32, 32), dtype="uint8")
    array[...] = marked((64, 64), "uint8")
    build(tmp_path / "a.zarr", Wish(levels=2))
    shard = tmp_path / "a.zarr/0/c/1/0"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    (tmp_path / "a.zarr/1").rename(tmp_path / "gone")
    text = said(tmp_path / "a.zarr")
    assert "broken: 0/c/1/0" in text
    assert "missing: level 1" in text


def test_several_images_are_listed(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    for name in ("0", "1"):
        group = root.create_group(name)
        group.create_array("0", shape=(32, 32), chunks=(8, 8), dtype="uint8")[...] = 5
        build(tmp_path / "a.zarr" / name)
    assert said(tmp_path / "a.zarr").split() == ["0", "1"]
    assert json.loads(said(tmp_path / "a.zarr", "--json")) == {"images": ["0", "1"]}
    assert "no such directory" in said(tmp_path / "none", code=1)


def test_a_bare_array(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=(32, 32), chunks=(8, 8), dtype="uint8")
    assert "0/16" in said(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("shape", "chunk", "box", "cost"),
    [
        ((64, 64, 64), (16, 16, 16), (1, 64, 64), 16),
        ((60, 64, 64), (16, 16, 16), (60, 1, 1), 16 * 16 * 64 / 60),
        ((1024,) * 3, (64,) * 3, (64,) * 3, (127 / 64) ** 3),
        ((10,), (16,), (10,), 1.6),
    ],
)
def test_reads_cost(shape, chunk, box, cost) -> None:
    assert read_per_voxel(shape, chunk, box) == pytest.approx(cost)
