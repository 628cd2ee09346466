"""Is memory given back where the process holds too much, and left alone where it does not?"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from ziggurat_engine.cli import MALLOC
from ziggurat_engine.server import memory

from tests.support.waiting import SECONDS

LIMIT = 1000 * 2**20


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the process holds, look by look; the last for ever."""
    looks = [LIMIT]
    monkeypatch.setattr(memory, "WATCH_SECONDS", 0.001)
    monkeypatch.setattr(memory, "held_bytes", lambda: looks.pop(0) if looks[1:] else looks[0])
    return looks


def test_only_what_is_above_the_limit(held: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed: list[int] = []
    done = threading.Event()

    def trim(_: int) -> int:
        # At this look, and not at one of those before.
        trimmed.append(len(held))
        done.set()
        return 1

    monkeypatch.setattr(memory, "_malloc_trim", lambda: trim)
    held[:] = [LIMIT, LIMIT, LIMIT + 1, LIMIT // 2, LIMIT]
    trimmer = memory.Trimmer(LIMIT)
    trimmer.start()
    assert done.wait(SECONDS)
    trimmer.stop()
    assert trimmed == [2]


def test_a_process_without_glibc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_malloc_trim", lambda: None)
    trimmer = memory.Trimmer(0)
    trimmer.start()
    trimmer.stop()


def test_holes_are_given_back() -> None:
    trim = memory._malloc_trim()
    if trim is None:
        pytest.skip("malloc can't be told")
    assert memory.held_bytes() > 2**20
    assert trim(0) in (0, 1)


def test_memory_is_touched_ahead_where_malloc_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = memory.Prefault(64 * 2**20)
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    ahead.start()
    ahead.stop()
    assert ahead._thread.ident is None
    script = """
from ziggurat_engine.server import memory
before = memory.held_bytes()
ahead = memory.Prefault(64 * 2**20)
ahead.start()
ahead._thread.join()
ahead.stop()
# Some of it was there already.
assert memory.held_bytes() - before >= 56 * 2**20, memory.held_bytes() - before
"""
    if memory._malloc_trim() is not None:
        subprocess.run([sys.executable, "-c", script], env={**os.environ, **MALLOC}, check=True)
