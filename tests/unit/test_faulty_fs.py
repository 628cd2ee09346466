"""Is FaultyFs a file system like the real one, and after a cut no better than a disk?"""

import errno
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.testing.faulty import FaultyFs, PowerCut
from ziggurat_engine.vfs import FileSystem, OsFileSystem

D = Path("/d")


@pytest.fixture(params=["os", "faulty"])
def place(request, tmp_path) -> tuple[FileSystem, Path]:
    if request.param == "os":
        return OsFileSystem(), tmp_path
    fs = FaultyFs()
    fs.make_dirs(D)
    return fs, D


def write(fs, path, data):
    file = fs.create(path)
    file.write(data)
    file.close()


def stored(fs, path, data):
    file = fs.create(path)
    file.write(data)
    file.sync()
    file.close()
    fs.sync_dir(path.parent)


def disk():
    fs = FaultyFs()
    fs.make_dirs(D)
    return fs


class TestBothFileSystems:
    @pytest.mark.parametrize("written", [[], [0], [70_000, 200_001], [262_143]])
    def test_before_the_next_data_there_are_zeros(self, place, written):
        fs, d = place
        fs.create(d / "f", preallocate=262_144).close()
        file = fs.open_write(d / "f")
        for at in written:
            file.writev((b"x",), at)
        file.close()
        read = fs.open_read(d / "f")
        for start in (0, 1, 65_536, 70_000, 70_001, 262_144):
            found = read.next_data(start)
            assert start <= found <= read.size
            assert not any(read.pread(found - start, start))
            assert found < read.size or not any(at >= start for at in written)
        read.close()

    def test_appended_bytes_are_read_at_positions(self, place):
        fs, d = place
        file = fs.create(d / "f")
        file.writev([b"ab", bytearray(b"cd"), memoryview(b"ef")])
        assert file.position == 6
        file.close()
        reader = fs.open_read(d / "f")
        assert (reader.size, reader.pread(3, 2), reader.pread(9, 4)) == (6, b"cde", b"ef")
        assert fs.read_file(d / "f") == b"abcdef"
        assert fs.size(d / "f") == 6

    def test_preallocated_bytes_are_overwritten_at_positions(self, place):
        fs, d = place
        fs.create(d / "f", preallocate=1000).close()
        file = fs.open_write(d / "f")
        file.writev([b"abc", memoryview(b"def")], 700)
        file.sync()
        file.close()
        file.close()
        assert fs.read_file(d / "f") == bytes(700) + b"abcdef" + bytes(294)

    def test_a_lock_excludes_a_second_one(self, place):
        fs, d = place
        lock = fs.lock(d / "lock")
        with pytest.raises(BlockingIOError) as raised:
            fs.lock(d / "lock")
        assert raised.value.filename == str(d / "lock")
        lock.close()
        lock.close()
        fs.lock(d / "lock").close()

    @pytest.mark.parametrize(
        ("call", "error"),
        [
            (lambda fs, d: fs.open_read(d / "no"), FileNotFoundError),
            (lambda fs, d: fs.open_read(d), IsADirectoryError),
            (lambda fs, d: fs.open_write(d / "no"), FileNotFoundError),
            (lambda fs, d: fs.open_write(d / "sub"), IsADirectoryError),
            (lambda fs, d: fs.create(d / "f"), FileExistsError),
            (lambda fs, d: fs.create(d / "no/f"), FileNotFoundError),
            (lambda fs, d: fs.read_file(d / "f/below"), NotADirectoryError),
            (lambda fs, d: fs.size(d / "no"), FileNotFoundError),
            (lambda fs, d: fs.list_dir(d / "no"), FileNotFoundError),
            (lambda fs, d: fs.list_dir(d / "f"), NotADirectoryError),
            (lambda fs, d: fs.make_dir(d / "f"), FileExistsError),
            (lambda fs, d: fs.make_dir(d / "no/d"), FileNotFoundError),
            (lambda fs, d: fs.rename(d / "no", d / "g"), FileNotFoundError),
            (lambda fs, d: fs.remove(d / "no"), FileNotFoundError),
            (lambda fs, d: fs.remove_tree(d / "no"), FileNotFoundError),
            (lambda fs, d: fs.sync_dir(d / "no"), FileNotFoundError),
        ],
    )
    def test_errors_are_the_systems(self, place, call, error):
        fs, d = place
        write(fs, d / "f", b"x")
        fs.make_dir(d / "sub")
        with pytest.raises(error):
            call(fs, d)

    def test_names(self, place):
        fs, d = place
        fs.make_dirs(d / "a/b")
        fs.make_dir(d / "a")
        write(fs, d / "a/f", b"f")
        write(fs, d / "a/b/g", b"g")
        assert sorted(fs.list_dir(d / "a")) == [("b", True), ("f", False)]
        with pytest.raises(OSError, match="not empty"):
            fs.rename(d / "a/b", d / "a")
        fs.rename(d / "a/f", d / "a/b/g")
        assert fs.read_file(d / "a/b/g") == b"f"
        fs.rename(d / "a/b", d / "c")
        assert fs.exists(d / "c/g")
        assert fs.is_dir(d / "c")
        assert not fs.exists(d / "c/g/h")
        fs.remove_tree(d / "c")
        assert fs.list_dir(d / "a") == []

    def test_an_open_file_outlives_its_name(self, place):
        fs, d = place
        write(fs, d / "f", b"old")
        file = fs.open_read(d / "f")
        fs.remove(d / "f")
        assert file.pread(3, 0) == b"old"


class TestCut:
    @pytest.mark.parametrize("mode", ["drop", "keep", 1, 2, 3])
    def test_keeps_what_was_synced(self, mode):
        fs = disk()
        stored(fs, D / "f", b"abc" * 1000)
        assert fs.crash(mode).read_file(D / "f") == b"abc" * 1000

    def test_drops_bytes_and_names_apart(self):
        fs = disk()
        file = fs.create(D / "unnamed")
        file.write(b"x")
        file.sync()
        assert fs.crash("drop").list_dir(D) == []

    def test_a_name_without_its_bytes(self):
        fs = disk()
        write(fs, D / "f", b"abc")
        fs.sync_dir(D)
        assert fs.crash("drop").read_file(D / "f") == b""
        assert fs.crash("keep").read_file(D / "f") == b"abc"

    def test_sectors_are_kept_out_of_order_and_torn(self):
        fs = disk()
        stored(fs, D / "f", b"a" * 2048)
        file = fs.open_write(D / "f")
        for value in (b"b", b"c"):
            file.writev([value * 2048], 0)
        seen = [fs.crash(seed).read_file(D / "f") for seed in range(60)]
        assert all(len(data) == 2048 for data in seen)
        firsts = {data[0::512] for data in seen}
        assert {b"a", b"b", b"c"} == {bytes([v]) for data in firsts for v in data}
        assert any(data[0] == ord("a") and data[-1] == ord("c") for data in seen)
        assert any(data[0] == ord("c") and data[-1] == ord("a") for data in seen)
        assert any(len(set(data[i : i + 512])) > 1 for data in seen for i in range(0, 2048, 512))

    def test_a_rename_is_never_half(self):
        fs = disk()
        fs.make_dirs(D / "t")
        stored(fs, D / "f", b"old")
        stored(fs, D / "t/new", b"new")
        fs.rename(D / "t/new", D / "f")
        write(fs, D / "t/new", b"")
        seen = set()
        for seed in range(50):
            after = fs.crash(seed)
            names = (after.read_file(D / "f"), after.exists(D / "t/new"))
            seen.add(names)
        assert seen == {(b"old", True), (b"new", True), (b"new", False)}

    def test_a_rename_is_durable_once_its_targets_directory_is_synced(self):
        fs = disk()
        fs.make_dirs(D / "t")
        stored(fs, D / "t/new", b"new")
        fs.rename(D / "t/new", D / "f")
        fs.sync_dir(D)
        after = fs.crash("drop")
        assert after.read_file(D / "f") == b"new"
        assert after.list_dir(D / "t") == []

    def test_the_same_seed_is_the_same_disk(self):
        fs = disk()
        write(fs, D / "f", bytes(range(256)) * 100)
        write(fs, D / "g", bytes(5000))
        for seed in range(10):
            first, second = fs.crash(seed), fs.crash(seed)
            assert first.list_dir(D) == second.list_dir(D)
            for name, _ in first.list_dir(D):
                assert first.read_file(D / name) == second.read_file(D / name)

    def test_stops_right_after_a_sync_point(self):
        fs = disk()
        before = fs.sync_points
        fs.stop_after(before + 2)
        stored(fs, D / "f", b"abc")
        assert fs.sync_points == before + 2
        for call in (fs.list_dir, fs.read_file, fs.sync_dir, fs.create, fs.exists):
            with pytest.raises(PowerCut):
                call(D / "f")
        after = fs.crash("drop")
        assert after.read_file(D / "f") == b"abc"
        assert after.sync_points == 0

    @given(
        st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=900)), max_size=8),
        st.integers(0, 1000),
    )
    def test_each_byte_is_one_that_was_written_there(self, writes, seed):
        fs = disk()
        fs.create(D / "f", preallocate=4096).close()
        fs.sync_dir(D)
        file = fs.open_write(D / "f")
        file.sync()
        possible = [{0} for _ in range(4096)]
        for offset, data in writes:
            file.writev([data], offset)
            for i, value in enumerate(data):
                possible[offset + i].add(value)
        after = fs.crash(seed).read_file(D / "f")
        assert all(value in values for value, values in zip(after, possible, strict=True))


class TestFaults:
    def test_a_failed_sync_loses_bytes_for_good_though_they_are_read(self):
        fs = disk()
        stored(fs, D / "f", b"a" * 100_000)
        file = fs.open_write(D / "f")
        file.writev([b"b" * 100_000], 0)
        fs.fail_next("sync")
        with pytest.raises(OSError, match="Input/output") as raised:
            file.sync()
        assert (raised.value.errno, raised.value.filename) == (errno.EIO, "/d/f")
        file.sync()
        assert fs.read_file(D / "f") == b"b" * 100_000
        lost = fs.crash("keep").read_file(D / "f")
        assert b"a" in lost

    def test_bytes_written_again_after_a_failed_sync_are_durable(self):
        fs = disk()
        stored(fs, D / "f", b"a" * 10_000)
        file = fs.open_write(D / "f")
        file.writev([b"b" * 10_000], 0)
        fs.fail_next("sync")
        with pytest.raises(OSError, match="Input/output"):
            file.sync()
        file.writev([b"b" * 10_000], 0)
        file.sync()
        assert fs.crash("drop").read_file(D / "f") == b"b" * 10_000

    @pytest.mark.parametrize(
        ("op", "call"),
        [
            ("create", lambda fs: fs.create(D / "new")),
            ("rename", lambda fs: fs.rename(D / "f", D / "g")),
            ("remove", lambda fs: fs.remove(D / "f")),
            ("sync_dir", lambda fs: fs.sync_dir(D)),
            ("read", lambda fs: fs.read_file(D / "f")),
            ("write", lambda fs: fs.open_write(D / "f").writev([b"12345678"], 0)),
        ],
    )
    def test_fails_the_next_call_of_a_kind_once(self, op, call):
        fs = disk()
        stored(fs, D / "f", b"abcdefgh")
        fs.fail_next(op, errno.EROFS, path="/d")
        fs.fail_next(op, errno.EROFS, path="/elsewhere")
        with pytest.raises(OSError, match="Read-only"):
            call(fs)
        if op == "write":
            assert fs.read_file(D / "f") == b"1234efgh"
        call(fs)

    def test_a_full_disk(self):
        fs = FaultyFs(capacity_bytes=1000)
        fs.make_dirs(D)
        fs.create(D / "f", preallocate=600).close()
        with pytest.raises(OSError, match="No space") as raised:
            fs.create(D / "g", preallocate=600)
        assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, "/d/g")
        assert not fs.exists(D / "g")
        file = fs.create(D / "h")
        with pytest.raises(OSError, match="No space"):
            file.write(bytes(500))
        assert fs.size(D / "h") == 400
        fs.remove(D / "f")
        assert fs.used_bytes() == 400
        fs.create(D / "g", preallocate=600)

    def test_threads(self):
        fs = disk()
        done = []

        def work(number):
            for i in range(50):
                stored(fs, D / f"{number}-{i}", bytes([number]) * 2000)
            done.append(number)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 4
        assert fs.sync_points == 1 + 4 * 50 * 2
        after = fs.crash("drop")
        assert all(
            after.read_file(D / name) == bytes([int(name.split("-")[0])]) * 2000
            for name, _ in after.list_dir(D)
        )
        assert len(after.list_dir(D)) == 200
