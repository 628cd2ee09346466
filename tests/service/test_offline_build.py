"""Does `ziggurat-engine build` say what is wrong, survive a kill, and stay within its memory?"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from zarr.codecs import BloscCodec
from ziggurat_engine.cli import main
from ziggurat_engine.errors import Corrupt, FailedPrecondition, InvalidArgument
from ziggurat_engine.offline import run as running
from ziggurat_engine.offline.build import Wish, build
from ziggurat_engine.offline.stage import NAME, Stage

from tests.support.command import run
from tests.support.pixels import marked, reference_cascade, same_bytes
from tests.support.server import clean_environment

CODEC = BloscCodec(cname="lz4", clevel=1)


def engine(*arguments: object, code: int = 0) -> str:
    done = run("ziggurat-engine", "build", *arguments, code=code)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def store(path: Path, level0: np.ndarray, chunk: int = 16, **settings: object) -> Path:
    group = zarr.create_group(path, zarr_format=int(settings.pop("zarr_format", 3)))  # type: ignore
    array = group.create_array(
        "0", shape=level0.shape, chunks=(chunk,) * level0.ndim, dtype=level0.dtype, **settings
    )
    array[...] = level0
    return path


def check(path: Path, level0: np.ndarray, levels: int) -> None:
    expected = reference_cascade(level0, [(2,) * level0.ndim] * (levels - 1))
    for k, wanted in enumerate(expected):
        assert same_bytes(zarr.open_array(path / str(k), mode="r")[...], wanted), k


def test_a_bare_array_becomes_an_image(tmp_path: Path) -> None:
    level0 = marked((40, 50, 70), "uint16")
    path = store(tmp_path / "field", level0)
    said = engine(path / "0", "--unit", "micrometer", "--scale", "1,1,1")
    assert "level 2" in said
    assert "made" in said
    check(path, level0, 3)
    assert "nothing was missing" in engine(path)
    ome = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    assert [d["path"] for d in ome["multiscales"][0]["datasets"]] == ["0", "1", "2"]


def test_force_makes_levels_anew(tmp_path: Path) -> None:
    level0 = marked((40, 50, 70), "uint16")
    path = store(tmp_path / "a.zarr", level0)
    build(path)
    zarr.open_array(path / "0", mode="r+")[...] = level0[::-1]
    assert build(path).made == 0
    assert build(path, Wish(force=True)).made == 2
    check(path, level0[::-1], 3)


def test_levels_that_are_there_are_kept(tmp_path: Path) -> None:
    level0 = marked((40, 50, 70), "uint16")
    path = store(tmp_path / "a.zarr", level0, zarr_format=2)
    assert build(path, Wish(levels=2)).made == 1
    before = sorted((p, p.stat().st_mtime_ns) for p in (path / "1").iterdir())
    assert build(path).made == 1
    assert before == sorted((p, p.stat().st_mtime_ns) for p in (path / "1").iterdir())
    check(path, level0, 3)
    said = json.loads((path / ".zattrs").read_text())["multiscales"][0]["datasets"]
    steps = [d["coordinateTransformations"][1]["translation"] for d in said]
    assert steps == [[0.0] * 3, [0.5] * 3, [1.5] * 3]


def test_out_leaves_the_source_alone(tmp_path: Path) -> None:
    level0 = marked((40, 50, 70), "uint16")
    path = store(tmp_path / "a.zarr", level0)
    before = sorted(path.rglob("*"))
    engine(path, "--out", tmp_path / "b.zarr", "--codec", "zstd:1", "--chunks", "8x16x16")
    assert before == sorted(path.rglob("*"))
    check(tmp_path / "b.zarr", level0, 4)
    assert "nothing was missing" in engine(path, "--out", tmp_path / "b.zarr", "--levels", "4")


def test_nothing_foreign_is_replaced_unasked(tmp_path: Path) -> None:
    level0 = marked((40, 50, 70), "uint16")
    path = store(tmp_path / "a.zarr", level0)
    (path / "1").mkdir()
    (path / "1/mine").write_text("precious")
    with pytest.raises(InvalidArgument, match="--force"):
        build(path)
    assert (path / "1/mine").read_text() == "precious"
    build(path, Wish(force=True))
    check(path, level0, 3)


def test_labels_have_a_mode_and_no_mean(tmp_path: Path) -> None:
    pixels = marked((40, 50, 70), "uint16")
    path = store(tmp_path / "a.zarr", pixels)
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"] = {"image-label": {}}
    (path / "zarr.json").write_text(json.dumps(document))
    assert "label" in engine(path, "--method", "mean", code=1)
    engine(path)
    levels = reference_cascade(pixels, [(2, 2, 2)], "mode")
    assert same_bytes(zarr.open_array(path / "1", mode="r")[...], levels[1])


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["--factors", "2x2"], ["--factors 2x2", "3 numbers"], 1),
        (["--factors", "two"], ["--factors", "'two'"], 2),
        (["--memory", "much"], ["--memory", "'much'"], 2),
        (["--memory", "1KiB"], ["--memory", "at least"], 1),
        (["--method", "guess"], ["--method guess", "mean"], 1),
        (["--codec", "lzma"], ["--codec lzma", "gzip"], 1),
        (["--axes", "xyz"], ["--axes xyz"], 1),
        (["--scale", "1,2"], ["--scale", "3 numbers"], 1),
        (["--scale", "0,1,1"], ["--scale", "above 0"], 2),
        (["--chunks", "4x4"], ["--chunks 4x4", "3 numbers"], 1),
        (["--shards", "5x5x5"], ["--shards 5x5x5", "multiple"], 1),
        (["--shards", "what"], ["--shards", "'what'"], 2),
        (["--out", "."], ["--out"], 1),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, list) else "",
)
def test_wrong_options(
    tmp_path: Path, monkeypatch, arguments: list[str], words: list[str], code: int
) -> None:
    # It would start this process anew.
    monkeypatch.setenv("_ZIGGURAT_MALLOC_TUNED", "1")
    path = store(tmp_path / "a.zarr", marked((20, 20, 20), "uint8"))
    before = sorted(path.rglob("*"))
    done = CliRunner().invoke(main, ["build", str(path), *arguments])
    assert done.exit_code == code
    assert all(word in done.output for word in words), done.output
    assert before == sorted(path.rglob("*"))


def test_paths_that_are_no_image(tmp_path: Path) -> None:
    assert "no such directory" in engine(tmp_path / "none", code=1)
    assert "neither" in engine(tmp_path, code=1)
    zarr.create_array(tmp_path / "c.zarr", shape=(9, 9), chunks=(4, 4), dtype="complex64")
    assert "complex64" in engine(tmp_path / "c.zarr", "--out", tmp_path / "d.zarr", code=1)
    store(tmp_path / "plate" / "A" / "1", marked((20, 20), "uint8"))
    assert "A/1" in engine(tmp_path / "plate", code=1)


def test_a_chunk_that_does_not_decode(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr", marked((40, 40), "uint16"), compressors=CODEC)
    (path / "0/c/1/1").write_bytes(b"nonsense")
    with pytest.raises(Corrupt, match=r"\(1, 1\)"):
        build(path)
    assert not (path / "1").exists()


def test_a_killed_build_goes_on(tmp_path: Path) -> None:
    level0 = marked((128, 128, 128), "uint16")
    path = store(tmp_path / "a.zarr", level0, chunk=8, compressors=CODEC)
    command = [Path(sys.executable).with_name("ziggurat-engine"), "build", path, "--threads", "1"]
    quick = "import ziggurat_engine.offline.run as r; r.CHECKPOINT_SECONDS = 0.05"
    script = f"{quick}; import sys; from ziggurat_engine.cli import main; main()"
    killed = 0
    for attempt in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, command[1:])], env=clean_environment()
        )
        journal = path / NAME / "journal"
        wanted = (journal.stat().st_size if journal.exists() else 0) + 32 * 20
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            if journal.exists() and journal.stat().st_size >= wanted:
                process.send_signal(signal.SIGKILL if attempt % 2 else signal.SIGINT)
                killed += 1
                break
            time.sleep(0.002)
        process.wait(60)
        if not (path / NAME).exists():
            break
        assert not (path / "1").exists(), "a reader sees no level before it is whole"
        assert "ome" not in zarr.open_group(path, mode="r").attrs
    assert killed
    built = build(path)
    if built.made:
        assert built.resumed_chunks > 0
        assert built.decoded_chunks < 16 * 16 * 16
    check(path, level0, len(list(path.glob("[0-9]"))))
    assert len(list(path.glob("[0-9]"))) == 5
    assert not (path / NAME).exists()


@pytest.mark.parametrize("sharded", [False, True], ids=["plain", "sharded"])
def test_every_stop_is_survived(tmp_path: Path, monkeypatch, sharded: bool) -> None:
    """A build that stops after n chunks, for many n, ends with the same pixels."""
    level0 = marked((40, 50, 70), "uint16")
    settings = {"shards": (16, 32, 32)} if sharded else {}
    original = store(tmp_path / "a.zarr", level0, chunk=8, **settings)
    put = running.LevelSink.put
    for stop in (1, 10, 40, 60, 70, 73):
        path = tmp_path / f"{stop}.zarr"
        shutil.copytree(original, path)
        left = [stop]

        def limited(self, chunk, frame, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left", str(self.path))
            return put(self, chunk, frame)

        monkeypatch.setattr(running.LevelSink, "put", limited)
        with pytest.raises(OSError, match="No space"):
            build(path, Wish(threads=2))
        monkeypatch.setattr(running.LevelSink, "put", put)
        built = build(path, Wish(threads=2))
        assert built.resumed_chunks == stop
        check(path, level0, 4)


def test_other_wishes_begin_anew(tmp_path: Path, monkeypatch) -> None:
    level0 = marked((40, 50, 70), "uint16")
    path = store(tmp_path / "a.zarr", level0, chunk=8)

    def interrupted(self: object, *_: object) -> None:
        raise KeyboardInterrupt

    seal = running.LevelSink.seal
    monkeypatch.setattr(running.Run, "_checkpoint", running.Run._checkpoint)
    monkeypatch.setattr(running.LevelSink, "get", interrupted)
    monkeypatch.setattr(running.LevelSink, "seal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(path)
    monkeypatch.setattr(running.LevelSink, "seal", seal)
    monkeypatch.undo()
    time.sleep(0.02)
    built = build(path, Wish(chunks=(16, 16, 16)))
    assert built.resumed_chunks == 0
    check(path, level0, built.made + 1)


def test_a_source_that_changed_begins_anew(tmp_path: Path, monkeypatch) -> None:
    level0 = marked((40, 50, 70), "uint16")
    path = store(tmp_path / "a.zarr", level0, chunk=8)
    put = running.LevelSink.put
    left = [40]

    def limited(self, chunk, frame):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(5, "I/O error", "disk")
        return put(self, chunk, frame)

    with monkeypatch.context() as patch:
        patch.setattr(running.LevelSink, "put", limited)
        with pytest.raises(OSError, match="I/O"):
            build(path)
    level0 = level0[::-1]
    time.sleep(0.05)
    zarr.open_array(path / "0", mode="r+")[...] = level0
    assert build(path).resumed_chunks == 0
    check(path, level0, 4)


def test_one_build_at_a_time(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr", marked((40, 50, 70), "uint16"))
    other = Stage(path)
    other.open({})
    with pytest.raises(FailedPrecondition, match="another build"):
        build(path)
    other.close()


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    memory = 3 * 2**20
    peaks = []
    for depth in (64, 256):
        level0 = marked((depth, 256, 256), "uint16")
        assert level0.nbytes > 2 * memory
        path = store(tmp_path / f"{depth}.zarr", level0, chunk=32, compressors=CODEC)
        built = build(path, Wish(memory=memory, threads=2, levels=4))
        assert built.peak_pixel_bytes <= built.planned_bytes <= memory
        peaks.append(built.planned_bytes)
        check(path, level0, 4)
    assert peaks[1] <= 1.5 * peaks[0]


def test_absent_chunks_cost_nothing(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    array = group.create_array("0", shape=(6400, 6400, 6400), chunks=(64, 64, 64), dtype="uint16")
    level0 = marked((64, 64, 64), "uint16")
    array[64:128, 640:704, 6336:6400] = level0
    array[6336:6400, 6336:6400, 6336:6400] = level0
    start = time.perf_counter()
    built = build(tmp_path / "a.zarr")
    assert built.decoded_chunks == 2
    assert built.stored_chunks <= 2 * built.made
    assert time.perf_counter() - start < 20
    files = [p for p in (tmp_path / "a.zarr").rglob("*") if p.is_file()]
    assert len(files) <= 2 + built.stored_chunks + built.made + 2
    found = zarr.open_array(tmp_path / "a.zarr/1", mode="r")[32:64, 320:352, 3168:3200]
    assert same_bytes(found, reference_cascade(level0, [(2, 2, 2)])[1])


def test_a_fill_value_that_the_mean_changes(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    array = group.create_array("0", shape=(40, 50), chunks=(8, 8), dtype="float32", fill_value=0.1)
    array[:8, :8] = 3.0
    level0 = array[...]
    built = build(tmp_path / "a.zarr", Wish(factors=((3, 3),), levels=3))
    expected = reference_cascade(level0, [(3, 3)] * 2)
    for (name, _), wanted in zip(built.levels, expected, strict=True):
        assert same_bytes(zarr.open_array(tmp_path / "a.zarr" / name, mode="r")[...], wanted)


def test_consolidated_metadata_knows_the_levels(tmp_path: Path) -> None:
    for version in (2, 3):
        root = zarr.create_group(tmp_path / f"{version}.zarr", zarr_format=version)
        group = root.create_group("image")
        group.create_array("0", shape=(40, 40), chunks=(8, 8), dtype="uint8")[...] = 7
        with pytest.warns() if version == 3 else nothing():
            zarr.consolidate_metadata(root.store, zarr_format=version)
        build(tmp_path / f"{version}.zarr/image")
        for path in ("", "image"):
            opened = zarr.open_group(tmp_path / f"{version}.zarr", path=path, mode="r")
            image = opened if path else opened["image"]
            assert set(image.array_keys()) == {"0", "1", "2", "3"}
            assert ("ome" if version == 3 else "multiscales") in image.attrs


class nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_a_stop_between_levels_is_finished(tmp_path: Path, monkeypatch) -> None:
    """Of three levels one is in its place when the power goes: the next call puts the rest."""
    level0 = marked((40, 50, 70), "uint16")
    path = store(tmp_path / "a.zarr", level0, chunk=8)
    rename, left = os.rename, [1]

    def limited(source, target):
        if Path(target).parent == path and Path(target).name.isdigit():
            left[0] -= 1
            if left[0] < 0:
                raise OSError(5, "I/O error", str(target))
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", limited)
        with pytest.raises(OSError, match="I/O"):
            build(path)
    assert (path / "1").exists()
    build(path)
    check(path, level0, 4)
    ome = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    assert len(ome["multiscales"][0]["datasets"]) == 4


@pytest.mark.parametrize("case", ["../victim", "absolute", "0/../../victim", "linked", "above"])
def test_nothing_outside_the_group_is_replaced(tmp_path: Path, case: str) -> None:
    path, victim = tmp_path / "a.zarr", tmp_path / "victim"
    engine(store(path, marked((40, 50), "uint16")))
    victim.mkdir()
    (victim / "thesis").write_text("x")
    wrong = {"absolute": str(victim), "linked": "link", "above": "link/0"}.get(case, case)
    (path / "link").symlink_to(victim.parent if case == "above" else victim)
    document = json.loads((path / "zarr.json").read_text())
    multiscale = document["attributes"]["ome"]["multiscales"][0]
    multiscale["datasets"][1]["path"] = wrong
    (path / "zarr.json").write_text(json.dumps(document))
    before = (path / "zarr.json").read_bytes()
    for more in ((), ("--force",)):
        assert repr(wrong) in engine(path, *more, code=1)
    run("ziggurat-engine", "inspect", path, code=1)
    assert (victim / "thesis").read_text() == "x"
    assert not (tmp_path / "0").exists()
    assert (path / "zarr.json").read_bytes() == before


def test_levels_that_leave_an_odd_edge_out_are_by_two(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr", marked((45, 45), "uint16"))
    zarr.open_group(path).create_array("1", shape=(22, 22), chunks=(16, 16), dtype="uint16")
    engine(path)
    multiscale = zarr.open_group(path, mode="r").attrs["ome"]["multiscales"][0]
    steps = [dataset["coordinateTransformations"] for dataset in multiscale["datasets"]]
    assert [step[0]["scale"] for step in steps] == [[1, 1], [2, 2], [4, 4]]
    assert [step[1]["translation"] for step in steps] == [[0, 0], [0.5, 0.5], [1.5, 1.5]]
