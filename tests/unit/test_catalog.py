"""Do images appear and disappear whole, and is what lies on disk loaded back exactly?"""

import errno
import json
import logging
import os
import shutil
import threading
import time

import pytest
from ziggurat_engine.errors import (
    AlreadyExists,
    Corrupt,
    FailedPrecondition,
    NotFound,
    UnsupportedVersion,
)
from ziggurat_engine.labels import fitted
from ziggurat_engine.layout import pyramid_of, resolve
from ziggurat_engine.spec import Axis, Blosc, Channel, ImageSpec, LayoutRequest
from ziggurat_engine.store.catalog import Catalog
from ziggurat_engine.vfs import OsFileSystem


def image(name="lab/run-3", **changes):
    request = {
        "name": name,
        "axes": (Axis(name="z", size=20), Axis(name="y", size=30), Axis(name="x", size=30)),
        "data_type": "uint16",
        "layout": LayoutRequest(chunk_shape=(4, 8, 8), shard_chunks=(1, 2, 2)),
    }
    return resolve(ImageSpec(**(request | changes)))


@pytest.fixture
def reopen(tmp_path):
    """Opens the catalog, again each time it is called."""
    opened = []

    def again(fs=None):
        opened.append(Catalog.open(fs or OsFileSystem(), tmp_path))
        return opened[-1]

    yield again
    for catalog in opened:
        catalog.close()


@pytest.fixture
def catalog(reopen):
    return reopen()


def document(tmp_path, name):
    return tmp_path / f"images/{name}.ome.zarr/zarr.json"


def rewrite(path, change):
    described = json.loads(path.read_text())
    change(described["attributes"])
    path.write_text(json.dumps(described))


def store_chunk(stored, data=b"data"):
    return stored.arrays[0].replace((0, 0, 0), [((0, 0, 0), data)], [(0, 0, 0)])


def test_an_image_is_created_and_loaded_back(catalog, reopen, tmp_path):
    made = image()
    stored = catalog.create(made)
    assert (stored.image, stored.pyramid) == (made, pyramid_of(made))
    assert len(stored.arrays) == len(stored.pyramid.levels) > 1
    assert catalog.load("lab/run-3") is stored
    directory = tmp_path / "images/lab/run-3.ome.zarr"
    levels = [str(k) for k in range(len(stored.arrays))]
    assert sorted(os.listdir(directory)) == [*levels, "zarr.json"]
    assert os.listdir(tmp_path / "tmp") == []
    store_chunk(stored)
    again = reopen().load("lab/run-3")
    assert again is not stored
    assert (again.image, again.pyramid) == (made, stored.pyramid)
    assert again.arrays[0].read((0, 0, 0)) == b"data"
    assert again.arrays[1].read((0, 0, 0)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"data_type": "uint64", "fill_value": 2**64 - 1},
        {"data_type": "int64", "fill_value": -(2**63)},
        {"data_type": "float32", "fill_value": float("nan")},
        {"data_type": "float64", "fill_value": float("-inf")},
        {"data_type": "float64", "fill_value": -0.0},
        {"data_type": "float64", "fill_value": -0.0009765625},
        {"data_type": "float32", "fill_value": 3},
        {
            "axes": (
                Axis(name="c", size=2),
                Axis(name="y", size=9, scale=0.1 + 0.2, unit="micrometer"),
                Axis(name="x", size=9, scale=1e-300, unit="µm"),
            ),
            "channels": (
                Channel(label="DAPI é", color="00ff7F", window=(0.1, 2e9)),
                Channel(),
            ),
            "layout": LayoutRequest(codec=Blosc(compressor="lz4", level=9, shuffle="none")),
        },
    ],
    ids=["uint64", "int64", "nan", "inf", "minus-zero", "float", "int-for-float", "channels"],
)
def test_every_choice_is_loaded_back_exactly(catalog, reopen, changes):
    made = catalog.create(image(**changes)).image
    loaded = reopen().load(made.name).image
    assert loaded.model_dump_json() == made.model_dump_json()
    assert type(loaded.fill_value) is type(made.fill_value)
    assert loaded.created == made.created


def test_names_are_sorted_and_filtered_by_whole_segments(catalog, reopen):
    for name in ("b", "a", "a/b", "a/b/c", "ab", "a-b", "Z é/x.y"):
        catalog.create(image(name))
    for each in (catalog, reopen()):
        assert each.names() == ["Z é/x.y", "a", "a-b", "a/b", "a/b/c", "ab", "b"]
        assert each.names("a") == each.names("a/") == ["a", "a/b", "a/b/c"]
        assert each.names("a/b") == ["a/b", "a/b/c"]
        assert each.names("none") == []


def test_images_above_and_below_others_are_apart(catalog, reopen):
    for name in ("a", "a/b"):
        store_chunk(catalog.create(image(name)), name.encode())
    catalog.delete("a")
    assert reopen().names() == ["a/b"]
    assert catalog.load("a/b").arrays[0].read((0, 0, 0)) == b"a/b"


def test_missing_images(catalog):
    for call in (catalog.load, catalog.delete):
        with pytest.raises(NotFound, match="lab/no") as raised:
            call("lab/no")
        assert raised.value.field == "name"


def test_a_name_is_taken_once(catalog, reopen):
    catalog.create(image("a"))
    for each in (catalog, reopen()):
        with pytest.raises(AlreadyExists) as raised:
            each.create(image("a"))
        assert raised.value.field == "name"


@pytest.mark.parametrize("content", ["file", "directory"])
def test_a_path_taken_behind_the_catalogs_back(catalog, tmp_path, content):
    path = tmp_path / "images/a.ome.zarr"
    if content == "file":
        path.write_text("x")
    else:
        (path / "deep").mkdir(parents=True)
    with pytest.raises(AlreadyExists):
        catalog.create(image("a"))
    assert catalog.names() == []
    assert os.listdir(tmp_path / "tmp") == []


def test_one_of_many_creations_wins(catalog, reopen):
    start, won, lost = threading.Barrier(6), [], []

    def create():
        start.wait()
        try:
            won.append(catalog.create(image("a")))
        except AlreadyExists as error:
            lost.append(error)

    run([create] * 6)
    assert (len(won), len(lost)) == (1, 5)
    assert catalog.load("a") is won[0]
    assert reopen().names() == ["a"]


def test_loads_beside_each_other_get_one_object(catalog, reopen):
    catalog.create(image("a"))
    again, got = reopen(), []
    run([lambda: got.append(again.load("a"))] * 8)
    assert len(set(map(id, got))) == 1


def test_deletion(catalog, reopen, tmp_path):
    stored = catalog.create(image("a"))
    store_chunk(stored)
    stored.arrays[0].read((0, 0, 0))
    before = len(os.listdir("/proc/self/fd"))
    catalog.delete("a")
    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert os.listdir(tmp_path / "images") == os.listdir(tmp_path / "tmp") == []
    for call in (
        lambda: catalog.load("a"),
        lambda: stored.arrays[0].read((0, 0, 0)),
        lambda: store_chunk(stored),
    ):
        with pytest.raises(NotFound):
            call()
    assert catalog.names() == reopen().names() == []
    assert os.listdir(tmp_path / "images") == []


def test_a_deleted_image_is_not_taken_for_a_new_one(catalog):
    old = catalog.create(image("a"))
    store_chunk(old)
    catalog.delete("a")
    layout = LayoutRequest(chunk_shape=(4, 8, 8), shard_chunks=(2, 2, 2))
    new = catalog.create(image("a", layout=layout))
    store_chunk(new, b"new")
    with pytest.raises(NotFound):
        old.arrays[0].read((0, 0, 0))
    assert new.arrays[0].read((0, 0, 0)) == b"new"


def test_deletion_waits_for_a_write_under_way(catalog, tmp_path):
    stored = catalog.create(image("a"))
    inside, go_on = threading.Event(), threading.Event()

    def frames():
        inside.set()
        assert go_on.wait(10)
        yield (0, 0, 0), b"x"

    def write():
        stored.arrays[0].replace((0, 0, 0), frames(), [(0, 0, 0)])

    def delete():
        inside.wait()
        threading.Timer(0.05, go_on.set).start()
        catalog.delete("a")
        assert go_on.is_set()

    run([write, delete])
    assert os.listdir(tmp_path / "images") == []


def test_an_image_that_can_not_be_deleted_stays(reopen, monkeypatch):
    catalog = reopen()
    stored = catalog.create(image("a"))
    store_chunk(stored)

    def refuse(*_args):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(OsFileSystem, "rename", refuse)
        with pytest.raises(OSError, match="Input/output"):
            catalog.delete("a")
    assert catalog.load("a") is stored
    assert stored.arrays[0].read((0, 0, 0)) == b"data"
    with monkeypatch.context() as patch:
        patch.setattr(OsFileSystem, "remove_tree", refuse)
        with pytest.raises(OSError, match="Input/output"):
            catalog.delete("a")
    assert catalog.names() == reopen().names() == []


@pytest.mark.parametrize("call", ["make_dir", "create", "sync_dir", "rename"])
def test_a_creation_that_fails_leaves_nothing(catalog, tmp_path, monkeypatch, call):
    def refuse(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(OsFileSystem, call, refuse)
        with pytest.raises(OSError, match="No space"):
            catalog.create(image("a"))
    assert os.listdir(tmp_path / "tmp") == os.listdir(tmp_path / "images") == []
    with pytest.raises(NotFound):
        catalog.load("a")
    catalog.create(image("a"))


def test_what_a_crash_left_is_swept(catalog, reopen, tmp_path):
    catalog.create(image("a"))
    shutil.copytree(tmp_path / "images/a.ome.zarr", tmp_path / "tmp/half")
    (tmp_path / "tmp/shard").write_bytes(b"x")
    assert reopen().names() == ["a"]
    assert os.listdir(tmp_path / "tmp") == []


def drop_version(attributes):
    attributes["ziggurat"]["version"] = 3


def foreign(attributes):
    del attributes["ziggurat"]


def unknown_field(attributes):
    attributes["ziggurat"]["image"]["color"] = "red"


def bad_layout(attributes):
    attributes["ziggurat"]["image"]["layout"]["chunk_shape"] = [4, 8]


BROKEN = {
    "gone": (None, Corrupt),
    "not-json": (b'{"attri', Corrupt),
    "not-text": (b"\xff\xfe\xfa", Corrupt),
    "not-a-group": (b"[]", Corrupt),
    "foreign": (foreign, Corrupt),
    "unknown-field": (unknown_field, Corrupt),
    "bad-layout": (bad_layout, Corrupt),
    "version": (drop_version, UnsupportedVersion),
}


@pytest.mark.parametrize(("change", "error"), BROKEN.values(), ids=BROKEN)
def test_a_broken_image_is_logged_and_skipped(catalog, reopen, tmp_path, caplog, change, error):
    catalog.create(image("good"))
    catalog.create(image("lab/bad"))
    path = document(tmp_path, "lab/bad")
    whole = path.read_bytes()
    if change is None:
        path.unlink()
    elif callable(change):
        rewrite(path, change)
    else:
        path.write_bytes(change)
    with caplog.at_level(logging.WARNING):
        again = reopen()
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "lab/bad" in caplog.text
    assert again.names() == ["good"]
    with pytest.raises(error, match="lab/bad"):
        again.load("lab/bad")
    with pytest.raises(error):
        again.delete("lab/bad")
    with pytest.raises(AlreadyExists):
        again.create(image("lab/bad"))
    path.write_bytes(whole)
    assert again.load("lab/bad").image.name == "lab/bad"
    assert again.names() == ["good", "lab/bad"]


def test_a_directory_that_was_moved_has_its_new_name(catalog, reopen, tmp_path):
    store_chunk(catalog.create(image("a")))
    (tmp_path / "images/lab").mkdir()
    os.rename(tmp_path / "images/a.ome.zarr", tmp_path / "images/lab/b.ome.zarr")
    again = reopen()
    assert again.names() == ["lab/b"]
    assert again.load("lab/b").image.name == "lab/b"
    assert again.load("lab/b").arrays[0].read((0, 0, 0)) == b"data"


def test_strange_directories_are_not_images(catalog, reopen, tmp_path, caplog):
    catalog.create(image("a"))
    source = tmp_path / "images/a.ome.zarr"
    for name in (
        ".snapshot/a.ome.zarr",
        "_x.ome.zarr",
        "other.zarr/a.ome.zarr",
        "e\u0301.ome.zarr",
    ):
        shutil.copytree(source, tmp_path / f"images/{name}.ome.zarr")
    shutil.copytree(source, source / "nested.ome.zarr")
    (tmp_path / "images/readme.txt").write_text("x")
    (tmp_path / "images/link").symlink_to(tmp_path)
    assert reopen().names() == ["a"]
    assert "_x.ome.zarr" in caplog.text
    assert "snapshot" not in caplog.text


def test_thousands_of_images_open_quickly(catalog, reopen, tmp_path):
    catalog.create(image("m/0"))
    content = document(tmp_path, "m/0").read_bytes()
    for i in range(1, 2000):
        path = document(tmp_path, f"m/{i}")
        path.parent.mkdir()
        path.write_bytes(content)
    start = time.perf_counter()
    again = reopen()
    assert len(again.names("m")) == 2000
    assert time.perf_counter() - start < 10
    assert again.load("m/7").image.name == "m/7"


def run(calls):
    """Runs all in threads of their own; an error in one fails the test."""
    errors = []

    def guarded(call):
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


# --- labels


def labels(of, name="cells"):
    axes = (Axis(name="z", size=20), Axis(name="y", size=30), Axis(name="x", size=30))
    asked = ImageSpec(name=name, axes=axes, data_type="uint8", kind="labels", labels_of=of.name)
    return resolve(fitted(asked, of))


def listed(tmp_path, name="lab/run-3"):
    described = json.loads((tmp_path / f"images/{name}.ome.zarr/labels/zarr.json").read_text())
    return described["attributes"]["ome"]["labels"]


def test_labels_come_and_go(catalog, reopen, tmp_path):
    parent = catalog.create(image()).image
    catalog.create(labels(parent))
    stored = catalog.create(labels(parent, "nuclei"))
    store_chunk(stored)
    assert stored.image.name == "lab/run-3/labels/nuclei"
    assert (tmp_path / "images/lab/run-3.ome.zarr/labels/nuclei/0/zarr.json").exists()
    assert listed(tmp_path) == ["cells", "nuclei"]
    with pytest.raises(AlreadyExists):
        catalog.create(labels(parent))
    with pytest.raises(FailedPrecondition, match="nuclei"):
        catalog.delete("lab/run-3")
    again = reopen()
    assert again.names() == ["lab/run-3", "lab/run-3/labels/cells", "lab/run-3/labels/nuclei"]
    assert again.load("lab/run-3/labels/nuclei").image == stored.image
    again.delete("lab/run-3/labels/cells")
    assert listed(tmp_path) == ["nuclei"]
    again.delete("lab/run-3/labels/nuclei")
    again.delete("lab/run-3")
    assert again.names() == []
    assert not (tmp_path / "images/lab/run-3.ome.zarr").exists()


def test_labels_of_an_image_that_is_gone(catalog, tmp_path):
    parent = catalog.create(image()).image
    catalog.delete("lab/run-3")
    with pytest.raises(NotFound) as error:
        catalog.create(labels(parent))
    assert error.value.field == "labels_of"
    assert not (tmp_path / "images/lab/run-3.ome.zarr").exists()


def test_an_image_of_the_same_name_beside(catalog, reopen):
    """Found anew where it lies, and not in the image above it."""
    parent = catalog.create(image()).image
    beside = catalog.create(image("lab/run-3/labels/cells")).image
    with pytest.raises(AlreadyExists):
        catalog.create(labels(parent))
    again = reopen()
    assert again.load(beside.name).image.labels_of is None
    again.delete("lab/run-3")
    assert again.names() == ["lab/run-3/labels/cells"]


def test_moved_labels_belong_to_where_they_lie(catalog, reopen, tmp_path):
    catalog.create(labels(catalog.create(image()).image))
    (tmp_path / "images/lab/run-3.ome.zarr").rename(tmp_path / "images/moved.ome.zarr")
    found = reopen().load("moved/labels/cells").image
    assert (found.name, found.labels_of) == ("moved/labels/cells", "moved")


def test_labels_that_can_not_be_listed_do_not_appear(catalog, reopen, tmp_path, monkeypatch):
    parent = catalog.create(image()).image

    def failing(*_):
        raise OSError(errno.EIO, "refused")

    monkeypatch.setattr(type(catalog._store), "put", failing)
    with pytest.raises(OSError, match="refused"):
        catalog.create(labels(parent))
    monkeypatch.undo()
    assert catalog.names() == reopen().names() == ["lab/run-3"]
    catalog.create(labels(parent))
    assert listed(tmp_path) == ["cells"]


def test_a_start_lists_labels_that_a_crash_left_out(catalog, reopen, tmp_path):
    catalog.create(labels(catalog.create(image()).image))
    path = tmp_path / "images/lab/run-3.ome.zarr/labels/zarr.json"
    path.unlink()
    reopen()
    assert listed(tmp_path) == ["cells"]
    path.write_text("no JSON")
    reopen()
    assert listed(tmp_path) == ["cells"]
