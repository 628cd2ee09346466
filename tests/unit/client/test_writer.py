"""The writer keeps order, bounds its window, and wakes everyone when the call ends."""

import threading
import time

import grpc
import numpy as np
import pytest
import ziggurat

from tests.unit.client.support import Answer, RpcFailure, fake_image

SHAPE = (4, 3, 8, 10)


class Script:
    """A server: stores regions, acknowledges when `gate` is open; `fail_at` a number."""

    def __init__(self, *, start=1, fail_at=None):
        self.array = np.zeros(SHAPE, np.uint16)
        self.seen = []
        self.gate = threading.Event()
        self.gate.set()
        self.start, self.fail_at = start, fail_at

    def __call__(self, requests):
        opened = next(requests)
        assert opened.WhichOneof("message") == "open"
        assert opened.open.image == "lab/a"
        self.stream_id = opened.open.stream_id
        yield Answer(opened={"next_sequence": self.start, "durable": self.start - 1})
        for request in requests:
            kind = request.WhichOneof("message")
            self.seen.append(kind)
            if kind == "region":
                self.store(request.region)
            if kind in ("region", "skip"):
                last = getattr(request, kind).sequence
                if last == self.fail_at:
                    raise RpcFailure(grpc.StatusCode.OUT_OF_RANGE, "outside", "OUT_OF_RANGE")
                self.gate.wait()
                yield Answer(acknowledgement={"received": last, "durable": last})
            elif kind == "flush":
                yield Answer(acknowledgement={"received": last, "durable": last})
            elif kind == "close":
                yield Answer(closed={"durable": last, "regions": self.seen.count("region")})
                return

    def store(self, region):
        box = tuple(slice(o, o + n) for o, n in zip(region.offset, region.shape, strict=True))
        pixels = np.frombuffer(region.payload, "<u2").reshape(tuple(region.shape))
        self.array[box] = pixels


def make(script, **options):
    image = fake_image("tzyx", np.zeros(SHAPE, np.uint16), script=script)
    return image.writer(**options)


DATA = np.random.default_rng(5).integers(0, 60000, SHAPE, np.uint16)


@pytest.mark.parametrize("strip_bytes", [1, 45, 2**20])
def test_what_is_written_arrives(strip_bytes):
    script = Script()
    with make(script, stream_id="s", strip_bytes=strip_bytes) as writer:
        for t in range(4):
            writer.write(DATA[t, 0], t=t)
            writer.write(DATA[t, 1].astype(">u2"), t=t, z=1)
            writer.write_region(np.asfortranarray(DATA[t : t + 1, 2:]), (t, 2, 0, 0))
    np.testing.assert_array_equal(script.array, DATA)
    assert script.stream_id == "s" == writer.stream_id
    assert writer.summary.regions == script.seen.count("region") == writer.sequence
    assert (writer.received, writer.durable, writer.backlog_bytes) == (writer.sequence,) * 2 + (0,)


def test_the_camera_may_reuse_its_buffer():
    script = Script()
    script.gate.clear()
    buffer = np.empty((8, 10), np.uint16)
    with make(script) as writer:
        for t in range(4):
            buffer[:] = t + 1
            writer.write(buffer, t=t)
        buffer[:] = 99
        script.gate.set()
    assert [int(script.array[t, 0].max()) for t in range(4)] == [1, 2, 3, 4]


def test_write_blocks_only_while_the_window_is_full():
    script = Script()
    script.gate.clear()
    writer = make(script, window_bytes=1000)
    done = threading.Event()

    def write_all():
        for t in range(4):
            for z in range(3):
                writer.write(DATA[t, z], t=t, z=z)
        done.set()

    thread = threading.Thread(target=write_all)
    thread.start()
    assert not done.wait(0.2)
    assert 160 * 3 < writer.backlog_bytes <= 1000
    script.gate.set()
    assert done.wait(10)
    thread.join()
    writer.close()
    np.testing.assert_array_equal(script.array, DATA)


def test_a_frame_larger_than_the_window_goes_alone():
    with make(Script(), window_bytes=10) as writer:
        writer.write(DATA[0])
        writer.write(DATA[1], t=1)
    assert writer.summary.regions == 2


def test_flush_waits_for_durable():
    script = Script()
    with make(script) as writer:
        writer.flush()
        assert script.seen == []
        script.gate.clear()
        writer.write(DATA)
        writer.skip(3)
        threading.Timer(0.05, script.gate.set).start()
        writer.flush(10)
        assert (writer.durable, writer.sequence) == (2, 2)
        writer.flush()
        assert script.seen in (["region", "skip"], ["region", "skip", "flush"])


def test_flush_gives_up_in_time_and_the_stream_goes_on():
    script = Script()
    script.gate.clear()
    with make(script) as writer:
        writer.write(DATA)
        with pytest.raises(ziggurat.DeadlineExceeded) as caught:
            writer.flush(0.05)
        assert caught.value.sequence == 1
        script.gate.set()
        writer.flush(10)


def test_a_resumed_stream_counts_on():
    script = Script(start=41)
    with make(script, stream_id="again") as writer:
        assert (writer.sequence, writer.received) == (40, 40)
        writer.flush()
        writer.write(DATA)
        writer.flush()
        assert (writer.sequence, writer.durable) == (41, 41)


def test_errors_come_at_the_next_call_and_at_exit():
    def fill():
        with make(Script(fail_at=3)) as writer:
            while True:
                writer.write(DATA)
                time.sleep(0.001)

    with pytest.raises(ziggurat.OutOfRange, match="outside") as caught:
        fill()
    assert caught.value.sequence == 3


def test_errors_come_at_exit_alone():
    writer = make(Script(fail_at=1))

    def leave():
        with writer:
            writer.write(DATA)

    with pytest.raises(ziggurat.OutOfRange) as caught:
        leave()
    assert caught.value.sequence == 1
    for call in (writer.flush, writer.close, writer.skip, lambda: writer.write(DATA)):
        with pytest.raises(ziggurat.OutOfRange):
            call()
    assert writer.summary is None


def test_every_waiting_thread_wakes_when_the_call_dies():
    script = Script()
    script.gate.clear()
    writer = make(script, window_bytes=300)
    writer.write(DATA[0, 0])
    errors = []

    def waits(call):
        try:
            call()
        except ziggurat.ZigguratError as error:
            errors.append(error)

    calls = [writer.flush, lambda: writer.write(DATA), lambda: writer.write(DATA)]
    threads = [threading.Thread(target=waits, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    writer.cancel()
    for thread in threads:
        thread.join(10)
    script.gate.set()
    assert [type(error) for error in errors] == [ziggurat.Cancelled] * 3
    assert len({id(error) for error in errors}) == 3


def test_leaving_by_an_exception_cancels_without_close():
    script = Script()
    writer = make(script)

    def leave():
        with writer:
            writer.write(DATA)
            writer.flush()
            raise KeyError

    with pytest.raises(KeyError):
        leave()
    assert "close" not in script.seen
    with pytest.raises(ziggurat.Cancelled):
        writer.close()


def test_after_close():
    writer = make(Script())
    writer.write(DATA)
    summary = writer.close()
    assert writer.close() == summary == writer.summary
    with pytest.raises(ziggurat.FailedPrecondition, match="closed"):
        writer.write(DATA)
    with pytest.raises(ziggurat.FailedPrecondition, match="closed"):
        writer.flush()


def never_open(requests):
    for _ in requests:
        pass
    return
    yield


def wrong_number(requests):
    next(requests)
    yield Answer(opened={"next_sequence": 1})
    yield Answer(acknowledgement={"received": 7})
    yield from ()


def test_a_server_that_never_answers_open():
    image = fake_image("tzyx", np.zeros(SHAPE, np.uint16), script=never_open)
    image._connection.timeout_seconds = 0.05
    with pytest.raises(ziggurat.DeadlineExceeded, match="open"):
        image.writer()
    assert image._connection.call.cancelled.is_set()


def test_an_acknowledgement_of_what_was_not_sent():
    writer = make(wrong_number)
    with pytest.raises(ziggurat.ServerError, match="acknowledged 7"):
        writer.close()


def test_frames_that_do_not_fit_queue_nothing():
    with make(Script()) as writer:
        with pytest.raises(ziggurat.OutOfRange):
            writer.write(DATA[0], t=4)
        with pytest.raises(ziggurat.InvalidArgument):
            writer.write(DATA.astype(np.int64))
        with pytest.raises(ziggurat.InvalidArgument):
            writer.write_region(DATA[0], (0, 0, 0))
        with pytest.raises(ziggurat.InvalidArgument):
            writer.skip(0)
        writer.write(DATA[:0])
        assert writer.sequence == 0
        writer.write(DATA)


@pytest.mark.parametrize(
    "options",
    [
        {"stream_id": ""},
        {"stream_id": "x" * 129},
        {"durability": "sure"},
        {"retry_seconds": -1},
        {"window_bytes": 0},
        {"strip_bytes": 0},
        {"spool_bytes": 0},
    ],
)
def test_settings_are_checked(options):
    with pytest.raises(ziggurat.InvalidArgument) as caught:
        make(Script(), **options)
    assert caught.value.field == next(iter(options))


def test_threads_share_a_writer():
    script = Script()
    with make(script, strip_bytes=50, window_bytes=2000) as writer:
        threads = [
            threading.Thread(target=lambda t=t: writer.write(DATA[t], t=t)) for t in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    np.testing.assert_array_equal(script.array, DATA)
