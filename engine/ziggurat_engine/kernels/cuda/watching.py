"""Do the cards still answer? A thread looks, so that nobody waits for one that never will.

Nothing can end a call of the driver that does not return: the thread in it is left behind,
with all memory of its card, which nothing else uses or frees before the process ends.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ziggurat_engine.kernels.cuda.worker import Worker


class Watch:
    """Gives up workers that are at one step of a batch for longer than `timeout_seconds`."""

    def __init__(self, workers: Sequence[Worker], timeout_seconds: float) -> None:
        self._workers = workers
        self._timeout_seconds = timeout_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="card-watch", daemon=True)

    def start(self) -> None:
        """Begins to look, a few times in `timeout_seconds`."""
        self._thread.start()

    def stop(self) -> None:
        """Returns when nobody looks any more."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._timeout_seconds / 4):
            for worker in self._workers:
                worker.give_up_after(self._timeout_seconds)
