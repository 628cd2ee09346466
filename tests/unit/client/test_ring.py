"""Is no part of a writer's shared memory given out twice, and does a writer do without any?"""

from __future__ import annotations

import errno
import os
import sys
from collections import deque

import numpy as np
import pytest
import ziggurat
from hypothesis import given
from hypothesis import strategies as st
from ziggurat import _shared_memory
from ziggurat._shared_memory import HEADER_BYTES, LEAST_BYTES, Lent, Ring, ring
from ziggurat._wire import encode_region

from tests.unit.client.scripted import GrpcServer, StreamServer

SIZE = 5000


@given(
    st.lists(
        st.one_of(st.integers(1, SIZE // 2), st.integers(1, 100), st.just(-1), st.just(-2)),
        max_size=60,
    )
)
def test_slots_lie_apart(steps: list[int]) -> None:
    """-1: the oldest is freed, -2: all. What fits behind half of the ring always finds room."""
    made = Ring(SIZE)
    taken: deque[tuple[int, int]] = deque()
    for step in steps:
        if step < 0:
            for _ in range(len(taken) if step == -2 else min(1, len(taken))):
                made.free(taken.popleft()[0])
            continue
        slot = made.take(step)
        if slot is None:
            used = sum(end - begin for begin, end in taken)
            assert used + step > SIZE - SIZE // 2
            continue
        assert slot >= HEADER_BYTES
        assert slot + step <= made.size
        assert all(slot + step <= begin or end <= slot for begin, end in taken)
        taken.append((slot, slot + step))
    made.close()


def test_one_that_is_freed_early_is_not_given_out_before_those_before_it() -> None:
    made = Ring(3000)
    first, second, third = (made.take(1000) for _ in range(3))
    assert first is not None
    assert second is not None
    made.free(second)
    assert made.take(1000) is None
    made.free(first)
    assert made.take(2000) == first
    assert third == HEADER_BYTES + 2000
    made.close()


def test_memory_that_is_not_there_is_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no memory")

    made = Ring(SIZE)
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        assert made.take(10) is None
    assert made.take(10) is not None
    made.close()


def test_pixels_are_the_same_either_way() -> None:
    pixels = np.arange(24, dtype=">u2").reshape(2, 3, 4)[:, ::-1]
    made = Ring(SIZE)
    slot = made.take(pixels.nbytes)
    assert slot is not None
    said = {"timestamp_ns": -5, "metadata": b"{}"}
    lent = Lent(made, slot, 7, (1, 2, 3), pixels, **said)
    plain = encode_region(7, (1, 2, 3), (2, 3, 4), pixels.astype("<u2").tobytes(), **said)
    assert bytes(lent) == plain
    assert len(lent) >= len(plain)
    where = (slot, pixels.nbytes)
    assert lent.pointing == encode_region(7, (1, 2, 3), (2, 3, 4), b"", shared=where, **said)
    lent.free()
    assert made.take(SIZE) == HEADER_BYTES
    made.close()


@pytest.mark.parametrize("server", ["storage:7447", "10.0.0.1:7447", "[2001:db8::1]:7447"])
def test_none_for_a_server_elsewhere(server: str) -> None:
    assert ring(server, SIZE) is None


@pytest.mark.parametrize("server", ["localhost:7447", "127.0.0.2:1", "[::1]:7447", "unix:/a"])
def test_one_for_a_server_here(server: str) -> None:
    made = ring(server, SIZE)
    assert made is not None
    made.close()
    made.close()


def test_none_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert ring("localhost:7447", SIZE) is None


def test_none_where_there_is_no_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "memfd_create", full)
    assert ring("localhost:7447", SIZE) is None


def test_files_are_closed() -> None:
    before = len(os.listdir("/proc/self/fd"))
    made = Ring(SIZE)
    made.close()
    del made
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_server_that_knows_nothing_of_it() -> None:
    """An older one: it is offered memory, does not answer to that, and gets messages."""
    stream = StreamServer()
    server = GrpcServer(stream)
    pixels = np.arange(LEAST_BYTES, dtype=np.uint16).reshape(1, 2, -1)
    try:
        connection = ziggurat.connect(f"127.0.0.1:{server.port}")._connection
        writer = ziggurat.Writer(
            connection,
            "a",
            "zyx",
            (1, *pixels.shape[1:]),
            pixels.dtype,
            stream_id="s",
            durability="durable",
            expected_frames=None,
            window_bytes=2**20,
            strip_bytes=None,
            retry_seconds=60,
            spool=None,
            spool_bytes=None,
        )
        assert stream.open.HasField("shared_memory")
        assert writer.transport == "grpc"
        writer.write_region(pixels, (0, 0, 0))
        writer.close(60)
        region = stream.taken[1].region
        assert region.payload == pixels.tobytes()
        assert not region.shared_bytes
        connection.close()
    finally:
        server.stop()


def test_the_mark_is_the_same_on_both_sides() -> None:
    from ziggurat_engine.server import sharing

    assert _shared_memory.MAGIC == sharing.MAGIC
    assert _shared_memory.NONCE_BYTES == sharing.NONCE_BYTES
    assert f"/memfd:{_shared_memory.NAME} (deleted)" == sharing.LINK
    assert sharing.HEADER_BYTES <= _shared_memory.HEADER_BYTES
