"""Is memory counted, and are writers held back and let go at the right bytes?"""

from __future__ import annotations

import threading

from ziggurat_engine.cache import Budget

from tests.support.waiting import SECONDS, until


def test_limits() -> None:
    budget = Budget(1000)
    # Settling begins before writers have to wait, and they wait before memory is full.
    assert 0 < budget.pressure_bytes < budget.dirty_limit_bytes < budget.total_bytes == 1000
    assert budget.dirty_limit_bytes == 750
    assert budget.reserve(budget.pressure_bytes)
    assert not budget.pressed
    assert budget.reserve(750 - budget.pressure_bytes)
    assert budget.pressed
    assert not budget.reserve(1)
    assert budget.reserve(0)
    assert budget.clean_allowance_bytes == 250
    assert budget.reserve(600, force=True)
    assert budget.dirty_bytes == 1350
    assert budget.clean_allowance_bytes == 0
    budget.release(1350)
    assert (budget.dirty_bytes, budget.pressed) == (0, False)


def test_what_is_beside_chunks_takes_room_of_clean_ones() -> None:
    budget = Budget(1000)
    with budget.held(100), budget.beside(200):
        assert budget.dirty_bytes == 100
        assert budget.clean_allowance_bytes == 700
        # Writers wait for what settles, never for what waits itself.
        assert budget.reserve(650)
        assert not budget.reserve(1)
        budget.release(650)
    assert (budget.dirty_bytes, budget.clean_allowance_bytes) == (0, 1000)


def test_one_write_larger_than_the_limit_gets_in_alone() -> None:
    """Else it would wait for ever."""
    budget = Budget(100)
    assert budget.reserve(1)
    assert not budget.reserve(1000)
    budget.release(1)
    assert budget.reserve(1000)


def test_who_waits_goes_on_when_there_is_room() -> None:
    budget = Budget(100)
    assert budget.reserve(70)
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(budget.wait(10, SECONDS)))
    waiting.start()
    # Below the mark, but somebody waits: settling helps.
    until(lambda: budget.pressed, "the waiting to be seen")
    budget.release(4)
    assert not found
    budget.release(16)
    waiting.join(SECONDS)
    assert found == [True]


def test_waiting_ends() -> None:
    budget = Budget(100)
    assert budget.reserve(70)
    assert not budget.wait(10, 0.01)
    assert not Budget(1).pressed


def test_many_threads_count_right() -> None:
    budget = Budget(10**9)

    def work() -> None:
        for _ in range(1000):
            assert budget.reserve(3)
            budget.release(3)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert budget.dirty_bytes == 0
