"""How does a test run a command the way a user does: as a process of its own?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.server import clean_environment
from tests.support.waiting import SECONDS


def run(
    command: str, *arguments: object, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `ziggurat` or `ziggurat-engine` of this environment; asserts the exit code."""
    script = Path(sys.executable).with_name(command)
    assert script.exists(), f"{script} is not installed"
    done = subprocess.run(
        [str(script), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=3 * SECONDS,
        env=clean_environment(**environment),
    )
    assert done.returncode == code, f"exit code {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done
