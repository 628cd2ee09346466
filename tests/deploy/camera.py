"""A camera that goes on until its standard input ends: camera.py ADDRESS IMAGE.

Prints after each frame how many are acknowledged as durable, in the end how many there were.
Runs in a container too.
"""

from __future__ import annotations

import itertools
import select
import sys
import time

import numpy as np
import ziggurat

FRAME_SECONDS = 0.005


def frame(t: int) -> np.ndarray:
    """Tells its number in every pixel."""
    return np.arange(t, t + 128 * 128).astype("uint16").reshape(128, 128)


def tell(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main(address: str, name: str) -> None:
    with ziggurat.connect(address) as client:
        image = client.create(
            name, axes="tyx", shape=(0, 128, 128), dtype="uint16", unbounded=True, levels=2
        )
        with image.writer(retry_seconds=120) as writer:
            for t in itertools.count():
                writer.write(frame(t), t=t)
                tell(writer.durable)
                if select.select([sys.stdin], [], [], 0)[0]:
                    break
                time.sleep(FRAME_SECONDS)
        tell(t + 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
