"""What does the state database keep of stale chunks, and of databases of before?"""

from __future__ import annotations

import itertools
import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from ziggurat_engine.state import UNKNOWN, VERSION, Change, State

A, B, C = (0, 0), (0, 1), (5, 7)
SHARD = (0, 0)


@pytest.fixture
def state(tmp_path: Path):
    found = State.open(tmp_path / "state.sqlite")
    yield found
    found.close()


def noted(state: State) -> set[tuple[int, ...]]:
    return {chunk for note in state.stale() for chunk in note.chunks}


def test_a_note_goes_with_its_chunks(state):
    first = state.mark_stale("i", 0, SHARD, [A, B])
    second = state.mark_stale("i", 0, SHARD, [C])
    state.clear_stale([first])
    assert noted(state) == {C}
    state.clear_stale([second])
    assert state.stale() == []


def test_what_was_noted_again_since_stays(state):
    first = state.mark_stale("i", 0, SHARD, [A, B])
    second = state.mark_stale("i", 0, SHARD, [B])
    state.clear_stale([first])
    assert noted(state) == {B}
    state.clear_stale([second])
    assert state.stale() == []


def test_many_at_once(state):
    first = state.mark_stale("i", 0, SHARD, [A])
    state.mark_all_stale("i", 0, {SHARD: [A, B], (1, 0): [C]})
    state.clear_stale([first])
    assert {note.shard: note.chunks for note in state.stale()} == {SHARD: {A, B}, (1, 0): {C}}


def test_versions_go_on_where_they_were(tmp_path):
    state = State.open(tmp_path / "state.sqlite")
    old = state.mark_stale("i", 0, SHARD, [A])
    state.close()
    state = State.open(tmp_path / "state.sqlite")
    new = state.mark_stale("i", 0, SHARD, [A])
    assert new.version > old.version
    state.clear_stale([old])
    assert noted(state) == {A}
    state.close()


def test_a_change_of_method_ends_with_the_notes_of_its_levels(state):
    change = Change("i", "median", 3, 1, ready=False)
    state.save_change(change)
    state.save_change(replace(change, ready=True))
    state.save_change(replace(change, image="j"))
    assert state.change_of("i") == Change("i", "median", 3, 1, ready=True)
    for level in range(4):
        state.mark_stale("i", level, SHARD, [A])
    state.end_change("i", range(2))
    assert [note.level for note in state.stale()] == [2, 3]
    assert [change.image for change in state.changes()] == ["j"]
    state.forget("j")
    assert state.changes() == []


def test_a_database_of_version_2(tmp_path):
    path = tmp_path / "state.sqlite"
    State.open(path).close()
    db = sqlite3.connect(path)
    db.execute("INSERT INTO stale VALUES ('i', 1, '[0, 0]', ?, 9)", [json.dumps([A, C])])
    db.execute("DROP TABLE deleted")
    db.execute("DROP TABLE log")
    db.execute("DROP TABLE changes")
    db.execute("DROP TABLE epoch")
    db.execute("PRAGMA user_version = 2")
    db.commit()
    db.close()
    state = State.open(path)
    (note,) = state.stale()
    assert (note.level, note.shard, note.chunks, note.version) == (1, SHARD, {A, C}, 9)
    assert state.log() is None
    # Nobody wrote down then what was deleted.
    assert state.deleted() == {UNKNOWN}
    state.clear_stale([note])
    assert state.stale() == []
    state.close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
    db.close()


def test_epochs_never_fall(tmp_path):
    """Also where the clock is set back, or the database is lost."""
    path = tmp_path / "state.sqlite"
    epochs = []
    for now in (10**18, 10**18 - 5, 5, 2 * 10**18):
        state = State.open(path)
        epochs.append(state.begin_epoch(now))
        state.close()
    path.unlink()
    state = State.open(path)
    epochs.append(state.begin_epoch(3 * 10**18))
    state.close()
    assert all(b - a >= 2**40 for a, b in itertools.pairwise(epochs)), epochs
