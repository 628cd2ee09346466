"""Do chunks that come as they are stored hold what pixels would, and is the line less busy?"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
import ziggurat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ziggurat_engine.demo.camera import Camera
from ziggurat_proto.v1 import read_pb2

from tests.service.subject import INVALID, Subject, check
from tests.support.link import Fault, Link, LinkUnavailable, NamespaceLink
from tests.support.pixels import marked, reference_cascade
from tests.support.proxy import ProxyLink
from tests.support.server import ServerProcess

MBIT = 10**6
SHAPE, CHUNK = (10, 40, 50), (4, 16, 16)
FACTORS = [(1, 2, 2), (2, 2, 2)]


@pytest.fixture(scope="module")
def levels(server: ServerProcess) -> Iterator[tuple[ziggurat.Image, list[np.ndarray]]]:
    """An image and what its levels hold: chunks at odd edges, stored, absent, and dirty."""
    model = np.full(SHAPE, 7, "uint16")
    with ziggurat.connect(server.address) as client:
        image = client.create(
            "tests/encoding/levels",
            axes="zyx",
            shape=SHAPE,
            dtype="uint16",
            chunk_shape=CHUNK,
            factors=FACTORS,
            fill_value=7,
            codec="blosc-zstd",
        )
        with image.writer() as writer:
            model[:, :, 10:] = marked((10, 40, 40), "uint16")
            writer.write_region(model[:, :, 10:], (0, 0, 10))
        writer = image.writer()
        model[5:7, 8:20] = 3
        writer.write_region(model[5:7, 8:20], (5, 8, 0))
        writer.flush()
        yield image, reference_cascade(model, FACTORS)
        writer.close()
        client.delete(image.name)


def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[slice, ...]:
    ends = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    return tuple(slice(a, b) for a, b in ends)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_box_of_any_level(
    levels: tuple[ziggurat.Image, list[np.ndarray]], data: st.DataObject
) -> None:
    image, wanted = levels
    level = data.draw(st.integers(0, len(wanted) - 1))
    found = [boxes(data.draw, wanted[level].shape) for _ in range(3)]
    whole = (slice(None),) * 3
    for box in (found[0], whole):
        result = image.fetch(box, level=level, exact=True, encoding="blosc")
        assert np.array_equal(result.array, wanted[level][box])
        assert (result.encoding, result.stale) == ("blosc", False)
        revision = result.revision
        assert image.fetch(box, level=level, encoding="blosc", if_newer_than=revision) is None
    many = image.read_each([*found, whole], level=level, exact=True, encoding="blosc")
    for number, result in many:
        assert np.array_equal(result.array, wanted[level][[*found, whole][number]])


def test_what_is_made_on_the_way_comes_as_pixels(
    levels: tuple[ziggurat.Image, list[np.ndarray]],
) -> None:
    image, (pixels, *_) = levels
    for options, wanted in (
        ({"steps": (2, 1, 1)}, pixels[::2]),
        ({"projection": "max", "along": "z"}, pixels.max(axis=0, keepdims=True)),
        ({"dtype": "uint8"}, np.minimum(pixels, 255).astype("uint8")),
    ):
        result = image.fetch(encoding="blosc", **options)
        assert (result.encoding, np.array_equal(result.array, wanted)) == ("raw", True)


@pytest.mark.parametrize("codec", ["blosc-lz4", "zstd", "none"])
def test_codecs(client: ziggurat.Client, name: str, codec: str) -> None:
    pixels = marked((8, 33, 20), "float32")
    image = client.create(
        name, axes="zyx", shape=pixels.shape, dtype="float32", chunk_shape=(2, 16, 16), codec=codec
    )
    with image.writer() as writer:
        writer.write_region(pixels, (0, 0, 0))
    result = image.fetch(encoding="blosc")
    assert np.array_equal(result.array, pixels)
    assert result.encoding == ("blosc" if codec == "blosc-lz4" else "raw")
    client.delete(name)


def test_a_chunk_that_is_written_again_comes_new(client: ziggurat.Client, name: str) -> None:
    """Dirty, settling or stored: what was acknowledged is there, and later revisions are."""
    image = client.create(name, axes="yx", shape=(32, 32), dtype="uint8", chunk_shape=(16, 16))
    seen = 0
    for value in range(1, 9):
        with image.writer() as writer:
            writer.write_region(np.full((16, 32), value, "uint8"), (0, 0))
            writer.flush()
            result = image.fetch(encoding="blosc", if_newer_than=seen)
            assert result is not None
            assert (result.array[:16] == value).all()
            assert not result.array[16:].any()
            seen = result.revision
        assert (image.read(encoding="blosc")[:16] == value).all()
    client.delete(name)


def test_an_encoding_that_nobody_knows(subject: Subject) -> None:
    request = read_pb2.ReadRequest(image=subject.name, encoding=7)
    with pytest.raises(grpc.RpcError) as error:
        subject.raw.call("ReadRegion", request)
    check(error.value, INVALID, "INVALID_ARGUMENT", "encoding")


LINES: dict[str, Callable[[], Link]] = {
    "namespace": lambda: NamespaceLink(Fault(0.0, 0.0, bits_per_second=100 * MBIT)),
    "proxy": lambda: ProxyLink(bits_per_second=100 * MBIT),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_slow_line_carries_fewer_bytes(
    line: Callable[[], Link], serve: Callable[..., ServerProcess], capsys: pytest.CaptureFixture
) -> None:
    """Camera noise, over 100 Mbit/s; the times are printed, the bytes are what counts."""
    try:
        made = line()
    except LinkUnavailable as reason:
        pytest.skip(str(reason))
    camera = Camera((256, 256), 32)
    pixels = np.stack([camera.frame(k) for k in range(32)])
    with made as link:
        # Another namespace is no loopback.
        exposed = {"allow_plaintext": True, "allow_anonymous": True}
        server = serve(host=link.host, within=link.within, cache_bytes="64MiB", **exposed)
        with ziggurat.connect(link.address(server.address), shared_memory=False) as client:
            image = client.create(
                "a", axes="zyx", shape=pixels.shape, dtype="uint16", chunk_shape=(8, 64, 64)
            )
            with image.writer() as writer:
                writer.write_region(pixels, (0, 0, 0))
            brought = {}
            for encoding in ("raw", "blosc"):
                start, before = time.perf_counter(), link.brought
                assert np.array_equal(image.read(encoding=encoding), pixels)
                seconds, brought[encoding] = time.perf_counter() - start, link.brought - before
                with capsys.disabled():
                    said = f"{encoding}: {brought[encoding]} bytes in {seconds:.2f} s"
                    sys.stdout.write(f"\n{said}")
        server.stop()
    assert brought["raw"] > pixels.nbytes
    chunks = server.image_path("a") / "0" / "c"
    stored = sum(file.stat().st_size for file in chunks.rglob("*") if file.is_file())
    assert brought["blosc"] < 1.1 * stored < 0.8 * brought["raw"]
