"""The command line reads its options, shows what it was told, and ends cleanly."""

import numpy as np
import pytest
import ziggurat
from click.testing import CliRunner
from PIL import Image as Picture
from ziggurat import _options
from ziggurat._commands import cli
from ziggurat._preview import render
from ziggurat._show import bytes_text

from tests.unit.client.support import fake_image

NOBODY = ["--server", "127.0.0.1:1"]


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("0:10,:,5:20", np.s_[0:10, :, 5:20]),
        ("7", np.s_[7:8,]),
        ("-3:, :-1", np.s_[-3:, :-1]),
    ],
)
def test_boxes(text, box):
    assert _options.box(text) == box


@pytest.mark.parametrize(
    "arguments",
    [
        ["get", "a", "b.tif", "--box", "0:4:2"],
        ["get", "a", "b.tif", "--box", "a"],
        ["put", "a.tif", "b", "--chunk", "1,x"],
        ["put", "a.tif", "b", "--shard", "much"],
        ["put", "a.tif", "b", "--voxel-size", "z"],
        ["put", "a.tif", "b", "--levels", "0"],
        ["put", "a.tif"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments):
    found = CliRunner().invoke(cli, arguments)
    assert found.exit_code == 2
    assert "Usage" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*NOBODY, "ls"], "127.0.0.1:1"),
        (["status", *NOBODY], "127.0.0.1:1"),
        (["info", "a", *NOBODY], "127.0.0.1:1"),
        (["put", "/no/such.tif", "a", *NOBODY], "No such file"),
        (["rm", "a", "--yes", *NOBODY], "127.0.0.1:1"),
    ],
)
def test_errors_are_one_line(arguments, said):
    found = CliRunner().invoke(cli, arguments)
    assert found.exit_code == 1
    assert found.stdout == ""
    assert len(found.stderr.splitlines()) == 1
    assert said in found.stderr


def test_the_server_comes_from_the_environment():
    found = CliRunner().invoke(cli, ["ls"], env={"ZIGGURAT_SERVER": "127.0.0.1:2"})
    assert "127.0.0.1:2" in found.stderr


class Client:
    """One image and no server."""

    server = "nowhere:7447"

    def __init__(self, image):
        self.image, self.deleted = image, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def list(self, prefix=""):
        return [self.image] if self.image.name.startswith(prefix) else []

    def open(self, name, measure=False):
        return self.image

    def delete(self, name):
        self.deleted.append(name)


@pytest.fixture
def client(monkeypatch):
    data = np.arange(2 * 3 * 40 * 50, dtype=np.uint16).reshape(2, 3, 40, 50)
    channels = [{"label": "DAPI", "color": "0000FF"}, {"label": "GFP", "color": "00FF00"}]
    image = fake_image("czyx", data, data[..., ::2, ::2], channels=channels)
    made = Client(image)
    monkeypatch.setattr(ziggurat, "connect", lambda server, **_: made)
    return made


def run(*arguments, **options):
    found = CliRunner().invoke(cli, arguments, catch_exceptions=False, **options)
    assert found.exit_code == 0, found.output
    return found.stdout


def test_ls_and_info(client):
    assert "lab/a" in run("ls")
    assert "lab/a" not in run("ls", "other")
    text = run("info", "lab/a")
    for said in ("2 x 3 x 40 x 50", "z 0.5 micrometer", "Zstd(level=3)", "DAPI #0000FF", "exact"):
        assert said in text


def test_rm_asks(client):
    assert CliRunner().invoke(cli, ["rm", "lab/a"], input="n\n").exit_code == 1
    assert client.deleted == []
    run("rm", "lab/a", input="y\n")
    run("rm", "lab/a", "--yes")
    assert client.deleted == ["lab/a", "lab/a"]


def test_get_and_preview(client, tmp_path):
    assert "imagej" in run("get", "lab/a", str(tmp_path / "a.tif"), "--box", ":,1")
    run("preview", "lab/a", str(tmp_path / "a.png"), "--height", "100")
    with Picture.open(tmp_path / "a.png") as picture:
        assert picture.height > 100
    found = CliRunner().invoke(cli, ["preview", "lab/a", str(tmp_path / "a.qqq")])
    assert (found.exit_code, found.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((8, 9), np.uint16),
        np.full((8, 9), np.nan, np.float32),
        np.arange(72, dtype=np.float64).reshape(8, 9) * 1e300,
        np.eye(8, 9, dtype=np.int64) * -(2**62),
        np.array([[-1.7e308, 1.7e308], [np.inf, -np.inf]]),
        np.ones((1, 500), np.uint8),
    ],
    ids=["zeros", "nan", "huge", "negative", "extreme", "thin"],
)
def test_any_pixels_can_be_drawn(data, tmp_path):
    render(fake_image("yx", data), tmp_path / "a.png", height=64)
    with Picture.open(tmp_path / "a.png") as picture:
        assert picture.width < 1200


def test_byte_sizes():
    assert [bytes_text(n) for n in (0, 1023, 1536, 3 * 2**40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 TiB",
    ]
