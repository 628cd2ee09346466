"""Are LZ4 frames of any origin taken apart rightly, and never beyond their bytes?"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc
from ziggurat_engine.errors import Corrupt
from ziggurat_engine.kernels.cpu import CpuKernels
from ziggurat_engine.kernels.cuda.blosc import parse
from ziggurat_engine.kernels.cuda.decoding import Decoding, Wanted, fits
from ziggurat_engine.kernels.cuda.kernels import CudaKernels
from ziggurat_engine.kernels.cuda.memory import Ring, Room
from ziggurat_engine.kernels.cuda.task import Copying
from ziggurat_engine.kernels.cuda.trust import TRIES
from ziggurat_engine.spec import Blosc

from tests.support import shim
from tests.support.card import Card, Faults, kernels_on

needs_shim = pytest.mark.skipif(not shim.available(), reason="needs g++")
SHUFFLES = {"none": blosc.NOSHUFFLE, "byte": blosc.SHUFFLE, "bit": blosc.BITSHUFFLE}


def lz4_frame(pixels: np.ndarray, shuffle: str = "byte", block_bytes: int = 0) -> bytes:
    data = (pixels, b"lz4", 5, SHUFFLES[shuffle], block_bytes, pixels.itemsize)
    return bytes(blosc.compress(*data))


def noise(count: int, dtype: str = "u2", seed: int = 0) -> np.ndarray:
    """Compresses, but with each run of four another way."""
    values = np.random.default_rng(seed).integers(0, 50, -(-count // 4))
    return np.repeat(values, 4)[:count].astype(dtype)


FRAMES = st.builds(
    lambda count, dtype, shuffle, block_bytes, seed: lz4_frame(
        noise(count, dtype, seed), shuffle, block_bytes
    ),
    count=st.integers(1, 9000),
    dtype=st.sampled_from(["u1", "u2", "u4", "u8"]),
    shuffle=st.sampled_from(list(SHUFFLES)),
    block_bytes=st.sampled_from([0, 512, 4096]),
    seed=st.integers(0, 9),
)


@settings(max_examples=150)
@given(
    frame=FRAMES,
    damage=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=3),
    cut=st.integers(0, 40),
)
def test_streams_lie_within_the_frame_and_cover_the_chunk(
    frame: bytes, damage: list[tuple[int, int]], cut: int
) -> None:
    expected = int.from_bytes(frame[4:8], "little")
    damaged = bytearray(frame)
    for place, value in damage:
        damaged[place % len(damaged)] = value
    damaged = damaged[: len(damaged) - cut] if damage else damaged
    streams = parse(bytes(damaged), expected)
    memcpy = frame[2] & 2
    if not damage:
        assert (streams is None) == bool(memcpy)
    if streams is None:
        return
    table = streams.table
    assert (table["source"] >= 16).all()
    assert (table["csize"] > 0).all()
    assert (table["source"] + table["csize"] <= len(damaged)).all()
    order = np.argsort(table["target"])
    ends = (table["target"] + table["size"])[order]
    assert table["target"][order].tolist() == [0, *ends[:-1]]
    assert ends[-1] == expected


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x02\x01\x30\x02",
        bytes(blosc.compress(noise(5000), b"zstd", 1, 1, 0, 2)),
        bytes(blosc.compress(noise(5000), b"lz4", 0, 1, 0, 2)),
        bytes(blosc.compress(noise(5001, "u1"), b"lz4", 5, 1, 0, 3)),
    ],
    ids=["empty", "short", "zstd", "copied", "odd typesize"],
)
def test_what_is_unusual_is_for_the_cpu(frame: bytes) -> None:
    assert parse(frame, 10000) is None


def decoded(card: Card, frames: list[tuple[bytes, np.ndarray]]) -> list[Wanted]:
    """One batch of these frames, each with an array for its pixels."""
    wanted = []
    for frame, out in frames:
        streams = parse(frame, out.nbytes)
        assert streams is not None
        wanted.append(Wanted(frame, streams, out))
    card.bind()
    room = Room(2**22)
    assert fits(wanted, room)
    ring = Ring(card, room, 0)
    with ThreadPoolExecutor(2) as pool:
        task, slot, copying = Decoding(wanted), ring.slots[0], Copying(pool, 2)
        task.load(slot, copying)
        task.start(slot, ring)
        task.collect(slot, ring)
        task.done.set_result(task.finish(slot, ring, copying))
    ring.close()
    return wanted


@needs_shim
@pytest.mark.parametrize("pace", ["late", "early", 1])
def test_frames_of_all_kinds_are_one_batch(pace: str | int) -> None:
    frames, pixels = [], []
    for seed, dtype in enumerate(["u2", "u1", "u8", "u4", "u2"]):
        for shuffle in SHUFFLES:
            for count in (1000, 4099, 20_000):
                pixels.append(noise(count, dtype, seed))
                frames.append((lz4_frame(pixels[-1], shuffle), np.empty_like(pixels[-1])))
    broken = bytearray(frames[7][0])
    broken[-40:-8] = bytes(32)
    frames[7] = (bytes(broken), frames[7][1])
    wanted = decoded(Card(pace=pace), frames)
    good = [each.done.result(0) is not None for each in wanted]
    assert good == [i != 7 for i in range(len(frames))]
    for i, (_, out) in enumerate(frames):
        assert i == 7 or np.array_equal(out, pixels[i])


@needs_shim
def test_threads_that_read_at_a_time_get_their_own_chunks() -> None:
    card = Card()
    kernels = kernels_on(card, decode_together=2)
    chunks = [noise(8192, "u2", seed).reshape(8, 32, 32) for seed in range(40)]
    frames = [lz4_frame(chunk) for chunk in chunks]
    start = threading.Barrier(8)

    def read(thread: int) -> None:
        start.wait(60)
        for i in range(thread, 40, 4):
            back = kernels.decode(frames[i], Blosc(), chunks[i].dtype, chunks[i].shape)
            assert np.array_equal(back, chunks[i])
            assert back.flags.writeable

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))
    assert kernels.totals.decoded_bytes == sum(len(range(t, 40, 4)) for t in range(8)) * 16384
    assert kernels.devices[0].failures == 0
    kernels.close()


@needs_shim
def test_the_cpu_says_what_is_wrong_with_a_damaged_frame() -> None:
    kernels = kernels_on(decode_together=1)
    chunk = noise(8192)
    frame = bytearray(lz4_frame(chunk))
    frame[-60:-10] = bytes(50)
    cpu = CpuKernels(1)
    for each in (kernels, cpu):
        with pytest.raises(Corrupt, match="does not decode"):
            each.decode(bytes(frame), Blosc(), chunk.dtype, chunk.shape)
    assert kernels.devices[0].failures == 0
    cpu.close()
    kernels.close()


def reads(kernels: CudaKernels, count: int, dtype: str = "u2") -> None:
    for seed in range(count):
        chunk = noise(8192, dtype, seed)
        back = kernels.decode(lz4_frame(chunk), Blosc(), chunk.dtype, chunk.shape)
        assert np.array_equal(back, chunk)


@needs_shim
@pytest.mark.parametrize("kernel", ["lz4_decompress", "unshuffle<2, BYTES>"])
def test_a_card_that_decodes_wrongly_is_found_out(
    kernel: str, caplog: pytest.LogCaptureFixture
) -> None:
    argument = 3 if kernel == "lz4_decompress" else 2
    card = Card(faults=Faults(wrong_kernel=kernel, wrong_argument=argument))
    kernels = kernels_on(card, decode_together=1)
    reads(kernels, 3)
    launches = card.launches
    reads(kernels, 3)
    assert card.launches == launches
    assert caplog.text.count("a card decodes (2, 'byte') wrongly") == 1
    kernels.close()


@needs_shim
def test_kernels_that_decode_and_do_not_compile_are_left_alone() -> None:
    card = Card(faults=Faults(refused_kernel="unshuffle<2, BYTES>"))
    kernels = kernels_on(card, decode_together=1)
    reads(kernels, TRIES + 2)
    assert kernels.devices[0].failures == TRIES
    assert kernels.totals.cpu_batches == TRIES
    reads(kernels, 2, "u4")
    assert kernels.devices[0].failures == TRIES
    assert kernels.devices[0].batches == 2
    kernels.close()


@needs_shim
def test_a_card_lost_while_decoding_costs_nothing() -> None:
    card = Card(faults=Faults(lost_at_launch=1))
    kernels = kernels_on(card, decode_together=1)
    chunk = noise(8192)
    for _ in range(3):
        back = kernels.decode(lz4_frame(chunk), Blosc(), chunk.dtype, chunk.shape)
        assert np.array_equal(back, chunk)
    assert kernels.devices[0].state == "lost"
    assert kernels.totals.cpu_batches == 3
    kernels.close()
