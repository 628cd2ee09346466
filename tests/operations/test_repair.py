"""Does `repair` mend what can be, put aside what can't, and lose nothing, wherever it stops?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
import ziggurat
from ziggurat_engine.errors import Corrupt, FailedPrecondition, NotFound
from ziggurat_engine.kernels.reference import ReferenceKernels
from ziggurat_engine.region import Region
from ziggurat_engine.state import State
from ziggurat_engine.testing.faulty import FaultyFs, PowerCut
from ziggurat_engine.upkeep.check import Progress, examine
from ziggurat_engine.upkeep.findings import Finding
from ziggurat_engine.upkeep.holding import Holding
from ziggurat_engine.upkeep.repair import Mended, Repair, mend_all, repair

from tests.crash.world import DATA, NAME, SHAPE, World, check_levels
from tests.operations.directory import (
    CHUNK,
    IMAGES,
    defects,
    edit,
    flip,
    found,
    group,
    level0,
    shard_path,
)
from tests.operations.test_check import (
    BLOSC,
    GAUSS,
    GZIP,
    bad_axes,
    no_array,
    no_description,
    no_ome,
    no_state,
    other_chunks,
    other_levels,
    payload,
    replaced,
    truncated,
    unlisted,
    wrong_coarse,
)
from tests.support.command import run
from tests.support.images import assert_exact
from tests.support.server import ServerProcess


def mended(data: Path, **options: object) -> tuple[list[str], list[Finding]]:
    """(paths of what was mended, what is left)."""
    said = list(repair(data, threads=2, **options))
    paths = [each.path for each in said if isinstance(each, Mended)]
    return paths, [each for each in said if isinstance(each, Finding)]


def kept(data: Path) -> list[Path]:
    """The objects in quarantine."""
    files = (data / "quarantine").rglob("*")
    return sorted(f for f in files if f.is_file() and f.suffix != ".json")


def coarse_index(data: Path) -> None:
    flip(shard_path(data, BLOSC, 1, 0, 0, 0), -1)


def coarse_halo(data: Path) -> None:
    flip(shard_path(data, GAUSS, 1, 0, 0, 0), -9)


def no_coarse(data: Path) -> None:
    shard_path(data, GZIP, 1, 1, 1, 1).unlink()


# Mended wholly: afterwards the images are what they were.
MENDED = [
    *(coarse_index, coarse_halo, no_coarse, wrong_coarse),
    *(no_array, other_chunks, no_ome, bad_axes, other_levels, unlisted),
]


@pytest.mark.parametrize("damage", MENDED, ids=lambda damage: damage.__name__)
def test_what_can_be_made_anew(data, damage):
    before = {p: p.read_bytes() for p in (data / "images").rglob("*") if p.is_file()}
    damage(data)
    broken = {p: p.read_bytes() for p in before if p.exists() and p.read_bytes() != before[p]}
    dry, left = mended(data, pixels=True, dry_run=True)
    assert dry
    assert not left
    assert not (data / "quarantine").exists()
    paths, left = mended(data, pixels=True)
    assert (paths, left) == (dry, [])
    assert [each.kind for each in found(data, pixels=True) if each.kind != "quarantined"] == []
    for path, content in broken.items():
        assert [p for p in kept(data) if p.name.startswith(path.name) and p.read_bytes() == content]
    assert mended(data, pixels=True) == ([], [])


def test_a_broken_chunk_of_level_0(data, serve: Callable[..., ServerProcess]):
    """It is put aside with its shard, of which all others stay; the levels are made without it."""
    payload(data)
    truncated(data)
    shards = [shard_path(data, BLOSC, 0, 0, 0, 0), shard_path(data, GAUSS, 0, 0, 1, 0)]
    content = [path.read_bytes() for path in shards]
    _, left = mended(data)
    assert left == []
    assert defects(data, pixels=True) == []
    aside = [p for p in kept(data) if "/0/c/" in str(p)]
    assert sorted(p.read_bytes() for p in aside) == sorted(content)
    note = json.loads(Path(f"{next(p for p in aside if BLOSC in str(p))}.json").read_text())
    assert note["bad_chunks"] == [[0, 0, 0]]
    assert (note["image"], note["level"]) == (BLOSC, 0)

    wanted = {name: level0(name) for name in IMAGES}
    wanted[BLOSC][: CHUNK[0], : CHUNK[1], : CHUNK[2]] = 0
    wanted[GAUSS][:, 2 * CHUNK[1] :, : 2 * CHUNK[2]] = 0
    server = serve(data)
    with ziggurat.connect(server.address) as client:
        for name, pixels in wanted.items():
            assert_exact(client.open(name), pixels)
        # And goes on: what was lost may be written again.
        image = client.open(BLOSC)
        with image.writer() as writer:
            writer.write_region(level0(BLOSC)[:4, :16, :16], offset=(0, 0, 0))
        assert_exact(image, level0(BLOSC))


def test_all_of_a_chunk_and_what_is_above_it(data):
    """Levels that are broken as well are made of what is below, the lowest first."""
    for level in range(3):
        flip(shard_path(data, GZIP, level, 0, 0, 0), -1)
    paths, left = mended(data)
    assert left == []
    assert [p.split(".ome.zarr/")[1][0] for p in paths] == ["0", "1", "2"]
    assert defects(data, pixels=True) == []


def test_what_cannot_be_mended(data):
    no_description(data)
    shard_path(data, BLOSC, 0, 0, 0, 0).unlink()
    paths, left = mended(data, pixels=True)
    assert paths == []
    assert {each.kind for each in left} == {"image", "missing"}
    assert not (data / "quarantine").exists()


def test_what_others_added_to_a_document_stays(data):
    def change(document):
        document["attributes"].pop("ome")
        document["attributes"]["theirs"] = 1

    edit(group(data, GZIP) / "zarr.json", change)
    mended(data)
    document = json.loads((group(data, GZIP) / "zarr.json").read_text())
    assert document["attributes"]["theirs"] == 1
    assert document["attributes"]["ome"]["multiscales"]


def test_what_is_refused(data, serve: Callable[..., ServerProcess]):
    with pytest.raises(NotFound):
        mended(data / "images")
    no_state(data)
    with pytest.raises(FileNotFoundError):
        mended(data)
    (data / "state.sqlite").write_bytes(b"nothing" * 1000)
    with pytest.raises(Corrupt):
        mended(data)
    server = serve()
    with pytest.raises(FailedPrecondition, match="stop it"):
        mended(server.data)


def test_what_may_not_be_locked_is_not_touched(data):
    """A server may hold a lock that only it may open."""
    (data / "tmp" / "a-write-under-way").write_text("")
    (data / "lock").unlink()
    # Not even root may write to it.
    (data / "lock").symlink_to("/sys/kernel/uevent_seqnum")
    with pytest.raises(OSError, match="lock"):
        mended(data)
    assert (data / "tmp" / "a-write-under-way").exists()
    mended(data, dry_run=True)
    assert (data / "tmp" / "a-write-under-way").exists()


def test_the_command(data):
    payload(data)
    no_description(data)
    done = run("ziggurat-engine", "repair", data, code=1)
    assert "mended: " in done.stdout
    assert "image: " in done.stdout
    assert {each.kind for each in found(data)} == {"quarantined", "image"}


def test_a_level_0_that_decodes_is_never_touched(data):
    path = shard_path(data, GZIP, 0, 1, 2, 3)
    replaced(path, np.full(CHUNK, 3, "uint16"))
    content = path.read_bytes()
    paths, left = mended(data, pixels=True)
    assert left == []
    assert all("/0/c/" not in each for each in paths)
    assert path.read_bytes() == content
    assert defects(data, pixels=True) == []


# ---- the power is cut behind every sync point


def damaged(world: World) -> tuple[np.ndarray, dict[str, bytes]]:
    """A world with broken shards of levels 0 and 1; what is to be left of level 0, and these."""
    world.open()
    world.create()
    pixels = np.arange(1, np.prod(SHAPE) + 1, dtype="<u2").reshape(SHAPE)
    stream = world.streams()["left"]
    world.engine.ingest.write(
        stream, 1, world_region(), memoryview(np.ascontiguousarray(pixels).tobytes())
    )
    world.engine.ingest.finish(stream)
    world.engine.streams.release(stream)
    world.engine.close()
    root = DATA / "images" / f"{NAME}.ome.zarr"
    broken = {}
    for name, offset in (("0/c/0/0/0", 3), ("1/c/0/0/0", -1)):
        content = bytearray(world.fs.read_file(root / name))
        for k in range(5):
            content[(offset + k * (offset > 0)) % len(content)] ^= 0x55
        with closing(world.fs.open_write(root / name)) as file:
            file.writev([bytes(content)], 0)
            file.sync()
        broken[name] = bytes(content)
    pixels[:2, :8, :8] = 0
    return pixels, broken


def world_region():
    return Region.whole(SHAPE)


def mend(world: World) -> list[Mended | Finding]:
    """Repairs what lies in a world that no engine uses."""
    fs, database = world.fs, world.database
    kernels = ReferenceKernels()

    def read_state() -> State:
        raise FileNotFoundError

    with (
        closing(Holding(fs, DATA)) as holding,
        closing(State(database.connect, database.committed)) as state,
    ):
        findings = examine(holding, read_state, None, beside=False, threads=1, progress=Progress())
        some = [each for each in findings if each.kind in ("chunk", "shard")]
        holding.objects.sweep()
        return list(mend_all(holding, Repair(holding, state, kernels), some))


def there(fs: FaultyFs, path: Path) -> list[Path]:
    if not fs.exists(path):
        return []
    below = [(path / entry.name, entry.is_dir) for entry in fs.list_dir(path)]
    return [p for p, d in below if not d] + [q for p, d in below if d for q in there(fs, p)]


def test_power_cut_after_every_sync_point():
    world = World()
    pixels, broken = damaged(world)
    start, content = world.fs.crash("keep"), world.database.content

    def fresh(fs: FaultyFs, content: bytes) -> World:
        again = World(fs, content)
        again.database = type(world.database)(fs, content)
        return again

    whole = fresh(start.crash("keep"), content)
    said = mend(whole)
    assert all(isinstance(each, Mended) for each in said)
    assert mend(whole) == []
    points = whole.fs.sync_points
    assert points > 10
    root = DATA / "images" / f"{NAME}.ome.zarr"
    for k in range(points):
        mode = ("drop", "keep", k)[k % 3]
        cut = fresh(start.crash("keep"), content)
        cut.fs.stop_after(k)
        with suppress(PowerCut):
            mend(cut)
        after = fresh(cut.fs.crash(mode), cut.database.after(mode))
        # What was broken is where it was, or in quarantine, byte for byte.
        aside = [after.fs.read_file(p) for p in there(after.fs, DATA / "quarantine")]
        for name, old in broken.items():
            inside = after.fs.exists(root / name) and after.fs.read_file(root / name) == old
            assert inside or old in aside, f"cut after {k}: {name}"
        assert all(isinstance(each, Mended) for each in mend(after))
        opened = World(after.fs, after.database.content)
        opened.open()
        try:
            image = opened.engine.image(NAME)
            list(opened.engine.builder.build(image))
            check_levels(opened, pixels)
        except BaseException as error:
            error.add_note(f"cut after sync point {k} of {points}, mode {mode}")
            raise
        finally:
            opened.engine.close()


def test_a_copy_may_be_repaired_twice(data, tmp_path):
    """What is in quarantine from before stays when something else is put aside."""
    payload(data)
    mended(data)
    first = {p: p.read_bytes() for p in kept(data)}
    flip(shard_path(data, BLOSC, 0, 0, 0, 0), -1)
    mended(data)
    second = {p: p.read_bytes() for p in kept(data)}
    assert first.items() < second.items()
    shutil.rmtree(data / "quarantine")
    assert defects(data, pixels=True) == []
