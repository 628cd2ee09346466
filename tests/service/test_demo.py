"""Does the demo do what its README lines say?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from ziggurat_engine.demo.camera import OFFSET, Camera
from ziggurat_engine.demo.probe import halved

from tests.support.command import run

TABLE = re.compile(r"^ *(\d+) .* (\d+) +[\d.]+ (?:B|KiB|MiB) +([\d.]+)%", re.MULTILINE)


def rows(output: str) -> list[int]:
    return [int(found[1]) for found in TABLE.finditer(output)]


def test_simulated_frames_are_kept(tmp_path: Path) -> None:
    done = run("ziggurat-engine", "demo", "--mib", 8, "--keep", tmp_path)
    assert rows(done.stdout) == list(range(len(rows(done.stdout))))
    assert len(rows(done.stdout)) >= 2
    assert "MB/s until acknowledged" in done.stdout
    store = tmp_path / "data" / "images" / "demo.ome.zarr"
    assert str(store) in done.stdout
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    camera = Camera((512, 512), 15)
    level = zarr.open_array(store / "0", mode="r")
    assert level.shape == (15, 512, 512)
    assert np.array_equal(level[3], camera.frame(3))


def test_what_is_set_for_a_server_is_not_for_the_demo(tmp_path: Path) -> None:
    """In a container, beside the server there."""
    elsewhere = {"ZIGGURAT_DATA": "/no/data", "ZIGGURAT_LOG": "/no/log", "ZIGGURAT_CA": "/no.pem"}
    set_ = {"ZIGGURAT_AUTH": "token", "ZIGGURAT_LISTEN": "0.0.0.0:1", "ZIGGURAT_TOKEN": "zig_no"}
    run("ziggurat-engine", "demo", "--mib", 1, TMPDIR=str(tmp_path), **elsewhere, **set_)


def test_a_file_leaves_nothing_behind(tmp_path: Path, shared_data: Path) -> None:
    file = shared_data / "xyzc_16bit__dna_conf_wf.tif"
    done = run("ziggurat-engine", "demo", file, TMPDIR=str(tmp_path))
    assert "czyx 2 x 45 x 130 x 133 uint16" in done.stdout
    assert "all pixels of" in done.stdout
    assert "0.49941 x 0.51188 x 0.51188 micrometer" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_taken_name_is_one_line(tmp_path: Path) -> None:
    run("ziggurat-engine", "demo", "--mib", 1, "--keep", tmp_path)
    done = run("ziggurat-engine", "demo", "--mib", 1, "--keep", tmp_path, code=1)
    assert len(done.stderr.splitlines()) == 1
    assert f"{tmp_path} holds an image 'demo' already" in done.stderr


def test_a_file_that_is_no_tiff_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "not.tif"
    file.write_bytes(b"no TIFF")
    done = run("ziggurat-engine", "demo", file, code=1)
    assert len(done.stderr.splitlines()) == 1
    assert "not a TIFF file" in done.stderr


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    done = run("ziggurat-engine", "demo", tmp_path / "none.tif", code=1)
    assert len(done.stderr.splitlines()) == 1
    assert "none.tif" in done.stderr


def test_without_the_extra_it_says_what_is_missing() -> None:
    program = (
        "import sys; sys.modules['ziggurat'] = None;"
        "from ziggurat_engine.cli import main; main(['demo', '--mib', '1'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ziggurat-engine[demo]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_frames_have_the_noise_of_a_camera() -> None:
    camera = Camera((256, 320), 9)
    frames = np.stack([camera.frame(k) for k in range(9)])
    assert frames.min() > OFFSET
    assert len({frame.tobytes() for frame in frames}) == 9
    dark = np.median(frames)
    assert 900 < dark < 1200
    # The noise of about 900 photons, where there is no blob.
    pairs = np.diff(frames[:, :8, :8].astype(float), axis=0)
    assert 20 < np.median(np.abs(pairs)) / 0.6745 / np.sqrt(2) < 45
    assert np.array_equal(Camera((256, 320), 9).frame(5), frames[5])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint64", "int64", "float32"])
def test_the_cascade_rounds_half_to_even(dtype: str) -> None:
    pixels = np.array([[1, 2, 4], [1, 2, 5], [7, 8, 9]], dtype)
    expected = {True: [[1.5, 4.5], [7.5, 9]], False: [[2, 4], [8, 9]]}[dtype.startswith("f")]
    assert halved(pixels, (2, 2)).tolist() == expected


def test_needs_no_terminal_nor_colour(tmp_path: Path) -> None:
    done = run("ziggurat-engine", "demo", "--mib", 1, "--keep", tmp_path, TERM="dumb")
    assert "\x1b" not in done.stdout + done.stderr
    assert os.linesep in done.stdout
