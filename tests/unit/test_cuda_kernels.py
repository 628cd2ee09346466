"""Do batches on cards keep their order, their memory and their promises, whatever a card does?

The card is tests/support/card.py: real kernels, late streams, faults on demand.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ziggurat_engine.errors import FailedPrecondition, InvalidArgument
from ziggurat_engine.kernels.codec import encode
from ziggurat_engine.kernels.cpu import CpuKernels
from ziggurat_engine.kernels.cuda import cupy_device
from ziggurat_engine.kernels.cuda.errors import DeviceError
from ziggurat_engine.kernels.cuda.kernels import AHEAD, CudaKernels
from ziggurat_engine.kernels.cuda.memory import LEAST_BATCH_BYTES, Room, fit
from ziggurat_engine.kernels.cuda.nvcomp import Nvcomp
from ziggurat_engine.kernels.cuda.plans import plan_for
from ziggurat_engine.kernels.cuda.trust import TRIES
from ziggurat_engine.kernels.protocol import Kernels, Recipe, Settled, Surrounded
from ziggurat_engine.kernels.select import select
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, Blosc, Codec, Gzip, Uncompressed, Zstd

from tests.support import shim
from tests.support.card import Card, Faults, kernels_on

pytestmark = pytest.mark.skipif(not shim.available(), reason="needs g++")

LZ4, ZSTD = Blosc(compressor="lz4"), Blosc(compressor="zstd", shuffle="byte")
SHAPE = (4, 32, 32)
CHUNKS = 30
# Of these chunks seven or so fit into a batch.
SMALL = {"batch_bytes": LEAST_BATCH_BYTES}


@pytest.fixture(scope="module")
def cpu() -> Iterator[Kernels]:
    made = CpuKernels(2)
    yield made
    made.close()


def camera(count: int = CHUNKS, shape: Shape = SHAPE, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    chunks: list[Array] = [rng.poisson(900, shape).astype("u2") for _ in range(count)]
    if count > 3:
        chunks[3][...] = 0
    return chunks


def extents(count: int = CHUNKS) -> list[Shape]:
    return [(4, 32 - i % 2, 32 - i % 3) for i in range(count)]


def recipe(codec: Codec | None = LZ4, method: str = "mean") -> Recipe:
    return Recipe(codec, np.uint16(0), (2, 2, 2), method)


def settled(kernels: Kernels, chunks: Sequence[Array], chosen: Recipe) -> list[Settled]:
    return list(kernels.settle(chunks, extents(len(chunks)), chosen))


def check(kernels: Kernels, cpu: Kernels, codec: Codec = LZ4, seed: int = 0) -> None:
    """Settles a run of batches, and compares all of it."""
    chunks = camera(seed=seed)
    found = settled(kernels, chunks, recipe(codec))
    wanted = settled(cpu, chunks, recipe(codec))
    assert len(found) == len(wanted)
    for one, other, chunk in zip(found, wanted, chunks, strict=True):
        assert one.parent is not None
        assert other.parent is not None
        assert one.parent.shape == other.parent.shape
        assert one.parent.tobytes() == other.parent.tobytes()
        assert (one.frame is None) == (other.frame is None)
        if one.frame is not None:
            assert cpu.decode(one.frame, codec, chunk.dtype, SHAPE).tobytes() == chunk.tobytes()


# --- order


@pytest.mark.parametrize("codec", [LZ4, ZSTD], ids=["lz4", "zstd"])
@pytest.mark.parametrize("pace", ["late", "early", 1, 2])
def test_batches_are_right_however_the_streams_run(
    cpu: Kernels, pace: str | int, codec: Codec
) -> None:
    card = Card(pace=pace)
    kernels = kernels_on(card, **SMALL)
    for seed in range(3):
        check(kernels, cpu, codec, seed)
    (device,) = kernels.devices
    assert device.batches >= 12
    assert (device.failures, kernels.totals.cpu_batches) == (0, 0)
    kernels.close()
    assert not card.held
    assert not card.pinned


def test_a_card_that_waits_for_nothing_is_found_out(cpu: Kernels) -> None:
    kernels = kernels_on(Card(deaf=True), **SMALL)
    check(kernels, cpu)
    assert kernels.totals.cpu_batches > 0
    kernels.close()


def test_the_next_batch_goes_in_before_the_last_comes_out() -> None:
    card = Card()
    kernels = kernels_on(card, **SMALL)
    settled(kernels, camera(), recipe())
    kernels.close()
    # Of each batch: two copies in, kernels, the head out, then parents and frames.
    kinds = [word for word in card.trace if word in {"in", "out", "frame_gather"}]
    first_out = [i for i, word in enumerate(kinds) if word == "out"][1]
    assert kinds[:first_out].count("in") == 4


def test_nothing_is_allocated_once_a_layout_is_known() -> None:
    card = Card()
    kernels = kernels_on(card, **SMALL)
    for codec in (LZ4, ZSTD):
        settled(kernels, camera(), recipe(codec))
    allocations = card.allocations
    for seed in range(3):
        for codec in (LZ4, ZSTD):
            settled(kernels, camera(seed=seed), recipe(codec))
    assert card.allocations == allocations
    kernels.close()


def test_many_callers_share_two_cards(cpu: Kernels) -> None:
    # Each card's first launch waits for the other's: both get batches, or none goes on.
    meeting = threading.Barrier(2)
    cards = [Card(pace=pace, meeting=meeting) for pace in ("late", 5)]
    kernels = kernels_on(*cards, **SMALL)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda seed: check(kernels, cpu, seed=seed), range(12)))
    first, second = kernels.devices
    assert first.batches > 0
    assert second.batches > 0
    assert kernels.totals.cpu_batches == 0
    kernels.close()


def test_few_batches_are_ahead_of_the_consumer() -> None:
    kernels = kernels_on(**SMALL)
    taken = 0

    class Counting(list[Array]):
        def __iter__(self) -> Iterator[Array]:
            nonlocal taken
            for chunk in super().__iter__():
                taken += 1
                yield chunk

    plan = plan_for(SHAPE, np.dtype("u2"), recipe(), Room(kernels.batch_bytes), None)
    assert plan is not None
    batch = kernels.settle(Counting(camera(80)), extents(80), recipe())
    for consumed, _ in zip(range(40), batch, strict=False):
        assert taken <= (consumed // plan.most + AHEAD + 1) * plan.most
    batch.close()
    assert taken < 80
    check_after = settled(kernels, camera(3), recipe())
    assert len(check_after) == 3
    kernels.close()


def test_blocks_of_several_shapes_are_downsampled(cpu: Kernels) -> None:
    kernels = kernels_on(**SMALL)
    shapes = [(4, 32, 32)] * 9 + [(4, 32, 7)] * 2 + [(3, 5, 7), (4, 32, 32)]
    blocks = [
        Surrounded(camera(1, shape, seed)[0], (0, 0, 0), shape) for seed, shape in enumerate(shapes)
    ]
    for method in ("mean", "median", "gaussian"):
        chosen = recipe(None, method)
        found = list(kernels.downsample(blocks, chosen))
        wanted = list(cpu.downsample(blocks, chosen))
        assert [one.tobytes() for one in found] == [one.tobytes() for one in wanted]
    kernels.close()


# --- what cards have no code for


NVCOMP = Card().nvcomp
ROOM = Room(2**20)


@pytest.mark.parametrize(
    ("codec", "shape", "factors", "method", "nvcomp", "there"),
    [
        (LZ4, SHAPE, (2, 2, 2), "mean", None, True),
        (LZ4, SHAPE, None, "mean", None, True),
        (LZ4, SHAPE, (1, 3, 3), "mode", None, True),
        (None, SHAPE, (2, 2, 2), "stride", None, True),
        (ZSTD, SHAPE, (2, 2, 2), "mean", NVCOMP, True),
        (Zstd(), SHAPE, (2, 2, 2), "mean", NVCOMP, True),
        (ZSTD, SHAPE, (2, 2, 2), "mean", None, False),
        (Zstd(), SHAPE, (2, 2, 2), "mean", None, False),
        (Blosc(compressor="lz4", level=0), SHAPE, (2, 2, 2), "mean", NVCOMP, False),
        (Gzip(), SHAPE, (2, 2, 2), "mean", NVCOMP, False),
        (Uncompressed(), SHAPE, (2, 2, 2), "mean", NVCOMP, False),
        (LZ4, SHAPE, (4, 2, 2), "mean", None, False),
        (LZ4, SHAPE, (2, 2, 2), "gaussian", None, False),
        (LZ4, (64, 128, 128), (2, 2, 2), "mean", None, False),
        (None, SHAPE, None, "mean", None, False),
    ],
)
def test_what_a_card_can_do(
    codec: Codec | None,
    shape: Shape,
    factors: Shape | None,
    method: str,
    nvcomp: Nvcomp | None,
    there: bool,
) -> None:
    chosen = Recipe(codec, np.uint16(0), factors, method)
    assert (plan_for(shape, np.dtype("u2"), chosen, ROOM, nvcomp) is not None) == there


@pytest.mark.parametrize("codec", [ZSTD, Gzip(), Uncompressed()], ids=str)
def test_the_cpu_does_what_no_card_can(cpu: Kernels, codec: Codec) -> None:
    card = Card(with_nvcomp=False)
    kernels = kernels_on(card, **SMALL)
    check(kernels, cpu, codec)
    assert kernels.totals.cpu_batches == 1
    assert kernels.devices[0].failures == 0
    assert not card.trace
    kernels.close()


# --- memory


def test_a_ring_takes_what_it_may_and_no_more() -> None:
    card = Card()
    kernels = kernels_on(card, device_memory_bytes=24 * 2**20, batch_bytes=2**26)
    settled(kernels, camera(), recipe(ZSTD))
    assert LEAST_BATCH_BYTES <= kernels.batch_bytes < 2**26
    (device,) = kernels.devices
    assert device.memory_bytes == sum(memory.nbytes for memory in card.held.values())
    assert 8 * 2**20 < device.memory_bytes <= 24 * 2**20
    assert sum(memory.nbytes for memory in card.pinned.values()) <= 10 * kernels.batch_bytes
    kernels.close()


def test_memory_without_room_for_a_batch_is_refused() -> None:
    assert fit(2**26, 2**20) is None
    with pytest.raises(InvalidArgument, match="device_memory_bytes = 1048576"):
        kernels_on(device_memory_bytes=2**20)


# --- faults


def faulty(**faults: int | str) -> tuple[Card, CudaKernels]:
    card = Card(faults=Faults(**faults))  # type: ignore[arg-type]
    return card, kernels_on(card, **SMALL)


@pytest.mark.parametrize("allocation", [1, 7, 31, 37])
def test_a_card_without_memory_is_tried_again_later(cpu: Kernels, allocation: int) -> None:
    for retry_seconds, state in ((1e9, "paused"), (0, "ready")):
        card = Card(faults=Faults(out_of_memory_at=allocation))
        kernels = kernels_on(card, retry_seconds=retry_seconds, **SMALL)
        (device,) = kernels.devices
        assert (device.state, device.failures) == (state, 1)
        assert device.last_failure == "OutOfMemory: the test says so"
        assert not card.held
        assert not card.pinned
        tried = card.allocations
        check(kernels, cpu)
        assert (card.allocations > tried) == (state == "ready")
        assert (kernels.devices[0].batches > 0) == (state == "ready")
        kernels.close()


def test_scratch_that_can_not_be_had_leaves_the_rest_alone(cpu: Kernels) -> None:
    # The ring takes 37 allocations; the next is nvCOMP's.
    card, kernels = faulty(out_of_memory_at=38, out_of_memory_times=2)
    check(kernels, cpu, ZSTD)
    check(kernels, cpu, LZ4)
    (device,) = kernels.devices
    assert (device.state, device.failures) == ("ready", 2)
    assert kernels.totals.cpu_batches == 2
    kernels.close()
    assert not card.held


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_bad_status_costs_that_batch_alone(cpu: Kernels, batch: int) -> None:
    _, kernels = faulty(bad_zstd_at=batch)
    check(kernels, cpu, ZSTD)
    check(kernels, cpu, ZSTD)
    (device,) = kernels.devices
    assert (device.state, device.failures) == ("ready", 1)
    assert device.last_failure == "BadStatus: 1 blocks could not be compressed"
    assert kernels.totals.cpu_batches == 1
    kernels.close()


@pytest.mark.parametrize("fault", ["lost_at_launch", "lost_at_copy"])
@pytest.mark.parametrize("at", [1, 2, 5, 9, 14, 20])
def test_a_lost_card_is_left_alone(cpu: Kernels, fault: str, at: int) -> None:
    card, kernels = faulty(**{fault: at})
    check(kernels, cpu)
    (device,) = kernels.devices
    assert device.state == "lost"
    assert device.last_failure == "DeviceLost: the test says so"
    before = (card.launches, card.copies, card.allocations)
    check(kernels, cpu, seed=1)
    assert (card.launches, card.copies, card.allocations) == before
    assert kernels.totals.cpu_batches > 1
    kernels.close()


def test_one_of_two_cards_is_lost(cpu: Kernels) -> None:
    meeting = threading.Barrier(2)
    lost = Card(faults=Faults(lost_at_launch=2), meeting=meeting, name="lost")
    sound = Card(meeting=meeting, name="sound")
    kernels = kernels_on(lost, sound, **SMALL)
    for seed in range(20):
        check(kernels, cpu, seed=seed)
        if kernels.devices[0].state == "lost":
            break
    done = kernels.devices[1].batches
    check(kernels, cpu)
    assert [device.state for device in kernels.devices] == ["lost", "ready"]
    assert kernels.devices[1].batches > done
    kernels.close()


def test_a_mistake_of_ours_costs_that_batch_alone(
    cpu: Kernels, caplog: pytest.LogCaptureFixture
) -> None:
    _, kernels = faulty(crash_at_launch=9)
    check(kernels, cpu)
    (device,) = kernels.devices
    assert (device.state, device.failures) == ("ready", 1)
    assert "a batch on Test Card failed" in caplog.text
    kernels.close()


def test_a_mistake_at_the_start_leaves_the_cpu(cpu: Kernels) -> None:
    card, kernels = faulty(crash_at_bind=True)
    check(kernels, cpu)
    assert kernels.devices[0].state == "lost"
    assert card.allocations == 0
    kernels.close()


def test_a_mistake_of_ours_while_memory_is_tried_again_leaves_nobody_waiting(
    cpu: Kernels,
) -> None:
    # The first allocation fails; what is tried anew with the first batch crashes.
    card = Card(faults=Faults(out_of_memory_at=1, crash_at_allocation=2))
    kernels = kernels_on(card, retry_seconds=0, **SMALL)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(check, kernels, cpu).result(60)
    assert kernels.devices[0].state == "lost"
    kernels.close()


# --- cards that do not answer

HANGS = [("bind", 0), ("allocate", 3), ("launch", 0), ("launch", 9), ("synchronize", 0)]


@pytest.mark.parametrize(("method", "after"), [*HANGS, ("synchronize", 5)])
def test_nobody_waits_for_a_card_that_hangs(cpu: Kernels, method: str, after: int) -> None:
    card = Card(faults=Faults(hangs_at=method, hangs_after=after))
    kernels = kernels_on(card, timeout_seconds=0.4, **SMALL)
    try:
        check(kernels, cpu)
        (device,) = kernels.devices
        assert device.state == "lost"
        assert device.last_failure == "DeviceHung: no answer for 0.4 s"
        assert kernels.totals.cpu_batches > 0
        held = (len(card.held), len(card.pinned))
        check(kernels, cpu, seed=1)
        assert kernels.devices[0].batches == device.batches
        kernels.close()
    finally:
        card.thaw.set()
    # Its thread goes on now, to the end of that step, and frees nothing.
    (worker,) = kernels._workers
    worker._thread.join(60)
    assert not worker._thread.is_alive()
    assert (len(card.held), len(card.pinned)) >= held


def test_what_hangs_at_the_end_is_left_behind(cpu: Kernels) -> None:
    card = Card(faults=Faults(hangs_at="drain"))
    kernels = kernels_on(card, timeout_seconds=0.4, **SMALL)
    check(kernels, cpu)
    kernels.close()
    held = len(card.held)
    card.thaw.set()
    assert held > 0


def test_readers_do_not_wait_for_a_card_that_hangs() -> None:
    card = Card(faults=Faults(hangs_at="synchronize"))
    kernels = kernels_on(card, timeout_seconds=0.4, decode_together=1)
    chunk = np.arange(8192, dtype="u2").reshape(8, 32, 32)
    frame = encode(chunk, LZ4)
    for _ in range(3):
        back = kernels.decode(frame, LZ4, chunk.dtype, chunk.shape)
        assert np.array_equal(back, chunk)
    assert kernels.devices[0].state == "lost"
    kernels.close()
    card.thaw.set()


FAULTS = st.builds(
    Faults,
    out_of_memory_at=st.integers(0, 60),
    lost_at_launch=st.integers(0, 200),
    lost_at_copy=st.integers(0, 100),
    bad_zstd_at=st.integers(0, 8),
    crash_at_launch=st.integers(0, 60),
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(FAULTS, min_size=1, max_size=3),
    pace=st.one_of(st.sampled_from(["late", "early"]), st.integers(0, 1000)),
    codec=st.sampled_from([LZ4, ZSTD, Zstd()]),
)
def test_whatever_cards_do_the_results_are_right(
    cpu: Kernels, faults: list[Faults], pace: str | int, codec: Codec
) -> None:
    cards = [Card(pace=pace, faults=each) for each in faults]
    kernels = kernels_on(*cards, retry_seconds=0, **SMALL)
    for seed in range(2):
        check(kernels, cpu, codec, seed)
    kernels.close()
    assert all(card.lost or not card.held for card in cards)


@pytest.mark.parametrize(("kernel", "argument"), [("fold<u16, MEAN, 2>", 2), ("frame_gather", 14)])
def test_wrong_results_are_found_out_in_the_first_batch(
    cpu: Kernels, caplog: pytest.LogCaptureFixture, kernel: str, argument: int
) -> None:
    card, kernels = faulty(wrong_kernel=kernel, wrong_argument=argument)
    check(kernels, cpu)
    launches = card.launches
    check(kernels, cpu)
    assert card.launches == launches
    assert "settles Plan(" in caplog.text
    kernels.close()


def test_what_never_works_is_not_tried_for_ever(
    cpu: Kernels, caplog: pytest.LogCaptureFixture
) -> None:
    card, kernels = faulty(refused_kernel="lz4_compress")
    check(kernels, cpu)
    (device,) = kernels.devices
    assert (device.state, device.batches) == ("ready", 0)
    assert TRIES <= device.failures < TRIES + AHEAD
    launches = card.launches
    check(kernels, cpu)
    assert card.launches == launches
    assert caplog.text.count("no card settles Plan(") == 1
    # All else goes on.
    blocks = [Surrounded(chunk, (0, 0, 0), SHAPE) for chunk in camera(3)]
    assert len(list(kernels.downsample(blocks, recipe(None)))) == 3
    assert kernels.devices[0].batches == 1
    kernels.close()


def test_a_failure_is_logged_once(cpu: Kernels, caplog: pytest.LogCaptureFixture) -> None:
    card = Card(faults=Faults(out_of_memory_at=1, out_of_memory_times=100))
    with caplog.at_level(logging.WARNING):
        kernels = kernels_on(card, retry_seconds=0, **SMALL)
        check(kernels, cpu)
        check(kernels, cpu)
    assert kernels.devices[0].failures > 2
    assert caplog.text.count("Test Card: OutOfMemory") == 1
    kernels.close()


# --- the choice


def test_cuda_is_refused_where_there_is_no_card() -> None:
    from tests.support.gpu import missing

    if not missing():
        pytest.skip("there is a card")
    with pytest.raises(FailedPrecondition, match="kernels = cuda"):
        select("cuda", 1)


@pytest.mark.parametrize("error", ["ImportError", "ValueError", "RuntimeError"])
def test_a_cupy_that_is_broken_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    (tmp_path / "cupy.py").write_text(f"raise {error}('built for something else')")
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match="CuPy can't be imported: built for"):
        cupy_device.find()
    kernels = select("auto", 1)
    assert kernels.name == "cpu"
    kernels.close()


def test_cuda_is_refused_where_no_card_can_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> list[Card]:
        return [Card(faults=Faults(crash_at_bind=True)), Card(faults=Faults(crash_at_bind=True))]

    monkeypatch.setattr(cupy_device, "find", find)
    with pytest.raises(FailedPrecondition, match="kernels = cuda: Test Card, DeviceLost: Zero"):
        select("cuda", 1)
    kernels = select("auto", 1)
    assert [device.state for device in kernels.devices] == ["lost", "lost"]
    kernels.close()


def test_what_is_warmed_and_no_card_does_is_not_counted() -> None:
    kernels = kernels_on(Card(with_nvcomp=False))
    kernels.warm([np.dtype("u2")])
    assert kernels.devices[0].batches == 1
    assert kernels.totals.cpu_batches == 0
    kernels.close()


@pytest.mark.gpu
def test_auto_takes_the_card() -> None:
    kernels = select("auto", 2)
    assert kernels.name == "cuda"
    assert [device.state for device in kernels.devices] == ["ready"] * len(kernels.devices)
    kernels.close()
