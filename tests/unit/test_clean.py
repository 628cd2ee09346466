"""Is each chunk loaded once, the least used one dropped, and nothing outdated kept?"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ziggurat_engine.cache import Budget, ChunkKey, CleanChunks, Extent, Extents, Stretch
from ziggurat_engine.cache.clean import MOST_STRETCHES
from ziggurat_engine.errors import Corrupt
from ziggurat_engine.region import Region

from tests.support.waiting import SECONDS


def key(number: int, image: int = 1) -> ChunkKey:
    return ChunkKey(image, 0, (number,))


def chunk(value: int) -> np.ndarray:
    return np.full(10, value, "uint8")


def refuse() -> np.ndarray:
    raise AssertionError("loaded again")


def test_hits_and_misses() -> None:
    clean = CleanChunks(Budget(100))
    first = clean.get_or_load(key(1), lambda: chunk(1))
    assert clean.get_or_load(key(1), refuse) is first
    assert (clean.counters.hits, clean.counters.misses, clean.nbytes) == (1, 1, 10)


def test_absent_chunks_are_not_kept() -> None:
    clean = CleanChunks(Budget(100))
    assert clean.get_or_load(key(1), lambda: None) is None
    assert clean.get_or_load(key(1), lambda: chunk(1)) is not None
    assert clean.counters.misses == 2


def test_the_least_recently_used_goes_first() -> None:
    clean = CleanChunks(Budget(30))
    for number in (1, 2, 3):
        clean.get_or_load(key(number), lambda: chunk(0))
    clean.get_or_load(key(1), refuse)
    clean.get_or_load(key(4), lambda: chunk(0))
    assert (clean.nbytes, clean.counters.evictions) == (30, 1)
    clean.get_or_load(key(1), refuse)
    with pytest.raises(AssertionError, match="loaded again"):
        clean.get_or_load(key(2), refuse)


def test_dirty_bytes_take_room() -> None:
    budget = Budget(40)
    clean = CleanChunks(budget)
    for number in range(4):
        clean.get_or_load(key(number), lambda: chunk(0))
    budget.reserve(25)
    clean.shrink()
    assert clean.nbytes == 10
    budget.reserve(25, force=True)
    clean.shrink()
    assert clean.nbytes == 0
    # With no room at all, chunks still get through.
    assert clean.get_or_load(key(9), lambda: chunk(9))[0] == 9
    assert clean.nbytes == 0


def test_an_image_is_dropped_whole() -> None:
    clean = CleanChunks(Budget(1000))
    for image in (1, 2):
        for number in range(3):
            clean.put(key(number, image), chunk(image))
    clean.drop_image(1)
    assert clean.nbytes == 30
    assert clean.get_or_load(key(0, 2), refuse)[0] == 2


class Slow:
    """A load that ends when it is told to; several may wait for it."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.started, self.go = threading.Event(), threading.Event()
        self.count = 0

    def __call__(self) -> np.ndarray:
        self.count += 1
        self.started.set()
        assert self.go.wait(SECONDS)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def readers(clean: CleanChunks, load: Slow, count: int) -> tuple[list[threading.Thread], list]:
    found: list = []

    def read() -> None:
        try:
            found.append(clean.get_or_load(key(1), load))
        except OSError as error:
            found.append(error)

    threads = [threading.Thread(target=read) for _ in range(count)]
    for thread in threads:
        thread.start()
    assert load.started.wait(SECONDS)
    return threads, found


def read_beside(
    load: Slow, read: Callable[[int, int], None], first: tuple[int, int], *others: tuple[int, int]
) -> None:
    """Reads `others` while `load`, which reading `first` begins, goes on; then lets it end."""
    threads = [threading.Thread(target=read, args=first)]
    threads[0].start()
    assert load.started.wait(SECONDS)
    threads += [threading.Thread(target=read, args=each) for each in others]
    for thread in threads[1:]:
        thread.start()
    finish(threads, load)


def finish(threads: list[threading.Thread], load: Slow) -> None:
    load.go.set()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


def test_one_load_however_many_wait() -> None:
    clean = CleanChunks(Budget(1000))
    load = Slow(chunk(5))
    threads, found = readers(clean, load, 12)
    # Another chunk does not wait for it.
    assert clean.get_or_load(key(2), lambda: chunk(2))[0] == 2
    finish(threads, load)
    assert load.count == 1
    assert len(found) == 12
    assert all(array is load.result for array in found)


def test_a_failed_load_reaches_all_and_is_tried_again() -> None:
    clean = CleanChunks(Budget(1000))
    load = Slow(OSError("broken"))
    threads, found = readers(clean, load, 1)
    finish(threads, load)
    assert found == [load.result]
    assert clean.get_or_load(key(1), lambda: chunk(1))[0] == 1


@pytest.mark.parametrize("how", ["put", "drop", "drop_image"])
def test_a_load_that_was_overtaken_is_not_kept(how: str) -> None:
    clean = CleanChunks(Budget(1000))
    load = Slow(chunk(1))
    threads, found = readers(clean, load, 1)
    if how == "put":
        clean.put(key(1), chunk(2))
    elif how == "drop":
        clean.drop(key(1))
    else:
        clean.drop_image(1)
    finish(threads, load)
    assert found[0][0] == 1, "right when it was asked for"
    assert clean.get_or_load(key(1), lambda: chunk(2))[0] == 2


def test_different_chunks_do_not_wait_for_each_other() -> None:
    clean = CleanChunks(Budget(1000))
    begun, go = threading.Event(), threading.Event()

    def slow() -> np.ndarray:
        begun.set()
        assert go.wait(SECONDS)
        return chunk(1)

    waiting = threading.Thread(target=lambda: clean.get_or_load(key(1), slow))
    waiting.start()
    assert begun.wait(SECONDS)
    assert clean.get_or_load(key(2), lambda: chunk(2)) is not None
    clean.load_ahead(key(3), lambda: chunk(3))
    assert clean.get_or_load(key(3), refuse) is not None
    go.set()
    waiting.join(SECONDS)
    assert clean.get_or_load(key(1), refuse) is not None


def test_what_is_read_ahead_counts_once_somebody_asks() -> None:
    clean = CleanChunks(Budget(100))
    clean.load_ahead(key(1), lambda: chunk(1))
    clean.load_ahead(key(1), refuse)
    assert key(1) in clean
    assert (clean.counters.misses, clean.counters.read_ahead, clean.read_ahead_used) == (0, 1, 0)
    for _ in range(2):
        clean.get_or_load(key(1), refuse)
    assert (clean.counters.hits, clean.read_ahead_used) == (2, 1)
    with pytest.raises(AssertionError, match="loaded again"):
        clean.load_ahead(key(2), refuse)
    assert clean.get_or_load(key(2), lambda: chunk(2)) is not None


def stretch(first: int, stop: int, value: int = 1) -> Stretch:
    return Stretch(first, np.full(stop - first, value, "uint8"))


def part(clean: CleanChunks, first: int, stop: int, most: int = 5) -> object:
    """What is found of pixels of a chunk of 10; a stretch that is loaded has them and no more."""
    extent = Extent(first, stop)
    return clean.get_or_load_part(
        key(1), extent, most, lambda: stretch(first, stop), lambda: chunk(1)
    )


def test_stretches_are_kept_until_the_chunk_is() -> None:
    clean = CleanChunks(Budget(100))
    first = part(clean, 2, 4)
    assert isinstance(first, Stretch)
    assert part(clean, 2, 3) is first
    assert (clean.counters.hits, clean.counters.misses, clean.nbytes) == (1, 1, 2)
    assert clean.use(key(1)) is None
    assert clean.use(key(1), Extent(3, 4)) is first
    # Of the chunk with index 1 its pixel 3, and the first of the next one.
    one, more = (Extents((10,), Region((13,), (n,))) for n in (1, 8))
    assert clean.use_all([key(1)], one) == [first]
    assert clean.use_all([key(1), key(2)], more) == [None, None]
    assert key(1) not in clean
    assert isinstance(part(clean, 6, 9), Stretch)
    assert clean.nbytes == 5
    # One more would be more than half of it: all of it, and no stretches any more.
    whole = part(clean, 0, 1)
    assert isinstance(whole, np.ndarray)
    assert part(clean, 5, 6) is whole
    assert clean.nbytes == 10


def test_a_chunk_takes_the_place_of_its_stretches() -> None:
    clean = CleanChunks(Budget(100))
    part(clean, 2, 4)
    assert clean.get_or_load(key(1), lambda: chunk(1)) is not None
    assert clean.nbytes == 10
    assert isinstance(part(clean, 2, 4), np.ndarray)


def test_a_part_may_come_as_a_chunk_or_not_at_all() -> None:
    clean = CleanChunks(Budget(100))
    assert clean.get_or_load_part(key(1), Extent(0, 1), 5, lambda: None, refuse) is None
    whole = chunk(1)
    assert clean.get_or_load_part(key(1), Extent(0, 1), 5, lambda: whole, refuse) is whole
    assert clean.get_or_load(key(1), refuse) is whole


@pytest.mark.parametrize("how", ["put", "drop", "drop_image"])
def test_what_replaces_a_chunk_ends_its_stretches(how: str) -> None:
    clean = CleanChunks(Budget(100))
    part(clean, 2, 4)
    load = Slow(stretch(6, 7))
    found: list[object] = []
    waiting = threading.Thread(
        target=lambda: found.append(clean.get_or_load_part(key(1), Extent(6, 7), 5, load, refuse))
    )
    waiting.start()
    assert load.started.wait(SECONDS)
    if how == "put":
        clean.put(key(1), chunk(2))
    elif how == "drop":
        clean.drop(key(1))
    else:
        clean.drop_image(1)
    finish([waiting], load)
    assert found == [load.result], "right when it was asked for"
    assert clean.nbytes == (10 if how == "put" else 0)
    again = part(clean, 2, 4)
    assert isinstance(again, np.ndarray) == (how == "put")


def test_one_load_of_a_stretch_at_a_time() -> None:
    clean = CleanChunks(Budget(100))
    load = Slow(stretch(2, 4))
    found: list[object] = []

    def read(first: int, stop: int) -> None:
        extent = Extent(first, stop)
        others = load if stop <= 4 else lambda: stretch(first, stop)
        found.append(clean.get_or_load_part(key(1), extent, 5, others, refuse))

    # One that loads, one that wants what is in it, and one what is beside it.
    read_beside(load, read, (2, 4), (2, 3), (5, 6))
    assert load.count == 1
    assert sorted(part.extent for part in found if isinstance(part, Stretch)) == [
        (2, 4),
        (2, 4),
        (5, 6),
    ]
    assert clean.nbytes == 3


def test_a_stretch_that_does_not_load_fails_who_wants_it_and_no_other() -> None:
    clean = CleanChunks(Budget(100))
    load = Slow(OSError("broken"))
    found: list[object] = []

    def read(first: int, stop: int) -> None:
        try:
            found.append(
                clean.get_or_load_part(
                    key(1), Extent(first, stop), 5, load if first < 4 else beside, refuse
                )
            )
        except OSError as error:
            found.append(error)

    def beside() -> Stretch:
        return stretch(5, 6)

    read_beside(load, read, (2, 4), (2, 3), (5, 6))
    assert sum(isinstance(one, Stretch) for one in found) == 1
    assert sum(one is load.result for one in found) == 2
    assert part(clean, 2, 4) is not None


def test_what_is_damaged_beside_is_not_told() -> None:
    """A chunk that does not load whole is read in parts, however much of it was."""
    clean = CleanChunks(Budget(100))

    def broken() -> np.ndarray:
        raise Corrupt("block 9")

    for first in range(9):
        extent = Extent(first, first + 1)
        found = clean.get_or_load_part(
            key(1), extent, 5, lambda first=first: stretch(first, first + 1), broken
        )
        assert isinstance(found, Stretch)
    with pytest.raises(Corrupt, match="block 9"):
        clean.get_or_load_part(key(1), Extent(9, 10), 5, broken, broken)


@pytest.mark.parametrize("result", [None, chunk(1)], ids=["absent", "whole"])
def test_a_part_that_turns_out_to_be_all_is_for_all_who_wait(result: np.ndarray | None) -> None:
    clean = CleanChunks(Budget(100))
    load = Slow(result)
    found: list[object] = []

    def read(first: int, stop: int) -> None:
        extent = Extent(first, stop)
        found.append(clean.get_or_load_part(key(1), extent, 5, load, refuse))

    # Whoever comes late finds it there, or looks anew where there is nothing.
    read_beside(load, read, *((first, first + 1) for first in range(5)))
    assert len(found) == 5
    assert all(one is result for one in found)
    assert load.count == 1 or result is None


def test_few_stretches_of_a_chunk_are_kept() -> None:
    clean = CleanChunks(Budget(10_000))
    large = np.zeros(1000, "uint8")
    loads = 0

    def load() -> np.ndarray:
        nonlocal loads
        loads += 1
        return large

    for first in range(0, 200, 2):
        extent = Extent(first, first + 1)
        clean.get_or_load_part(
            key(1), extent, 500, lambda first=first: stretch(first, first + 1), load
        )
    assert loads == 1
    assert clean.counters.misses == MOST_STRETCHES + 1
    assert clean.nbytes == 1000


def test_stretches_are_evicted_as_chunks_are() -> None:
    clean = CleanChunks(Budget(12))
    part(clean, 2, 4)
    clean.get_or_load(key(2), lambda: chunk(2))
    assert clean.nbytes == 12
    clean.get_or_load(key(3), lambda: chunk(3))
    assert (clean.nbytes, clean.counters.evictions) == (10, 2)
    assert isinstance(part(clean, 2, 4), Stretch)
