"""Who waits for whom, and who does not?"""

from __future__ import annotations

import threading

from ziggurat_engine.locks import SharedLock

from tests.support.waiting import SECONDS, until


def test_many_share() -> None:
    lock = SharedLock()
    with lock.shared() as first, lock.shared(wait=False) as second:
        assert first
        assert second


def test_one_is_alone() -> None:
    lock = SharedLock()
    with lock.alone(), lock.shared(wait=False) as held:
        assert not held
    # What held nothing gave nothing back.
    with lock.alone():
        pass
    with lock.shared(wait=False) as held:
        assert held


def test_who_wants_to_be_alone_comes_first() -> None:
    lock = SharedLock()
    order: list[str] = []

    def alone() -> None:
        with lock.alone():
            order.append("alone")

    def share() -> None:
        with lock.shared():
            order.append("shared")

    def refused() -> bool:
        with lock.shared(wait=False) as held:
            return not held

    with lock.shared():
        waiting = threading.Thread(target=alone)
        waiting.start()
        until(refused, "somebody to want to be alone")
        after = threading.Thread(target=share)
        after.start()
        assert not order
    for thread in (waiting, after):
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert order == ["alone", "shared"]
