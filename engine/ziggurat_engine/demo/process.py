"""How does a program run a server of its own, and end it?

The server is a process like any other: `ziggurat-engine serve` on a free port of this
machine. What it logs goes to a file, of which the end is shown when it fails.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Self

_SAYS = "listening on "
_LOG_LINES = 12


class ServerError(RuntimeError):
    """The server did not start, or did not end as it should; says what it logged."""


def exit_on_sigterm() -> None:
    """From now on SIGTERM ends this program as Ctrl-C does: its servers are ended first."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)


class ServerProcess:
    """A server over the directory `data`; a context manager that ends it.

    address: HOST:PORT. pid: of the process. log: the file with what it logged.
    arguments: more of `ziggurat-engine serve`. program: what Python runs as that
    command. Raises ServerError where it does not listen within `start_seconds`.
    """

    def __init__(
        self,
        data: Path,
        log: Path,
        *,
        arguments: Sequence[str] = (),
        program: Sequence[str] = ("-m", "ziggurat_engine"),
        start_seconds: float = 60.0,
    ) -> None:
        self.log = log
        command = [sys.executable, *program, "serve"]
        command += ["--data", str(data), "--listen", "127.0.0.1:0", *arguments]
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=out
            )
        self.pid = self._process.pid
        try:
            self.address = self._wait_for_address(start_seconds)
        except BaseException:
            self.kill()
            raise

    def stop(self, seconds: float = 120.0) -> None:
        """SIGTERM: the server stores what it has and ends.

        Raises ServerError where it exits with anything but 0, or not in time. Again is
        harmless.
        """
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(f"the server did not stop within {seconds:g} s") from None
        finally:
            self._close()
        if code != 0:
            raise ServerError(f"the server ended with exit code {code}{self._logged()}")

    def kill(self) -> None:
        """Ends the server at once. Never raises."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()

    def _wait_for_address(self, seconds: float) -> str:
        pipe: IO[bytes] | None = self._process.stdout
        assert pipe is not None
        end = time.monotonic() + seconds
        said = b""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in said:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise ServerError(f"the server did not listen within {seconds:g} s")
                piece = os.read(pipe.fileno(), 4096)
                if not piece:
                    code = self._process.wait()
                    raise ServerError(f"the server ended with exit code {code}{self._logged()}")
                said += piece
        line = said.decode(errors="replace").splitlines()[0]
        if not line.startswith(_SAYS):
            raise ServerError(f"the server said {line!r} instead of where it listens")
        return line.removeprefix(_SAYS).strip()

    def _logged(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        except OSError:
            lines = []
        return ":\n" + "\n".join(lines) if lines else ""

    def _close(self) -> None:
        if self._process.stdout is not None:
            self._process.stdout.close()
