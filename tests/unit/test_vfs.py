"""Does OsFileSystem keep the promises of FileSystem on a real directory?"""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from ziggurat_engine.vfs import FileSystem, OsFileSystem

FS: FileSystem = OsFileSystem()


def fds():
    return len(os.listdir("/proc/self/fd"))


def write(path, *parts):
    file = FS.create(path)
    file.writev(parts)
    file.close()


def fail(code):
    def call(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    return call


def test_appends_buffers_of_every_kind(tmp_path):
    before = fds()
    file = FS.create(tmp_path / "f")
    file.write(b"ab")
    file.writev([bytearray(b"c"), b"", memoryview(np.arange(3, dtype="<u2"))])
    assert file.position == 9
    file.sync()
    file.close()
    file.close()
    assert FS.read_file(tmp_path / "f") == b"abc" + bytes([0, 0, 1, 0, 2, 0])
    assert FS.size(tmp_path / "f") == 9
    assert fds() == before


def test_writes_more_buffers_than_one_system_call_takes(tmp_path):
    parts = [bytes([i % 251]) * (i % 7) for i in range(5000)]
    write(tmp_path / "f", *parts)
    assert FS.read_file(tmp_path / "f") == b"".join(parts)


def test_partial_writes_and_reads_are_continued(tmp_path, monkeypatch):
    writev, pread = os.writev, os.pread
    monkeypatch.setattr(os, "writev", lambda fd, views: writev(fd, [views[0][:3]]))
    monkeypatch.setattr(os, "pread", lambda fd, n, offset: pread(fd, min(n, 4), offset))
    write(tmp_path / "f", b"0123456789", b"", b"abc")
    assert FS.read_file(tmp_path / "f") == b"0123456789abc"


def test_creation_is_exclusive(tmp_path):
    write(tmp_path / "f", b"old")
    with pytest.raises(FileExistsError):
        FS.create(tmp_path / "f")
    assert FS.read_file(tmp_path / "f") == b"old"


def test_preallocated_file_has_its_size_at_once(tmp_path):
    file = FS.create(tmp_path / "f", preallocate=8192)
    assert FS.size(tmp_path / "f") == 8192
    file.write(b"abc")
    file.sync()
    assert file.position == 3
    file.close()
    assert FS.read_file(tmp_path / "f") == b"abc" + bytes(8189)


def test_failed_preallocation_leaves_no_file(tmp_path, monkeypatch):
    before = fds()
    monkeypatch.setattr(os, "posix_fallocate", fail(errno.ENOSPC))
    with pytest.raises(OSError, match="/f'") as raised:
        FS.create(tmp_path / "f", preallocate=10)
    assert raised.value.errno == errno.ENOSPC
    assert FS.list_dir(tmp_path) == []
    assert fds() == before


def test_reads_at_positions(tmp_path):
    write(tmp_path / "f", b"0123456789")
    file = FS.open_read(tmp_path / "f")
    assert file.size == 10
    assert file.pread(3, 2) == b"234"
    assert file.pread(9, 7) == b"789"
    assert file.pread(1, 10) == b""
    file.close()
    file.close()


def test_open_file_outlives_its_name(tmp_path):
    write(tmp_path / "old", b"old")
    write(tmp_path / "new", b"new")
    file = FS.open_read(tmp_path / "old")
    FS.rename(tmp_path / "new", tmp_path / "old")
    assert file.pread(3, 0) == b"old"
    FS.remove(tmp_path / "old")
    assert file.pread(3, 0) == b"old"
    file.close()


def test_open_refuses_what_is_no_file(tmp_path):
    before = fds()
    with pytest.raises(FileNotFoundError):
        FS.open_read(tmp_path / "f")
    with pytest.raises(IsADirectoryError) as raised:
        FS.open_read(tmp_path)
    assert raised.value.filename == str(tmp_path)
    assert fds() == before


def test_make_dirs_syncs_the_parent_of_each_new_directory(tmp_path):
    synced = []

    class Recorder(OsFileSystem):
        def sync_dir(self, path: Path) -> None:
            synced.append(path.relative_to(tmp_path))
            super().sync_dir(path)

    Recorder().make_dirs(tmp_path / "a/b/c")
    assert synced == [Path("."), Path("a"), Path("a/b")]
    assert FS.is_dir(tmp_path / "a/b/c")
    Recorder().make_dirs(tmp_path / "a/b/c")
    assert synced[3:] == [Path("a/b")], "the entry may be there but not durable"


def test_make_dir_accepts_a_directory_and_refuses_a_file(tmp_path):
    FS.make_dir(tmp_path / "d")
    FS.make_dir(tmp_path / "d")
    write(tmp_path / "f", b"")
    with pytest.raises(FileExistsError):
        FS.make_dir(tmp_path / "f")
    with pytest.raises(FileNotFoundError):
        FS.make_dir(tmp_path / "no/d")


def test_lists_names_and_does_not_follow_links(tmp_path):
    FS.make_dir(tmp_path / "d")
    write(tmp_path / "f", b"")
    (tmp_path / "link").symlink_to(tmp_path / "d")
    assert sorted(FS.list_dir(tmp_path)) == [("d", True), ("f", False), ("link", False)]
    with pytest.raises(FileNotFoundError):
        FS.list_dir(tmp_path / "no")


def test_rename_replaces_a_file_but_no_full_directory(tmp_path):
    for name in ("a", "b"):
        FS.make_dir(tmp_path / name)
        write(tmp_path / name / "f", name.encode())
    with pytest.raises(OSError, match="not empty"):
        FS.rename(tmp_path / "a", tmp_path / "b")
    FS.rename(tmp_path / "a/f", tmp_path / "b/f")
    assert FS.read_file(tmp_path / "b/f") == b"a"


def test_removes_files_and_trees(tmp_path):
    FS.make_dirs(tmp_path / "a/b")
    write(tmp_path / "a/b/f", b"")
    write(tmp_path / "kept", b"x")
    (tmp_path / "a/link").symlink_to(tmp_path)
    FS.remove(tmp_path / "a/b/f")
    FS.remove_tree(tmp_path / "a")
    assert FS.list_dir(tmp_path) == [("kept", False)]
    with pytest.raises(FileNotFoundError):
        FS.remove(tmp_path / "a/b/f")
    with pytest.raises(FileNotFoundError):
        FS.remove_tree(tmp_path / "a")


def test_an_io_error_is_not_absence(tmp_path, monkeypatch):
    assert not FS.exists(tmp_path / "no")
    write(tmp_path / "f", b"")
    assert FS.exists(tmp_path / "f")
    assert not FS.is_dir(tmp_path / "f")
    assert not FS.exists(tmp_path / "f/below")
    monkeypatch.setattr(os, "stat", fail(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        FS.exists(tmp_path / "f")
    with pytest.raises(OSError, match="Input/output"):
        FS.is_dir(tmp_path / "f")


@pytest.mark.parametrize(
    ("call", "use"),
    [
        ("writev", lambda fs, path: fs.create(path / "new").write(b"x")),
        ("fdatasync", lambda fs, path: fs.create(path / "new").sync()),
        ("pread", lambda fs, path: fs.read_file(path / "f")),
        ("fsync", lambda fs, path: fs.sync_dir(path)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_of_descriptors_name_the_path(tmp_path, monkeypatch, call, use):
    write(tmp_path / "f", b"x")
    monkeypatch.setattr(os, call, fail(errno.EIO))
    with pytest.raises(OSError, match="Input/output") as raised:
        use(FS, tmp_path)
    assert raised.value.errno == errno.EIO
    assert raised.value.filename.startswith(str(tmp_path))
