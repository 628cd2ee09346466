"""What does the state database say, read without changing it, beside a server too?

A copy in memory is taken of it, in one read transaction: of one instant, and brought to
the present version there, so that `state.State` answers all questions.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from ziggurat_engine.errors import Corrupt
from ziggurat_engine.region import Shape
from ziggurat_engine.state import State

NAME = "state.sqlite"

Notes = dict[tuple[str, int], set[Shape]]
"""By image (uid) and level, as the notes count it: chunks of which the parents may be wrong."""


def snapshot(path: Path) -> sqlite3.Connection:
    """A copy in memory of the database at `path`.

    FileNotFoundError; Corrupt where it is none, or its pages contradict each other; OSError.
    """
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no state database", str(path))
    memory = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    try:
        with _opened(path) as source:
            source.backup(memory)
        said = [row[0] for row in memory.execute("PRAGMA integrity_check(3)")]
    except sqlite3.DatabaseError as error:
        memory.close()
        raise Corrupt(f"{path}: {error}") from error
    if said != ["ok"]:
        memory.close()
        raise Corrupt(f"{path}: {'; '.join(said)}")
    return memory


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open for reads; where nothing can be written beside it, a copy of the files."""
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(closing(_connect(path)))
        try:
            found.execute("PRAGMA schema_version").fetchone()
        except sqlite3.OperationalError:
            # A database with a write-ahead journal wants to make a file beside it.
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for name in (path.name, f"{path.name}-wal"):
                with contextlib.suppress(FileNotFoundError):
                    (directory / name).write_bytes((path.parent / name).read_bytes())
            found = stack.enter_context(closing(sqlite3.connect(directory / path.name)))
        yield found


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=60)


def read(path: Path) -> State:
    """The state as of now; to be closed. Errors as `snapshot`; UnsupportedVersion."""
    return of(lambda: snapshot(path), path)


def of(connect: Callable[[], sqlite3.Connection], path: Path) -> State:
    """What a copy says. UnsupportedVersion; Corrupt where it is no state database."""
    try:
        return State(connect)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Corrupt(f"{path}: {error}") from error


def notes_of(state: State) -> Notes:
    """All chunks that are noted."""
    notes: Notes = {}
    for note in state.stale():
        notes.setdefault((note.image, note.level), set()).update(note.chunks)
    return notes
