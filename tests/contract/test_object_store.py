"""The promises of ObjectStore; every store runs the first part."""

import errno
import os
import threading
from pathlib import Path

import pytest
from ziggurat_engine.store.objects import LocalStore, ObjectStore
from ziggurat_engine.vfs import AppendFile, OsFileSystem


def local(tmp_path):
    store = LocalStore(OsFileSystem(), tmp_path / "root", tmp_path / "tmp")
    store.sweep()
    return store


STORES = {"local": local}


@pytest.fixture(params=STORES)
def store(request, tmp_path) -> ObjectStore:
    return STORES[request.param](tmp_path)


def walk(store, prefix=""):
    return dict(store.walk(prefix))


class TestStore:
    def test_absence(self, store):
        assert store.get("a/b") is None
        assert store.open("a/b") is None
        assert walk(store) == walk(store, "a") == {}
        assert store.list("a") == ([], [])
        store.delete("a/b")
        store.delete_tree("a")

    def test_put_joins_its_parts(self, store):
        parts = (b"ab", bytearray(b"cd"), b"", memoryview(b"efg"))
        assert store.put("a/b/c", iter(parts)) == 7
        assert store.get("a/b/c") == b"abcdefg"
        assert store.put("empty", []) == 0
        assert store.get("empty") == b""

    def test_a_prefix_is_no_object(self, store):
        store.put("a/b", [b"x"])
        assert store.get("a") is None
        assert store.open("a") is None
        assert store.get("a/b/c") is None
        assert store.open("a/b/c") is None
        assert store.list("a/b") == ([], [])

    def test_reads_ranges(self, store):
        store.put("k", [b"0123456789"])
        with store.open("k") as reader:
            assert reader.size == 10
            assert reader.read(2, 3) == b"234"
            assert reader.read(8, 5) == b"89"
            assert reader.read(10, 1) == b""

    @pytest.mark.parametrize("change", ["put", "delete", "delete_tree"])
    def test_a_reader_keeps_its_version(self, store, change):
        store.put("a/k", [b"old"])
        with store.open("a/k") as reader:
            if change == "put":
                store.put("a/k", [b"newer"])
            elif change == "delete":
                store.delete("a/k")
            else:
                store.delete_tree("a")
            assert (reader.size, reader.read(0, 9)) == (3, b"old")
            assert store.get("a/k") == (b"newer" if change == "put" else None)

    def test_a_put_shows_nothing_before_its_end(self, store):
        store.put("a/k", [b"old"])

        def parts():
            yield b"ne"
            assert store.get("a/k") == b"old"
            assert walk(store) == {"a/k": 3}
            yield b"wer"

        assert store.put("a/k", parts()) == 5
        assert store.get("a/k") == b"newer"

    @pytest.mark.parametrize("error", [ValueError, MemoryError, KeyboardInterrupt])
    def test_a_put_whose_parts_fail_changes_nothing(self, store, error):
        def parts():
            yield b"half"
            raise error

        store.put("a/old", [b"old"])
        for key in ("a/old", "new/key"):
            with pytest.raises(error):
                store.put(key, parts())
        assert store.get("a/old") == b"old"
        assert walk(store) == {"a/old": 3}

    def test_delete(self, store):
        store.put("a/k", [b"x"])
        store.put("a/l", [b"x"])
        store.delete("a/k")
        store.delete("a/k")
        assert walk(store) == {"a/l": 1}

    def test_lists_and_walks_whole_segments(self, store):
        for key in ("a/1", "a/b/2", "a/b/c/3", "ab/4", "5"):
            store.put(key, [key.encode()])
        assert store.list("") == (["5"], ["a", "ab"])
        assert store.list("a") == (["1"], ["b"])
        assert walk(store) == {"a/1": 3, "a/b/2": 5, "a/b/c/3": 7, "ab/4": 4, "5": 1}
        assert walk(store, "a") == {"a/1": 3, "a/b/2": 5, "a/b/c/3": 7}

    def test_trees_come_and_go_whole(self, store):
        tree = {"zarr.json": b"g", "0/zarr.json": b"0", "0/deep/er": b"d"}
        store.create_tree("lab/x", tree)
        assert {key: store.get(f"lab/x/{key}") for key in tree} == tree
        assert len(walk(store)) == 3
        store.delete_tree("lab/x")
        assert walk(store) == {}
        store.create_tree("lab/x", {"k": b"again"})
        assert walk(store) == {"lab/x/k": 5}

    def test_a_tree_does_not_replace_another(self, store):
        store.create_tree("x", {"k": b"first"})
        with pytest.raises(FileExistsError):
            store.create_tree("x", {"l": b"second"})
        assert walk(store) == {"x/k": 5}

    def test_one_of_many_creations_wins(self, store):
        start, won = threading.Barrier(8), []

        def create(i):
            start.wait()
            try:
                store.create_tree("a/x", {"k": bytes([i]), "d/l": bytes([i])})
                won.append(i)
            except FileExistsError:
                pass

        run([lambda i=i: create(i) for i in range(8)])
        assert len(won) == 1
        assert store.get("a/x/k") == store.get("a/x/d/l") == bytes(won)
        assert len(walk(store)) == 2

    def test_puts_beside_each_other_make_the_same_prefixes(self, store):
        start = threading.Barrier(8)

        def put(i):
            start.wait()
            for j in range(10):
                store.put(f"a/{j}/b/{i}", [bytes([i])])

        run([lambda i=i: put(i) for i in range(8)])
        assert len(walk(store)) == 80

    def test_puts_return_after_their_tree_was_deleted(self, store):
        store.put("x/0/c/0", [b"old"])
        store.delete_tree("x")
        store.put("x/0/c/0", [b"new"])
        store.delete_tree("x")
        store.put("x/0/c/1", [b"new"])
        assert walk(store) == {"x/0/c/1": 3}

    @pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/x", "a//b", "a/./b", "a/", "a\0"])
    def test_keys_do_not_lead_out(self, store, key):
        with pytest.raises(ValueError, match="segment"):
            store.put(key, [b"x"])
        with pytest.raises(ValueError, match="segment"):
            store.get(key)

    def test_a_tree_that_was_deleted_can_be_filled_anew_at_any_depth(self, store):
        """What was known of its directories is not true any more, nor of some of them only."""
        store.create_tree("a", {"zarr.json": b"old"})
        store.put("a/0/c/0/1/0", [b"deep"])
        store.delete_tree("a")
        store.create_tree("a", {"zarr.json": b"new"})
        store.put("a/0/c/0/2/0", [b"beside"])
        assert store.get("a/0/c/0/2/0") == b"beside"
        assert store.get("a/0/c/0/1/0") is None


def run(calls):
    """Runs all in threads of their own; an error in one fails the test."""
    errors = []

    def guarded(call):
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


class Tape(OsFileSystem):
    """Records what happens to names and bytes; fails at the calls in `broken`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls = []
        self.broken = {}

    def note(self, call, *paths):
        if call in self.broken:
            raise OSError(self.broken[call], os.strerror(self.broken[call]), str(paths[0]))
        names = [
            "tmp/*" if p.parent.name == "tmp" else str(p.relative_to(self.root)) for p in paths
        ]
        self.calls.append(" ".join([call, *names]))

    def create(self, path, *, preallocate=0, staged=False):
        self.note("create", path)
        return TapedFile(self, path, super().create(path, preallocate=preallocate, staged=staged))

    def make_dir(self, path):
        self.note("make_dir", path)
        super().make_dir(path)

    def sync_dir(self, path):
        self.note("sync_dir", path)
        super().sync_dir(path)

    def rename(self, source, target):
        self.note("rename", source, target)
        super().rename(source, target)

    def remove(self, path):
        self.note("remove", path)
        super().remove(path)

    def remove_tree(self, path):
        self.note("remove_tree", path)
        super().remove_tree(path)


class TapedFile:
    def __init__(self, tape: Tape, path: Path, file: AppendFile) -> None:
        self.tape, self.path, self.file = tape, path, file

    @property
    def position(self):
        return self.file.position

    def write(self, data):
        self.tape.note("write", self.path)
        self.file.write(data)

    def sync(self):
        self.tape.note("sync", self.path)
        self.file.sync()

    def close(self):
        self.tape.note("close", self.path)
        self.file.close()


@pytest.fixture
def tape(tmp_path):
    return Tape(tmp_path)


@pytest.fixture
def taped(tape, tmp_path):
    store = LocalStore(tape, tmp_path / "root", tmp_path / "tmp")
    store.sweep()
    tape.calls.clear()
    return store


class TestLocal:
    def test_put_is_synced_before_and_after_its_rename(self, taped, tape):
        taped.put("a/b/k", [b"x"])
        written = ["create tmp/*", "write tmp/*", "sync tmp/*", "close tmp/*"]
        renamed = ["rename tmp/* root/a/b/k", "sync_dir root/a/b"]
        made = ["make_dir root/a", "sync_dir root", "make_dir root/a/b", "sync_dir root/a"]
        assert tape.calls == [*written, *made, *renamed]
        tape.calls.clear()
        taped.put("a/b/k", [b"y"])
        assert tape.calls == [*written, *renamed]

    def test_directories_found_are_not_taken_for_durable(self, taped, tape, tmp_path):
        (tmp_path / "root/a").mkdir()
        taped.put("a/k", [b"x"])
        assert "sync_dir root" in tape.calls

    def test_directories_of_a_deleted_tree_are_not_taken_for_durable(self, taped, tape, tmp_path):
        taped.put("a/b/k", [b"x"])
        taped.delete_tree("a")
        assert not taped._durable
        (tmp_path / "root/a/b").mkdir(parents=True)
        tape.calls.clear()
        taped.put("a/b/k", [b"y"])
        assert {"sync_dir root", "sync_dir root/a"} <= set(tape.calls)

    def test_tree_is_synced_before_and_after_its_rename(self, taped, tape):
        taped.create_tree("lab/x", {"d/k": b"1", "l": b"2"})
        calls = tape.calls
        rename = calls.index("rename tmp/* root/lab/x")
        assert calls[rename + 1 :] == ["sync_dir root/lab"]
        before = calls[:rename]
        assert sum(call.startswith("sync tmp") for call in before) == 2
        assert "sync_dir tmp/*" in before
        assert any(call.startswith("sync_dir tmp/") and call.endswith("/d") for call in before)
        assert before[-2:] == ["make_dir root/lab", "sync_dir root"]

    def test_deletions_are_synced(self, taped, tape):
        taped.put("a/k", [b"x"])
        tape.calls.clear()
        taped.delete("a/k")
        assert tape.calls == ["remove root/a/k", "sync_dir root/a"]
        tape.calls.clear()
        taped.delete_tree("a")
        ends = ["sync_dir tmp", "sync_dir root"]
        assert tape.calls == ["rename root/a tmp/*", *ends, "remove_tree tmp/*"]

    @pytest.mark.parametrize("call", ["create", "write", "sync", "make_dir", "rename"])
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
    def test_failed_put_leaves_old_and_no_rest(self, taped, tape, tmp_path, call, code):
        taped.put("a/k", [b"old"])
        before = len(os.listdir("/proc/self/fd"))
        tape.broken = {call: code}
        with pytest.raises(OSError, match=os.strerror(code)) as raised:
            taped.put("b/k" if call == "make_dir" else "a/k", [b"new"])
        assert raised.value.errno == code
        assert taped.get("a/k") == b"old"
        assert os.listdir(tmp_path / "tmp") == []
        assert len(os.listdir("/proc/self/fd")) == before
        tape.broken = {}
        taped.put("a/k", [b"new"])
        assert taped.get("a/k") == b"new"

    def test_unsynced_directory_surfaces(self, taped, tape):
        taped.put("a/k", [b"old"])
        tape.broken = {"sync_dir": errno.EIO}
        with pytest.raises(OSError, match="Input/output"):
            taped.put("a/k", [b"new"])
        with pytest.raises(OSError, match="Input/output"):
            taped.delete("a/k")

    @pytest.mark.parametrize("call", ["make_dir", "create", "write", "sync", "sync_dir", "rename"])
    def test_failed_tree_leaves_nothing(self, taped, tape, tmp_path, call):
        tape.broken = {call: errno.ENOSPC}
        with pytest.raises(OSError, match="No space") as raised:
            taped.create_tree("lab/x", {"d/k": b"1", "l": b"2"})
        assert raised.value.errno == errno.ENOSPC
        assert os.listdir(tmp_path / "tmp") == []
        assert walk(taped) == {}

    def test_first_error_wins_over_that_of_the_clean_up(self, taped, tape, tmp_path, caplog):
        tape.broken = {"write": errno.ENOSPC, "remove": errno.EIO}
        with pytest.raises(OSError, match="No space"):
            taped.put("a/k", [b"new"])
        assert "left until the next start" in caplog.text
        tape.broken = {}
        taped.sweep()
        assert os.listdir(tmp_path / "tmp") == []

    def test_sweep_empties_tmp_and_nothing_else(self, taped, tmp_path):
        taped.put("a/k", [b"x"])
        (tmp_path / "tmp/half/deep").mkdir(parents=True)
        (tmp_path / "tmp/half/deep/k").write_bytes(b"x")
        (tmp_path / "tmp/file").write_bytes(b"x")
        taped.sweep()
        assert os.listdir(tmp_path / "tmp") == []
        assert walk(taped) == {"a/k": 1}
