"""What do test processes compile once for all of them, and for the next run?

Files in the user's cache directory, under the hash of all that they are made of.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

_KEPT = 100


def kept(kind: str, parts: Iterable[bytes], make: Callable[[Path], None]) -> Path:
    """The file made of `parts`; where there is none, `make` writes it to the path that it gets."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / f"ziggurat-{kind}"
    home.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    target = home / digest.hexdigest()[:32]
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process makes it, the others wait for it
        if target.exists():
            target.touch()
            return target
        with tempfile.TemporaryDirectory(dir=home) as work:
            made = Path(work, "made")
            make(made)
            made.rename(target)
    _forget_old(home)
    return target


def _forget_old(home: Path) -> None:
    """Keeps the files that were used last; other processes do this too."""
    ages = []
    for path in home.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and path.suffix != ".lock":
                ages.append((path.stat().st_mtime, path))
    for _, old in sorted(ages)[:-_KEPT]:
        old.unlink(missing_ok=True)
        old.with_suffix(".lock").unlink(missing_ok=True)
