"""How does a test get a Docker engine? In namespaces of its own, ended as one process.

What it needs of Debian lies outside the repository, see `make-base`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import IO

from tests.support.waiting import SECONDS, until

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ziggurat-tests"

SHARED = "/shared"


def missing() -> str:
    """Why there can't be an engine here; empty where there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "a Docker engine needs root"
    for program in ("unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"a Docker engine needs {program}"
    if not (CACHE / "docker").is_dir():
        return f"no Docker engine in {CACHE}: tests/deploy/make-base makes one, in minutes"
    return ""


class Docker:
    """An engine that writes below `directory`; its containers see `shared` as SHARED."""

    def __init__(self, directory: Path) -> None:
        self.shared = directory / "shared"
        self._output = directory / "dockerd"
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        command += [str(HERE / "machine"), str(CACHE / "docker"), str(directory)]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            until(self._answers, "Docker to start")
        except BaseException:
            self.stop()
            raise

    def run(self, *command: str, stdin: IO[bytes] | None = None) -> str:
        """Runs a command beside the engine, in SHARED; returns what it printed."""
        done = subprocess.run(
            self._beside(*command), check=False, stdin=stdin, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *command: str) -> subprocess.Popen[str]:
        """As `run`, without waiting; standard input and output are pipes."""
        return subprocess.Popen(
            self._beside(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def stop(self) -> None:
        """The engine ends, and all that it started with it."""
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(self._pid(), signal.SIGTERM)
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(SECONDS)

    def _beside(self, *command: str) -> list[str]:
        enter = ["nsenter", f"--target={self._pid()}", "--mount", "--pid", f"--wdns={SHARED}"]
        clean = ["env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        return [*enter, *clean, *command]

    def _pid(self) -> int:
        own = self._process.pid
        return int(Path(f"/proc/{own}/task/{own}/children").read_text("utf-8").split()[0])

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._output.read_text("utf-8", "replace")
        with contextlib.suppress(OSError, IndexError):
            asked = self._beside("docker", "version")
            return subprocess.run(asked, check=False, capture_output=True).returncode == 0
        return False
