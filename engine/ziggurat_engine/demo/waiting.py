"""When has the server all that was written?"""

from __future__ import annotations

import time

import ziggurat


def wait_received(writer: ziggurat.Writer, patience_seconds: float = 10.0) -> None:
    """Returns once all that was written is acknowledged as received.

    Or once no acknowledgement has come for a while: what is wrong then, the writer's
    next method says.
    """
    seen, since = writer.received, time.monotonic()
    while writer.received < writer.sequence:
        if writer.received != seen:
            seen, since = writer.received, time.monotonic()
        elif time.monotonic() - since > patience_seconds:
            return
        time.sleep(0.001)
