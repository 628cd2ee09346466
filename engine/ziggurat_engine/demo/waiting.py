"""When has the server all that was written, and when has it come to rest?"""

from __future__ import annotations

import os
import time
from pathlib import Path

import ziggurat


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process since it began, user and system; OSError without /proc.

    And where there is no such process.
    """
    # The name in parentheses may hold anything; utime and stime are fields 14 and 15.
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def wait_at_rest(pid: int, seconds: float = 60.0) -> None:
    """Returns when a process has used no CPU time for 0.3 s, as one that started long ago.

    A server that has just started compiles, and touches memory ahead (prefault_bytes). OSError as
    of `cpu_seconds`.
    """
    deadline, before = time.monotonic() + seconds, -1.0
    while (now := cpu_seconds(pid)) != before and time.monotonic() < deadline:
        before = now
        time.sleep(0.3)


def wait_received(writer: ziggurat.Writer, patience_seconds: float = 10.0) -> None:
    """Returns once all that was written is acknowledged as received.

    Or once no acknowledgement has come for a while: what is wrong then, the writer's
    next method says.
    """
    seen, since = writer.received, time.monotonic()
    while writer.received < writer.sequence:
        if writer.received != seen:
            seen, since = writer.received, time.monotonic()
        elif time.monotonic() - since > patience_seconds:
            return
        time.sleep(0.001)
