"""Does a link in the data directory lead a server anywhere else?

Who may write there can do worse to the pixels, but must not have the server read or replace
files of others.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import ziggurat

PIXELS = np.arange(64 * 64, dtype="uint16").reshape(64, 64)


@pytest.fixture
def linked(serve, tmp_path):
    """A server's data directory: levels of `a` lie elsewhere, `b` is a link, `c` is whole."""
    data = tmp_path / "data"
    server = serve(data)
    with ziggurat.connect(server.address) as client:
        for name in "abc":
            image = client.create(
                f"lab/{name}", axes="yx", shape=(64, 64), dtype="uint16", chunk_shape=(32, 32)
            )
            with image.writer() as writer:
                writer.write_region(PIXELS, offset=(0, 0))
    server.stop()
    lab, elsewhere = data / "images" / "lab", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for moved in (lab / "a.ome.zarr" / "0", lab / "b.ome.zarr"):
        shutil.move(moved, elsewhere / moved.name)
        moved.symlink_to(elsewhere / moved.name)
    return serve(data), elsewhere


def facts(directory: Path) -> dict[Path, tuple[int, bytes]]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_links_are_not_followed(linked) -> None:
    server, elsewhere = linked
    before = facts(elsewhere)
    with ziggurat.connect(server.address) as client:
        assert [image.name for image in client.list()] == ["lab/a", "lab/c"]
        assert (client.open("lab/c")[...] == PIXELS).all()
        image = client.open("lab/a")
        with pytest.raises(ziggurat.ZigguratError, match="a link leads out of"):
            image[...]
        writer = image.writer(retry_seconds=1)
        writer.write_region(PIXELS[:5, :5], offset=(1, 1))
        with pytest.raises(ziggurat.ZigguratError, match="a link leads out of"):
            writer.close(60)
        assert facts(elsewhere) == before
        # What can't be stored is in the way of nothing else, and goes with its image.
        client.delete("lab/a")
    assert facts(elsewhere) == before


NAMES = ("../x", "/x", "a/../../x", "a\0b", "..", "lab/a/", "a\\..\\x")
# Dots and slashes of other kinds.
NAMES += ("\u2024\u2024/x", "\uff0e\uff0e\uff0fx", "\u2025/x", "a\u2215..\u2215x")


@pytest.mark.parametrize("name", NAMES)
def test_names_lead_nowhere_else(client, server, name: str) -> None:
    """Some are refused, some are names of their own: no file lies outside of the images."""

    def outside() -> set[Path]:
        found = set(server.data.parent.iterdir()) | set(server.data.iterdir())
        # Written to by whoever changes anything.
        return {path for path in found if not path.name.startswith(("audit", "state"))}

    before = outside()
    for call in (
        lambda: client.create(name, axes="yx", shape=(4, 4), dtype="uint8"),
        lambda: client.open(name),
        lambda: client.delete(name),
    ):
        with contextlib.suppress(ziggurat.ZigguratError):
            call()
    assert outside() == before
