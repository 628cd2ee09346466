"""Which cards are believed, and about what?

A card proves itself: what it first makes of each kind of work is made by the CPU as well and
compared. Where a byte differs no card does that kind again before a restart; nor where a kind
fails, TRIES times before it ever went right, as one that does not compile for a card.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Hashable

from ziggurat_engine.kernels.cuda.device import Device

log = logging.getLogger(__name__)

TRIES = 3


class Trust:
    """What cards may do of one sort of work; all methods may be called from any thread.

    verb: what they do, for the log. proofs: how often a card has to be right with a kind.
    """

    def __init__(self, verb: str, proofs: int) -> None:
        self._verb = verb
        self._proofs = proofs
        self._lock = threading.Lock()
        self._right: Counter[tuple[Hashable, int]] = Counter()
        self._good: set[Hashable] = set()
        self._failures: Counter[Hashable] = Counter()
        self._refused: set[Hashable] = set()

    def allows(self, kind: Hashable) -> bool:
        """Whether cards may do it."""
        return kind not in self._refused

    def proven(self, kind: Hashable, card: Device | None) -> bool:
        """Whether this card was right with it often enough not to be looked at any more."""
        return self._right[kind, id(card)] >= self._proofs

    def judge(self, kind: Hashable, card: Device | None, *, right: bool) -> None:
        """What a comparison found."""
        with self._lock:
            if right:
                self._right[kind, id(card)] += 1
                self._good.add(kind)
                return
            known = kind in self._refused
            self._refused.add(kind)
        if not known:
            log.error("a card %s %s wrongly; from now on the CPU does", self._verb, kind)

    def fail(self, kind: Hashable) -> None:
        """A card said that it could not."""
        with self._lock:
            self._failures[kind] += 1
            if kind in self._good or kind in self._refused or self._failures[kind] < TRIES:
                return
            self._refused.add(kind)
        log.error("no card %s %s; from now on the CPU does", self._verb, kind)
