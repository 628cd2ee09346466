"""What may be on a disk after a power cut?

A File keeps, beside its bytes as they are read, for each sector what it may hold on the
disk: what the last sync left there and each state since. A Directory's entries and the
changes to them (Change) are kept the same way.

After the cut each sector that was written since the sync holds one of its states, or a
mixture of two of them (torn); each change of names has happened or not, whole, and none
has without the earlier ones on the same names.
"""

from __future__ import annotations

from random import Random
from typing import Literal, TypeAlias, Union

SECTOR = 512

Mode: TypeAlias = Literal["drop", "keep"] | int
"""What becomes of all that was not synced; a number seeds a mixture."""

Node: TypeAlias = Union["File", "Directory"]

_TORN = 0.05
"""Of the written sectors, how many a seeded cut tears inside."""


class File:
    """Bytes in memory and on the disk."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self._disk = bytes(data)
        self._states: dict[int, list[bytes]] = {}  # by sector, since the sync
        self._sizes: list[int] = []

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Writes, and grows the file where needed; nothing is durable."""
        end = offset + len(data)
        if end > len(self.data):
            self.resize(end)
        self.data[offset:end] = data
        for sector in range(offset // SECTOR, -(-end // SECTOR)):
            start = sector * SECTOR
            state = bytes(self.data[start : start + SECTOR])
            self._states.setdefault(sector, []).append(state)

    def resize(self, size: int) -> None:
        """Grows the file with zeros."""
        self.data.extend(bytes(size - len(self.data)))
        self._sizes.append(size)

    def sync(self) -> None:
        """All is durable."""
        if not self._states and not self._sizes:
            return
        disk = bytearray(self._disk.ljust(len(self.data), b"\0"))
        for sector, states in self._states.items():
            disk[sector * SECTOR : sector * SECTOR + len(states[-1])] = states[-1]
        # Not the bytes in memory: after a failed sync they differ.
        self._disk = bytes(disk)
        self._forget()

    def fail_sync(self, rng: Random) -> None:
        """Any part of what was written is durable; the rest never will be, and looks clean."""
        self._disk = self.after(rng)
        self._forget()

    def after(self, cut: Random | Literal["drop", "keep"]) -> bytes:
        """The bytes on the disk after a power cut."""
        if cut == "drop" or not (self._states or self._sizes):
            return self._disk
        sizes = [len(self._disk), *self._sizes]
        size = cut.choice(sizes) if isinstance(cut, Random) else sizes[-1]
        disk = bytearray(self._disk.ljust(max(sizes), b"\0"))
        for sector, states in self._states.items():
            start = sector * SECTOR
            old = bytes(disk[start : start + SECTOR])
            new = _pick(cut, [old, *(state.ljust(len(old), b"\0") for state in states)])
            disk[start : start + len(new)] = new
        return bytes(disk[:size])

    def _forget(self) -> None:
        self._states.clear()
        self._sizes.clear()


class Directory:
    """Names, as they are seen (`entries`) and on the disk."""

    def __init__(self) -> None:
        self.entries: dict[str, Node] = {}
        self.disk: dict[str, Node] = {}


class Change:
    """Names that change together: (directory, name) to what it is of from then on.

    home: the directory whose sync makes it durable.
    """

    def __init__(self, home: Directory, names: dict[tuple[Directory, str], Node | None]) -> None:
        self.home = home
        self.names = names

    def apply(self) -> None:
        """It is seen."""
        for (directory, name), node in self.names.items():
            _set(directory.entries, name, node)

    def apply_to(self, disk: dict[Directory, dict[str, Node]]) -> None:
        """It is in `disk`, a copy of what directories hold on the disk."""
        for (directory, name), node in self.names.items():
            _set(disk.setdefault(directory, dict(directory.disk)), name, node)

    def make_durable(self) -> None:
        """It is on the disk."""
        for (directory, name), node in self.names.items():
            _set(directory.disk, name, node)


class Journal:
    """The changes of names that were not synced, in order."""

    def __init__(self) -> None:
        self._changes: list[Change] = []

    def add(self, change: Change) -> None:
        """It is seen from now on."""
        change.apply()
        self._changes.append(change)

    def sync(self, directory: Directory) -> None:
        """The directory's changes are durable, with those that they build upon."""
        wanted: set[Change] = set()
        needed: set[tuple[Directory, str]] = set()
        for change in reversed(self._changes):
            if change.home is directory or not needed.isdisjoint(change.names):
                wanted.add(change)
                needed.update(change.names)
        for change in self._changes:
            if change in wanted:
                change.make_durable()
        self._changes = [change for change in self._changes if change not in wanted]

    def after(self, cut: Random | Literal["drop", "keep"]) -> dict[Directory, dict[str, Node]]:
        """What changed directories hold after a power cut."""
        disk: dict[Directory, dict[str, Node]] = {}
        undone: set[tuple[Directory, str]] = set()
        for change in self._changes:
            kept = cut == "keep" or (isinstance(cut, Random) and cut.random() < 0.5)
            if kept and undone.isdisjoint(change.names):
                change.apply_to(disk)
            else:
                undone.update(change.names)
        return disk


def _set(entries: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


def _pick(cut: Random | Literal["drop", "keep"], states: list[bytes]) -> bytes:
    if not isinstance(cut, Random):
        return states[-1]
    state = cut.choice(states)
    if cut.random() < _TORN:
        at = cut.randrange(len(state) + 1)
        state = state[:at] + cut.choice(states)[at:]
    return state
