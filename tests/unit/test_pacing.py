"""Whose message is next, and is a rate kept?"""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.errors import Cancelled
from ziggurat_engine.writes.pacing import FairOrder, InFlight, Rate


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6), st.integers(20, 200))
def test_turns_are_fair_by_bytes(sizes: list[int], rounds: int) -> None:
    """Each flow always has a message waiting: none gets a message more than another."""
    order, got = FairOrder(), Counter(dict.fromkeys(range(len(sizes)), 0))
    waiting = {flow: order.join(flow, size) for flow, size in enumerate(sizes)}
    for _ in range(rounds):
        (flow,) = [flow for flow, turn in waiting.items() if order.next(turn)]
        order.leave(waiting[flow], served=True)
        got[flow] += sizes[flow]
        waiting[flow] = order.join(flow, sizes[flow])
        assert max(got.values()) - min(got.values()) <= 2 * max(sizes)


def test_a_pause_saves_nothing_up() -> None:
    order = FairOrder()
    for _ in range(10):
        turn = order.join("busy", 100)
        order.leave(turn, served=True)
    late, busy = order.join("late", 150), order.join("busy", 100)
    assert order.next(busy)
    order.leave(busy, served=True)
    assert order.next(late)


def test_one_that_gives_up_holds_nobody_up() -> None:
    order = FairOrder()
    first, second = order.join("a", 1), order.join("b", 2)
    assert order.next(first)
    order.leave(first, served=False)
    assert order.next(second)


def test_a_rate_is_kept() -> None:
    rate, begin = Rate(1_000_000), time.monotonic()
    flows = [
        threading.Thread(
            target=lambda name=name: [rate.take(name, 10_000, lambda: False) for _ in range(5)]
        )
        for name in "abc"
    ]
    for flow in flows:
        flow.start()
    for flow in flows:
        flow.join()
    # The last message is let in when all before it are paid for.
    assert time.monotonic() - begin >= 0.14


def test_who_is_not_wanted_any_more_waits_no_more() -> None:
    rate = Rate(1)
    rate.take("a", 1000, lambda: False)
    with pytest.raises(Cancelled):
        rate.take("b", 1, lambda: True)


def test_bytes_in_flight_are_bounded() -> None:
    room, most, lock = InFlight(100), [0], threading.Lock()

    def work() -> None:
        for _ in range(200):
            room.take(40)
            with lock:
                most[0] = max(most[0], room.nbytes)
            room.give(40)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] <= 80
    assert room.nbytes == 0
    room.take(1000)
    assert room.nbytes == 1000, "a message larger than all goes alone"
