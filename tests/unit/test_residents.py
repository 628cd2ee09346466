"""Does what is wanted again stay, whatever passes by once?"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.cache.residents import PROTECTED, ChunkKey, Residents

CHUNK = 100
ROOM = 100 * CHUNK  # a hundred chunks
VOLUME = 1000  # ten times that


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def key(number: int, image: int = 1) -> ChunkKey:
    return ChunkKey(image, 0, (number,))


class Trace:
    """Reads against a cache of ROOM bytes; a miss loads the chunk."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.residents = Residents(apart_seconds=5, clock=self.clock)

    def read(self, keys: Iterable[ChunkKey], seconds: float = 0.0) -> float:
        """Reads chunk after chunk, `seconds` apart; returns the share that was at hand."""
        hits = []
        for chunk in keys:
            found = self.residents.use(chunk)
            hits.append(found is not None)
            if found is None:
                self.residents.put(chunk, np.empty(CHUNK, np.uint8))
                self.residents.evict(ROOM)
            assert self.residents.nbytes <= ROOM
            self.clock.now += seconds
        return sum(hits) / len(hits)


def by_blocks() -> Iterable[ChunkKey]:
    """Each chunk twice in a row: a read comes in parts."""
    return (key(number) for number in range(VOLUME) for _ in range(2))


def by_planes() -> Iterable[ChunkKey]:
    """Ten slabs of a hundred chunks, 64 planes of each slab one after the other."""
    return (
        key(slab * 100 + chunk) for slab in range(10) for _ in range(64) for chunk in range(100)
    )


VIEWED = [key(number, image=2) for number in range(30)]


@pytest.mark.parametrize("scan", [by_blocks, by_planes])
def test_a_scan_does_not_flush_what_a_viewer_looks_at(
    scan: Callable[[], Iterable[ChunkKey]],
) -> None:
    trace = Trace()
    # Somebody looks at the same 30 chunks, for ten seconds, and leaves the desk.
    for _ in range(10):
        trace.read(VIEWED)
        trace.clock.now += 1
    # Ten times the cache passes by: a slab of 6400 reads in about four seconds.
    trace.read(scan(), seconds=0.0006)
    assert trace.read(VIEWED) == 1.0


def test_what_a_scan_met_while_it_was_young_is_lost_once_at_most() -> None:
    trace = Trace()
    trace.read(VIEWED)
    trace.read(by_blocks(), seconds=0.01)
    # The keys of the last hundred chunks are remembered: these have left the list as well.
    assert trace.read(VIEWED) == 0.0
    trace.clock.now += 6
    assert trace.read(VIEWED) == 1.0
    trace.read(by_blocks(), seconds=0.01)
    assert trace.read(VIEWED) == 1.0


def test_what_was_wanted_again_soon_after_it_left_is_protected() -> None:
    trace = Trace()
    trace.read(VIEWED)
    trace.clock.now += 6
    trace.read(list(by_blocks())[:240])
    assert trace.read(VIEWED) < 1.0
    trace.read(by_blocks())
    assert trace.read(VIEWED) == 1.0


def test_a_working_set_as_large_as_the_cache_stays_in_it() -> None:
    trace = Trace()
    trace.read(key(number) for number in range(100))
    trace.clock.now += 6
    for _ in range(3):
        assert trace.read(key(number) for number in range(100)) == 1.0
        trace.clock.now += 6


def test_new_chunks_find_room_beside_protected_ones() -> None:
    trace = Trace()
    for _ in range(2):
        trace.read(key(number) for number in range(100))
        trace.clock.now += 6
    new = [key(number, image=3) for number in range(round((1 - PROTECTED) * 100))]
    trace.read(new)
    assert trace.read(new) == 1.0


def test_what_is_read_ahead_drives_out_nothing_that_is_protected() -> None:
    trace = Trace()
    for _ in range(2):
        trace.read(VIEWED)
        trace.clock.now += 6
    for number in range(VOLUME):
        trace.residents.put(key(number), np.empty(CHUNK, np.uint8), ahead=True)
        trace.residents.evict(ROOM)
    assert trace.read(VIEWED) == 1.0


def test_what_is_read_ahead_comes_when_it_is_used_first() -> None:
    """Long after it was loaded is no second time."""
    trace = Trace()
    for chunk in VIEWED:
        trace.residents.put(chunk, np.empty(CHUNK, np.uint8), ahead=True)
    trace.clock.now += 6
    assert trace.read(VIEWED) == 1.0
    assert trace.residents.ahead_used == len(VIEWED)
    trace.read(by_blocks())
    assert trace.read(VIEWED) == 0.0


def test_what_changes_in_the_store_keeps_its_place() -> None:
    trace = Trace()
    for _ in range(2):
        trace.read(VIEWED)
        trace.clock.now += 6
    for chunk in VIEWED:
        trace.residents.put(chunk, np.ones(CHUNK, np.uint8))
    trace.read(by_blocks())
    assert trace.read(VIEWED) == 1.0
    found = trace.residents.use(VIEWED[0])
    assert found is not None
    assert found[0] == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["use", "put", "remove", "evict"]),
            st.integers(0, 8),
            st.integers(1, 60),
            st.sampled_from([0.0, 1.0, 6.0]),
        ),
        max_size=60,
    )
)
def test_it_holds_what_was_put_last_and_counts_its_bytes(
    steps: list[tuple[str, int, int, float]],
) -> None:
    clock = Clock()
    residents = Residents(apart_seconds=5, clock=clock)
    put: dict[ChunkKey, np.ndarray] = {}
    for what, number, size, seconds in steps:
        clock.now += seconds
        if what == "put":
            put[key(number)] = np.empty(size, np.uint8)
            residents.put(key(number), put[key(number)])
        elif what == "remove":
            put.pop(key(number), None)
            residents.remove(key(number))
        elif what == "evict":
            before = len(list(residents))
            gone = residents.evict(size * 3)
            assert residents.nbytes <= size * 3
            assert len(list(residents)) == before - gone
        else:
            found = residents.use(key(number))
            assert found is None or found is put[key(number)]
        kept = list(residents)
        assert len(kept) == len(set(kept))
        assert residents.nbytes == sum(put[k].nbytes for k in kept)
