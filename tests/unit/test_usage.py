"""Is what a metered store tells always the size of the files that are there?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.store.objects import LocalStore
from ziggurat_engine.store.usage import MeteredStore, image_of
from ziggurat_engine.vfs import OsFileSystem

KEYS = [f"{name}.ome.zarr/{rest}" for name in ("a", "b/c") for rest in ("0/c/0", "1/c/0", "x")]


@pytest.mark.parametrize(
    ("key", "image"),
    [
        ("lab/run.ome.zarr/0/c/1", "lab/run"),
        ("run.ome.zarr", "run"),
        ("lab/run.ome.zarr/labels/cells/0/c/1", "lab/run"),
        ("lab", "lab"),
    ],
)
def test_the_image_of_an_object(key: str, image: str) -> None:
    assert image_of(key) == image


actions = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(KEYS), st.integers(0, 500)),
        st.tuples(st.just("delete"), st.sampled_from(KEYS)),
        st.tuples(st.just("delete_tree"), st.sampled_from(["a.ome.zarr", "b/c.ome.zarr/0"])),
        st.tuples(st.just("create_tree"), st.sampled_from(["a.ome.zarr", "b/c.ome.zarr"])),
        st.tuples(st.just("fail"), st.sampled_from(KEYS)),
        st.tuples(st.just("restart")),
    ),
    max_size=15,
)


@given(actions)
def test_what_is_told_is_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple]
) -> None:
    directory = tmp_path_factory.mktemp("store")

    def opened() -> tuple[MeteredStore, Counter[str]]:
        files = LocalStore(OsFileSystem(), directory / "images", directory / "tmp")
        files.sweep()
        told: Counter[str] = Counter()
        store = MeteredStore(files, lambda name, n: told.update({name: n}))
        store.count()
        return store, told

    store, told = opened()
    for what, *arguments in steps:
        try:
            if what == "restart":
                store, told = opened()
            elif what == "put":
                key, size = arguments
                store.put(key, [b"x" * size])
            elif what == "fail":
                store.put(arguments[0], _broken())
            elif what == "create_tree":
                store.create_tree(arguments[0], {"zarr.json": b"12345", "0/zarr.json": b"1"})
            else:
                getattr(store, what)(*arguments)
        except (FileExistsError, ZeroDivisionError):
            pass
        assert +told == _there(directory / "images")


def _broken():
    yield b"some"
    raise ZeroDivisionError


def _there(root: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for path in root.rglob("*"):
        if path.is_file():
            found[image_of(str(path.relative_to(root)))] += path.stat().st_size
    return +found
