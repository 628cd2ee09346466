"""Does a server that is killed ten times under load keep all it acknowledged?

A short run of benchmarks/torture.py, which says what is checked.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.torture import torture

KILLS = 10


@pytest.mark.slow
def test_ten_kills_lose_nothing(tmp_path: Path) -> None:
    found = torture(tmp_path, KILLS, seed=1)
    assert found.kills == KILLS
    assert found.acknowledged > KILLS
    bad = (found.lost, found.doubled, found.foreign, found.wrong_levels, found.failed_clients)
    assert bad == (0, 0, 0, 0, 0), found
