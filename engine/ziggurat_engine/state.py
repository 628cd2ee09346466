"""What must be remembered beside pixels and log? How far streams are, and what is stale.

One SQLite database (write-ahead journal, every commit synced). Its tables:

    streams   how far a stream was, and what it counted, when the log records that say so
              were freed or where there never were any; the log goes on from there
    expected  how many frames a stream's client said that it would send
    applied   the log position up to which an image's records are stored, where a write
              that the log does not hold came after them
    deleted   images that are deleted: what the log has of them is not wanted. Written before
              the image goes, removed at a start that finds nothing of it in the log. An
              empty name: images were deleted before this was kept
    log       the identity of the log that goes with it, and whether it may hold what is
              nowhere else
    epoch     a number above all revisions that images had before the last start
    stale     shards of which the parents may not be stored: written before a shard is
              replaced, removed after its parents are stored. A row too many costs a
              needless computation, a row too few would leave a level wrong for good.
              `level` is counted so that levels made by another method have numbers of
              their own (images.OpenImage.noted)
    changes   images of which the levels are being made by another method (remake.py)

Images are named by their uid, so that nothing is taken for that of a later image of the
same name.
"""

from __future__ import annotations

import errno
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ziggurat_engine.errors import NEWER, UnsupportedVersion
from ziggurat_engine.region import Shape

VERSION = 5
# Between two starts that a clock does not tell apart: more writes than one run takes in.
EPOCH_STEP = 2**40
# Stands in `deleted` for images that nobody wrote down.
UNKNOWN = ""

# By the version that they came with.
_TABLES = {
    1: """
CREATE TABLE streams (
    image TEXT NOT NULL,
    stream TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    facts TEXT NOT NULL,
    PRIMARY KEY (image, stream)
) WITHOUT ROWID;
CREATE TABLE applied (
    image TEXT NOT NULL PRIMARY KEY,
    position INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE stale (
    image TEXT NOT NULL,
    level INTEGER NOT NULL,
    shard TEXT NOT NULL,
    chunks TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (image, level, shard)
) WITHOUT ROWID;
""",
    2: """
CREATE TABLE expected (
    image TEXT NOT NULL,
    stream TEXT NOT NULL,
    frames INTEGER NOT NULL,
    PRIMARY KEY (image, stream)
) WITHOUT ROWID;
""",
    3: """
CREATE TABLE deleted (image TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE log (identity TEXT NOT NULL, needed INTEGER NOT NULL);
""",
    5: """
CREATE TABLE changes (
    image TEXT NOT NULL PRIMARY KEY,
    method TEXT NOT NULL,
    first INTEGER NOT NULL,
    previous INTEGER NOT NULL,
    ready INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE epoch (number INTEGER NOT NULL);
""",
}


@dataclass(frozen=True, slots=True)
class StreamState:
    """How far a stream is: all numbers up to `sequence` are durable. facts: what it counted."""

    image: str
    stream: str
    sequence: int
    facts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StaleShard:
    """Chunks of `shard` whose blocks may be missing from the stored level above.

    version: tells this note from a later one of the same chunks.
    """

    image: str
    level: int
    shard: Shape
    chunks: frozenset[Shape]
    version: int


@dataclass(frozen=True, slots=True)
class Change:
    """Levels of an image that are being made by another method.

    method: a spec.Downsampling. first: their first array; previous: that of the levels they
    are to replace. ready: the arrays are there, and what is to be made of them is noted.
    """

    image: str
    method: str
    first: int
    previous: int
    ready: bool


class State:
    """The database. All methods may be called from any thread; they raise OSError.

    connect: opens the database; committed: called after each commit that is durable.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        self._lock = threading.Lock()
        self._committed = committed
        self._db = connect()
        with self._transaction() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise UnsupportedVersion(
                    f"the state database has version {version}; this server knows {VERSION}:"
                    f" {NEWER}"
                )
            for newer in range(version + 1, VERSION + 1):
                for statement in _TABLES.get(newer, "").split(";"):
                    db.execute(statement)
            if 0 < version < 3:
                db.execute("INSERT INTO deleted VALUES (?)", (UNKNOWN,))
            if 0 < version < 4:
                _date_chunks(db)
            db.execute(f"PRAGMA user_version = {VERSION}")
            row = db.execute("SELECT max(version) FROM stale").fetchone()
        self._version = row[0] or 0

    @classmethod
    def open(cls, path: Path) -> State:
        """The database at `path`, made where there is none."""

        def connect() -> sqlite3.Connection:
            db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            return db

        return cls(connect)

    def mark_stale(
        self, image: str, level: int, shard: Shape, chunks: Iterable[Shape]
    ) -> StaleShard:
        """Notes that the parents of `chunks` are not right yet; durable when it returns."""
        with self._transaction() as db:
            return self._mark(db, image, level, shard, chunks)

    def mark_all_stale(
        self, image: str, level: int, shards: Mapping[Shape, Iterable[Shape]]
    ) -> None:
        """As mark_stale, of many shards at once."""
        with self._transaction() as db:
            for shard, chunks in shards.items():
                self._mark(db, image, level, shard, chunks)

    def _mark(
        self, db: sqlite3.Connection, image: str, level: int, shard: Shape, chunks: Iterable[Shape]
    ) -> StaleShard:
        key = (image, level, _text(shard))
        row = db.execute(
            "SELECT chunks FROM stale WHERE image = ? AND level = ? AND shard = ?", key
        ).fetchone()
        self._version += 1
        note = StaleShard(image, level, shard, frozenset(chunks), self._version)
        known = (_dated(row[0]) if row else {}) | dict.fromkeys(note.chunks, note.version)
        _put(db, key, known)
        return note

    def clear_stale(self, notes: Iterable[StaleShard]) -> None:
        """The parents of these are stored; what other notes say of the same shards stays."""
        with self._transaction() as db:
            for note in notes:
                key = (note.image, note.level, _text(note.shard))
                row = db.execute(
                    "SELECT chunks FROM stale WHERE image = ? AND level = ? AND shard = ?", key
                ).fetchone()
                if row:
                    left = {
                        chunk: version
                        for chunk, version in _dated(row[0]).items()
                        if chunk not in note.chunks or version > note.version
                    }
                    _put(db, key, left)

    def stale(self) -> list[StaleShard]:
        """All notes, the lowest level first."""
        with self._lock, _os_errors():
            rows = self._db.execute("SELECT * FROM stale ORDER BY level, image, shard").fetchall()
        return [
            StaleShard(image, level, tuple(json.loads(shard)), frozenset(_dated(chunks)), version)
            for image, level, shard, chunks, version in rows
        ]

    def save_change(self, change: Change) -> None:
        """Remembers a change of method, the only one of its image; durable when it returns."""
        row = (change.image, change.method, change.first, change.previous, change.ready)
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?, ?)", row)

    def changes(self) -> list[Change]:
        """All changes of method that have begun and not ended."""
        with self._lock, _os_errors():
            rows = self._db.execute("SELECT * FROM changes").fetchall()
        return [Change(i, method, first, old, bool(ready)) for i, method, first, old, ready in rows]

    def change_of(self, image: str) -> Change | None:
        """The change of method of one image."""
        return next((change for change in self.changes() if change.image == image), None)

    def end_change(self, image: str, levels: range) -> None:
        """Forgets the change of method of an image, and all notes of these levels."""
        with self._transaction() as db:
            db.execute("DELETE FROM changes WHERE image = ?", (image,))
            db.execute(
                "DELETE FROM stale WHERE image = ? AND level >= ? AND level < ?",
                (image, levels.start, levels.stop),
            )

    def save_streams(self, streams: Iterable[StreamState]) -> None:
        """Remembers how far streams are, unless further is known; durable when it returns.

        Of the same number the later call wins: a stream may have been closed since.
        """
        with self._transaction() as db:
            _save_streams(db, streams)

    def save_stored(self, stream: StreamState, applied: int) -> None:
        """Remembers how far a stream is, durably when it returns.

        And with it that all log records of its image up to `applied` are stored.
        """
        with self._transaction() as db:
            _save_streams(db, [stream])
            db.execute(
                "INSERT INTO applied VALUES (?, ?) ON CONFLICT (image)"
                " DO UPDATE SET position = max(position, excluded.position)",
                (stream.image, applied),
            )

    def save_expected(self, image: str, stream: str, frames: int) -> None:
        """Remembers how many frames a stream's client means to send; durable."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO expected VALUES (?, ?, ?)", (image, stream, frames))

    def expected(self) -> dict[tuple[str, str], int]:
        """By image and stream: how many frames its client means to send."""
        with self._lock, _os_errors():
            rows = self._db.execute("SELECT * FROM expected").fetchall()
        return {(image, stream): frames for image, stream, frames in rows}

    def streams(self) -> list[StreamState]:
        """All streams that are remembered."""
        with self._lock, _os_errors():
            rows = self._db.execute("SELECT * FROM streams").fetchall()
        return [StreamState(i, s, sequence, json.loads(facts)) for i, s, sequence, facts in rows]

    def applied(self) -> dict[str, int]:
        """By image: the log position up to which its records are stored."""
        with self._lock, _os_errors():
            return dict(self._db.execute("SELECT image, position FROM applied").fetchall())

    def forget(self, image: str) -> None:
        """Forgets an image that was deleted."""
        with self._transaction() as db:
            for table in ("streams", "expected", "applied", "stale", "changes"):
                db.execute(f"DELETE FROM {table} WHERE image = ?", (image,))

    def save_deleted(self, image: str) -> None:
        """The image is about to be deleted; durable when it returns."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO deleted VALUES (?)", (image,))

    def not_deleted(self, images: Iterable[str]) -> None:
        """These images are there after all, or the log holds nothing of them."""
        with self._transaction() as db:
            db.executemany("DELETE FROM deleted WHERE image = ?", [(image,) for image in images])

    def deleted(self) -> set[str]:
        """Images that were deleted, and of which the log may hold something; see UNKNOWN."""
        with self._lock, _os_errors():
            return {image for (image,) in self._db.execute("SELECT image FROM deleted")}

    def save_log(self, identity: str, needed: bool) -> None:
        """Remembers which log goes with this database; durable when it returns.

        needed: False where all that it ever held is stored.
        """
        with self._transaction() as db:
            db.execute("DELETE FROM log")
            db.execute("INSERT INTO log VALUES (?, ?)", (identity, needed))

    def begin_epoch(self, now: int) -> int:
        """A number above all that earlier starts counted on from; durable when it returns.

        now: nanoseconds since 1970. Numbers that follow the clock stay above all before
        where the database is lost, those that are kept where the clock is set back.
        """
        with self._transaction() as db:
            row = db.execute("SELECT number FROM epoch").fetchone()
            number = max(now, row[0] + EPOCH_STEP if row else 1)
            db.execute("DELETE FROM epoch")
            db.execute("INSERT INTO epoch VALUES (?)", (number,))
        return number

    def log(self) -> tuple[str, bool] | None:
        """(identity, needed) as last saved; None where there never was a log."""
        with self._lock, _os_errors():
            row = self._db.execute("SELECT identity, needed FROM log").fetchone()
        return (row[0], bool(row[1])) if row else None

    def close(self) -> None:
        """Closes the database; nothing may follow."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _os_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._committed()


def _save_streams(db: sqlite3.Connection, streams: Iterable[StreamState]) -> None:
    db.executemany(
        "INSERT INTO streams VALUES (?, ?, ?, ?) ON CONFLICT (image, stream)"
        " DO UPDATE SET sequence = excluded.sequence, facts = excluded.facts"
        " WHERE excluded.sequence >= sequence",
        [(s.image, s.stream, s.sequence, json.dumps(s.facts)) for s in streams],
    )


@contextmanager
def _os_errors() -> Iterator[None]:
    # To the engine a database is a file like others: full, broken or read-only.
    try:
        yield
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
        code = errno.ENOSPC if full else errno.EIO
        raise OSError(code, f"state database: {error}", "state.sqlite") from error


def _text(shard: Shape) -> str:
    return json.dumps(shard)


def _dated(text: str) -> dict[Shape, int]:
    """The chunks of a note, each with the version that noted it last."""
    return {tuple(chunk): version for version, *chunk in json.loads(text)}


def _put(db: sqlite3.Connection, key: tuple[str, int, str], chunks: dict[Shape, int]) -> None:
    if chunks:
        text = json.dumps([[version, *chunk] for chunk, version in sorted(chunks.items())])
        row = (*key, text, max(chunks.values()))
        db.execute("INSERT OR REPLACE INTO stale VALUES (?, ?, ?, ?, ?)", row)
    else:
        db.execute("DELETE FROM stale WHERE image = ? AND level = ? AND shard = ?", key)


def _date_chunks(db: sqlite3.Connection) -> None:
    """Brings notes of before version 4, when a note had one version for all its chunks."""
    for *key, chunks, version in db.execute("SELECT * FROM stale").fetchall():
        _put(db, (key[0], key[1], key[2]), dict.fromkeys(map(tuple, json.loads(chunks)), version))
