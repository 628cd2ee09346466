"""How does a test put a bad network between two sockets where it can't make a real one?

A proxy takes bytes from the one and gives them to the other, late, or not at all. It
runs an event loop on a thread of its own; other threads only leave word there.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.support.link import Link
from tests.support.waiting import SECONDS

T = TypeVar("T")


class ProxyLink(Link):
    """A port here that leads to one server.

    delay_seconds: in each direction. bits_per_second: from the server; 0: no limit.
    reset_after: from how many to how many bytes towards the server, drawn from `seed`,
        until all connections are reset; then it begins anew.
    rude: a cut resets connections and refuses new ones, as a firewall would. Else bytes
        wait until the link is mended, and nobody is told.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        *,
        delay_seconds: float = 0.0,
        bits_per_second: float = 0.0,
        reset_after: tuple[int, int] | None = None,
        rude: bool = False,
        seed: int = 0,
    ) -> None:
        self._delay, self._reset_after, self._rude = delay_seconds, reset_after, rude
        self._seconds_per_byte = 8 / bits_per_second if bits_per_second else 0.0
        self._draw = random.Random(seed)
        self._left = self._next_reset()
        self.resets = 0
        # Bytes towards the server.
        self.carried = 0
        self._brought = 0
        self._target: tuple[str, str] = ("", "")
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._up = asyncio.Event()
        self._up.set()
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()

    @property
    def brought(self) -> int:
        return self._brought

    def address(self, server: str) -> str:
        host, _, port = server.rpartition(":")
        self._target = (host, port)
        if self._server is None:
            self._server = self._run(asyncio.start_server(self._joined, self.host, 0))
            self._port = self._server.sockets[0].getsockname()[1]
        return f"{self.host}:{self._port}"

    def cut(self) -> None:
        def now() -> None:
            self._up.clear()
            if self._rude:
                self._reset()

        self._call(now)

    def mend(self, *, forget: bool = False) -> None:
        def now() -> None:
            for pair in self._pairs if forget else ():
                pair.forgotten = True
            self._up.set()

        self._call(now)

    def calm(self) -> None:
        def now() -> None:
            self._delay, self._reset_after, self._left = 0.0, None, None

        self._call(now)

    def close(self) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    # On the loop's thread

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        pair = _Pair([writer])
        self._pairs.add(pair)
        try:
            if self._rude and not self._up.is_set():
                return
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            pair.ends.append(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(pair, reader, far_writer, counted=True))
                group.create_task(self._carry(pair, far_reader, writer, counted=False))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._pairs.discard(pair)
            self._tasks.discard(task)
            pair.reset()

    async def _carry(
        self,
        pair: _Pair,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        *,
        counted: bool,
    ) -> None:
        """What comes from `source` goes to `target`, each piece once it is due."""
        # As much as a line of 50 ms carries at 80 MB/s; then the sender has to wait.
        pieces: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(64)

        async def take() -> None:
            data: bytes | None = b"..."
            while data:
                try:
                    data = await source.read(2**16)
                except OSError:
                    # A reset travels like the rest.
                    data = None
                await pieces.put((self._loop.time() + self._delay, data))

        async def give() -> None:
            while True:
                due, data = await pieces.get()
                await asyncio.sleep(due - self._loop.time())
                await self._up.wait()
                if pair.forgotten:
                    await asyncio.Event().wait()
                if data is None:
                    raise ConnectionResetError
                if not data:
                    target.write_eof()
                    return
                target.write(data)
                await target.drain()
                if counted:
                    self._count(len(data))
                else:
                    self._brought += len(data)
                    await asyncio.sleep(len(data) * self._seconds_per_byte)

        async with asyncio.TaskGroup() as group:
            group.create_task(take())
            group.create_task(give())

    def _count(self, size: int) -> None:
        self.carried += size
        if self._left is None:
            return
        self._left -= size
        if self._left <= 0:
            self._left = self._next_reset()
            self.resets += 1
            self._reset()

    def _next_reset(self) -> int | None:
        return None if self._reset_after is None else self._draw.randint(*self._reset_after)

    def _reset(self) -> None:
        for pair in self._pairs:
            pair.reset()

    # From other threads

    def _call(self, now: Callable[[], None]) -> None:
        async def called() -> None:
            now()

        self._run(called())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)


class _Pair:
    """The two ends of a connection through the proxy, as they are written to.

    forgotten: nothing passes any more, and nobody is told.
    """

    def __init__(self, ends: list[asyncio.StreamWriter]) -> None:
        self.ends = ends
        self.forgotten = False

    def reset(self) -> None:
        """Both ends learn of it by an RST."""
        for end in self.ends:
            found = end.get_extra_info("socket")
            with contextlib.suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.transport.abort()
