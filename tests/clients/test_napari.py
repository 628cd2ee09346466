"""napari opens an image on a server as lazy multiscale layers."""

from __future__ import annotations

import numpy as np
import pytest
import ziggurat
from ziggurat import _napari

da = pytest.importorskip("dask.array", reason="the extra 'dask' is not installed")

CHANNELS = [
    ziggurat.Channel("DNA", "0000FF", (10, 900)),
    ziggurat.Channel("actin", "00FF00"),
]
SPEC = {
    "axes": "tczyx",
    "shape": (2, 2, 3, 20, 30),
    "channels": CHANNELS,
    "voxel_size": {"t": 60.0, "z": 2.0, "y": 0.5, "x": 0.25},
    "unit": "micrometer",
}


def path_of(image):
    return f"ziggurat://{image.server}/{image.name}"


def test_a_layer_a_channel(make):
    image, pixels = make(**SPEC)
    assert _napari.reader(path_of(image)) is _napari.read
    dna, actin = _napari.read(path_of(image))
    levels, shown, kind = dna
    assert kind == "image"
    assert all(isinstance(level, da.Array) for level in levels)
    without_c = [(n[0], *n[2:]) for n in (level.shape for level in image.levels)]
    assert [level.shape for level in levels] == without_c
    np.testing.assert_array_equal(levels[0].compute(), pixels[:, 0])
    np.testing.assert_array_equal(actin[0][0].compute(), pixels[:, 1])
    short = image.name.rpartition("/")[2]
    assert shown == {
        "name": f"{short}: DNA",
        "multiscale": True,
        "scale": [60.0, 2.0, 0.5, 0.25],
        "translate": [0.0] * 4,
        "axis_labels": list("tzyx"),
        "units": ["second", "micrometer", "micrometer", "micrometer"],
        "blending": "additive",
        "colormap": "#0000FF",
        "contrast_limits": (10, 900),
        "metadata": {"ziggurat": path_of(image)},
    }
    assert "contrast_limits" not in actin[1]


def test_labels_come_with_their_image(make, client):
    image, _ = make("yx", (20, 30), voxel_size={"y": 0.5, "x": 0.5})
    labels = client.create(
        "cells", axes="yx", shape=(20, 30), dtype="uint16", kind="labels", labels_of=image.name
    )
    client.create(f"{image.name}/below", axes="yx", shape=(5, 5), dtype="uint8")
    kinds = [(shown["name"], kind) for _, shown, kind in _napari.read(path_of(image))]
    assert kinds == [(image.name.rpartition("/")[2], "image"), ("cells", "labels")]
    ((levels, shown, kind),) = _napari.read(path_of(labels))
    assert (kind, shown["scale"], levels[0].shape) == ("labels", [0.5, 0.5], (20, 30))


def test_units_that_napari_may_not_know_are_pixels(make):
    image, _ = make("yx", (5, 5), unit={"y": "furlong-ish", "x": "nanometer"})
    ((_, shown, _),) = _napari.layers(image)
    assert shown["units"] == ["pixel", "nanometer"]


def test_opening_reads_no_pixels(make, client):
    image, _ = make(**SPEC)
    before = client.status().cache
    _napari.read(path_of(image))
    after = client.status().cache
    assert (after.hits, after.misses) == (before.hits, before.misses)


@pytest.mark.parametrize("path", ["image.tif", "http://host/image", ["ziggurat://host/a"]])
def test_other_paths_are_left_to_others(path):
    assert _napari.reader(path) is None


@pytest.mark.parametrize("path", ["ziggurat://", "ziggurat://host", "ziggurat:///a", "host/a"])
def test_a_path_that_names_no_image(path):
    with pytest.raises(ziggurat.InvalidArgument, match="path must be like") as caught:
        _napari.read(path)
    assert caught.value.field == "path"


def test_an_image_that_is_not_there(server):
    with pytest.raises(ziggurat.NotFound):
        _napari.read(f"ziggurat://{server.address}/no/such/image")


# What comes with napari warns of its own dependencies while it is imported.
@pytest.mark.filterwarnings("ignore")
class TestNapari:
    """Through napari itself, without a window."""

    @pytest.fixture
    def npe2(self):
        found = pytest.importorskip("npe2", reason="the extra 'napari' is not installed")
        # As napari does when it starts: finds what is installed by its entry point.
        found.PluginManager.instance().discover()
        return found

    def test_the_manifest_is_valid(self, npe2):
        manifest = npe2.PluginManifest.from_distribution("ziggurat-client")
        manifest.validate_imports()
        (found,) = manifest.contributions.readers
        assert found.filename_patterns == ["ziggurat://*"]

    def test_npe2_reads_a_path(self, npe2, make):
        image, _ = make(**SPEC)
        found = npe2.read([path_of(image)], stack=False, plugin_name="ziggurat-client")
        assert [kind for _, _, kind in found] == ["image", "image"]

    def test_a_viewer_shows_it(self, npe2, make):
        components = pytest.importorskip(
            "napari.components", reason="the extra 'napari' is not installed"
        )
        image, pixels = make(**SPEC)
        viewer = components.ViewerModel()
        dna, actin = viewer.open(path_of(image), plugin="ziggurat-client")
        assert list(viewer.layers) == [dna, actin]
        assert dna.multiscale
        assert len(dna.data) == len(image.levels)
        np.testing.assert_array_equal(dna.scale, [60.0, 2.0, 0.5, 0.25])
        np.testing.assert_array_equal(dna.translate, [0.0] * 4)
        assert [str(unit) for unit in dna.units] == ["second", *["micrometer"] * 3]
        assert dna.contrast_limits == [10.0, 900.0]
        np.testing.assert_array_equal(dna.colormap.colors[-1], [0, 0, 1, 1])
        np.testing.assert_array_equal(actin.colormap.colors[-1], [0, 1, 0, 1])
        viewer.dims.set_point(0, 60.0)
        assert dna.get_value((60.0, 2.0, 5.0, 2.5), world=True)[1] == pixels[1, 0, 1, 10, 10]
