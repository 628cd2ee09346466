"""What is known of one write stream, and how did it end?

A stream outlives the call that carries it, and the server. What must be known of it
after a restart is its last number and a few counts (StreamState); this module says what
they mean.

    open        somebody holds it, or did less than `lease_seconds` ago
    complete    closed, and no message came since
    aborted     closed so
    abandoned   neither held nor closed; derived when it is asked for, from the time it was
                last held (after a restart: from the start), so that no timer is forgotten
"""

from __future__ import annotations

import enum
import math
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from ziggurat_engine.images import OpenImage
from ziggurat_engine.state import StreamState


class Outcome(enum.IntEnum):
    """How a stream ended; the numbers of the first three are kept in log and database."""

    OPEN = 0
    COMPLETE = 1
    ABORTED = 2
    ABANDONED = 3


@dataclass(slots=True)
class StreamCounters:
    """Since the stream was first opened. outcome: an Outcome; a message makes it open again.

    duplicates: not in the log, so that a crash loses those since the stream was last
    remembered.
    """

    regions: int = 0
    bytes: int = 0
    skipped_frames: int = 0
    duplicates: int = 0
    outcome: int = 0

    def facts(self) -> dict[str, int]:
        """As they are remembered."""
        return {
            "regions": self.regions,
            "bytes": self.bytes,
            "skipped_frames": self.skipped_frames,
            "duplicates": self.duplicates,
            "outcome": self.outcome,
        }


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream as of now. expected_frames: as its client said; None where it did not."""

    stream_id: str
    outcome: Outcome
    received: int
    durable: int
    regions: int
    bytes: int
    skipped_frames: int
    duplicates: int
    expected_frames: int | None
    held: bool

    def described(self) -> dict[str, Any]:
        """What is lasting of it, as JSON."""
        facts = asdict(self)
        del facts["held"]
        return facts | {"outcome": self.outcome.name.lower()}


@dataclass(slots=True)
class Pending:
    """A write that is received and not known to be durable.

    tick: stored once no older tick is dirty; 0 where there are no pixels. position: of its
    log record's end, 0 where the log does not hold it. order: the log's end when it was
    merged. state: what is to be remembered once it is durable. since: when it came, in seconds
    of perf_counter.
    """

    state: StreamState
    tick: int
    position: int
    order: int
    since: float


class Stream:
    """One client's sequence of writes to one image.

    received, durable: the highest sequence numbers of which that is true of all up to
    them. logged: False where the client asked for less than durable acknowledgements.
    `changed` guards what it holds, and is notified when either number may have grown.
    last_held, last_received: monotonic seconds. ending: its client has sent all, and waits for
    what is stored. lasting: others waited in vain for it to end. prefix: where its writes count,
    as of measures.Usage.
    """

    def __init__(
        self,
        image: OpenImage,
        stream_id: str,
        state: StreamState | None,
        expected_frames: int | None,
        prefix: str,
    ) -> None:
        self.image = image
        self.prefix = prefix
        self.stream_id = stream_id
        self.key = (image.image.uid, stream_id)
        self.held = False
        self.last_held = time.monotonic()
        self.last_received = -math.inf
        self.ending = self.lasting = False
        self.logged = True
        self.received = self.durable = state.sequence if state else 0
        self.counters = StreamCounters(**(state.facts if state else {}))
        self.expected_frames = expected_frames
        self.changed = threading.Condition()
        # One at a time finds out how much of it is durable; taken before `changed`.
        self.looking = threading.Lock()
        # Something was stored or synced since `durable` was last looked at; how often it was.
        self.stirred = False
        self.stirs = 0
        self.pending: deque[Pending] = deque()

    def stir(self) -> None:
        """Something was stored or synced."""
        with self.changed:
            self.stirred = True
            self.stirs += 1
            self.changed.notify_all()

    def state(self, sequence: int) -> StreamState:
        """What is to be remembered once `sequence`, the last that came, is durable."""
        return StreamState(*self.key, sequence, self.counters.facts())

    def info(self, lease_seconds: float) -> StreamInfo:
        """The stream as of now."""
        with self.changed:
            received, durable = self.received, self.durable
        return StreamInfo(
            stream_id=self.stream_id,
            outcome=outcome_of(self.counters.outcome, self.held, self.last_held, lease_seconds),
            received=received,
            durable=durable,
            regions=self.counters.regions,
            bytes=self.counters.bytes,
            skipped_frames=self.counters.skipped_frames,
            duplicates=self.counters.duplicates,
            expected_frames=self.expected_frames,
            held=self.held,
        )


def remembered(
    state: StreamState, expected_frames: int | None, since: float, lease_seconds: float
) -> StreamInfo:
    """A stream that nobody has opened since the start, at `since` (monotonic seconds)."""
    counters = StreamCounters(**state.facts)
    return StreamInfo(
        stream_id=state.stream,
        outcome=outcome_of(counters.outcome, False, since, lease_seconds),
        received=state.sequence,
        durable=state.sequence,
        regions=counters.regions,
        bytes=counters.bytes,
        skipped_frames=counters.skipped_frames,
        duplicates=counters.duplicates,
        expected_frames=expected_frames,
        held=False,
    )


def outcome_of(closed: int, held: bool, last_held: float, lease_seconds: float) -> Outcome:
    """What a stream is now; closed: the outcome it was closed with, else 0."""
    if held:
        return Outcome.OPEN
    if closed:
        return Outcome(closed)
    late = time.monotonic() - last_held > lease_seconds
    return Outcome.ABANDONED if late else Outcome.OPEN
