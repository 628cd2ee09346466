"""Does `check` find each kind of damage, say where it is, and nothing else?"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from ziggurat_engine.errors import NotFound
from ziggurat_engine.kernels import codec
from ziggurat_engine.spec import Gzip
from ziggurat_engine.state import State
from ziggurat_engine.upkeep.findings import KINDS

from tests.operations.directory import (
    CHUNK,
    INDEX_BYTES,
    RUN,
    defects,
    edit,
    flip,
    found,
    group,
    shard_path,
)
from tests.support.command import run

BLOSC, GZIP, GAUSS = "lab/blosc", "lab/gzip", "lab/gauss"


def test_a_whole_directory(data):
    assert found(data) == []
    assert found(data, pixels=True) == []


def replaced(path: Path, pixels: np.ndarray) -> None:
    path.write_bytes(codec.encode(pixels, Gzip()))


def wrong_coarse(data: Path) -> None:
    """One pixel of a chunk that decodes."""
    path = shard_path(data, GZIP, 1, 0, 1, 0)
    pixels = codec.decode(path.read_bytes(), Gzip(), np.dtype("uint16"), CHUNK).copy()
    pixels[1, 2, 3] ^= 1
    replaced(path, pixels)


def payload(data: Path) -> None:
    """In the header of the first frame: it does not decode to its size."""
    flip(shard_path(data, BLOSC, 0, 0, 0, 0), 5)


def truncated(data: Path) -> None:
    path = shard_path(data, GAUSS, 0, 0, 1, 0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_array(data: Path) -> None:
    (group(data, BLOSC) / "1" / "zarr.json").unlink()


def other_chunks(data: Path) -> None:
    def change(document):
        document["chunk_grid"]["configuration"]["chunk_shape"][2] *= 2

    edit(group(data, GZIP) / "0" / "zarr.json", change)


def other_codec(data: Path) -> None:
    edit(group(data, GZIP) / "2" / "zarr.json", lambda d: d["codecs"].pop())


def no_ome(data: Path) -> None:
    edit(group(data, GZIP) / "zarr.json", lambda d: d["attributes"].pop("ome"))


def bad_axes(data: Path) -> None:
    def change(document):
        document["attributes"]["ome"]["multiscales"][0]["axes"] = []

    edit(group(data, BLOSC) / "labels" / "cells" / "zarr.json", change)


def other_levels(data: Path) -> None:
    def change(document):
        document["attributes"]["ome"]["multiscales"][0]["datasets"].pop()

    edit(group(data, GZIP) / "zarr.json", change)


def no_description(data: Path) -> None:
    edit(group(data, GZIP) / "zarr.json", lambda d: d["attributes"].pop("ziggurat"))


def newer_image(data: Path) -> None:
    def change(document):
        document["attributes"]["ziggurat"]["version"] = 99

    edit(group(data, GZIP) / "zarr.json", change)


def newer_frames(data: Path) -> None:
    def change(document):
        document["attributes"]["ziggurat"]["version"] = 99

    edit(group(data, RUN) / "frames" / "zarr.json", change)


def short_frames(data: Path) -> None:
    path = group(data, RUN) / "frames" / "timestamp_ns" / "c" / "0"
    path.write_bytes(path.read_bytes()[:-1])


def no_state(data: Path) -> None:
    (data / "state.sqlite").unlink()


def bad_state(data: Path) -> None:
    flip(data / "state.sqlite", 4096 + 3, 200)


def newer_state(data: Path) -> None:
    with sqlite3.connect(data / "state.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def newer_directory(data: Path) -> None:
    (data / "format.json").write_text('{"format": "ziggurat", "version": 99}')


def unlisted(data: Path) -> None:
    def change(document):
        document["attributes"]["ome"]["labels"] = ["others"]

    edit(group(data, BLOSC) / "labels" / "zarr.json", change)


# damage: (pixels needed, the findings it makes: kind, end of the path, image, level, chunk)
DAMAGE: dict[Callable[[Path], None], tuple[bool, set[tuple[object, ...]]]] = {
    payload: (False, {("chunk", "0/c/0/0/0", BLOSC, 0, (0, 0, 0))}),
    truncated: (False, {("shard", "0/c/0/1/0", GAUSS, 0, None)}),
    no_array: (False, {("metadata", "1/zarr.json", BLOSC, 1, None)}),
    other_chunks: (False, {("metadata", "0/zarr.json", GZIP, 0, None)}),
    other_codec: (False, {("metadata", "2/zarr.json", GZIP, 2, None)}),
    no_ome: (False, {("metadata", "gzip.ome.zarr/zarr.json", GZIP, None, None)}),
    bad_axes: (
        False,
        {("metadata", "cells/zarr.json", "lab/blosc/labels/cells", None, None)},
    ),
    other_levels: (False, {("metadata", "gzip.ome.zarr/zarr.json", GZIP, None, None)}),
    no_description: (False, {("image", "gzip.ome.zarr/zarr.json", GZIP, None, None)}),
    newer_image: (False, {("version", "gzip.ome.zarr/zarr.json", GZIP, None, None)}),
    newer_frames: (False, {("version", "frames", RUN, None, None)}),
    short_frames: (False, {("frames", "frames", RUN, None, None)}),
    no_state: (False, {("state", "state.sqlite", "", None, None)}),
    bad_state: (False, {("state", "state.sqlite", "", None, None)}),
    newer_state: (False, {("version", "state.sqlite", "", None, None)}),
    newer_directory: (False, {("version", "format.json", "", None, None)}),
    unlisted: (False, {("metadata", "labels/zarr.json", BLOSC, None, None)}),
    wrong_coarse: (True, {("level", "1/c/0/1/0", GZIP, 1, (0, 1, 0))}),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage(data, damage):
    pixels, wanted = DAMAGE[damage]
    damage(data)
    said = {(f.kind, f.image, f.level, f.chunk): f for f in defects(data, pixels=pixels)}
    assert said.keys() == {(kind, *rest) for kind, _, *rest in wanted}
    for kind, end, *rest in wanted:
        assert said[(kind, *rest)].path.endswith(end)


@pytest.mark.parametrize("offset", [-1, -INDEX_BYTES])
def test_a_flipped_byte_in_an_index(data, offset):
    flip(shard_path(data, BLOSC, 1, 0, 0, 0), offset)
    assert [(f.kind, f.level) for f in defects(data)] == [("shard", 1)]


def test_every_byte_of_a_checksummed_chunk_counts(data):
    """gzip has a checksum; Blosc and zstd have none, and need `--pixels`."""
    path = shard_path(data, GZIP, 0, 0, 0, 0)
    for offset in range(10, path.stat().st_size, path.stat().st_size // 7):
        flip(path, offset)
        assert [f.kind for f in defects(data)] == ["chunk"], offset
        flip(path, offset)


def test_pixels_that_decode_to_something_else(data):
    path = shard_path(data, GZIP, 0, 1, 2, 3)
    pixels = codec.decode(path.read_bytes(), Gzip(), np.dtype("uint16"), CHUNK).copy()
    pixels[0, 0, 0] ^= 0x8000
    replaced(path, pixels)
    assert defects(data) == []
    assert [(f.kind, f.level, f.chunk) for f in defects(data, pixels=True)] == [
        ("level", 1, (1, 1, 1))
    ]


@pytest.mark.parametrize("name", [GZIP, GAUSS])
def test_a_shard_that_is_gone(data, name):
    """Known without pixels only where all that one chunk above is made of is gone."""
    shard_path(data, name, 0, 0, 0, 0).unlink()
    kinds = {(f.kind, f.level) for f in defects(data, pixels=True)}
    assert ("missing", 0) in kinds
    shutil.rmtree(group(data, name) / "0" / "c")
    assert {(f.kind, f.level) for f in defects(data)} == {("missing", 0)}


def test_a_coarse_shard_that_is_gone(data):
    shard_path(data, GAUSS, 1, 0, 0, 0).unlink()
    said = {(f.kind, f.level) for f in defects(data, pixels=True)}
    assert ("level", 1) in said


def test_what_is_noted_as_stale_is_no_defect(data):
    wrong_coarse(data)
    uid = json.loads((group(data, GZIP) / "zarr.json").read_bytes())
    uid = uid["attributes"]["ziggurat"]["image"]["uid"]
    state = State.open(data / "state.sqlite")
    for chunk in [(0, 2, 0), (0, 2, 1), (0, 3, 0), (0, 3, 1)]:
        state.mark_stale(uid, 0, chunk, [chunk])
    state.close()
    said = found(data, pixels=True)
    assert [(f.kind, f.defect) for f in said] == [("stale", False)]


def test_what_nobody_needs_is_named(data):
    (data / "tmp" / "0123").write_bytes(b"half")
    (data / "notes.txt").write_text("ours")
    stray = shard_path(data, GZIP, 0, 0, 0) / "x"
    stray.write_bytes(b"")
    (data / "log" / "old").write_bytes(b"")
    said = found(data)
    assert {f.kind for f in said} == {"leftover"}
    paths = {data / "tmp" / "0123", data / "notes.txt", stray, data / "log" / "old"}
    assert {Path(f.path) for f in said} == paths


def test_the_command(data):
    done = run("ziggurat-engine", "check", data)
    assert done.stdout == ""
    payload(data)
    (data / "tmp" / "x").write_bytes(b"")
    done = run("ziggurat-engine", "check", data, "--json", "--threads", 1, code=1)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["kind"] for each in said] == ["chunk", "leftover"]
    assert said[0]["image"] == BLOSC
    assert said[0]["chunk"] == [0, 0, 0]
    assert "repair" in said[0]["remedy"]
    done = run("ziggurat-engine", "check", data, "--quiet", code=1)
    assert "chunk (0, 0, 0)" in done.stdout
    assert done.stderr == ""
    assert "leftover" not in done.stdout


def test_what_cannot_be_checked(tmp_path):
    done = run("ziggurat-engine", "check", tmp_path / "none", code=2)
    assert "none" in done.stderr
    with pytest.raises(NotFound):
        found(tmp_path)


def test_an_image_without_a_data_directory(data):
    image = group(data, GZIP)
    assert found(image) == []
    flip(shard_path(data, GZIP, 1, 0, 0, 0), -1)
    assert [(f.kind, f.level, f.chunk) for f in found(image)] == [("chunk", 1, (0, 0, 0))]
    flip(shard_path(data, GAUSS, 0, 0, 0, 0), -1)
    assert [(f.kind, f.level) for f in found(group(data, GAUSS))] == [("shard", 0)]
    no_array(data)
    assert [f.kind for f in found(group(data, BLOSC))] == ["metadata"]


def test_an_image_of_zarr_2(tmp_path):
    array = zarr.create_array(
        tmp_path / "v2.zarr" / "0", shape=(40, 40), chunks=(16, 16), dtype="u2", zarr_format=2
    )
    array[:] = 7
    assert found(tmp_path / "v2.zarr") == []
    flip(tmp_path / "v2.zarr" / "0" / "1.1", 0, 3)
    assert [f.kind for f in found(tmp_path / "v2.zarr")] == ["chunk"]


def test_every_kind_says_what_to_do():
    for kind, meaning in KINDS.items():
        assert kind.islower()
        assert meaning.meaning
        assert meaning.remedy
