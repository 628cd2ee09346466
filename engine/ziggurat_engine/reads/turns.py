"""Whose task runs next, so that a large call does not keep a small one waiting?

Calls take turns: each has a line of its own, and a thread that is free takes one task of
the line whose turn it is. In one queue for all a call with a hundred tasks would come
before all who ask after it. What is not urgent runs when no line has anything.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ziggurat_engine.spans import carried

_Made = TypeVar("_Made")
_Task = tuple["Future[Any]", Callable[[], Any]]


class Line:
    """The tasks of one call, which run in the order in which they come."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.waiting: deque[_Task] = deque()

    def submit(self, task: Callable[[], _Made]) -> Future[_Made]:
        """Runs `task` in its turn. Any thread may call."""
        return self._turns.submit(self, task)


class Turns:
    """`threads` that run the tasks of all lines. Methods may be called from any thread.

    name: of the threads. They begin when they are needed.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._most = threads
        self._name = name
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False
        # Invariant: a line is here once while it has tasks that wait, else not at all.
        self._lines: deque[Line] = deque()
        self._later: deque[_Task] = deque()
        # Half of the threads at most, so that whoever comes finds one.
        self._most_later = max(1, threads // 2)
        self._running_later = 0
        self._changed = threading.Condition(threading.Lock())

    def line(self) -> Line:
        """A line for one call; nothing is to be given back."""
        return Line(self)

    def submit(self, line: Line, task: Callable[[], _Made]) -> Future[_Made]:
        """See Line."""
        made: Future[_Made] = Future()
        with self._changed:
            if not line.waiting:
                self._lines.append(line)
            line.waiting.append((made, carried(task)))
            self._wake()
        return made

    def later(self, task: Callable[[], _Made]) -> Future[_Made]:
        """Runs `task` when no line has any, on half of the threads at most."""
        made: Future[_Made] = Future()
        with self._changed:
            self._later.append((made, task))
            self._wake()
        return made

    def close(self) -> None:
        """Drops what was for later, runs what lines have, and ends the threads."""
        with self._changed:
            self._closed = True
            for made, _ in self._later:
                made.cancel()
            self._later.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _wake(self) -> None:
        if self._closed:
            raise RuntimeError("the threads have ended")
        if self._idle:
            # Here, not when it wakes: the next one to come has to see that it is taken.
            self._idle -= 1
            self._changed.notify()
        elif len(self._threads) < self._most:
            name = f"{self._name}-{len(self._threads)}"
            # Daemons: a process that ends without `close` does not wait for them.
            self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
            self._threads[-1].start()

    def _run(self) -> None:
        while (following := self._next()) is not None:
            (made, task), later = following
            if made.set_running_or_notify_cancel():
                try:
                    result = task()
                except BaseException as error:
                    made.set_exception(error)
                else:
                    made.set_result(result)
                    del result
            # Else this thread would hold the last result while it waits.
            del made, task, following
            if later:
                with self._changed:
                    self._running_later -= 1

    def _next(self) -> tuple[_Task, bool] | None:
        """A task, and whether it is one for later; None at the end."""
        with self._changed:
            while not self._lines:
                if self._later and self._running_later < self._most_later:
                    self._running_later += 1
                    return self._later.popleft(), True
                if self._closed:
                    return None
                self._idle += 1
                self._changed.wait()
            line = self._lines.popleft()
            following = line.waiting.popleft()
            if line.waiting:
                self._lines.append(line)
            return following, False
