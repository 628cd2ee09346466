"""Who changed what, when, from where, and what came of it? One line of JSON a change.

    {"time": "2026-11-21T13:37:00.123Z", "event": "image.create", "by": "camera-1",
     "key": "token:5e0c", "from": "ipv4:10.0.0.7:51234", "result": "OK", "image": "lab/run-3"}

    image.create   image.delete   pyramid.build (with method, force)
    stream.open    stream.close (with regions, bytes, skipped_frames, durable)
    token.create   token.revoke   (with token, scope, prefix, expires)

A line is with the operating system when `record` returns; it is not synced. A change is not
undone, and no call fails, where its line can't be written: the line goes to the server's log
as an error then. Frames that a camera sends once are worth more than their record.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Literal, TypeAlias

from ziggurat_engine.config import Settings

log = logging.getLogger(__name__)

NAME = "audit.jsonl"
Stream: TypeAlias = Literal["stdout", "stderr"]


class AuditLog:
    """A file that is appended to, and put aside when it is full; threads may share it.

    path: None: standard output, or `stream`. max_bytes: above it the file becomes PATH.1, that one
    PATH.2, and so on. files: how many are kept beside the one that is written.
    """

    def __init__(
        self, path: Path | None, *, max_bytes: int, files: int, stream: Stream = "stdout"
    ) -> None:
        self._path, self._max_bytes, self._files = path, max_bytes, files
        self._stream: Stream = stream
        self._lock = threading.Lock()

    @classmethod
    def of(cls, settings: Settings, stream: Stream = "stdout") -> AuditLog:
        """Where the settings say; `stream` where that is no file."""
        said = settings.audit_log
        path = None if said == "-" else Path(said) if said else settings.data / NAME
        return cls(
            path, max_bytes=settings.audit_log_bytes, files=settings.audit_log_files, stream=stream
        )

    def record(
        self, event: str, *, by: str, key: str, origin: str, result: str, **facts: object
    ) -> None:
        """Writes a line; never raises. origin: where the call came from. Facts are JSON."""
        now = datetime.datetime.now(datetime.UTC)
        time = now.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
        said = {"time": time, "event": event, "by": by, "key": key, "from": origin}
        line = json.dumps({**said, "result": result, **facts})
        try:
            with self._lock:
                self._write(f"{line}\n".encode())
        except OSError as error:
            log.error("the audit log can't be written (%s); lost to it: %s", error, line)

    def _write(self, line: bytes) -> None:
        if self._path is None:
            stream = getattr(sys, self._stream).buffer
            stream.write(line)
            stream.flush()
            return
        # Opened each time: the command that makes tokens writes to it as well, and whoever
        # moves it away finds a new one there.
        fd = _open(self._path)
        try:
            size = os.fstat(fd).st_size
            if size and size + len(line) > self._max_bytes:
                self._put_aside(self._path)
                os.close(fd)
                fd = _open(self._path)
            os.write(fd, line)
        finally:
            os.close(fd)

    def _put_aside(self, path: Path) -> None:
        for number in range(self._files, 0, -1):
            newer = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
            if newer.exists():
                newer.replace(path.with_name(f"{path.name}.{number}"))


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
