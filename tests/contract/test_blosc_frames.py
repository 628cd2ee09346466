"""Are the Blosc frames of the compiled loops those of c-blosc, and are c-blosc's read?"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc
from ziggurat_engine.errors import Corrupt
from ziggurat_engine.kernels import _blosc, _native, codec, coding
from ziggurat_engine.kernels.codec import SHUFFLES
from ziggurat_engine.spec import Blosc

CODECS = st.builds(
    Blosc,
    compressor=st.sampled_from(["zstd", "lz4"]),
    shuffle=st.sampled_from(["none", "byte", "bit"]),
    level=st.integers(0, 6),
)
DTYPES = st.sampled_from([np.dtype(f"<{kind}") for kind in ("u1", "u2", "u4", "f4", "f8")])
# How many of the lowest bits are noise: nothing, camera-like, incompressible.
NOISE_BITS = st.sampled_from([0, 1, 5, 8, 64])


def pixels_of(dtype: np.dtype[np.generic], size: int, bits: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    whole = np.dtype(f"<u{dtype.itemsize}")
    noise = rng.integers(0, 2 ** min(bits, 8 * whole.itemsize), size, whole, endpoint=False)
    return (noise + np.arange(size, dtype=whole) // 50).astype(whole).view(dtype)


def c_blosc(pixels: np.ndarray, codec: Blosc, block: int = blosc.AUTOBLOCKS) -> bytes:
    name, shuffle = codec.compressor.encode(), SHUFFLES[codec.shuffle]
    return bytes(blosc.compress(pixels, name, codec.level, shuffle, block, pixels.itemsize))


def test_numcodecs_shows_what_is_needed():
    # Else all others here pass by the way of c-blosc.
    assert _native.AVAILABLE
    pixels = pixels_of(np.dtype("<u2"), 64**3, 5, 0).reshape(64, 64, 64)
    for compressor in ("zstd", "lz4"):
        codec = Blosc(compressor=compressor)
        frame = _blosc.encode(pixels, codec)
        assert frame == c_blosc(pixels, codec)
        assert _blosc.decode(frame, np.empty_like(pixels))


@settings(max_examples=300)
@given(CODECS, DTYPES, st.integers(1, 70_000), NOISE_BITS, st.integers(0, 9))
def test_frames_are_those_of_c_blosc_byte_for_byte(codec, dtype, size, bits, seed):
    pixels = pixels_of(dtype, size, bits, seed)
    expected = c_blosc(pixels, codec)
    assert coding.encode(pixels, codec) == expected
    assert coding.decode(expected, codec, dtype, pixels.shape).tobytes() == pixels.tobytes()


@settings(max_examples=300)
@given(CODECS, DTYPES, st.integers(1, 5000), st.integers(1, 3000), NOISE_BITS)
def test_frames_with_blocks_of_any_size_are_read(codec, dtype, size, block, bits):
    pixels = pixels_of(dtype, size, bits, 1)
    frame = c_blosc(pixels, codec, block)
    assert coding.decode(frame, codec, dtype, pixels.shape).tobytes() == pixels.tobytes()


@settings(max_examples=500)
@given(CODECS, st.integers(64, 20_000), NOISE_BITS, st.data())
def test_a_damaged_frame_gives_pixels_or_corrupt(codec, size, bits, data):
    pixels = pixels_of(np.dtype("<u2"), size, bits, 2)
    damaged = bytearray(c_blosc(pixels, codec))
    # Not the sizes in the header, which are looked at before: everything behind them.
    for _ in range(data.draw(st.integers(1, 4))):
        near = st.integers(16, min(len(damaged) - 1, 120))
        at = data.draw(near | st.integers(16, len(damaged) - 1))
        damaged[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    damaged[2] ^= data.draw(st.sampled_from([0, 0, 1, 4, 16, 0xA0]))
    damaged[3] = data.draw(st.sampled_from([2, 2, 1, 4, 8, 3, 255]))
    try:
        found = coding.decode(bytes(damaged), codec, pixels.dtype, pixels.shape)
    except Corrupt:
        return
    assert found.shape == pixels.shape


@pytest.mark.parametrize("flag", [1, 8], ids=["both-shuffles", "unknown"])
def test_flags_that_make_no_sense_are_judged_as_by_other_readers(flag):
    pixels = pixels_of(np.dtype("<u2"), 1000, 5, 4)
    frame = bytearray(c_blosc(pixels, Blosc()))
    assert frame[2] & 4
    frame[2] |= flag

    def read(reader) -> bytes | None:
        try:
            return reader.decode(bytes(frame), Blosc(), pixels.dtype, pixels.shape).tobytes()
        except Corrupt:
            return None

    assert read(coding) == read(codec)


def test_a_frame_cut_within_its_table_is_corrupt():
    pixels = pixels_of(np.dtype("<u2"), 64**3, 5, 3)
    frame = bytearray(c_blosc(pixels, Blosc())[:40])
    frame[12:16] = len(frame).to_bytes(4, "little")
    with pytest.raises(Corrupt, match="table of blocks"):
        coding.decode(bytes(frame), Blosc(), pixels.dtype, pixels.shape)


def test_many_threads_at_once():
    expected = {}
    for seed in range(8):
        pixels = pixels_of(np.dtype("<u2"), 32**3 * (1 + seed % 3), 6, seed)
        expected[c_blosc(pixels, Blosc())] = pixels
    wrong: list[object] = []

    def work() -> None:
        for _ in range(20):
            for frame, pixels in expected.items():
                found = coding.decode(frame, Blosc(), pixels.dtype, pixels.shape)
                if coding.encode(found, Blosc()) != frame or found.tobytes() != pixels.tobytes():
                    wrong.append(frame)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["generic", "this one"])
def test_loops_that_were_never_compiled_before_make_the_same_frames(processor, tmp_path):
    program = """
        import numpy as np
        from numcodecs import blosc
        from ziggurat_engine.kernels import _bits, coding
        from ziggurat_engine.spec import Blosc

        print(_bits.AVAILABLE)
        for size in (1, 2, 4, 8):
            pixels = np.random.default_rng(0).integers(0, 99, 9001).astype(f"<u{size}")
            codec = Blosc(compressor="lz4")
            frame = coding.encode(pixels, codec)
            assert frame == blosc.compress(pixels, b"lz4", 1, blosc.BITSHUFFLE), size
            again = coding.decode(bytes(frame), codec, pixels.dtype, pixels.shape)
            assert (again == pixels).all(), size
    """
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    if processor == "generic":
        environment["NUMBA_CPU_NAME"] = "generic"
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert processor != "generic" or done.stdout == "False\n"
