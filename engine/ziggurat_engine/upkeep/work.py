"""How are many small pieces of work done on several threads in bounded memory?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")


def run(pieces: Iterable[Callable[[], _Result]], threads: int) -> Iterator[_Result]:
    """What the pieces return, in their order; few are ahead of the one that is asked for.

    The first error ends it; whatever ends it, no piece runs any more then.
    """
    going: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="upkeep") as pool:
        try:
            for piece in pieces:
                going.append(pool.submit(piece))
                if len(going) > 2 * threads:
                    yield going.popleft().result()
            while going:
                yield going.popleft().result()
        finally:
            for future in going:
                future.cancel()
