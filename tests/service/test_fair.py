"""Does everybody get on while others ask for much: readers of little, and a writer?

Only that they do is asserted; how fast is told by benchmarks.fair.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import ziggurat

from tests.support.pixels import marked
from tests.support.server import ServerProcess
from tests.support.waiting import SECONDS

READERS, GREEDY, ROUNDS, READS = 60, 4, 3, 2
SHAPE = (64, 128, 128)


def test_nobody_starves(serve: Callable[..., ServerProcess]) -> None:  # noqa: C901 - three kinds of threads
    # Room for half of the image: chunks are loaded all the time.
    server = serve(cache_bytes=2**20)
    pixels = marked(SHAPE, "uint16")
    clients = [ziggurat.connect(server.address) for _ in range(8)]
    image = clients[0].create(
        "a", axes="zyx", shape=SHAPE, dtype="uint16", chunk_shape=(16, 32, 32)
    )
    with image.writer() as writer:
        writer.write_region(pixels, (0, 0, 0))
    target = clients[0].create("b", axes="yx", shape=(64, 64), dtype="uint8", chunk_shape=(64, 64))
    images = [client.open("a") for client in clients]
    enough = threading.Event()
    wrong: list[str] = []
    # Everybody meets behind each round: no round ends before all have had their share of it.
    meeting = threading.Barrier(READERS + 1)

    def little(number: int) -> None:
        dice = np.random.default_rng(number)
        for _ in range(ROUNDS):
            for _ in range(READS):
                z, y, x = (int(dice.integers(0, n - 15)) for n in SHAPE)
                box = np.s_[z : z + 16, y : y + 16, x : x + 16]
                if not np.array_equal(images[number % 8].read(box), pixels[box]):
                    wrong.append(f"reader {number}")
            meeting.wait(SECONDS)

    def much(number: int) -> None:
        corners = [(z, y, 0) for z in range(0, 64, 8) for y in range(0, 128, 16)] * 4
        while not enough.is_set():
            for k, found in images[number].read_each([(c, (8, 16, 128)) for c in corners]):
                z, y, _ = corners[k]
                if not np.array_equal(found.array, pixels[z : z + 8, y : y + 16]):
                    wrong.append(f"batch {number}")
                if enough.is_set():
                    break

    def write() -> None:
        with target.writer() as writer:
            for value in range(1, ROUNDS + 1):
                writer.write_region(np.full((64, 64), value, "uint8"), (0, 0))
                writer.flush()
                meeting.wait(SECONDS)

    greedy = [threading.Thread(target=much, args=(k,)) for k in range(GREEDY)]
    others = [threading.Thread(target=little, args=(k,)) for k in range(READERS)]
    others.append(threading.Thread(target=write))
    for thread in greedy + others:
        thread.start()
    for thread in others:
        thread.join(2 * SECONDS)
    enough.set()
    for thread in greedy:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in greedy + others)
    assert not wrong
    assert not meeting.broken
    assert (target[...] == ROUNDS).all()
    for client in clients:
        client.close()
