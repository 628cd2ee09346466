"""How is a Blosc frame written and read by compiled loops, block by block?

The format is c-blosc 1's, and so are the choices (size of blocks, split streams, when a block is
stored as it is): a frame is, byte for byte, the one that c-blosc makes with the same libraries.

    header[16] | where each block begins, i4[blocks] | blocks
    header: version 2, codec's version 1, flags, itemsize, then u4: raw bytes, bytes of a block,
            bytes of the frame
    flags: 1 bytes shuffled, 2 stored raw as a whole, 4 bits shuffled, 16 not split, codec << 5
    block: streams, each i4 bytes[4] | payload; as many bytes as it has raw: stored as it is.
           One stream; in a split frame one a byte of an element, but for a short last block

c-blosc 1 makes a context of Zstandard for every block and knows no wider vectors than the oldest
processors of its kind; these loops keep contexts, and are compiled for the processor at hand.
They do what chunks of images need; for all else (`encode` and `decode` give None) there is c-blosc.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numcodecs import blosc

from ziggurat_engine.errors import Corrupt
from ziggurat_engine.kernels import _native, _shuffle
from ziggurat_engine.kernels.codec import BLOSC_HEADER, SHUFFLES
from ziggurat_engine.loops import Vector, compiled, once, run
from ziggurat_engine.spec import Array, Blosc

VERSIONS = (2, 1)
_BYTES, RAW, _BITS, UNKNOWN, _WHOLE = 1, 2, 4, 8, 16
_LZ4, _ZSTD = 1, 4
# Streams of less are not split off.
_MIN_STREAM = 128
# More does not change what c-blosc chooses, but for blocks as long, and takes time to ask for.
PROBED_BYTES = 8 * 2**20
# Work areas that nobody uses, kept for the next who needs one.
_MAX_SPARE = 16


class _Desk:
    """What one thread works on and in."""

    __slots__ = ("contexts", "frame", "planes", "words")

    def __init__(self) -> None:
        self.contexts = _native.ZstdContexts()
        self.planes: Vector = np.empty(0, np.uint8)
        self.frame: Vector = np.empty(0, np.uint8)
        self.words = _shuffle.scratch()


_spare: list[_Desk] = []
_spare_lock = threading.Lock()


@contextmanager
def _desk(block: int, frame: int = 0) -> Iterator[_Desk]:
    """A desk with room for so many bytes of planes, and of a frame."""
    with _spare_lock:
        desk = _spare.pop() if _spare else None
    desk = desk or _Desk()
    if desk.planes.size < block:
        desk.planes = np.empty(block, np.uint8)
    if desk.frame.size < frame:
        desk.frame = np.empty(frame, np.uint8)
    try:
        yield desk
    finally:
        with _spare_lock:
            if len(_spare) < _MAX_SPARE:
                _spare.append(desk)


def encode(pixels: Array, codec: Blosc) -> memoryview | None:
    """The frame of `pixels`, C-contiguous and little-endian; None: it is for c-blosc."""
    if not _native.AVAILABLE:
        return None
    head = _header(pixels.nbytes, pixels.itemsize, codec.compressor, codec.level, codec.shuffle)
    if head is None:
        return None
    flags, block = head
    raw = np.require(pixels, requirements=["C", "A"]).reshape(-1).view(np.uint8)
    raw.flags.writeable = False
    warm()
    # No longer than a frame stored raw, which c-blosc makes of what does not fit.
    room = raw.size + BLOSC_HEADER.size
    with _desk(block, room) as desk:
        into, context = desk.frame[:room], desk.contexts.compress
        shape = (pixels.itemsize, flags, block, _effort(codec))
        size = _encode(raw, *shape, into, desk.planes, desk.words, context)
        if size == 0:
            flags, size = flags | RAW, room
            into[BLOSC_HEADER.size :] = raw
        header = BLOSC_HEADER.pack(*VERSIONS, flags, pixels.itemsize, raw.size, block, size)
        into[: len(header)] = np.frombuffer(header, np.uint8)
        # Not `tobytes`: that copies with the interpreter's lock held.
        return into[:size].copy().data


def decode(frame: bytes, pixels: Array) -> bool:
    """Fills `pixels`, C-contiguous and little-endian; False: it is for c-blosc.

    `frame` has at least the bytes of a header, and declares its own length and that of
    `pixels`, which the caller looked at. Raises Corrupt; `pixels` then hold anything.
    """
    if not _native.AVAILABLE:
        return False
    version, codec_version, flags, itemsize, nbytes, block, _ = BLOSC_HEADER.unpack_from(frame)
    if (version, codec_version) != VERSIONS or not _known(flags, itemsize, nbytes, block):
        return False
    if len(frame) < BLOSC_HEADER.size + 4 * -(-nbytes // block):
        raise Corrupt(f"a Blosc frame of {len(frame)} bytes is shorter than its table of blocks")
    warm()
    with _desk(block) as desk:
        source = np.frombuffer(frame, np.uint8)
        out = pixels.reshape(-1).view(np.uint8)
        context = desk.contexts.decompress
        bad = _decode(source, itemsize, flags, block, out, desk.planes, desk.words, context)
    if bad >= 0:
        raise Corrupt(f"a Blosc frame does not decode: block {bad} is not what it should be")
    return True


def warm() -> None:
    """Compiles what is needed, or loads it; nothing to do where that was done."""
    if _native.AVAILABLE:
        once("blosc", np.dtype(np.uint8), _compile)


def _compile() -> None:
    desk = _Desk()
    raw, room = np.zeros(64, np.uint8), np.zeros(128, np.uint8)
    raw.flags.writeable = False
    frame = np.frombuffer(bytes(32), np.uint8)
    contexts = desk.contexts
    run(_encode, raw, 2, _ZSTD << 5, 64, 1, room, room[64:].copy(), desk.words, contexts.compress)
    run(_decode, frame, 2, _ZSTD << 5, 64, room, room[64:].copy(), desk.words, contexts.decompress)


def _known(flags: int, itemsize: int, nbytes: int, block: int) -> bool:
    """Whether the loops below are right for such a frame."""
    if flags & RAW or flags >> 5 not in (_LZ4, _ZSTD) or itemsize not in _shuffle.ITEMSIZES:
        return False
    if flags & UNKNOWN or (flags & _BITS and flags & _BYTES):
        # Damaged, or newer: what c-blosc makes of it is what all others do.
        return False
    if not 0 < block <= nbytes:
        return False
    step = itemsize * (8 if flags & _BITS else 1)
    return block % step == 0 and nbytes % step == 0


@functools.lru_cache(256)
def _probe(
    nbytes: int, itemsize: int, compressor: str, level: int, shuffle: str
) -> tuple[int, int]:
    """(flags, bytes of a block) that c-blosc chooses, asked with a chunk of zeros."""
    frame = blosc.compress(
        bytes(nbytes), compressor.encode(), level, SHUFFLES[shuffle], blosc.AUTOBLOCKS, itemsize
    )
    _, _, flags, _, _, block, _ = BLOSC_HEADER.unpack_from(frame)
    return flags, block


def _header(
    nbytes: int, itemsize: int, compressor: str, level: int, shuffle: str
) -> tuple[int, int] | None:
    """As `_probe`; None: the loops below are not for such frames."""
    if itemsize not in _shuffle.ITEMSIZES or nbytes == 0:
        return None
    flags, block = _probe(nbytes, itemsize, compressor, level, shuffle)
    return (flags, block) if _known(flags, itemsize, nbytes, block) else None


def block_of(nbytes: int, itemsize: int, codec: Blosc) -> int:
    """Bytes of a block of our frames of so many, whoever makes them; about right for large ones."""
    asked = min(nbytes, PROBED_BYTES)
    return _probe(asked, itemsize, codec.compressor, codec.level, codec.shuffle)[1]


def _effort(codec: Blosc) -> int:
    """What c-blosc asks of the library for one of its levels (blosc.c, 1.21)."""
    if codec.compressor == "lz4":
        return 10 - codec.level
    return 2 * codec.level - 1 if codec.level < 8 else {8: 20, 9: 22}[codec.level]


@compiled
def _streams(flags: int, itemsize: int, size: int, block: int) -> int:
    """Of how many streams a block of `size` bytes consists."""
    split = flags & _WHOLE == 0 and size == block and size // itemsize >= _MIN_STREAM
    return itemsize if split else 1


@compiled
def _copy(source: Vector, target: Vector) -> None:
    # A loop that becomes vectors, which the assignment of a slice does not.
    for i in range(source.size):
        target[i] = source[i]


@compiled
def _put(frame: Vector, at: int, number: int) -> None:
    for i in range(4):
        frame[at + i] = (number >> (8 * i)) & 0xFF


@compiled
def _got(frame: Vector, at: int) -> int:
    number = 0
    for i in range(4):
        number |= int(frame[at + i]) << (8 * i)
    # Larger than any frame where it is meant to be negative.
    return number


@compiled
def _pack(stream: Vector, frame: Vector, at: int, codec: int, effort: int, context: int) -> int:
    """Puts a stream at `at`; returns its bytes there, 0 where the frame has no room for it."""
    length = stream.size
    room = min(length, frame.size - at)
    if room <= 0:
        return 0
    source, target = stream.ctypes.data, frame[at:].ctypes.data
    if codec == _ZSTD:
        made = np.int64(_native.zstd_compress(context, target, room, source, length, effort))
    else:
        made = np.int64(_native.lz4_compress(source, target, length, room, effort))
    if 0 < made < length:
        return int(made)
    if room < length:
        return 0
    _copy(stream, frame[at : at + length])
    return length


@compiled
def _unpack(source: Vector, stream: Vector, codec: int, context: int) -> bool:
    """Fills `stream`; False: `source` is not as many bytes compressed."""
    if source.size == stream.size:
        _copy(source, stream)
        return True
    data, target = source.ctypes.data, stream.ctypes.data
    if codec == _ZSTD:
        made = np.int64(_native.zstd_decompress(context, target, stream.size, data, source.size))
    else:
        made = np.int64(_native.lz4_decompress(data, target, source.size, stream.size))
    return bool(made == stream.size)


@compiled
def _encode(
    raw: Vector,
    itemsize: int,
    flags: int,
    block: int,
    effort: int,
    frame: Vector,
    planes: Vector,
    words: Vector,
    context: int,
) -> int:
    """Writes what follows the header; returns the bytes of the frame, 0 where it has no room."""
    at = 16 + 4 * -(-raw.size // block)
    for b in range(-(-raw.size // block)):
        source = raw[b * block : min((b + 1) * block, raw.size)]
        shuffled = planes[: source.size]
        if flags & _BITS:
            _shuffle.shuffle_bits(source, itemsize, shuffled, words)
        elif flags & _BYTES:
            _shuffle.shuffle_bytes(source, itemsize, shuffled)
        else:
            _copy(source, shuffled)
        _put(frame, 16 + 4 * b, at)
        streams = _streams(flags, itemsize, source.size, block)
        length = source.size // streams
        for s in range(streams):
            stream = shuffled[s * length : (s + 1) * length]
            made = _pack(stream, frame, at + 4, flags >> 5, effort, context)
            if made == 0:
                return 0
            _put(frame, at, made)
            at += 4 + made
    return at


@compiled
def _decode(
    frame: Vector,
    itemsize: int,
    flags: int,
    block: int,
    out: Vector,
    planes: Vector,
    words: Vector,
    context: int,
) -> int:
    """Fills `out`; returns -1, or the number of a block that is not what it should be.

    The frame may hold anything: whatever is read of it is looked at before it is used.
    """
    for b in range(-(-out.size // block)):
        target = out[b * block : min((b + 1) * block, out.size)]
        # Where nothing is shuffled the library writes where the pixels are wanted.
        into = planes[: target.size] if flags & (_BITS | _BYTES) else target
        streams = _streams(flags, itemsize, target.size, block)
        length = target.size // streams
        at = _got(frame, 16 + 4 * b)
        for s in range(streams):
            if at > frame.size - 4:
                return b
            stored = _got(frame, at)
            at += 4
            if stored > frame.size - at:
                return b
            stream = into[s * length : (s + 1) * length]
            if not _unpack(frame[at : at + stored], stream, flags >> 5, context):
                return b
            at += stored
        if flags & _BITS:
            _shuffle.unshuffle_bits(into, itemsize, target, words)
        elif flags & _BYTES:
            _shuffle.unshuffle_bytes(into, itemsize, target)
    return -1
