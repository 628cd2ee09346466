"""How does a test get a real server: its own process, started, stopped or killed?"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ziggurat._shared_memory import NAME

from tests.support.waiting import SECONDS

# Storing within a second keeps tests short; draining must not wait for idle clients. Hundreds of
# servers are not to touch memory that none of them uses.
SETTINGS = {"settle_idle_seconds": 0.3, "drain_seconds": 5, "prefault_bytes": 0}


class ServerProcess:
    """`python -m ziggurat_engine serve` over a directory, on a free port of `host`.

    stderr_path: what the server says; `stop` and `kill` end the process by its pid.
    within: a command that becomes the server's, such as one that enters a namespace.
    program: what Python runs as that command. open_files: the most that it may have open.
    """

    def __init__(
        self,
        data: Path,
        stderr_path: Path,
        *,
        host: str = "127.0.0.1",
        within: Sequence[str] = (),
        program: Sequence[str] = ("-m", "ziggurat_engine"),
        open_files: int | None = None,
        **settings: object,
    ) -> None:
        self.data, self.stderr_path = data, stderr_path
        self._told = False
        chosen = {**SETTINGS, **settings}
        command = [*within, sys.executable, *program, "serve", "--data", str(data)]
        command += ["--listen", f"{host}:0"]
        command += [f"--set={name}={value}" for name, value in chosen.items()]
        if open_files is not None:
            command = ["/bin/sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh", *command]
        with stderr_path.open("ab") as stderr:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, env=clean_environment()
            )
        self.address = self._listening()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def terminate(self) -> None:
        """Asks the server, once, to drain; returns at once."""
        if not self._told:
            self._told = True
            self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit code, once the process has ended."""
        try:
            code = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"server did not stop within {SECONDS} s:\n{self.tail()}"
            ) from None
        self._closed()
        return code

    def stop(self) -> None:
        """SIGTERM, and exit code 0."""
        self.terminate()
        code = self.wait()
        assert code == 0, f"exit code {code}:\n{self.tail()}"

    def kill(self) -> None:
        """SIGKILL: nothing is stored any more."""
        self.process.kill()
        self.process.wait(SECONDS)
        self._closed()

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.stderr.splitlines()[-lines:])

    def image_path(self, name: str) -> Path:
        """Where the OME-Zarr group of an image lies."""
        return self.data / "images" / f"{name}.ome.zarr"

    def _listening(self) -> str:
        assert self.process.stdout is not None
        end = time.monotonic() + SECONDS
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select(
                [self.process.stdout], [], [], max(0, end - time.monotonic())
            )
            more = os.read(self.process.stdout.fileno(), 1000) if ready else b""
            if not more:
                self.kill()
                raise AssertionError(f"the server does not listen: {line!r}\n{self.tail()}")
            line += more
        words = line.decode().split()
        assert words[:2] == ["listening", "on"], line
        return words[2]

    def _closed(self) -> None:
        if self.process.stdout is not None:
            with contextlib.suppress(OSError):
                self.process.stdout.close()


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without settings of Ziggurat, which would change a test."""
    kept = {
        k: v for k, v in os.environ.items() if "ZIGGURAT" not in k and not k.startswith("MALLOC")
    }
    return {**kept, **extra}


def shared_by(server: ServerProcess) -> int:
    """How many clients' memories the server has."""
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    return maps.count(f"/memfd:{NAME} ")
