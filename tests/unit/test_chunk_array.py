"""Are chunks replaced whole, copied where they stay, and read in one version?

The level has 5 x 7 pixels, chunks of 2 x 2 and shards of 4 x 4: 3 x 4 chunks in 2 x 2
shards, the lower ones with two chunks within the level and two past its end.
"""

import errno
import itertools
import os
import threading
from contextlib import suppress

import numpy as np
import pytest
from ziggurat_engine.errors import Corrupt, NotFound
from ziggurat_engine.pyramid import Pyramid
from ziggurat_engine.store.array import ChunkArray, StoredShard, StoredSize
from ziggurat_engine.store.gate import Gate
from ziggurat_engine.store.handles import ShardHandles
from ziggurat_engine.store.objects import LocalStore
from ziggurat_engine.store.shard import ShardIndex, index_size
from ziggurat_engine.vfs import OsFileSystem

INDEX = index_size(4)
SHARD = [(0, 0), (0, 1), (1, 0), (1, 1)]
EDGE = [(2, 0), (2, 1)]


def frame(chunk, version=0):
    """Says which chunk it is, and has a length of its own in every version."""
    return f"{chunk}/{version};".encode() * (1 + (7 * chunk[0] + 3 * chunk[1] + version) % 23)


def fds():
    return len(os.listdir("/proc/self/fd"))


class Spy(LocalStore):
    """Counts the objects opened; `before` and `after` run in an opener."""

    opened = 0
    before = after = staticmethod(lambda: None)

    def open(self, key):
        self.opened += 1
        self.before()
        reader = super().open(key)
        self.after()
        return reader


@pytest.fixture
def store(tmp_path):
    store = Spy(OsFileSystem(), tmp_path / "root", tmp_path / "tmp")
    store.sweep()
    yield store
    assert os.listdir(tmp_path / "tmp") == []


@pytest.fixture
def handles():
    handles = ShardHandles(4)
    before = fds()
    yield handles
    handles.close()
    assert fds() == before


def level(shape=(5, 7), shard=(4, 4)):
    return Pyramid.build(shape, [1.0] * len(shape), (2, 2), shard, []).levels[0]


@pytest.fixture
def array(store, handles):
    return ChunkArray(store, "x/0", level(), handles)


@pytest.fixture
def plain(store, handles):
    """Without sharding."""
    return ChunkArray(store, "x/0", level(shard=(2, 2)), handles)


def put(array, shard, chunks, version=0):
    return array.replace(shard, ((c, frame(c, version)) for c in chunks), chunks)


def test_absent_chunks(array, plain):
    assert array.read((0, 0)) is None
    assert plain.read((0, 0)) is None
    assert array.measure() == plain.measure() == StoredSize(0, 0, 0)


def test_keys_are_those_of_zarr(array, store):
    put(array, (1, 0), EDGE)
    assert array.key((1, 0)) == "x/0/c/1/0"
    assert [entry.key for entry in store.walk("")] == ["x/0/c/1/0"]


def test_first_write_and_reads(array):
    nbytes = sum(len(frame(c)) for c in SHARD) + INDEX
    assert put(array, (0, 0), SHARD) == StoredShard(4, nbytes)
    assert [array.read(c) for c in SHARD] == [frame(c) for c in SHARD]
    assert array.read((0, 2)) is None
    assert array.measure() == StoredSize(4, 1, nbytes)


def test_edge_shard_has_the_whole_index(array, store):
    stored = put(array, (1, 1), [(2, 3)])
    assert stored == StoredShard(1, len(frame((2, 3))) + INDEX)
    assert len(store.get("x/0/c/1/1")) == stored.bytes
    assert array.read((2, 3)) == frame((2, 3))
    assert array.read((2, 2)) is None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_unchanged_chunks_are_copied(array, count):
    put(array, (0, 0), SHARD, 1)
    for version, chunks in enumerate(itertools.permutations(SHARD, count), 2):
        expected = {c: array.read(c) for c in SHARD} | {c: frame(c, version) for c in chunks}
        stored = put(array, (0, 0), chunks, version)
        assert {c: array.read(c) for c in SHARD} == expected
        assert stored == StoredShard(4, sum(map(len, expected.values())) + INDEX)


def test_copies_in_pieces(array, monkeypatch):
    monkeypatch.setattr("ziggurat_engine.store.array.COPY_BYTES", 5)
    put(array, (0, 0), SHARD, 1)
    put(array, (0, 0), [(0, 1)], 2)
    assert [array.read(c) for c in SHARD] == [frame(c, 1 + (c == (0, 1))) for c in SHARD]


def test_neighbours_are_read_in_one_request(array, handles, monkeypatch):
    put(array, (0, 0), SHARD)
    put(array, (0, 1), [(0, 2), (1, 3)])
    wanted = {c: frame(c) for c in SHARD}
    assert array.read_joined([*SHARD, (0, 3), (1, 3), (2, 0)]) == wanted
    whole = sum(map(len, wanted.values()))
    assert (handles.traffic.requests, handles.traffic.nbytes) == (1, whole)
    # What lies between is read as well, where it is little.
    assert array.read_joined([(0, 0), (1, 1)]) == {c: frame(c) for c in [(0, 0), (1, 1)]}
    assert (handles.traffic.requests, handles.traffic.nbytes) == (2, 2 * whole)
    monkeypatch.setattr("ziggurat_engine.store.runs.GAP_BYTES", len(frame((0, 1))))
    assert array.read_joined([(0, 0), (1, 1)]) == {}
    assert set(array.read_joined([(0, 0), (1, 0)])) == {(0, 0), (1, 0)}
    monkeypatch.setattr("ziggurat_engine.store.array.JOINED_BYTES", whole - 1)
    assert array.read_joined(SHARD) == {}
    monkeypatch.setattr("ziggurat_engine.store.runs.JOIN_BYTES", whole - 1)
    assert set(array.read_joined(SHARD)) == set(SHARD[:3])


def test_frames_that_others_laid_into_each_other_are_joined_whole(array, store):
    """A shard may name one piece of it several times, and parts of it."""
    payload, absent = bytes(range(100)), [2**64 - 1] * 2
    index = ShardIndex(np.array([[0, 100], [10, 20], [0, 100], absent], "<u8"), 100)
    store.put("x/0/c/0/0", [payload, index.pack()])
    wanted = {chunk: array.read(chunk) for chunk in SHARD[:3]}
    assert wanted == {(0, 0): payload, (0, 1): payload[10:30], (1, 0): payload}
    assert array.read_joined(SHARD) == wanted


def test_nothing_is_joined_without_shards(plain):
    put(plain, (0, 0), [(0, 0)])
    put(plain, (0, 1), [(0, 1)])
    assert plain.read_joined([(0, 0), (0, 1)]) == {}


def test_holes_are_not_copied(array):
    put(array, (0, 0), SHARD, 1)
    array.replace((0, 0), [((0, 1), None)], [(0, 1)])
    stored = put(array, (0, 0), [(1, 1)], 2)
    expected = {(0, 0): frame((0, 0), 1), (1, 0): frame((1, 0), 1), (1, 1): frame((1, 1), 2)}
    assert {c: array.read(c) for c in SHARD} == expected | {(0, 1): None}
    assert stored == StoredShard(3, sum(map(len, expected.values())) + INDEX)


def test_a_shard_of_no_chunks_has_no_object(array, store):
    nothing = [(c, None) for c in SHARD]
    assert array.replace((0, 0), nothing, SHARD) == StoredShard(0, 0)
    assert list(store.walk("")) == []
    put(array, (0, 0), SHARD[:2])
    assert array.replace((0, 0), nothing[:2], SHARD[:2]) == StoredShard(0, 0)
    assert list(store.walk("")) == []
    assert array.read((0, 0)) is None


def test_a_shard_that_is_wholly_replaced_is_not_read(array, store):
    put(array, (0, 0), SHARD, 1)
    put(array, (1, 0), EDGE, 1)
    store.opened = 0
    put(array, (0, 0), SHARD, 2)
    put(array, (1, 0), EDGE, 2)
    assert store.opened == 0, "chunks past the level's end need not be replaced"
    assert array.read((2, 1)) == frame((2, 1), 2)


def test_a_broken_shard_can_be_written_over_but_not_into(array, store):
    put(array, (0, 0), SHARD, 1)
    whole = store.get("x/0/c/0/0")
    for broken in (b"", b"short", whole[:-1] + b"?", whole[:10] + whole[-INDEX:]):
        store.put("x/0/c/0/0", [broken])
        with pytest.raises(Corrupt, match="x/0/c/0/0"):
            array.read((0, 0))
        with pytest.raises(Corrupt):
            put(array, (0, 0), SHARD[:1], 2)
        with pytest.raises(Corrupt):
            array.measure()
        assert store.get("x/0/c/0/0") == broken
    put(array, (0, 0), SHARD, 3)
    assert [array.read(c) for c in SHARD] == [frame(c, 3) for c in SHARD]


@pytest.mark.parametrize("bad_at", range(5))
def test_failing_frames_leave_the_old_shard(array, bad_at):
    def frames():
        for i, chunk in enumerate([*SHARD, None]):
            if i == bad_at:
                raise RuntimeError("encoder")
            yield chunk, frame(chunk, 2)

    with pytest.raises(RuntimeError, match="encoder"):
        array.replace((0, 0), frames(), SHARD)
    assert array.measure() == StoredSize(0, 0, 0)
    put(array, (0, 0), SHARD, 1)
    with pytest.raises(RuntimeError, match="encoder"):
        array.replace((0, 0), frames(), SHARD)
    assert [array.read(c) for c in SHARD] == [frame(c, 1) for c in SHARD]


@pytest.mark.parametrize(
    ("brought", "replaced", "what"),
    [
        ([(0, 0)], [(0, 0), (0, 1)], "no frame of"),
        ([(0, 0), (0, 1)], [(0, 0)], "not expected"),
        ([(0, 0), (0, 0)], [(0, 0)], "not expected"),
        ([(0, 2)], [(0, 2)], "can't replace"),
        ([], [], "can't replace"),
    ],
    ids=["missing", "other", "twice", "of-another-shard", "none"],
)
def test_frames_must_be_those_announced(array, brought, replaced, what):
    put(array, (0, 0), SHARD, 1)
    with pytest.raises(ValueError, match=what):
        array.replace((0, 0), [(c, frame(c, 2)) for c in brought], replaced)
    assert [array.read(c) for c in SHARD] == [frame(c, 1) for c in SHARD]


def test_chunks_past_the_end_can_not_be_written(array):
    with pytest.raises(ValueError, match="can't replace"):
        put(array, (1, 0), [(3, 0)])


def test_unsharded_chunks_are_objects(plain, store):
    assert put(plain, (2, 1), [(2, 1)]) == StoredShard(1, len(frame((2, 1))))
    assert store.get("x/0/c/2/1") == plain.read((2, 1)) == frame((2, 1))
    put(plain, (0, 0), [(0, 0)])
    assert plain.measure() == StoredSize(2, 2, len(frame((2, 1))) + len(frame((0, 0))))
    assert plain.replace((2, 1), [((2, 1), None)], [(2, 1)]) == StoredShard(0, 0)
    assert plain.read((2, 1)) is None
    assert store.get("x/0/c/2/1") is None


def test_a_late_error_does_not_leave_a_stale_handle(array, store, monkeypatch):
    put(array, (0, 0), SHARD, 1)
    array.read((0, 0))

    def unsynced(_self, _path):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(OsFileSystem, "sync_dir", unsynced)
        with pytest.raises(OSError, match="Input/output"):
            put(array, (0, 0), SHARD, 2)
    assert len({array.read(c).split(b"/")[1][:1] for c in SHARD}) == 1


def test_reader_that_opened_the_old_shard_does_not_leave_it_to_others(array, store, handles):
    """The reader opens, the shard is replaced and dropped, the reader goes on."""
    put(array, (0, 0), SHARD, 1)
    opened, go_on, got = threading.Event(), threading.Event(), []

    def pause():
        del store.after
        opened.set()
        assert go_on.wait(10)

    store.after = pause
    reader = threading.Thread(target=lambda: got.append(array.read((0, 1))))
    reader.start()
    assert opened.wait(10)
    put(array, (0, 0), SHARD, 2)
    assert array.read((0, 1)) == frame((0, 1), 2)
    go_on.set()
    reader.join()
    assert got == [frame((0, 1), 1)]
    assert array.read((0, 1)) == frame((0, 1), 2)
    assert len(handles) == 1


def test_readers_that_miss_together_open_once(array, store):
    put(array, (0, 0), SHARD, 1)
    store.opened = 0
    threads = [threading.Thread(target=array.read, args=(c,)) for c in SHARD * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.opened == 1


def test_failed_open_is_tried_again(array, store):
    put(array, (0, 0), SHARD, 1)

    def broken():
        raise OSError(errno.EMFILE, "Too many open files")

    store.before = broken
    with pytest.raises(OSError, match="Too many"):
        array.read((0, 0))
    del store.before
    assert array.read((0, 0)) == frame((0, 0), 1)


@pytest.mark.parametrize("bound", [{"max_open": 3}, {"max_open": 99, "max_index_bytes": 3 * 64}])
def test_handles_are_bounded(store, bound):
    before = fds()
    handles = ShardHandles(**bound)
    array = ChunkArray(store, "x/0", level((8, 40)), handles)
    shards = [(i, j) for i in range(2) for j in range(10)]
    for shard in shards:
        put(array, shard, [(2 * shard[0], 2 * shard[1])])
    for shard in shards * 2:
        assert array.read((2 * shard[0], 2 * shard[1])) is not None
        assert len(handles) <= 3
        assert fds() <= before + 3
    assert len(handles) == 3
    store.opened = 0
    array.read((2, 18))
    assert store.opened == 0, "the latest is kept"
    handles.drop_prefix("y")
    assert len(handles) == 3
    handles.drop_prefix("x")
    assert len(handles) == 0
    assert fds() == before


def test_a_lease_outlives_eviction_and_drop(array, store):
    put(array, (0, 0), SHARD, 1)
    put(array, (0, 1), [(0, 2)], 1)
    before = fds()
    handles = ShardHandles(1)
    array = ChunkArray(store, "x/0", level(), handles)
    array.read((0, 0))
    with array._lease("x/0/c/0/0") as handle:
        array.read((0, 2))
        handles.close()
        assert fds() == before + 1
        assert handle.reader.read(0, 4) == frame((0, 0), 1)[:4]
    assert fds() == before


class Race:
    """Writers that replace parts of shards, readers that check what they get."""

    def __init__(self, array):
        self.array, self.errors, self.done = array, [], threading.Event()
        self.stored = dict.fromkeys(itertools.product(range(4), range(4)), 0)

    def write(self, shard, versions):
        chunks = list(self.array.level.chunks_of(shard).indices())
        for version in versions:
            some = [c for i, c in enumerate(chunks) if version >> i & 1 or version % 16 == 0]
            put(self.array, shard, some, version)
            self.stored.update(dict.fromkeys(some, version))

    def read(self, seed):
        seen = dict.fromkeys(self.stored, 0)
        for step in itertools.count(seed):
            if self.done.is_set():
                return
            chunk = (step * 7 % 4, step * 5 // 4 % 4)
            least = max(self.stored[chunk], seen[chunk])
            data = self.array.read(chunk)
            seen[chunk] = int(data.split(b"/")[1].split(b";")[0])
            assert data == frame(chunk, seen[chunk])
            assert seen[chunk] >= least

    def start(self, call, *args):
        thread = threading.Thread(target=self._guarded, args=(call, *args))
        thread.start()
        return thread

    def _guarded(self, call, *args):
        try:
            call(*args)
        except BaseException as error:
            self.errors.append(error)


def test_many_readers_beside_replacements(store):
    """Every read is of one version, never older than what was done when it began."""
    before, handles = fds(), ShardHandles(2)
    race = Race(ChunkArray(store, "x/0", level((8, 8)), handles))
    shards = [(0, 0), (0, 1), (1, 0), (1, 1)]
    for shard in shards:
        race.write(shard, [0])
    readers = [race.start(race.read, i) for i in range(6)]
    writers = [race.start(race.write, shard, range(1, 60)) for shard in shards]
    for thread in writers:
        thread.join()
    race.done.set()
    for thread in readers:
        thread.join()
    assert race.errors == []
    assert set(race.stored.values()) == {55, 59}
    assert len(handles) <= 2
    handles.close()
    assert fds() == before


def test_a_closed_gate_stops_reads_and_writes(store, handles):
    gate = Gate("x")
    array = ChunkArray(store, "x/0", level(), handles, gate)
    put(array, (0, 0), SHARD)
    gate.close()
    for call in (
        lambda: array.read((0, 0)),
        lambda: array.read((2, 0)),
        lambda: put(array, (0, 0), SHARD),
    ):
        with pytest.raises(NotFound) as raised:
            call()
        assert raised.value.field == "name"
    gate.reopen()
    assert array.read((0, 0)) == frame((0, 0))


def test_the_gate_waits_for_writes(store, handles):
    gate = Gate("x")
    array = ChunkArray(store, "x/0", level(), handles, gate)
    closing = threading.Thread(target=gate.close)

    def frames():
        closing.start()
        while True:
            with suppress(NotFound):
                gate.check()
                continue
            break
        assert closing.is_alive()
        yield (0, 0), b"x"

    assert array.replace((0, 0), frames(), [(0, 0)]).chunks == 1
    closing.join()
