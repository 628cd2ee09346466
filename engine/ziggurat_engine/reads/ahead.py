"""How much of a read is made ahead of the part that is being sent?

Tasks of a read are drawn one by one, as there is room, and take turns with those of other
reads. What is ready and not sent is bounded for all reads together, beyond one task of each:
so clients that take nothing hold little memory, however many they are, and none waits for
another.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

from ziggurat_engine.reads.turns import Turns

# Tasks of a group that go on at a time, for each one of a single read that would: they
# may be small.
GROUP_AHEAD = 16

_Key = TypeVar("_Key")
_Made = TypeVar("_Made")


class Room:
    """Bytes that all reads together may have ready. Methods may be called from any thread."""

    def __init__(self, nbytes: int) -> None:
        self._lock = threading.Lock()
        self.left = nbytes

    def take(self, nbytes: int) -> bool:
        """Takes so many, if there are."""
        with self._lock:
            if nbytes > self.left:
                return False
            self.left -= nbytes
            return True

    def give(self, nbytes: int) -> None:
        """Gives back what was taken."""
        with self._lock:
            self.left += nbytes


class Ahead:
    """Runs the tasks of all reads. Methods may be called from any thread.

    turns: the threads, and how reads take turns. most: tasks of one read that go on at a
    time. room_bytes: of results, see Room.
    """

    def __init__(self, turns: Turns, most: int, room_bytes: int) -> None:
        self.room = Room(room_bytes)
        self.most = most
        self._turns = turns

    def in_order(
        self, tasks: Iterable[tuple[_Key, int, Callable[[], _Made]]]
    ) -> Generator[tuple[_Key, _Made]]:
        """What the tasks return, in their order. tasks: (key, bytes of the result, task).

        Closing the iterator drops what has not begun and waits for the rest.
        """
        line = self._turns.line()
        # Bytes of the room are the second.
        going: deque[tuple[_Key, int, Future[_Made]]] = deque()

        def first() -> tuple[_Key, _Made]:
            key, held, made = going.popleft()
            self.room.give(held)
            return key, made.result()

        try:
            for key, nbytes, task in tasks:
                held = nbytes if going else 0
                while len(going) == self.most or not self.room.take(held):
                    yield first()
                    held = held if going else 0
                going.append((key, held, line.submit(task)))
            while going:
                yield first()
        finally:
            self._drop([(held, made) for _, held, made in going])

    def in_groups(
        self,
        tasks: Iterable[tuple[_Key, int, Callable[[], _Made]]],
        group_bytes: int,
        *,
        as_completed: bool,
    ) -> Generator[list[tuple[_Key, _Made]]]:
        """As `in_order`, some results at a time, about `group_bytes` together.

        as_completed: as they are ready; else in order.
        """
        line = self._turns.line()
        drawn = iter(tasks)
        # Bytes of the result and of the room are the second and third.
        going: deque[tuple[_Key, int, int, Future[_Made]]] = deque()
        following = next(drawn, None)
        try:
            while True:
                while following is not None and len(going) < GROUP_AHEAD * self.most:
                    key, nbytes, task = following
                    held = nbytes if going else 0
                    if not self.room.take(held):
                        break
                    going.append((key, nbytes, held, line.submit(task)))
                    following = next(drawn, None)
                if not going:
                    return
                if as_completed:
                    wait([made for *_, made in going], return_when=FIRST_COMPLETED)
                    # What is ready comes to the front.
                    going = deque(sorted(going, key=lambda entry: not entry[3].done()))
                done: list[tuple[_Key, _Made]] = []
                done_bytes = 0
                while going and (not done or going[0][3].done()):
                    key, nbytes, held, made = going.popleft()
                    self.room.give(held)
                    done.append((key, made.result()))
                    done_bytes += nbytes
                    if done_bytes >= group_bytes:
                        break
                yield done
        finally:
            self._drop([(held, made) for _, _, held, made in going])

    def _drop(self, left: list[tuple[int, Future[_Made]]]) -> None:
        for held, made in left:
            self.room.give(held)
            made.cancel()
        wait([made for _, made in left])
