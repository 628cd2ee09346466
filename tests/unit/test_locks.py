"""Who waits for whom, and who does not?"""

from __future__ import annotations

import threading

from ziggurat_engine.locks import SharedLock

from tests.support.waiting import SECONDS, until


def test_many_share() -> None:
    lock = SharedLock()
    with lock.shared(), lock.shared():
        assert not lock.wait_unshared(0)
    assert lock.wait_unshared(0)


def test_who_waits_for_those_who_share_keeps_nobody_out() -> None:
    lock = SharedLock()
    found: list[bool] = []
    with lock.shared():
        waiting = threading.Thread(target=lambda: found.append(lock.wait_unshared(SECONDS)))
        waiting.start()
        with lock.shared():
            assert not found
    waiting.join(SECONDS)
    assert found == [True]


def test_who_wants_to_be_alone_comes_first() -> None:
    lock = SharedLock()
    order: list[str] = []

    def alone() -> None:
        with lock.alone():
            order.append("alone")

    def share() -> None:
        with lock.shared():
            order.append("shared")

    with lock.shared():
        waiting = threading.Thread(target=alone)
        waiting.start()
        until(lambda: lock._alone, "somebody to want to be alone")
        after = threading.Thread(target=share)
        after.start()
        assert not order
    for thread in (waiting, after):
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert order == ["alone", "shared"]
