"""Does a copy that is made beside a busy server hold all that was durable before?"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import ziggurat
from ziggurat_engine.errors import Corrupt, FailedPrecondition, InvalidArgument, NotFound
from ziggurat_engine.state import State
from ziggurat_engine.upkeep import backup as backups
from ziggurat_engine.upkeep.backup import backup
from ziggurat_engine.upkeep.journal import read_log
from ziggurat_engine.vfs import OsFileSystem

from tests.operations.directory import IMAGES, defects, found, group, level0, shard_path
from tests.support.command import run
from tests.support.images import assert_exact
from tests.support.server import ServerProcess

SMALL_LOG = {
    "max_message_bytes": "256KiB",
    "log_segment_bytes": "320KiB",
    "max_log_bytes": "2MiB",
    "settle_idle_seconds": 0.1,
    "settle_busy_seconds": 0.2,
}
SHAPE = (4, 96, 96)


class Load:
    """A camera that writes planes again and again, each with a number that grows."""

    def __init__(self, address: str, name: str) -> None:
        self._address, self._name = address, name
        self._stop = threading.Event()
        self.wrote = threading.Event()
        self.durable: dict[int, int] = {}
        self.flushed = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        with ziggurat.connect(self._address) as client:
            image = client.open(self._name)
            with image.writer("camera") as writer:
                number = 0
                while not self._stop.is_set():
                    written = {}
                    for _ in range(7):
                        number += 1
                        z = number % SHAPE[0]
                        low = number % 32
                        pixels = np.full((1, 64, 64), number, "uint16")
                        writer.write_region(pixels, offset=(z, low, low))
                        written[z] = number
                    writer.flush()
                    self.durable = {**self.durable, **written}
                    self.flushed = number
                    if number > 40:
                        self.wrote.set()


def create(client: ziggurat.Client, name: str, **options: object) -> ziggurat.Image:
    return client.create(
        name,
        axes="zyx",
        shape=SHAPE,
        dtype="uint16",
        chunk_shape=(2, 16, 16),
        shard_chunks=(1, 3, 3),
        factors=((1, 2, 2), (2, 2, 2)),
        codec="blosc-lz4",
        **options,
    )


def test_beside_a_busy_server(serve: Callable[..., ServerProcess], tmp_path: Path):
    server = serve(**SMALL_LOG)
    copy = tmp_path / "copy"
    with ziggurat.connect(server.address) as client:
        create(client, "busy")
        create(client, "halo", downsampling="gaussian")
        quiet = create(client, "quiet")
        whole = np.arange(np.prod(SHAPE), dtype="uint16").reshape(SHAPE)
        with quiet.writer() as writer:
            writer.write_region(whole, offset=(0, 0, 0))
        with Load(server.address, "busy") as busy, Load(server.address, "halo") as halo:
            for load in (busy, halo):
                assert load.wrote.wait(120)
            for turn in range(2):
                before = {load: (dict(load.durable), load.flushed) for load in (busy, halo)}
                done = backup(server.data, copy, threads=2)
                assert done.images == 3
                assert turn == 0 or done.files_copied < done.files
    # Levels that do not fit each other are noted.
    assert defects(copy, pixels=True) == []
    restored = serve(copy)
    with ziggurat.connect(restored.address) as client:
        assert_exact(client.open("quiet"), whole)
        for name, load in (("busy", busy), ("halo", halo)):
            durable, flushed = before[load]
            image = client.open(name)
            image.build_pyramid().wait()
            pixels = image[...]
            for z, number in durable.items():
                # The middle is written by each; the newest durable one, or a later one.
                assert (pixels[z, 32:64, 32:64] >= number).all(), (name, z, number)
            (stream,) = image.streams
            received = stream.next_sequence - 1
            assert received >= flushed
            # What it says of the stream is what it holds.
            newest = {n % SHAPE[0]: n for n in range(1, received + 1)}
            for z, number in newest.items():
                assert (pixels[z, 32:64, 32:64] >= number).all(), (name, z, number)
            assert_exact(image, pixels)
            # The camera goes on where the copy stands.
            with image.writer("camera") as writer:
                writer.write_region(np.full(SHAPE, 7, "uint16"), offset=(0, 0, 0))
            assert_exact(image, np.full(SHAPE, 7, "uint16"))
    restored.stop()
    assert defects(copy, pixels=True) == []


@pytest.mark.parametrize("restarted", [False, True], ids=["deleted", "deleted-and-restarted"])
def test_an_image_that_is_deleted_meanwhile(serve, tmp_path, monkeypatch, restarted):
    """The copied log has its frames; by the end the server has forgotten that there was one."""
    server = serve(settle_idle_seconds=1000)
    part, pixels = np.full((1, 5, 5), 7, "uint16"), np.zeros(SHAPE, "uint16")
    pixels[:1, :5, :5] = part
    with ziggurat.connect(server.address) as client:
        for name in ("goes", "stays"):
            create(client, name)
            writer = client.open(name).writer("camera")
            writer.write_region(part, offset=(0, 0, 0))
            writer.flush()

    def others(self):
        with ziggurat.connect(server.address) as client:
            client.delete("goes")
        if restarted:
            server.stop()
            serve(server.data).stop()
            with closing(State.open(server.data / "state.sqlite")) as state:
                assert not state.deleted()
        return whole(self)

    whole = backups._Making._others
    monkeypatch.setattr(backups._Making, "_others", others)
    backup(server.data, tmp_path / "copy")
    monkeypatch.undo()
    assert defects(tmp_path / "copy") == []
    assert read_log(OsFileSystem(), tmp_path / "copy" / "log", beside=False).records > 1
    with ziggurat.connect(serve(tmp_path / "copy").address) as client:
        assert [image.name for image in client.list()] == ["stays"]
        client.open("stays").build_pyramid().wait()
        assert_exact(client.open("stays"), pixels)


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "not-noted"])
def test_levels_that_change_while_they_are_copied(serve, tmp_path, monkeypatch, noted):
    """The copy has pieces of different times; without its notes some would be wrong for good."""
    server = serve(settle_idle_seconds=0.05)
    count = 0
    with ziggurat.connect(server.address) as client:
        image = create(client, "a")

        def write() -> None:
            nonlocal count
            count += 1
            with image.writer() as writer:
                writer.write_region(np.full(SHAPE, count, "uint16"), offset=(0, 0, 0))

        def copied(self, source, target):
            nbytes = whole(self, source, target)
            if "c" in source.parts:
                # All levels are others now.
                write()
            return nbytes

        write()
        whole = backups.Copier.copy
        monkeypatch.setattr(backups.Copier, "copy", copied)
        if not noted:
            monkeypatch.setattr(backups._Making, "_changed", lambda self, image: {})
        done = backup(server.data, tmp_path / "copy")
        assert count > 4
        assert (done.noted > 0) == noted
        wrong = defects(tmp_path / "copy", pixels=True)
        assert (wrong == []) == noted
    if noted:
        restored = serve(tmp_path / "copy")
        with ziggurat.connect(restored.address) as client:
            image = client.open("a")
            image.build_pyramid().wait()
            assert_exact(image, image[...])


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("link", [False, True], ids=["copies", "links"])
def test_without_a_server(data, tmp_path, serve, link):
    copy = tmp_path / "copy"
    (data / "theirs.txt").write_text("kept as well")
    # As where the server listens on "unix:DIR/socket".
    os.mkfifo(data / "socket")
    db = sqlite3.connect(data / "theirs.sqlite")
    with db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    done = backup(data, copy, link=link)
    assert done.noted == 0
    assert files(copy / "images") == files(data / "images")
    assert (copy / "theirs.txt").read_text() == "kept as well"
    assert (copy / "theirs.sqlite").exists()
    assert {each.kind for each in found(copy, pixels=True)} == {"leftover"}
    again = backup(data, copy, link=link)
    assert (again.files, again.files_copied) == (done.files, 0)

    # What changed since, and no more.
    shutil.rmtree(group(data, "lab/gauss"))
    changed = shard_path(data, "lab/gzip", 0, 0, 0, 0)
    content = changed.read_bytes()
    changed.unlink()
    changed.write_bytes(content)
    (copy / "images" / "lab" / "nothing.ome.zarr").mkdir()
    last = backup(data, copy, link=link)
    assert last.files_copied == 1
    assert files(copy / "images") == files(data / "images")
    assert not group(copy, "lab/gauss").exists()

    server = serve(copy)
    with ziggurat.connect(server.address) as client:
        for name in IMAGES.keys() - {"lab/gauss"}:
            assert_exact(client.open(name), level0(name))
        assert client.open("lab/run").shape[0] == 5
    server.stop()
    # From now on it is a directory of its own.
    assert "backup" not in json.loads((copy / "format.json").read_text())
    with pytest.raises(InvalidArgument, match="backup"):
        backup(data, copy)


def test_a_backup_that_ended_early(data, tmp_path, monkeypatch, serve):
    copy = tmp_path / "copy"
    count = 0

    def copied(self, source, target):
        nonlocal count
        count += 1
        if count > 20:
            raise OSError(28, "No space left on device", str(target))
        return whole(self, source, target)

    whole = backups.Copier.copy
    monkeypatch.setattr(backups.Copier, "copy", copied)
    with pytest.raises(OSError, match="No space"):
        backup(data, copy)
    monkeypatch.undo()
    assert [each.kind for each in defects(copy)] == ["unfinished"]
    with pytest.raises(AssertionError, match="not finished"):
        ServerProcess(copy, tmp_path / "stderr")
    backup(data, copy)
    assert defects(copy, pixels=True) == []


def test_what_is_refused(data, tmp_path):
    with pytest.raises(NotFound):
        backup(tmp_path / "none", tmp_path / "copy")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    for target in (tmp_path / "full", data / "inside", data):
        with pytest.raises(InvalidArgument):
            backup(data, target)
    assert os.listdir(tmp_path / "full") == ["x"]
    (data / "state.sqlite").write_bytes(b"nothing" * 1000)
    with pytest.raises(Corrupt):
        backup(data, tmp_path / "copy")


def test_an_image_that_lost_its_document(data, tmp_path):
    """Nobody deleted it: what is left of it, and what the copy has of it, stays."""
    copy, lost = tmp_path / "copy", group(data, "lab/gzip") / "zarr.json"
    backup(data, copy)
    content = lost.read_bytes()
    lost.unlink()
    backup(data, copy)
    assert (group(copy, "lab/gzip") / "zarr.json").read_bytes() == content
    backup(data, tmp_path / "new")
    for made in (copy, tmp_path / "new"):
        shards = files(group(made, "lab/gzip") / "0")
        assert shards == files(group(data, "lab/gzip") / "0") != {}


def test_a_log_that_is_elsewhere(data, tmp_path):
    """An earlier backup is whole until it is known with what it is to be replaced."""
    copy, log = tmp_path / "copy", tmp_path / "log"
    backup(data, copy)
    shutil.move(data / "log", log)
    before = files(copy)
    with pytest.raises(NotFound, match="--log"):
        backup(data, copy)
    (data / "log").mkdir()
    (data / "log" / "identity").write_text("another")
    with closing(State.open(data / "state.sqlite")) as state:
        state.save_log((log / "identity").read_text(), needed=True)
    with pytest.raises(FailedPrecondition, match="last used with"):
        backup(data, copy)
    assert files(copy) == before
    backup(data, copy, log=log)
    assert defects(copy) == []


def test_a_backup_of_another_directory(data, tmp_path):
    copy, other = tmp_path / "copy", tmp_path / "other"
    backup(data, copy)
    before = files(copy)
    shutil.copytree(data, other)
    (other / "log" / "identity").write_text("another")
    with closing(State.open(other / "state.sqlite")) as state:
        state.save_log("another", needed=True)
    shutil.rmtree(other / "images" / "lab")
    with pytest.raises(InvalidArgument, match="another directory"):
        backup(other, copy)
    assert files(copy) == before
    # It may have got another log since.
    shutil.copytree(group(data, "lab/gzip"), group(other, "lab/gzip"))
    backup(other, copy)


def test_a_copy_that_is_in_use(data, tmp_path):
    backup(data, tmp_path / "copy")
    with (
        closing(OsFileSystem().lock(tmp_path / "copy" / "lock")),
        pytest.raises(FailedPrecondition),
    ):
        backup(data, tmp_path / "copy")


def test_the_command(data, tmp_path):
    done = run("ziggurat-engine", "backup", data, tmp_path / "copy")
    assert "5 images" in done.stdout
    assert defects(tmp_path / "copy") == []
