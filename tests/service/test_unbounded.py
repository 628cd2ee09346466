"""Does an image whose end nobody knows grow with its frames, for every reader, for good?"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ome_zarr_models.v05
import pytest
import yaozarrs
import zarr
import ziggurat

from tests.support.images import READERS, assert_exact, assert_stored, factors_of
from tests.support.pixels import marked, reference_cascade
from tests.support.server import ServerProcess
from tests.support.waiting import SECONDS, until

PLANE = (40, 50)
SMALL_LOG = {
    "settle_idle_seconds": 0.1,
    "log_segment_bytes": "16KiB",
    "max_message_bytes": "14KiB",
}
SPEC = {
    "axes": "tyx",
    "shape": (0, *PLANE),
    "dtype": "uint16",
    "unbounded": True,
    "chunk_shape": (2, 16, 16),
    "shard_chunks": (2, 3, 4),
    "fill_value": 9,
}


def validate(path: Path) -> None:
    ome_zarr_models.v05.Image.from_zarr(zarr.open_group(path, mode="r"))
    yaozarrs.validate_zarr_store(path)


def on_disk(server: ServerProcess, name: str) -> list[tuple[int, ...]]:
    """The shape of every level, as each reader sees it."""
    path = server.image_path(name)
    validate(path)
    shapes = []
    for level in itertools.takewhile(lambda k: (path / str(k)).exists(), itertools.count()):
        found = {reader(path / str(level)).shape for reader in READERS.values()}
        assert len(found) == 1
        shapes += found
    return shapes


def test_it_grows_at_once_and_for_good(
    server: ServerProcess, client: ziggurat.Client, name: str
) -> None:
    image = client.create(name, **SPEC)
    assert image.unbounded
    assert image.shape == (0, *PLANE)
    assert image.layout.shard_chunks == (2, 3, 4)
    assert [level.shape[0] for level in image.levels] == [0] * len(image.levels)
    assert image[...].shape == (0, *PLANE)
    assert [shape[0] for shape in on_disk(server, name)] == [0] * len(image.levels)
    pixels = marked((7, *PLANE), "uint16")
    with image.writer() as writer:
        for t in range(7):
            writer.write(pixels[t], t=t)
            until(lambda: writer.received >= writer.sequence, "the frame to be received")
            assert image.refresh().shape == (t + 1, *PLANE)
            assert (image[...] == pixels[: t + 1]).all()
            with pytest.raises(ziggurat.OutOfRange):
                image.read(offset=(0, 0, 0), shape=(t + 2, *PLANE))
    assert_exact(image, pixels)
    assert_stored(server, image, pixels)
    assert on_disk(server, name) == [level.shape for level in image.levels]
    image.build_pyramid(force=True).wait()
    assert_exact(image, pixels)


def test_gaps_hold_the_fill_value(
    server: ServerProcess, client: ziggurat.Client, name: str
) -> None:
    image = client.create(name, **SPEC | {"shape": (3, *PLANE)})
    assert image.shape == (3, *PLANE)
    frame = marked(PLANE, "uint16")
    with image.writer() as writer:
        writer.write(frame, t=11)
    wanted = np.full((12, *PLANE), 9, "uint16")
    wanted[11] = frame
    image.refresh()
    assert_exact(image, wanted)
    assert_stored(server, image, wanted)
    assert on_disk(server, name)[0] == (12, *PLANE)


def test_the_extent_outlives_kill(serve: Callable[..., ServerProcess]) -> None:
    pixels = marked((30, *PLANE), "uint16")
    server = serve(**SMALL_LOG)
    for start, stop in ((0, 9), (9, 14), (14, 30)):
        with ziggurat.connect(server.address) as client:
            image = client.open("run") if start else client.create("run", **SPEC)
            assert image.shape[0] == start
            writer = image.writer("camera")
            for t in range(start, stop):
                writer.write(pixels[t], t=t)
            writer.flush(SECONDS)
            server.kill()
            writer.cancel()
        assert on_disk(server, "run")[0][0] <= stop
        server = serve(server.data, **SMALL_LOG)
        with ziggurat.connect(server.address) as client:
            image = client.open("run")
            assert (image[...] == pixels[:stop]).all()
    with ziggurat.connect(server.address) as client:
        image = client.open("run")
        image.build_pyramid().wait()
        assert_exact(image, pixels)
        server.stop()
        assert_stored(server, image, pixels)


def test_foreign_readers_in_mid_run(
    server: ServerProcess, client: ziggurat.Client, name: str
) -> None:
    image = client.create(name, **SPEC)
    pixels = marked((40, *PLANE), "uint16")
    levels = reference_cascade(pixels, factors_of(image))
    path, over = server.image_path(name), threading.Event()
    seen: list[int] = []
    errors: list[BaseException] = []

    def look() -> None:
        try:
            while not over.is_set():
                validate(path)
                for level, wanted in enumerate(levels):
                    # One reader a turn: what they see may grow in between.
                    for read in (READERS["zarr-python"], READERS["tensorstore"]):
                        found = read(path / str(level))
                        assert found.shape[1:] == wanted.shape[1:]
                        known = wanted[: len(found)]
                        assert ((found == known) | (found == 9) | (level > 0)).all()
                        seen.append(len(found))
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    with image.writer() as writer:
        for t in range(40):
            writer.write(pixels[t], t=t)
            if t % 4 == 3:
                before = len(seen)
                until(lambda: errors or len(seen) > before + 2, "the readers")  # noqa: B023
    over.set()
    reader.join()
    if errors:
        raise errors[0]
    assert len(set(seen)) > 3
    assert_stored(server, image.refresh(), pixels)


def test_what_others_wrote_into_the_metadata_stays(
    server: ServerProcess, client: ziggurat.Client, name: str
) -> None:
    image = client.create(name, **SPEC)
    path = server.image_path(name) / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["lab"] = {"room": 7}
    path.write_text(json.dumps(document))
    with image.writer() as writer:
        writer.write(marked(PLANE, "uint16"), t=2)
    found = json.loads(path.read_text())
    assert found["attributes"]["lab"] == {"room": 7}
    assert found["attributes"]["ziggurat"]["image"]["axes"][0]["size"] == 3
    assert found["attributes"]["ziggurat"]["streams"]


@pytest.mark.parametrize("axes", ["zyx", "cyx", "yx"])
def test_only_t_is_unbounded(client: ziggurat.Client, name: str, axes: str) -> None:
    with pytest.raises(ziggurat.InvalidArgument) as error:
        client.create(name, axes=axes, shape=(4,) * len(axes), dtype="uint8", unbounded=True)
    assert error.value.field == "unbounded"
