"""A writer outlives its calls: each message takes effect once, in order, or it says so."""

import threading
import time

import grpc
import numpy as np
import pytest
import ziggurat
from ziggurat import _stream

from tests.unit.client.scripted import (
    DEADLINE,
    DISK_ERROR,
    DISK_FULL,
    HELD,
    RESET,
    SECONDS,
    UNAVAILABLE,
    GrpcServer,
    Plan,
    Proxy,
    StreamServer,
    until,
)
from tests.unit.client.support import RpcFailure, fake_image

SHAPE = (200, 4, 4)
FRAME_BYTES = 32


def writer_of(server, **options):
    image = fake_image("zyx", np.zeros(SHAPE, np.uint16), script=server)
    return image.writer(**{"stream_id": "s", "retry_seconds": 10, **options})


def frame(number):
    """The frame that message `number` carries."""
    return np.full((4, 4), number, np.uint16)


def write(writer, count):
    for _ in range(count):
        number = writer.sequence + 1
        writer.write(frame(number), z=number % SHAPE[0])


def assert_taken(server, count, first=1):
    """Messages first to `count` arrived, each once and whole."""
    assert sorted(server.taken) == list(range(first, count + 1))
    for number, request in server.taken.items():
        assert request.region.payload == frame(number).tobytes(), number


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr("ziggurat._retry.FIRST_DELAY_SECONDS", 0.002)
    monkeypatch.setattr("ziggurat._retry.MAX_DELAY_SECONDS", 0.02)


@pytest.mark.parametrize(
    "failure",
    [UNAVAILABLE, DISK_FULL, DISK_ERROR, RESET, DEADLINE, None],
    ids=["unavailable", "disk full", "disk error", "reset", "deadline", "no word"],
)
@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("acknowledge", ["durable", "received", ""])
def test_a_lost_call_is_made_again(failure, dies, acknowledge):
    lost = Plan(stop_after=3, failure=failure, dies=dies, acknowledge=acknowledge)
    server = StreamServer(lost, Plan(refuse=UNAVAILABLE), Plan(refuse=HELD), lost)
    with writer_of(server) as writer:
        write(writer, 10)
    assert_taken(server, 10)
    assert writer.summary.durable == 10
    assert (writer.received, writer.durable, writer.backlog_bytes) == (10, 10, 0)
    assert writer.reconnects == 2


def test_what_is_received_and_not_durable_is_kept():
    server = StreamServer(Plan(acknowledge="received", stop_after=5, dies=True))
    with writer_of(server) as writer:
        server.gate.clear()
        write(writer, 5)
        server.gate.set()
        until(lambda: writer.reconnects == 1, "the second call")
        until(lambda: writer.durable == 5, "all to be durable")
    assert_taken(server, 5)


def test_received_is_enough_where_that_was_asked_for():
    server = StreamServer(Plan(acknowledge="received"))
    with writer_of(server, durability="received", window_bytes=100) as writer:
        write(writer, 20)
        until(lambda: writer.received == 20, "all to be received")
        assert (writer.durable, writer.backlog_bytes) == (0, 0)
        writer.flush(SECONDS)
        assert writer.durable == 20
        assert "flush" in server.seen[0]
    assert server.open.durability == 2


def test_what_received_does_not_promise_is_lost_loudly():
    plan = Plan(acknowledge="received", stop_after=5, dies=True)
    writer = writer_of(StreamServer(plan), durability="received")
    write(writer, 5)
    with pytest.raises(ziggurat.DataLoss, match="message 1 of"):
        writer.flush(SECONDS)


def test_write_goes_on_during_an_outage_until_the_window_is_full():
    server = StreamServer(Plan(stop_after=1), *[Plan(refuse=UNAVAILABLE)] * 10_000)
    writer = writer_of(server, window_bytes=600, retry_seconds=60)
    write(writer, 1)
    until(lambda: not writer.connected and writer.backlog_bytes == 0, "the outage")
    done = threading.Event()
    thread = threading.Thread(target=lambda: (write(writer, 50), done.set()))
    thread.start()
    until(lambda: writer.backlog_bytes > 500, "the window to fill")
    assert not done.wait(0.1)
    assert writer.backlog_bytes <= 600
    server.plans = [Plan()]
    assert done.wait(SECONDS)
    thread.join(SECONDS)
    writer.close(SECONDS)
    assert_taken(server, 51)


def test_it_gives_up_after_a_time_without_progress():
    server = StreamServer(Plan(stop_after=2), *[Plan(refuse=UNAVAILABLE)] * 100_000)
    writer = writer_of(server, retry_seconds=0.2)
    started = time.monotonic()
    write(writer, 5)
    with pytest.raises(ziggurat.Unavailable, match=r"no progress in 0\.2 s.*gone") as caught:
        writer.flush(SECONDS)
    assert time.monotonic() - started >= 0.2
    assert caught.value.sequence == 3
    assert isinstance(caught.value.__cause__, ziggurat.Unavailable)
    for call in (writer.flush, writer.close, writer.skip, lambda: write(writer, 1)):
        with pytest.raises(ziggurat.Unavailable):
            call()
    assert not writer.connected


def test_a_disk_that_stays_full_is_named_in_the_end():
    full = Plan(stop_after=0, failure=DISK_FULL)
    writer = writer_of(StreamServer(Plan(stop_after=1), *[full] * 100_000), retry_seconds=0.1)
    write(writer, 3)
    with pytest.raises(ziggurat.Unavailable, match="no space left") as caught:
        writer.close(SECONDS)
    assert (caught.value.reason, caught.value.sequence) == ("DISK_FULL", 2)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, ziggurat.InvalidArgument),
        (grpc.StatusCode.OUT_OF_RANGE, ziggurat.OutOfRange),
        (grpc.StatusCode.NOT_FOUND, ziggurat.NotFound),
        (grpc.StatusCode.FAILED_PRECONDITION, ziggurat.FailedPrecondition),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ziggurat.LimitExceeded),
        (grpc.StatusCode.DATA_LOSS, ziggurat.DataLoss),
        (grpc.StatusCode.UNIMPLEMENTED, ziggurat.ServerError),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_is_the_callers_fault_is_not_tried_again(code, error):
    server = StreamServer(Plan(stop_after=2, failure=RpcFailure(code, "no")))
    writer = writer_of(server)
    write(writer, 4)
    with pytest.raises(error, match="no") as caught:
        writer.close(SECONDS)
    assert caught.value.sequence == 3
    assert server.calls == 1


def test_a_server_that_lost_what_it_acknowledged():
    server = StreamServer(Plan(stop_after=3), Plan(wanted=3))
    writer = writer_of(server)
    write(writer, 5)
    with pytest.raises(ziggurat.DataLoss, match="message 3 of") as caught:
        writer.close(SECONDS)
    assert caught.value.sequence == 4


def test_another_writer_used_the_id():
    server = StreamServer(Plan(stop_after=3), Plan(wanted=9))
    writer = writer_of(server)
    write(writer, 3)
    with pytest.raises(ziggurat.FailedPrecondition, match="another writer"):
        writer.close(SECONDS)


def test_close_and_flush_are_said_again():
    mute = Plan(mute_close=True)
    server = StreamServer(Plan(stop_after=4, acknowledge="received"), mute, mute)
    writer = writer_of(server)
    write(writer, 4)
    writer.flush(SECONDS)
    assert writer.close(SECONDS).durable == 4
    assert_taken(server, 4)
    assert [kinds[-1:] for kinds in server.seen] == [["region"], ["close"], ["close"], ["close"]]


def test_a_flush_in_an_outage_waits_for_its_end():
    server = StreamServer(
        Plan(stop_after=4, acknowledge="received", dies=True),
        *[Plan(refuse=UNAVAILABLE)] * 5,
        Plan(acknowledge="received"),
    )
    with writer_of(server) as writer:
        write(writer, 4)
        writer.flush(SECONDS)
        assert writer.durable == 4
    assert_taken(server, 4)


def test_a_held_stream_is_waited_for_a_moment(monkeypatch):
    server = StreamServer(Plan(refuse=HELD), Plan(refuse=HELD))
    with writer_of(server) as writer:
        write(writer, 1)
    monkeypatch.setattr("ziggurat._retry.HELD_SECONDS", 0.1)
    with pytest.raises(ziggurat.StreamHeld):
        writer_of(StreamServer(*[Plan(refuse=HELD)] * 100_000))


def test_a_server_that_starts_is_waited_for():
    with writer_of(StreamServer(*[Plan(refuse=UNAVAILABLE)] * 3)) as writer:
        write(writer, 2)
    assert (writer.reconnects, writer.sequence) == (0, 2)


def test_cancel_ends_an_outage():
    server = StreamServer(Plan(stop_after=1), *[Plan(refuse=UNAVAILABLE)] * 100_000)
    writer = writer_of(server)
    write(writer, 2)
    until(lambda: not writer.connected, "the outage")
    writer.cancel()
    with pytest.raises(ziggurat.Cancelled):
        writer.flush()


def test_a_bug_in_the_thread_wakes_everyone(monkeypatch):
    monkeypatch.setattr(_stream.Stream, "_take", lambda *_: 1 / 0)
    with pytest.raises(ziggurat.ServerError, match="division"):
        writer_of(StreamServer())


# Over TCP


@pytest.fixture
def wired():
    """(server, proxy, writer factory); the writer reaches the server through the proxy."""
    server = StreamServer()
    behind = GrpcServer(server)
    proxy = Proxy(behind.port)
    with ziggurat.connect(f"127.0.0.1:{proxy.port}", timeout_seconds=SECONDS) as client:
        image = fake_image("zyx", np.zeros(SHAPE, np.uint16))
        image._connection = client._connection

        def make(**options):
            return image.writer(**{"stream_id": "s", "retry_seconds": SECONDS, **options})

        yield server, proxy, make
    proxy.close()
    behind.stop()


def test_a_cut_connection_is_mended(wired):
    server, proxy, make = wired
    with make() as writer:
        for part in range(4):
            proxy.cut_at = proxy.forwarded + 900
            write(writer, 40)
            until(lambda: proxy.cut_at is None, "the cut")
            proxy.mend()
            until(lambda part=part: writer.durable == 40 * (part + 1), "all to be durable")
    assert_taken(server, 160)
    assert writer.reconnects == 4
    assert server.received == 160


def test_a_long_cut_fills_the_spool_and_drops_nothing(wired, tmp_path):
    server, proxy, make = wired
    with make(spool=tmp_path, spool_bytes=100_000, window_bytes=300) as writer:
        write(writer, 5)
        until(lambda: writer.durable == 5, "all to be durable")
        proxy.cut()
        until(lambda: not writer.connected, "the cut to be noticed")
        write(writer, 145)
        assert writer.spooled_bytes > 100 * FRAME_BYTES
        assert writer.backlog_bytes > 145 * FRAME_BYTES
        proxy.mend()
        write(writer, 50)
        writer.flush(SECONDS)
        assert (writer.spooled_bytes, writer.backlog_bytes) == (0, 0)
    assert_taken(server, 200)


def test_a_server_that_is_not_there_says_so_in_the_end(wired):
    _, proxy, make = wired
    writer = make(retry_seconds=0.3)
    proxy.cut()
    proxy.close()
    with pytest.raises(ziggurat.Unavailable, match=r"127\.0\.0\.1"):
        writer.close(SECONDS)
