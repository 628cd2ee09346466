"""What does one call of a stream send?

Open; once the server has said which message it wants, that one and all after it, as
they come; Flush where somebody waits for it, after the last number it is for; Close
after the last of all. A call that ends stops sending; the next begins anew.

gRPC draws the messages on a thread of its own, one a call. All state is guarded by the
stream's condition; the spool is read without it, because a disk may be slow.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ziggurat_proto.v1 import write_pb2

from ziggurat._errors import Unavailable, ZigguratError
from ziggurat._shared_memory import Lent
from ziggurat._spool import Spool
from ziggurat._window import Message, Window


def control(**member: Any) -> bytes:
    """A serialized WriteRequest without pixels."""
    return write_pb2.WriteRequest(**member).SerializeToString()


_FLUSH = control(flush=write_pb2.Flush())
CLOSE = {
    "complete": control(close=write_pb2.Close(outcome=write_pb2.OUTCOME_COMPLETE)),
    "aborted": control(close=write_pb2.Close(outcome=write_pb2.OUTCOME_ABORTED)),
}


@dataclass(slots=True)
class Progress:
    """How far a stream is, whatever call carries it.

    sent: the highest number ever handed to a call, or that the server had at first.
    received, durable: as the server says.
    flush_target: somebody waits for this number to become durable.
    closing: nothing more is put; this Close is to be sent.
    """

    sent: int = 0
    received: int = 0
    durable: int = 0
    flush_target: int = 0
    closing: bytes = b""


class Call:
    """One WriteStream call; `requests` is what it sends.

    handle: grpc's call, once there is one.
    number: the next to send; 0 until the server has opened the stream.
    max_shared_bytes: what a message may point at in shared memory; 0: the server has none of it.
    ended: set by the stream when the call is over.
    failure: why it was ended from this side.
    """

    def __init__(
        self,
        changed: threading.Condition,
        window: Window,
        spool: Spool | None,
        progress: Progress,
        opening: bytes,
    ) -> None:
        self._changed = changed
        self._window, self._spool, self._progress = window, spool, progress
        self._opening = opening
        # The last number that Flush was sent after.
        self._flushed = 0
        self.handle: Any = None
        self.number = 0
        self.max_shared_bytes = 0
        self.ended = False
        self.failure: ZigguratError | None = None

    def fail(self, error: ZigguratError) -> None:
        """Ends the call with this error. Called with the condition held; does not wait."""
        self.failure = self.failure or error
        if self.handle is not None:
            self.handle.cancel()

    def requests(self) -> Iterator[bytes]:
        """Serialized messages, in order; waits for more, and ends with the call."""
        yield self._opening
        while True:
            with self._changed:
                while not (self.ended or self._due()):
                    self._changed.wait()
                if self.ended:
                    return
                message: Message | None = self._control()
                number = 0
                if message is None:
                    number = self.number
                    self.number += 1
                    self._progress.sent = max(self._progress.sent, number)
                    message = self._window.find(number)
                elif message is _FLUSH:
                    self._flushed = self._progress.flush_target
            if message is None:
                message = self._load(number)
                if message is None:
                    return
            if isinstance(message, Lent):
                yield message.pointing if self.max_shared_bytes else bytes(message)
            else:
                yield message
                if message in CLOSE.values():
                    return

    def _due(self) -> bool:
        """Whether there is anything to send now."""
        if not self.number:
            return False
        return self._window.ready(self.number) or self._control() is not None

    def _control(self) -> bytes | None:
        """Flush or Close, where it is their turn before the next number."""
        progress = self._progress
        if max(progress.durable, self._flushed) < progress.flush_target < self.number:
            return _FLUSH
        if progress.closing and self.number > self._window.last:
            return progress.closing
        return None

    def _load(self, number: int) -> bytes | None:
        """A message from the spool; None where it can't be read: the call has failed then."""
        error: ZigguratError
        try:
            assert self._spool is not None
            message = self._spool.read(number)
        except ZigguratError as damaged:
            error = damaged
        except OSError as failed:
            error = Unavailable(f"the spool can't be read: {failed}", reason="SPOOL_ERROR")
        else:
            with self._changed:
                self._window.load(number, message)
            return message
        with self._changed:
            self.fail(error)
        return None
