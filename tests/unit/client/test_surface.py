"""The names that programs may rely on, and what importing them may cost."""

import subprocess
import sys

import numpy as np
import pytest
import ziggurat

from tests.unit.client.support import fake_image

EXPORTED = {
    "AccessError",
    "AlreadyExists",
    "Blosc",
    "BuildProgress",
    "CacheStatus",
    "DeviceStatus",
    "Cancelled",
    "Channel",
    "Client",
    "Codec",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Frames",
    "Gzip",
    "Image",
    "InvalidArgument",
    "KernelStatus",
    "Layout",
    "Level",
    "LevelView",
    "LimitExceeded",
    "DiskStatus",
    "LimitStatus",
    "LogStatus",
    "TrafficStatus",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "PyramidBuild",
    "ReadResult",
    "RequestError",
    "ServerError",
    "ServerStatus",
    "SettleStatus",
    "StateError",
    "StoredSize",
    "StreamHeld",
    "StreamInfo",
    "Unauthenticated",
    "Unavailable",
    "Uncompressed",
    "WriteSummary",
    "Writer",
    "ZigguratError",
    "Zstd",
    "connect",
    "zarr_store",
}

HEAVY = [
    "zarr",
    "cupy",
    "pydantic",
    "dask",
    "xarray",
    "napari",
    "npe2",
    "tifffile",
    "rich",
    "click",
    "PIL",
    "numcodecs",
    "ziggurat_engine",
]


def test_exports_are_pinned():
    assert set(ziggurat.__all__) == EXPORTED
    assert len(ziggurat.__all__) == len(EXPORTED)
    public = {n for n in vars(ziggurat) if not n.startswith("_")}
    assert public == EXPORTED


def test_everything_public_is_documented():
    for name in ziggurat.__all__:
        thing = getattr(ziggurat, name)
        if isinstance(thing, type):
            members = [m for n, m in vars(thing).items() if not n.startswith("_") and callable(m)]
            assert all(m.__doc__ for m in [thing, *members]), name


def test_importing_is_light():
    code = f"import sys, ziggurat; print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"


def test_the_command_says_what_is_missing():
    code = (
        "import sys; sys.modules['click'] = None\n"
        "from ziggurat._cli import main; sys.argv = ['ziggurat', 'ls']; main()"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert found.returncode == 1
    assert found.stderr.strip().splitlines() == [
        "ziggurat: click is missing; the command needs the extra 'cli':"
        " pip install 'ziggurat-client[cli]'"
    ]


@pytest.mark.parametrize(
    ("call", "package"),
    [
        ("image.to_dask()", "dask"),
        ("image.store(None)", "dask"),
        ("ziggurat.zarr_store(image)", "zarr"),
        ("image.read(encoding='blosc')", "numcodecs"),
    ],
)
def test_a_call_says_which_extra_is_missing(monkeypatch, call, package):
    monkeypatch.setitem(sys.modules, package, None)
    image = fake_image("yx", np.zeros((4, 6), np.uint16))
    with pytest.raises(ImportError, match=rf"needs {package}: .*'ziggurat-client\[{package}\]'"):
        eval(call, {"image": image, "ziggurat": ziggurat})


def test_nobody_there():
    with ziggurat.connect("127.0.0.1:1", timeout_seconds=10) as client:
        assert client.server == "127.0.0.1:1"
        with pytest.raises(ziggurat.Unavailable, match=r"127\.0\.0\.1:1"):
            client.status()
    with pytest.raises(ziggurat.FailedPrecondition, match="closed"):
        client.status()
    client.close()


@pytest.mark.parametrize(
    ("server", "address"),
    [("host", "host:7447"), ("[::1]", "[::1]:7447"), (" host:1 ", "host:1")],
)
def test_the_port_has_a_default(server, address):
    with ziggurat.connect(server) as client:
        assert client.server == address


@pytest.mark.parametrize("server", ["", None])
def test_an_address_is_needed(server):
    with pytest.raises(ziggurat.InvalidArgument) as caught:
        ziggurat.connect(server)
    assert caught.value.field == "server"
