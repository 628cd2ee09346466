"""Has an image the levels that its method and factors say, on disk as well?"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import ome_zarr_models
import ome_zarr_models.v05
import pytest
import yaozarrs
import zarr
import ziggurat
from ome_zarr_models.v05.image_label import ImageLabel
from ome_zarr_models.v05.labels import Labels

from tests.support.command import run
from tests.support.images import assert_exact, assert_stored, factors_of
from tests.support.pixels import cascade, marked, same_bytes
from tests.support.server import ServerProcess

METHODS = ("mean", "median", "mode", "min", "max", "stride", "gaussian")
MIXED = [(2, 3, 1), (1, 2, 4), (3, 1, 2)]


def objects(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A few values in patches, with some pixels of noise: modes that no order decides."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 5, [-(-n // 3) for n in shape])
    for axis in range(len(shape)):
        patches = patches.repeat(3, axis)
    pixels = patches[tuple(map(slice, shape))]
    return np.where(rng.random(shape) < 0.2, rng.integers(0, 5, shape), pixels).astype(np.uint32)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
@pytest.mark.parametrize("method", METHODS)
def test_every_level_is_the_method_s(
    server: ServerProcess, client: ziggurat.Client, name: str, method: str, dtype: str
) -> None:
    shape = (13, 41, 37)
    image = client.create(
        name,
        axes="zyx",
        shape=shape,
        dtype=dtype,
        downsampling=method,
        chunk_shape=(6, 12, 8),
        shard_chunks=(1, 2, 2),
        factors=MIXED,
    )
    assert image.downsampling == method
    assert factors_of(image) == MIXED
    level0 = marked(shape, dtype) if dtype == "float32" else objects(shape).astype(dtype)
    with image.writer() as writer:
        writer.write_region(level0[:7], offset=(0, 0, 0))
        writer.write_region(level0[7:], offset=(7, 0, 0))
    assert_exact(image, level0)
    assert_stored(server, image, level0)
    # TensorStore has all but one.
    for k, wanted in enumerate(cascade(level0, MIXED, method) if method != "gaussian" else ()):
        assert same_bytes(image.level(k)[...], wanted)
    document = json.loads((server.image_path(name) / "zarr.json").read_text())
    (multiscale,) = document["attributes"]["ome"]["multiscales"]
    assert multiscale["type"] == multiscale["metadata"]["method"] == method
    image.refresh()
    assert image.downsampling == method


def test_chunks_left_to_the_server_fit_the_factors(client: ziggurat.Client, name: str) -> None:
    factors = [(1, 3, 3, 3), (1, 2, 4, 3)]
    image = client.create(
        name, axes="czyx", shape=(2, 100, 300, 500), dtype="uint16", factors=factors
    )
    assert factors_of(image) == factors
    assert [c % n for c, n in zip(image.layout.chunk_shape, (1, 6, 12, 3), strict=True)] == [0] * 4


@pytest.mark.parametrize("axis", ["t", "c"])
def test_t_and_c_are_never_downsampled(client: ziggurat.Client, name: str, axis: str) -> None:
    with pytest.raises(ziggurat.InvalidArgument, match=f"downsamples {axis}") as caught:
        client.create(
            name,
            axes=f"{axis}yx",
            shape=(4, 8, 8),
            dtype="uint8",
            chunk_shape=(4, 4, 4),
            factors=[(2, 2, 2)],
        )
    assert "factors[0]" in caught.value.field


def test_an_unknown_method_is_refused(client: ziggurat.Client, name: str) -> None:
    with pytest.raises(ziggurat.InvalidArgument, match="must be one of mean, median"):
        client.create(name, axes="yx", shape=(8, 8), dtype="uint8", downsampling="blur")


# --- labels


def test_labels_of_their_own(server: ServerProcess, client: ziggurat.Client, name: str) -> None:
    image = client.create(
        name, axes="yx", shape=(301, 203), dtype="uint32", kind="labels", levels=4
    )
    assert (image.kind, image.downsampling, image.labels_of) == ("labels", "mode", "")
    level0 = objects(image.shape)
    with image.writer() as writer:
        writer.write_region(level0, offset=(0, 0))
    assert_exact(image, level0)
    group = zarr.open_group(server.image_path(name), mode="r")
    assert group.attrs["ome"]["image-label"] == {}
    ome_zarr_models.v05.Image.from_zarr(group)
    ImageLabel.from_zarr(group)
    yaozarrs.validate_zarr_store(str(server.image_path(name)))


@pytest.mark.parametrize("method", ["mean", "median", "gaussian"])
def test_what_would_spoil_labels_is_refused(
    client: ziggurat.Client, name: str, method: str
) -> None:
    with pytest.raises(ziggurat.InvalidArgument, match=method) as caught:
        client.create(
            name, axes="yx", shape=(8, 8), dtype="uint8", kind="labels", downsampling=method
        )
    assert caught.value.field.endswith("downsampling")
    with pytest.raises(ziggurat.InvalidArgument, match="integers") as caught:
        client.create(name, axes="yx", shape=(8, 8), dtype="float32", kind="labels")


def stained(client: ziggurat.Client, name: str) -> ziggurat.Image:
    return client.create(
        name,
        axes="czyx",
        shape=(2, 20, 70, 90),
        dtype="uint16",
        voxel_size={"z": 0.5, "y": 0.2, "x": 0.2},
        unit="micrometer",
        chunk_shape=(1, 12, 24, 24),
        factors=[(1, 1, 2, 2), (1, 2, 3, 3)],
    )


def cells(client: ziggurat.Client, image: str, name: str = "cells") -> ziggurat.Image:
    return client.create(
        name, axes="zyx", shape=(20, 70, 90), dtype="uint32", kind="labels", labels_of=image
    )


def listed(server: ServerProcess, image: str) -> list[str]:
    path = server.image_path(image)
    group = zarr.open_group(path / "labels", mode="r")
    found = Labels.from_zarr(group).attributes.ome.labels
    yaozarrs.validate_zarr_store(str(path))
    return found


def test_labels_lie_in_their_image(
    server: ServerProcess, client: ziggurat.Client, name: str
) -> None:
    image = stained(client, name)
    labels = cells(client, name)
    assert labels.name == f"{name}/labels/cells"
    assert labels.labels_of == name
    assert labels.voxel_size == {"z": 0.5, "y": 0.2, "x": 0.2}
    assert labels.units["x"] == "micrometer"
    assert labels.layout.chunk_shape == (12, 24, 24)
    assert [level.factors for level in labels.levels] == [(1, 1, 1), (1, 2, 2), (2, 3, 3)]
    level0 = objects(labels.shape)
    with labels.writer() as writer:
        writer.write_region(level0, offset=(0, 0, 0))
    assert_exact(labels, level0)
    path = server.image_path(name) / "labels" / "cells"
    group = zarr.open_group(path, mode="r")
    assert np.array_equal(group["0"][...], level0)
    assert group.attrs["ome"]["image-label"] == {"source": {"image": "../../"}}
    ImageLabel.from_zarr(group)
    cells(client, name, "again")
    assert listed(server, name) == ["again", "cells"]
    assert isinstance(
        ome_zarr_models.open_ome_zarr(zarr.open_group(server.image_path(name), mode="r")),
        ome_zarr_models.v05.Image,
    )
    assert [found.name for found in client.list(name)] == [
        name,
        f"{name}/labels/again",
        f"{name}/labels/cells",
    ]
    # The image first: refused, and unharmed.
    with pytest.raises(ziggurat.FailedPrecondition, match=r"labels/again, .*labels/cells"):
        client.delete(name)
    assert client.open(name).levels == image.levels
    client.delete(f"{name}/labels/cells")
    assert listed(server, name) == ["again"]
    assert not path.exists()
    client.delete(f"{name}/labels/again")
    client.delete(name)
    assert not server.image_path(name).exists()


def test_labels_survive_a_restart(serve: Callable[..., ServerProcess], name: str) -> None:
    server = serve()
    level0 = objects((20, 70, 90))
    with ziggurat.connect(server.address) as client:
        stained(client, name)
        with cells(client, name).writer() as writer:
            writer.write_region(level0, offset=(0, 0, 0))
    server.stop()
    # As after a crash between the label image and its mention, with one of somebody else.
    group = server.image_path(name) / "labels" / "zarr.json"
    document = json.loads(group.read_text())
    document["attributes"]["ome"]["labels"] = ["others/nested"]
    document["attributes"]["other"] = 1
    group.write_text(json.dumps(document))
    again = serve(server.data)
    with ziggurat.connect(again.address) as client:
        labels = client.open(f"{name}/labels/cells")
        assert (labels.labels_of, labels.kind) == (name, "labels")
        assert_exact(labels, level0)
        with pytest.raises(ziggurat.FailedPrecondition, match="labels"):
            client.delete(name)
    attributes = json.loads(group.read_text())["attributes"]
    assert attributes["ome"]["labels"] == ["cells", "others/nested"]
    assert attributes["other"] == 1


BAD_LABELS = [  # what is asked for instead, the field, a word of the message
    ({"labels_of": "nobody"}, "labels_of", "no image"),
    ({"name": "a/b"}, "name", "segments"),
    ({"kind": "image"}, "labels_of", "only labels"),
    ({"axes": "tzyx", "shape": (1, 20, 70, 90)}, "axes", "no axis t"),
    ({"shape": (20, 70, 91)}, "axes", "90 pixels"),
    ({"levels": 2}, "level", "has 3"),
    ({"factors": [(1, 2, 2)]}, "factors", "has 3"),
]


@pytest.mark.parametrize(("change", "field", "text"), BAD_LABELS)
def test_labels_have_to_fit(
    client: ziggurat.Client, name: str, change: dict, field: str, text: str
) -> None:
    stained(client, name)
    asked = {"axes": "zyx", "shape": (20, 70, 90), "dtype": "uint8", "kind": "labels"}
    asked |= {"name": "cells", "labels_of": name, **change}
    with pytest.raises((ziggurat.InvalidArgument, ziggurat.NotFound), match=text) as caught:
        client.create(asked.pop("name"), **asked)
    assert field in caught.value.field
    assert [found.name for found in client.list(name)] == [name]


def test_labels_have_no_labels(client: ziggurat.Client, name: str) -> None:
    stained(client, name)
    labels = cells(client, name)
    with pytest.raises(ziggurat.AlreadyExists):
        cells(client, name)
    with pytest.raises(ziggurat.InvalidArgument, match="label image itself"):
        cells(client, labels.name)


# --- what the kernels did


def test_the_status_says_what_the_kernels_did(
    server: ServerProcess, client: ziggurat.Client, name: str
) -> None:
    before = client.status().kernel_totals
    image = client.create(
        name, axes="yx", shape=(64, 64), dtype="uint16", chunk_shape=(32, 32), levels=2
    )
    with image.writer() as writer:
        writer.write_region(marked((64, 64), "uint16"), offset=(0, 0))
    after = client.status().kernel_totals
    assert after.chunks - before.chunks >= 5
    assert after.raw_bytes - before.raw_bytes >= 5 * 2048
    assert after.downsampled_bytes - before.downsampled_bytes >= 4 * 2048
    assert after.encoded_bytes > before.encoded_bytes
    assert after.encode_seconds > before.encode_seconds
    # A card does both at once, and it counts as encoding.
    assert after.downsample_seconds > before.downsample_seconds or client.status().devices
    assert "kernel downsampled" in run("ziggurat", "--server", server.address, "status").stdout
