"""What becomes of streams and reads on a bad line, and in a cut that nobody tells of?

The line is a real one where namespaces can be made, and a proxy that drops everywhere.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ziggurat

from tests.support.images import assert_exact, assert_level, assert_stored
from tests.support.link import Fault, Link, LinkUnavailable, NamespaceLink, RelayLink
from tests.support.pixels import marked
from tests.support.proxy import ProxyLink
from tests.support.server import ServerProcess
from tests.support.waiting import SECONDS, until

KIB, MIB = 2**10, 2**20

BAD_LINE = Fault(delay_seconds=0.05, loss=0.01, seed=1)
BAD_LINES: dict[str, Callable[[], Link]] = {
    "netem": lambda: NamespaceLink(BAD_LINE),
    "relay": lambda: RelayLink(BAD_LINE),
    # It can't lose bytes of a connection, only connections.
    "proxy": lambda: ProxyLink(delay_seconds=0.05, reset_after=(48 * KIB, 160 * KIB), seed=1),
}
LINES: dict[str, Callable[[], Link]] = {"namespace": NamespaceLink, "proxy": ProxyLink}
CUTS = LINES | {"refusing proxy": lambda: ProxyLink(rude=True)}

# Cuts are noticed within seconds, not within a minute.
NOTICED: dict[str, Any] = {"keepalive_seconds": 1, "keepalive_timeout_seconds": 3}


@pytest.fixture(scope="module")
def link(request: pytest.FixtureRequest) -> Iterator[Link]:
    try:
        made = request.param()
    except LinkUnavailable as reason:
        pytest.skip(str(reason))
    with made:
        yield made


def over(kinds: dict[str, Callable[[], Link]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("link", kinds.values(), ids=kinds, indirect=True)


@pytest.fixture(scope="module")
def far(link: Link, serve_module: Callable[..., ServerProcess]) -> Iterator[ServerProcess]:
    """A server at the other end of the link."""
    # Another namespace is no loopback.
    exposed = {"allow_plaintext": True, "allow_anonymous": True}
    server = serve_module(
        host=link.host, within=link.within, cache_bytes="256MiB", **exposed, **NOTICED
    )
    yield server
    server.stop()


@pytest.fixture
def connect(link: Link, far: ServerProcess) -> Iterator[Callable[..., ziggurat.Client]]:
    """Makes clients at this end; a link that a test left cut is mended after it."""
    clients: list[ziggurat.Client] = []

    def connected(**options: Any) -> ziggurat.Client:
        clients.append(ziggurat.connect(link.address(far.address), **(NOTICED | options)))
        return clients[-1]

    yield connected
    for client in clients:
        client.close()
    link.mend()


def create(client: ziggurat.Client, name: str, shape: tuple[int, int, int]) -> ziggurat.Image:
    return client.create(
        name, axes="zyx", shape=shape, dtype="uint16", chunk_shape=(4, 32, 32), codec="blosc-lz4"
    )


def again(call: Callable[[], Any]) -> Any:
    """The result of a call that a reset connection may fail, or a busy machine outlast."""

    def tried() -> tuple[Any] | None:
        try:
            return (call(),)
        except (ziggurat.Unavailable, ziggurat.DeadlineExceeded):
            return None

    return until(tried, "a call to get through")[0]


def resumed(image: ziggurat.Image, stream_id: str, **options: Any) -> ziggurat.Writer:
    """The stream, once the server has let go of a call that went with its client."""

    def opened() -> ziggurat.Writer | None:
        try:
            return again(lambda: image.writer(stream_id, **options))
        except ziggurat.StreamHeld:
            return None

    return until(opened, f"stream {stream_id!r} to be free")


def assert_all_once(
    server: ServerProcess, image: ziggurat.Image, summary: ziggurat.WriteSummary, pixels: np.ndarray
) -> None:
    """Each plane was one message, and was taken once; every level is exact."""
    assert summary.durable == summary.regions == len(pixels)
    assert summary.bytes == pixels.nbytes
    assert_exact(image, pixels)
    assert_stored(server, image, pixels)


@over(BAD_LINES)
def test_frames_over_a_bad_line_arrive_once(
    link: Link, far: ServerProcess, connect: Callable[..., ziggurat.Client], name: str
) -> None:
    """50 ms and 1 % of the packets in each direction; or connections reset at random."""
    # No timeout of its own: TCP needs longer than a second or two for some packets.
    client = connect(keepalive_timeout_seconds=20)
    pixels = marked((300, 32, 32), "uint16")
    image = again(lambda: create(client, name, pixels.shape))
    with again(image.writer) as writer:
        for z, frame in enumerate(pixels):
            writer.write(frame, z=z)
            assert writer.durable <= writer.received <= writer.sequence == z + 1
        half = until(lambda: writer.durable > 150 and writer.durable, "half to be durable")
        found = again(lambda: image.read(offset=(half - 20, 0, 0), shape=(20, 32, 32)))
        assert (found == pixels[half - 20 : half]).all()
    assert writer.summary is not None
    if isinstance(link, ProxyLink):
        assert writer.reconnects > 2
        assert link.resets > 2
    if isinstance(link, RelayLink):
        assert link.dropped > 2
    link.calm()
    again(image.refresh)
    assert_all_once(far, image, writer.summary, pixels)


@over(CUTS)
def test_a_long_cut_fills_the_spool_and_drops_nothing(
    link: Link,
    far: ServerProcess,
    connect: Callable[..., ziggurat.Client],
    name: str,
    tmp_path: Path,
) -> None:
    """The camera goes on; the cut lasts until much more than the window waits in files."""
    pixels = marked((2000, 64, 64), "uint16")
    frame_bytes = pixels[0].nbytes
    image = create(connect(), name, pixels.shape)
    writer = image.writer(
        retry_seconds=SECONDS,
        window_bytes=256 * KIB,
        spool=tmp_path / "spool",
        spool_bytes=64 * MIB,
    )
    frames = iter(enumerate(pixels))

    def write() -> None:
        for z, frame in itertools.islice(frames, 1):
            writer.write(frame, z=z)

    for _ in range(20):
        write()
    until(lambda: writer.durable == 20, "what was written before the cut to be durable")
    link.cut()
    seen: list[float] = []

    def long_enough() -> bool:
        write()
        left = writer.seconds_to_full
        if left is not None:
            seen.append(left)
        assert (writer.sequence - writer.durable) * frame_bytes <= writer.backlog_bytes
        return writer.spooled_bytes > 512 * KIB and not writer.connected and len(seen) > 20

    until(long_enough, "the spool to hold twice the window")
    assert writer.durable == 20
    assert writer.spooled_bytes <= writer.backlog_bytes + 64 * KIB < 64 * MIB
    assert all(left > 0 for left in seen)
    # At the pace of this loop, at most 50 frames a second, there is time left.
    assert seen[-1] > (64 * MIB - writer.backlog_bytes) / (200 * frame_bytes)
    link.mend()

    def caught_up() -> bool:
        # The camera still goes on.
        write()
        return writer.spooled_bytes == 0 and writer.connected

    until(caught_up, "the spool to be sent")
    last = writer.sequence
    summary = writer.close(SECONDS)
    assert (writer.backlog_bytes, writer.spooled_bytes, writer.seconds_to_full) == (0, 0, None)
    assert writer.reconnects >= 1
    assert summary.durable == summary.regions == last
    pixels[last:] = 0
    assert_exact(image, pixels)
    assert_stored(far, image, pixels)


@over(LINES)
def test_a_writer_gives_up_and_the_next_resumes(
    link: Link, far: ServerProcess, connect: Callable[..., ziggurat.Client], name: str
) -> None:
    """Without a spool write() blocks once the window is full, and raises in the end."""
    pixels = marked((120, 64, 64), "uint16")
    create(connect(), name, pixels.shape)
    # Once the line is cut it gives up soon; until then it may have to be asked again.
    client = connect(timeout_seconds=2)
    image = again(functools.partial(client.open, name))
    window_bytes = 256 * KIB
    writer = resumed(image, "camera", retry_seconds=2, window_bytes=window_bytes)
    for z in range(20):
        writer.write(pixels[z], z=z)
    until(lambda: writer.durable == 20, "what was written before the cut to be durable")
    link.cut()
    raised: list[ziggurat.ZigguratError] = []

    def go_on() -> None:
        try:
            for z in range(20, len(pixels)):
                writer.write(pixels[z], z=z)
        except ziggurat.ZigguratError as error:
            raised.append(error)

    thread = threading.Thread(target=go_on)
    thread.start()
    until(lambda: writer.backlog_bytes > window_bytes - 2 * pixels[0].nbytes, "a full window")
    written = writer.sequence
    thread.join(SECONDS)
    (error,) = raised
    assert isinstance(error, ziggurat.Unavailable)
    assert "no progress in 2 s" in str(error)
    assert error.sequence == writer.durable + 1 == 21
    # No more than the window holds was taken: write() waited until it raised.
    assert writer.sequence <= written + 1 < len(pixels)
    assert writer.backlog_bytes <= window_bytes
    with pytest.raises(ziggurat.Unavailable):
        writer.close()
    client.close()
    link.mend()
    # The kernel may still say for a moment that there is no such host.
    image = again(functools.partial(connect().open, name))
    writer = resumed(image, "camera")
    # What was under way when the line was cut may have arrived, unacknowledged.
    assert 20 <= writer.sequence <= written + 1
    assert_level(image, 0, np.where(np.arange(120)[:, None, None] < writer.sequence, pixels, 0))
    for z in range(writer.sequence, len(pixels)):
        writer.write(pixels[z], z=z)
    assert_all_once(far, image, writer.close(SECONDS), pixels)


@over(LINES)
def test_a_stream_of_a_vanished_client_is_soon_free(
    link: Link, far: ServerProcess, connect: Callable[..., ziggurat.Client], name: str
) -> None:
    """Its machine lost power: no FIN, no RST, and it never answers again."""
    pixels = marked((40, 32, 32), "uint16")
    client = connect()
    image = create(client, name, pixels.shape)
    writer = image.writer("camera")
    for z in range(20):
        writer.write(pixels[z], z=z)
    writer.flush(SECONDS)
    link.cut()
    writer.cancel()
    client.close()
    link.mend(forget=True)
    # The kernel may still say for a moment that there is no such host.
    image = again(functools.partial(connect().open, name))
    writer = resumed(image, "camera")
    assert writer.sequence == 20
    for z in range(20, 40):
        writer.write(pixels[z], z=z)
    assert_all_once(far, image, writer.close(SECONDS), pixels)


def test_an_idle_stream_outlives_its_pings(server: ServerProcess, name: str) -> None:
    """Servers end connections that are pinged more often than they allow, every 5 minutes."""
    with (
        ProxyLink() as link,
        ziggurat.connect(link.address(server.address), keepalive_seconds=1) as client,
    ):
        image = create(client, name, (4, 32, 32))
        with image.writer() as writer:
            writer.write(np.ones((32, 32), "uint16"), z=0)
            writer.flush(SECONDS)
            before = link.carried
            # A ping is 17 bytes; the third in a row was one too many.
            until(lambda: link.carried >= before + 6 * 17, "six pings")
            assert writer.connected
        assert writer.reconnects == 0


@over(LINES)
def test_calls_end_when_the_line_is_cut(
    link: Link, connect: Callable[..., ziggurat.Client], name: str
) -> None:
    """A read has no limit of its own, and ends by the keepalive; other calls have one."""
    pixels = marked((16, 512, 512), "uint16")
    image = create(connect(), name, pixels.shape)
    with image.writer() as writer:
        writer.write_region(pixels, (0, 0, 0))
    reader = connect(timeout_seconds=1)
    seen = again(functools.partial(reader.open, name))
    reads = 0
    ended: list[ziggurat.ZigguratError] = []

    def read_on() -> None:
        nonlocal reads
        out = np.empty(pixels.shape, "uint16")
        try:
            while True:
                assert (seen.read(out=out) == pixels).all()
                reads += 1
        except ziggurat.ZigguratError as error:
            ended.append(error)

    thread = threading.Thread(target=read_on)
    thread.start()
    until(lambda: reads > 2, "some reads")
    link.cut()
    calls = (
        reader.status,
        functools.partial(reader.open, name),
        functools.partial(seen.read, timeout_seconds=1),
        lambda: list(seen.build_pyramid()),
        seen.frames,
    )
    with futures.ThreadPoolExecutor(len(calls)) as pool:
        for running in [pool.submit(call) for call in calls]:
            with pytest.raises((ziggurat.DeadlineExceeded, ziggurat.Unavailable)):
                running.result(SECONDS)
    thread.join(SECONDS)
    assert [type(error) for error in ended] == [ziggurat.Unavailable]
    link.mend()
    # The same client finds its way by itself.
    assert again(reader.list)
    assert (again(seen.read) == pixels).all()
