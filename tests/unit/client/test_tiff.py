"""TIFF files of every kind become images, and come out again as they were."""

import numpy as np
import pytest
import tifffile
import ziggurat
from ziggurat import _slabs, _tiffout
from ziggurat._tiff import TiffStack
from ziggurat._tiffmeta import unit_name
from ziggurat._tiffout import write_tiff

from tests.unit.client.support import fake_image

RANDOM = np.random.default_rng(1)


def pixels(shape, dtype="u2"):
    return RANDOM.integers(0, 200, shape).astype(dtype)


MINIMAL = {"photometric": "minisblack"}
CASES = {
    "plane": ("yx", (30, 41), "u2", {}),
    "pages": ("zyx", (5, 30, 41), "u1", MINIMAL),
    "compressed": ("zyx", (5, 30, 41), "u2", MINIMAL | {"compression": "zlib"}),
    "tiled": ("zyx", (5, 30, 41), "f4", MINIMAL | {"compression": "zlib", "tile": (16, 16)}),
    "volumetric": ("zyx", (16, 30, 41), "u2", MINIMAL | {"volumetric": True, "tile": (8, 16, 16)}),
    "big-endian": ("zyx", (5, 30, 41), "i2", MINIMAL | {"byteorder": ">"}),
    "hyperstack": (
        "tzcyx",
        (2, 3, 4, 30, 41),
        "u2",
        {"imagej": True, "metadata": {"axes": "TZCYX"}},
    ),
    "ome": (
        "tczyx",
        (2, 3, 4, 30, 41),
        "f8",
        MINIMAL | {"ome": True, "metadata": {"axes": "TCZYX"}},
    ),
    "ome zyx inside": (
        "zcyx",
        (3, 4, 30, 41),
        "u2",
        MINIMAL | {"ome": True, "compression": "zlib", "metadata": {"axes": "ZCYX"}},
    ),
    "rgb": ("yxc", (30, 41, 3), "u1", {"photometric": "rgb"}),
    "rgb planes": ("cyx", (3, 30, 41), "u1", {"photometric": "rgb", "planarconfig": "separate"}),
    "mask": ("yx", (30, 41), "bool", MINIMAL),
    "half": ("yx", (30, 41), "f2", MINIMAL),
}


@pytest.mark.parametrize("case", CASES)
def test_every_plane_comes_once_to_its_place(case, tmp_path):
    axes, shape, dtype, options = CASES[case]
    data = pixels(shape, dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, data, **options)
    with TiffStack(path) as stack:
        assert stack.axes == "".join(a for a in "tczyx" if a in axes)
        expected = data.transpose([axes.index(a) for a in stack.axes])
        assert stack.shape == expected.shape
        assert stack.dtype == {"bool": np.uint8, "f2": np.float32}.get(dtype, np.dtype(dtype))
        assert stack.nbytes == expected.size * stack.dtype.itemsize
        seen = {}
        for plane in stack.planes():
            assert plane.index not in seen
            assert plane.pixels.dtype == stack.dtype
            seen[plane.index] = plane.pixels
        assert len(seen) == stack.plane_count
        for index, plane in seen.items():
            np.testing.assert_array_equal(plane, expected[index])


def test_imagej_calibration(tmp_path):
    luts = [np.zeros((3, 256), np.uint8) for _ in range(2)]
    luts[0][0] = luts[1][1] = np.arange(256)
    metadata = {
        "axes": "TZCYX",
        "unit": "\\u00B5m",
        "spacing": -0.5,
        "finterval": 30.0,
        "mode": "composite",
        "Ranges": (0.0, 100.0, 5.0, 5.0),
        "LUTs": luts,
    }
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, pixels((2, 3, 2, 8, 9)), imagej=True, resolution=(4, 2), metadata=metadata
    )
    with TiffStack(path) as stack:
        assert stack.voxel_size == {"t": 30, "z": 0.5, "y": 0.5, "x": 0.25}
        assert stack.unit == {"t": "second"} | dict.fromkeys("zyx", "micrometer")
        assert stack.channels == (
            ziggurat.Channel("channel 1", "FF0000", (0, 100)),
            ziggurat.Channel("channel 2", "00FF00"),
        )


def test_ome_calibration(tmp_path):
    metadata = {
        "axes": "TCYX",
        "PhysicalSizeX": 100.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.2,
        "TimeIncrement": 3.0,
        "TimeIncrementUnit": "min",
        "Channel": {"Name": ["DAPI", "GFP"], "Color": [0x0000FFFF, 0x00FF00FF]},
    }
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, pixels((2, 2, 8, 9)), ome=True, metadata=metadata, **MINIMAL)
    with TiffStack(path) as stack:
        assert stack.voxel_size == {"t": 3, "y": 0.2, "x": 100}
        assert stack.unit == {"t": "minute", "y": "micrometer", "x": "nanometer"}
        assert stack.channels == (
            ziggurat.Channel("DAPI", "0000FF"),
            ziggurat.Channel("GFP", "00FF00"),
        )


def test_centimetres_count_and_inches_do_not(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels((8, 9)), resolution=(1e4, 2e4), resolutionunit="CENTIMETER")
    with TiffStack(path) as stack:
        assert stack.voxel_size == {"y": 0.5, "x": 1}
        assert stack.unit == {"y": "micrometer", "x": "micrometer"}
    tifffile.imwrite(path, pixels((8, 9)), resolution=(300, 300), resolutionunit="INCH")
    with TiffStack(path) as stack:
        assert stack.voxel_size == {}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("micron", "micrometer"),
        ("microns", "micrometer"),
        ("\\u00B5m", "micrometer"),
        ("\u00b5m", "micrometer"),
        ("\u03bcm", "micrometer"),
        ("um\0", "micrometer"),
        ("NM", "nanometer"),
        ("inches", "inch"),
        ("sec", "second"),
        ("seconds", "second"),
        ("s", "second"),
        ("ms", "millisecond"),
        ("pixels", ""),
        ("", ""),
        (None, ""),
        ("furlong", "furlong"),
    ],
)
def test_units(text, name):
    assert unit_name(text) == name


def test_what_is_no_image_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"# not a TIFF")
    with pytest.raises(ziggurat.InvalidArgument, match="not a TIFF"):
        TiffStack(path)
    with pytest.raises(FileNotFoundError):
        TiffStack(tmp_path / "none.tif")
    tifffile.imwrite(path, np.zeros((4, 4), np.complex64))
    with pytest.raises(ziggurat.InvalidArgument, match="complex64"):
        TiffStack(path)
    tifffile.imwrite(path, pixels((2, 2, 4, 4, 3), "u1"), photometric="rgb")
    with pytest.raises(ziggurat.OutOfRange) as caught:
        TiffStack(path, series=7)
    assert caught.value.field == "series"


def test_a_cut_file_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels((5, 64, 64)), **MINIMAL)
    path.write_bytes(path.read_bytes()[:-20000])
    with TiffStack(path) as stack, pytest.raises(ziggurat.InvalidArgument, match="decoded"):
        list(stack.planes())


def described(dtype):
    data = pixels((2, 3, 5, 30, 41), dtype)
    channels = [
        {"label": "a", "color": "FF00FF", "window": {"start": 0, "end": 99}},
        {"label": "b", "color": "00FF00", "window": {"start": 1, "end": 50}},
        {"label": "c", "color": "0000FF", "window": {"start": 1, "end": 50}},
    ]
    return data, fake_image("tczyx", data, data[..., ::2, ::2], channels=channels)


@pytest.mark.parametrize("slab_bytes", [1, 3000, 30000, 2**26])
@pytest.mark.parametrize("dtype", ["u2", "i4"])
def test_out_and_in_again(dtype, slab_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(_slabs, "SLAB_BYTES", slab_bytes)
    data, image = described(dtype)
    path = tmp_path / "a.tif"
    seen = []
    kind = write_tiff(image, path, progress=seen.append)
    assert kind == ("imagej" if dtype == "u2" else "ome")
    assert sum(seen) == data.nbytes
    with TiffStack(path) as stack:
        found = np.zeros(stack.shape, stack.dtype)
        for plane in stack.planes():
            found[plane.index] = plane.pixels
        np.testing.assert_array_equal(found, data)
        assert stack.voxel_size == pytest.approx({"z": 0.5, "y": 0.5, "x": 0.5})
        assert set(stack.unit.values()) == {"micrometer"}
        assert [c.color for c in stack.channels] == ["FF00FF", "00FF00", "0000FF"]


def test_a_box_of_a_level(tmp_path):
    data, image = described("f4")
    path = tmp_path / "a.tif"
    write_tiff(image, path, level=1, box=np.s_[1:, 1:2, 2:4, :, 5:20])
    found = tifffile.imread(path)
    np.testing.assert_array_equal(found, data[1, 1, 2:4, ::2, ::2][..., 5:20])
    with TiffStack(path) as stack:
        assert stack.voxel_size == pytest.approx({"z": 0.5, "y": 1, "x": 1})
    with pytest.raises(ziggurat.InvalidArgument) as caught:
        write_tiff(image, path, box=np.s_[0:0])
    assert caught.value.field == "box"


def test_large_files_are_bigtiff(tmp_path, monkeypatch):
    monkeypatch.setattr(_tiffout, "CLASSIC_BYTES", 1000)
    data, image = described("u2")
    path = tmp_path / "a.tif"
    assert write_tiff(image, path) == "ome"
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff
        np.testing.assert_array_equal(file.asarray(), data.transpose(0, 2, 1, 3, 4))
