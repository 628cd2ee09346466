"""A writer with a spool drops nothing in a cut, and what it leaves the next one sends."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import ziggurat
from ziggurat import _spool

from tests.unit.client.scripted import SECONDS, UNAVAILABLE, Plan, StreamServer, until
from tests.unit.client.support import fake_image
from tests.unit.client.test_reconnect import SHAPE, assert_taken, frame, write, writer_of

ROOT = Path(__file__).parents[3]
CUT = [Plan(refuse=UNAVAILABLE)] * 100_000


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr("ziggurat._retry.FIRST_DELAY_SECONDS", 0.002)
    monkeypatch.setattr("ziggurat._retry.MAX_DELAY_SECONDS", 0.02)


@pytest.fixture
def cut(tmp_path):
    """(server, writer): 3 messages durable, then no server."""
    server = StreamServer(Plan(stop_after=3), *CUT)
    writer = writer_of(server, spool=tmp_path, spool_bytes=20_000, window_bytes=500)
    write(writer, 3)
    until(lambda: not writer.connected and writer.backlog_bytes == 0, "the cut")
    yield server, writer
    server.plans = [Plan()]
    writer.cancel()


def test_a_cut_drops_nothing(cut):
    server, writer = cut
    write(writer, 100)
    assert writer.backlog_bytes > 500
    assert 3000 < writer.spooled_bytes <= 20_000
    server.plans = [Plan(stop_after=30), Plan(stop_after=7, dies=True, acknowledge="received")]
    server.plans += [Plan()]
    write(writer, 90)
    assert writer.close(SECONDS).durable == 193
    assert_taken(server, 193)
    assert writer.spooled_bytes == 0


def test_write_blocks_once_the_spool_is_full_too(cut):
    server, writer = cut
    done = threading.Event()
    thread = threading.Thread(target=lambda: (write(writer, 500), done.set()))
    thread.start()
    until(lambda: writer.spooled_bytes > 19_900, "the spool to fill")
    assert not done.wait(0.1)
    assert writer.spooled_bytes <= 20_000
    server.plans = [Plan()]
    assert done.wait(SECONDS)
    thread.join(SECONDS)
    writer.close(SECONDS)
    assert_taken(server, 503)


def test_time_to_full_is_readable(cut, monkeypatch):
    server, writer = cut
    monkeypatch.setattr("ziggurat._window._SAMPLE_SECONDS", 0.0)
    write(writer, 50)
    assert 0 < writer.seconds_to_full < 100
    server.plans = [Plan()]
    until(lambda: writer.backlog_bytes == 0, "the backlog to drain")
    until(lambda: writer.seconds_to_full is None, "the trend to turn")


def test_what_is_left_is_sent_by_the_next(cut, tmp_path):
    server, writer = cut
    write(writer, 60)
    writer.cancel()
    server.plans = [Plan()]
    with writer_of(server, spool=tmp_path) as again:
        assert (again.sequence, again.lost) == (63, ())
        write(again, 10)
        again.flush(SECONDS)
        assert again.spooled_bytes == 0
    assert_taken(server, 73)


def test_giving_up_leaves_everything_in_the_spool(tmp_path):
    server = StreamServer(Plan(stop_after=3), *CUT)
    writer = writer_of(server, spool=tmp_path, window_bytes=300, retry_seconds=0.1)
    with pytest.raises(ziggurat.Unavailable):
        write(writer, 10**9)
    written = writer.sequence
    server.plans = [Plan()]
    with writer_of(server, spool=tmp_path) as again:
        assert again.lost == ()
        assert written <= again.sequence <= written + 1
    assert_taken(server, again.sequence)


PROCESS = """
import sys, numpy as np
from tests.unit.client.scripted import StreamServer, Plan, UNAVAILABLE
from tests.unit.client.test_reconnect import writer_of, write, until
server = StreamServer(Plan(stop_after=3), *[Plan(refuse=UNAVAILABLE)] * 1000000)
writer = writer_of(server, spool=sys.argv[1], window_bytes=350, retry_seconds=1000)
write(writer, 3)
until(lambda: not writer.connected and writer.backlog_bytes == 0, "the cut")
write(writer, 40)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_loses_only_what_was_in_memory(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline().strip() == b"ready"
        server = StreamServer(received=3)
        with pytest.raises(ziggurat.FailedPrecondition, match="another writer"):
            writer_of(server, spool=tmp_path)
        process.kill()
    with writer_of(server, spool=tmp_path) as writer:
        lost = writer.lost
        assert lost == tuple(range(4, 4 + len(lost)))
        assert 0 < len(lost) <= 8
        assert writer.sequence == 43
        write(writer, 2)
    assert sorted(server.taken) == list(range(4, 46))
    for number, request in server.taken.items():
        if number in lost:
            assert request.skip.frames == 1
        else:
            assert request.region.payload == frame(number).tobytes()


def test_a_server_that_forgot_what_the_spool_remembers(cut, tmp_path):
    _, writer = cut
    write(writer, 60)
    writer.cancel()
    with pytest.raises(ziggurat.DataLoss, match="had all up to 3"):
        writer_of(StreamServer(received=2), spool=tmp_path)


def test_a_damaged_spool_ends_the_stream(cut, tmp_path):
    server, writer = cut
    write(writer, 60)
    path = sorted(tmp_path.glob("*.spool"))[0]
    whole = bytearray(path.read_bytes())
    whole[200] ^= 1
    path.write_bytes(whole)
    server.plans = [Plan()]
    with pytest.raises(ziggurat.DataLoss, match=path.name):
        writer.flush(SECONDS)


def test_a_spool_disk_that_refuses_makes_write_wait(cut, monkeypatch):
    server, writer = cut

    def fails(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_spool, "_write", fails)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (write(writer, 40), done.set()))
    thread.start()
    assert not done.wait(0.1)
    server.plans = [Plan()]
    assert done.wait(SECONDS)
    thread.join(SECONDS)
    writer.close(SECONDS)
    assert_taken(server, 43)


def test_a_failed_open_leaves_the_spool_free(tmp_path):
    image = fake_image("zyx", np.zeros(SHAPE, np.uint16), script=StreamServer(*CUT))
    image._connection.timeout_seconds = 0.05
    with pytest.raises(ziggurat.Unavailable):
        image.writer("s", spool=tmp_path)
    with writer_of(StreamServer(), spool=tmp_path):
        pass
