"""Does each call get its turn, however many tasks others have, and what can wait wait?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest
from ziggurat_engine.reads.turns import Turns

from tests.support.waiting import SECONDS, until


@pytest.fixture
def turns() -> Iterator[Turns]:
    made = Turns(1, "test")
    yield made
    made.close()


def held(turns: Turns) -> threading.Event:
    """Keeps the only thread busy until the event is set."""
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert go.wait(SECONDS)

    turns.line().submit(hold)
    assert begun.wait(SECONDS)
    return go


def test_lines_take_turns(turns: Turns) -> None:
    go, done = held(turns), []
    large, small, third = turns.line(), turns.line(), turns.line()
    last = turns.later(lambda: done.append("later"))
    for number in range(4):
        large.submit(lambda number=number: done.append(f"large {number}"))
    for number in range(2):
        small.submit(lambda number=number: done.append(f"small {number}"))
    third.submit(lambda: done.append("third"))
    go.set()
    last.result(SECONDS)
    order = ("large 0", "small 0", "third", "large 1", "small 1", "large 2", "large 3", "later")
    assert tuple(done) == order


def test_results_errors_and_what_is_given_up(turns: Turns) -> None:
    go, line, done = held(turns), turns.line(), []
    good = line.submit(lambda: 5)
    given_up = line.submit(lambda: done.append("given up"))
    bad = line.submit(lambda: 1 // 0)
    assert given_up.cancel()
    go.set()
    assert good.result(SECONDS) == 5
    with pytest.raises(ZeroDivisionError):
        bad.result(SECONDS)
    assert not done
    # The line begins again where it was empty.
    assert line.submit(lambda: 6).result(SECONDS) == 6


def test_what_is_for_later_is_dropped_at_the_end() -> None:
    turns = Turns(1, "test")
    go, done = held(turns), []
    later = turns.later(lambda: done.append("later"))
    line = turns.line().submit(lambda: done.append("line"))
    closing = threading.Thread(target=turns.close)
    closing.start()
    until(later.cancelled, "what was for later to be dropped")
    go.set()
    closing.join(SECONDS)
    assert line.done()
    assert done == ["line"]
    with pytest.raises(RuntimeError, match="ended"):
        turns.line().submit(lambda: None)


def test_threads_run_side_by_side() -> None:
    turns = Turns(4, "test")
    meeting = threading.Barrier(4)
    line = turns.line()
    met = [line.submit(lambda: meeting.wait(SECONDS)) for _ in range(4)]
    assert sorted(each.result(SECONDS) for each in met) == [0, 1, 2, 3]
    turns.close()


def test_who_sleeps_is_woken_for_one_task_alone() -> None:
    """A thread that was woken and does not run yet is not there for the next task as well."""
    turns = Turns(2, "test")
    for _ in range(20):
        turns.line().submit(lambda: None).result(SECONDS)
        until(lambda: turns._idle > 0, "the thread to sleep")
        meet = partial(threading.Barrier(2).wait, SECONDS)
        met = [turns.line().submit(meet) for _ in range(2)]
        assert sorted(each.result(SECONDS) for each in met) == [0, 1]
    turns.close()
