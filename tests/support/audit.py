"""What does a server's audit log say?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def audited(path: Path, **facts: str) -> list[dict[str, Any]]:
    """The lines with these facts. On a server that tests share, others may come in between."""
    # One that is being written may be seen in part.
    text = path.read_text("utf-8")
    found = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [line for line in found if facts.items() <= line.items()]
