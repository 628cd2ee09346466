"""What has a process used so far? And how does a benchmark get a server?

Figures come from /proc, so Linux only. A server is a real process, as in the demo.
"""

from __future__ import annotations

import os
from pathlib import Path

from ziggurat_engine.demo.process import ServerError, ServerProcess, exit_on_sigterm
from ziggurat_engine.demo.waiting import cpu_seconds, wait_at_rest

__all__ = [
    "ServerError",
    "ServerProcess",
    "cpu_seconds",
    "disk_written_bytes",
    "exit_on_sigterm",
    "file_read_bytes",
    "held_bytes",
    "open_files",
    "peak_rss_bytes",
    "rss_bytes",
    "thread_count",
    "wait_at_rest",
]


def peak_rss_bytes(pid: int) -> int:
    """The most memory that a process ever had in RAM."""
    return _number(Path(f"/proc/{pid}/status"), "VmHWM") * 1024


def rss_bytes(pid: int) -> int:
    """Memory of a process that is in RAM now, pages of files included."""
    return _number(Path(f"/proc/{pid}/status"), "VmRSS") * 1024


def thread_count(pid: int) -> int:
    """Threads that a process has now."""
    return _number(Path(f"/proc/{pid}/status"), "Threads")


def open_files(pid: int) -> int:
    """File descriptors that a process has open now."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def held_bytes(pid: int) -> int:
    """Memory that a process has now and nobody can take back: all but pages of files."""
    status = Path(f"/proc/{pid}/status")
    return (_number(status, "RssAnon") + _number(status, "RssShmem")) * 1024


def disk_written_bytes(pid: int) -> int:
    """Bytes that a process has caused to be sent to disks."""
    return _number(Path(f"/proc/{pid}/io"), "write_bytes")


def file_read_bytes(pid: int) -> int:
    """Bytes that a process has read from files, out of the page cache or not; no sockets."""
    return _number(Path(f"/proc/{pid}/io"), "rchar")


def _number(file: Path, key: str) -> int:
    for line in file.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == key:
            return int(rest.split()[0])
    raise LookupError(f"{file} has no {key}")
