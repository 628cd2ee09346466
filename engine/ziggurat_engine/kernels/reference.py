"""What are the right results? Plain NumPy on one thread, the oracle of the others.

The mean walks over the places of a window in lexicographic order, and adds the
pixels at that place of all windows at once. A window that the edge clips has no
pixel at its last places: only the windows that do have one are added to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.kernels import codec
from ziggurat_engine.kernels.meter import Meter
from ziggurat_engine.kernels.protocol import KernelTotals, Points, Recipe, Settled, Surrounded
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, Codec

Method: TypeAlias = Callable[[Array, Shape, Shape], Array]
"""(chunk, valid, factors) -> a new C-contiguous array of shape ceil(valid / factors)."""

HaloMethod: TypeAlias = Callable[[Array, Shape, Shape, Shape], Array]
"""(pixels, before, valid, factors) of a protocol.Surrounded -> as Method."""

MAX_GAUSSIAN_FACTOR = 4


def mean(chunk: Array, valid: Shape, factors: Shape) -> Array:
    """The mean of each window of `factors` pixels, clipped to the `valid` ones.

    Integers round half to even. Floats are added to zero in the order of a window's
    pixels in the chunk's own dtype, then divided by their number; a mean that is not
    a number is the one quiet NaN with no payload, wherever it came from.
    Equals tensorstore.downsample(..., "mean"), but for one thing: a float array in which
    every window has one pixel is copied there, while here -0.0 becomes 0.0, as it does in
    any other window; so the result does not depend on how a level is cut into chunks.
    """
    pixels = chunk[tuple(map(slice, valid))]
    if all(f == 1 for f in factors):
        return pixels.copy()
    if chunk.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            total, count = _sums(pixels, factors, chunk.dtype)
            result = total / count.astype(chunk.dtype)
        result[np.isnan(result)] = np.nan
    else:
        # Python's integers can't overflow; int64 can't either where pixels have 32 bits at most.
        total, count = _sums(pixels, factors, np.dtype(object if chunk.itemsize == 8 else "i8"))
        result = _rounded(total, count)
    found: Array = result.astype(chunk.dtype)
    return found


def _rounded(total: np.ndarray[Any, Any], count: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The quotients, half to even."""
    quotient: Any = total // count
    twice = 2 * (total - quotient * count)
    up = (twice > count) | ((twice == count) & (quotient % 2 == 1))
    rounded: np.ndarray[Any, Any] = quotient + up
    return rounded


def _sums(
    pixels: Array, factors: Shape, dtype: np.dtype[Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    shape = tuple(-(-n // f) for n, f in zip(pixels.shape, factors, strict=True))
    total = np.zeros(shape, dtype)
    count = np.zeros(shape, np.int64)
    places = (range(min(n, f)) for n, f in zip(pixels.shape, factors, strict=True))
    for place in itertools.product(*places):
        members = pixels[tuple(slice(p, None, f) for p, f in zip(place, factors, strict=True))]
        windows = tuple(map(slice, members.shape))
        total[windows] += members.astype(dtype)
        count[windows] += 1
    return total, count


def minimum(chunk: Array, valid: Shape, factors: Shape) -> Array:
    """The smallest pixel of each window, clipped to the `valid` ones.

    Floats: NaNs are passed over, the result is inf where there is nothing else; of -0.0 and
    0.0 the first counts. Equals tensorstore.downsample(..., "min"), but where every window of
    a whole float array has one pixel: it is copied there, NaNs too (see `mean`).
    """
    return _extreme(chunk, valid, factors, np.less, math.inf)


def maximum(chunk: Array, valid: Shape, factors: Shape) -> Array:
    """The largest pixel of each window; -inf where all are NaN, and else as `minimum`."""
    return _extreme(chunk, valid, factors, np.greater, -math.inf)


def median(chunk: Array, valid: Shape, factors: Shape) -> Array:
    """The lower median of each window: of n sorted pixels number (n - 1) // 2, from 0.

    Floats are sorted with -0.0 below 0.0, and with all NaNs as one value above all numbers;
    a median that is not a number has no payload. Equals tensorstore.downsample(...,
    "median") for windows without a NaN, up to the sign of a zero where a window has both: what
    it gives there depends on the order of the pixels.
    """
    if all(f == 1 for f in factors):
        return chunk[tuple(map(slice, valid))].copy()
    out = _empty(chunk, valid, factors)
    for windows, members in _windows(chunk, valid, factors):
        out[windows] = _sorted(members)[..., (members.shape[-1] - 1) // 2]
    return _plain(out)


def mode(chunk: Array, valid: Shape, factors: Shape) -> Array:
    """The most frequent pixel of each window, the smallest where there are several.

    Floats are ordered as for `median`; -0.0 and 0.0 count as one value, which is -0.0 if one of
    them is. Equals tensorstore.downsample(..., "mode") as the median does.
    """
    if all(f == 1 for f in factors):
        return chunk[tuple(map(slice, valid))].copy()
    out = _empty(chunk, valid, factors)
    for windows, members in _windows(chunk, valid, factors):
        ordered = _sorted(members)
        first = found = ordered[..., 0]
        run = np.ones(first.shape, np.int64)
        longest = run
        for k in range(1, ordered.shape[-1]):
            pixel = ordered[..., k]
            same = (pixel == first) | (_is_nan(pixel) & _is_nan(first))
            first, run = np.where(same, first, pixel), np.where(same, run + 1, 1)
            found, longest = np.where(run > longest, first, found), np.maximum(run, longest)
        out[windows] = found
    return _plain(out)


def stride(chunk: Array, valid: Shape, factors: Shape) -> Array:
    """The first pixel of each window, with all its bits, as tensorstore's "stride"."""
    pixels = chunk[tuple(map(slice, valid))]
    return pixels[tuple(slice(None, None, f) for f in factors)].copy()


def _extreme(
    chunk: Array, valid: Shape, factors: Shape, better: Callable[..., Any], none: float
) -> Array:
    if all(f == 1 for f in factors):
        return chunk[tuple(map(slice, valid))].copy()
    out = _empty(chunk, valid, factors)
    for windows, members in _windows(chunk, valid, factors):
        found = members[..., 0]
        if chunk.dtype.kind == "f":
            found = np.full_like(found, none)
        for k in range(members.shape[-1]):
            pixel = members[..., k]
            found = np.where(better(pixel, found), pixel, found)
        out[windows] = found
    return out


def _empty(chunk: Array, valid: Shape, factors: Shape) -> Array:
    return np.empty([-(-n // f) for n, f in zip(valid, factors, strict=True)], chunk.dtype)


def _windows(
    chunk: Array, valid: Shape, factors: Shape
) -> Iterator[tuple[tuple[slice, ...], Array]]:
    """(windows, members of each on a last axis, in order): the whole ones, then the clipped."""
    parts = []
    for n, f in zip(valid, factors, strict=True):
        whole = n // f
        cuts = [(slice(0, whole), slice(0, whole * f), min(f, n))] if whole else []
        if n % f:
            cuts.append((slice(whole, whole + 1), slice(whole * f, n), n % f))
        parts.append(cuts)
    rank = len(valid)
    for part in itertools.product(*parts):
        windows, boxes, sizes = zip(*part, strict=True)
        pixels = chunk[boxes]
        split = [size for n, f in zip(pixels.shape, sizes, strict=True) for size in (n // f, f)]
        members = pixels.reshape(split).transpose(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2))
        yield windows, members.reshape(*members.shape[:rank], math.prod(sizes))


def _sorted(members: Array) -> Array:
    if members.dtype.kind != "f":
        return np.sort(members, axis=-1)
    # The last key counts most; a NaN comes after all numbers.
    order = np.lexsort((~np.signbit(members), members), axis=-1)
    return np.take_along_axis(members, order, axis=-1)


def _is_nan(pixels: Array) -> np.ndarray[Any, Any]:
    """Of any type, what np.isnan has for floats only."""
    return np.not_equal(pixels, pixels)


def _plain(pixels: Array) -> Array:
    """A NaN has no payload."""
    if pixels.dtype.kind == "f":
        pixels[np.isnan(pixels)] = np.nan
    return pixels


def gaussian(pixels: Array, before: Shape, valid: Shape, factors: Shape) -> Array:
    """Each window and one pixel around it, weighted with binomial coefficients.

    Along an axis binned by f the f + 2 pixels centred on a window have the weights of row
    f + 1 of Pascal's triangle: 1 3 3 1 for 2, 1 4 6 4 1 for 3, 1 5 10 10 5 1 for 4; along
    others the pixel stays. A pixel's weight is the product over the axes. Pixels that the level
    does not have are left out, and the rest is divided by the sum of its own weights.

    Integers: the sum is exact and rounds half to even. Floats: along the last axis each row
    of a window is summed from zero, pixel by pixel; these sums, times the product of the other
    axes' weights, are added to zero in the order of the rows, all in the pixels' own type; then
    comes one division. What is not a number has no payload.
    pixels, before, valid: see protocol.Surrounded. Raises InvalidArgument for factors above 4.
    """
    check_gaussian(factors)
    if all(f == 1 for f in factors):
        return pixels.copy()
    kind: Any = pixels.dtype
    if kind.kind != "f":
        kind = np.dtype(object if kind.itemsize == 8 else "i8")
    shape = tuple(-(-n // f) for n, f in zip(valid, factors, strict=True))
    *others, last = (
        _taps(*axis) for axis in zip(pixels.shape, before, shape, factors, strict=True)
    )
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.zeros((*pixels.shape[:-1], shape[-1]), kind)
        for weight, windows, places in last:
            rows[..., windows] += weight * pixels[..., places].astype(kind)
        total = np.zeros(shape, kind)
        for taps in itertools.product(*others):
            weights, boxes, boxes_of_rows = zip(*taps, strict=True)
            total[boxes] += math.prod(weights) * rows[boxes_of_rows]
        count = np.ones(shape, np.int64)
        for axis, (n, ones) in enumerate(zip(shape, (*others, last), strict=True)):
            along = np.zeros(n, np.int64)
            for weight, windows, _ in ones:
                along[windows] += weight
            count *= along.reshape((-1,) + (1,) * (len(shape) - axis - 1))
        if pixels.dtype.kind == "f":
            return _plain(total / count.astype(kind))
    found: Array = _rounded(total, count).astype(pixels.dtype)
    return found


def check_gaussian(factors: Shape) -> None:
    """Raises InvalidArgument where a factor is above 4."""
    if max(factors) > MAX_GAUSSIAN_FACTOR:
        raise InvalidArgument(
            f"gaussian downsampling has factors of at most {MAX_GAUSSIAN_FACTOR}, got {factors}",
            field="factors",
        )


def binomial(factor: int) -> list[int]:
    """The weights along an axis that is binned by `factor`."""
    return [math.comb(factor + 1, k) for k in range(factor + 2)] if factor > 1 else [1]


def _taps(n: int, before: int, count: int, factor: int) -> list[tuple[int, slice, slice]]:
    """Along one axis, for each weight: it, the windows that have such a pixel, these pixels."""
    taps = []
    for k, weight in enumerate(binomial(factor)):
        place = before + k - (factor > 1)  # of window 0
        first = -(-max(0, -place) // factor)
        stop = max(first, min(count, -(-(n - place) // factor)))
        start = place + first * factor
        places = slice(start, start + (stop - first) * factor, factor)
        taps.append((weight, slice(first, stop), places))
    return taps


METHODS: Mapping[str, Method] = {
    "mean": mean,
    "median": median,
    "mode": mode,
    "min": minimum,
    "max": maximum,
    "stride": stride,
}
HALO_METHODS: Mapping[str, HaloMethod] = {"gaussian": gaussian}


def method_for(recipe: Recipe, methods: Mapping[str, Method]) -> Method | None:
    """The recipe's downsampling method; InvalidArgument where `methods` has none.

    None where nothing is downsampled, whatever the method.
    """
    if recipe.factors is None:
        return None
    if recipe.downsampling not in methods:
        raise InvalidArgument(
            f"downsampling {recipe.downsampling!r} is not one of {', '.join(methods)}",
            field="downsampling",
        )
    return methods[recipe.downsampling]


def is_filled(chunk: Array, fill_value: np.generic) -> bool:
    """True where every pixel has the bits of the fill value.

    Bits, not values: -0.0 is not 0.0, and a NaN with a payload is not the plain
    one, so that what is left unstored reads back as it was written.
    """
    bits = np.dtype(f"u{chunk.itemsize}")
    return bool((chunk.view(bits) == np.asarray(fill_value, chunk.dtype).view(bits)).all())


def sample(
    pixels: Array,
    offset: Shape,
    limits: Shape,
    points: Points,
    interpolation: str,
    fill_value: np.generic,
) -> Array:
    """See Kernels.sample."""
    out: Array = np.full(points.shape, fill_value, pixels.dtype)
    places = points.coordinates()
    inside = np.ones(points.shape, np.bool_)
    for place, n in zip(places, limits, strict=True):
        inside &= (place >= -0.5) & (place < n - 0.5)
    places = [place[inside] for place in places]
    if interpolation == "nearest":
        # Just below n - 1/2 the sum may round up to n.
        nearest = [
            np.minimum(np.floor(place + 0.5), n - 1).astype(np.int64) - o
            for place, o, n in zip(places, offset, limits, strict=True)
        ]
        out[inside] = pixels[tuple(nearest)]
        return out
    clipped = [np.clip(place, 0, n - 1) for place, n in zip(places, limits, strict=True)]
    below = [np.floor(place).astype(np.int64) for place in clipped]
    shares = [place - low for place, low in zip(clipped, below, strict=True)]
    total = np.zeros(shares[0].shape, np.float64)
    for corner in itertools.product((0, 1), repeat=len(limits)):
        weight: Any = 1.0
        for share, up in zip(shares, corner, strict=True):
            weight = weight * (share if up else 1.0 - share)
        has = weight != 0
        index = tuple((low + up - o)[has] for low, up, o in zip(below, corner, offset, strict=True))
        with np.errstate(over="ignore", invalid="ignore"):
            total[has] += weight[has] * pixels[index].astype(np.float64)
    centre = np.logical_and.reduce([share == 0 for share in shares])
    exact = pixels[tuple((low - o)[centre] for low, o in zip(below, offset, strict=True))]
    if pixels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            values: Any = total.astype(pixels.dtype)
        values[np.isnan(values)] = np.nan
    else:
        limits_of = np.iinfo(pixels.dtype.name)
        whole = np.rint(total)
        # As a float the upper limit of 64 bits is one too large.
        high, low_ = whole >= float(limits_of.max), whole <= float(limits_of.min)
        whole[high | low_] = 0
        values = whole.astype(pixels.dtype)
        values[high], values[low_] = limits_of.max, limits_of.min
    values[centre] = exact
    out[inside] = values
    return out


class ReferenceKernels:
    """Kernels that work on the caller's thread, one chunk when it is asked for."""

    name = "reference"
    devices = ()

    def __init__(self) -> None:
        self._meter = Meter()

    @property
    def totals(self) -> KernelTotals:
        """See Kernels.totals."""
        return self._meter.totals

    def settle(
        self, chunks: Sequence[Array], valid: Sequence[Shape], recipe: Recipe
    ) -> Generator[Settled, None, None]:
        """See Kernels.settle. Raises InvalidArgument for an unknown method."""
        method = method_for(recipe, METHODS)
        return (
            settle(chunk, extent, recipe, method, is_filled, codec.encode, self._meter)
            for chunk, extent in zip(chunks, valid, strict=True)
        )

    def downsample(self, blocks: Sequence[Surrounded], recipe: Recipe) -> Generator[Array]:
        """See Kernels.downsample."""
        parent_of = over_blocks(recipe, METHODS, HALO_METHODS, self._meter)
        return (parent_of(block) for block in blocks)

    def decode(
        self, frame: bytes, codec_: Codec, dtype: np.dtype[np.generic], shape: Shape
    ) -> Array:
        """See Kernels.decode."""
        return decode(frame, codec_, dtype, shape, codec.decode, self._meter)

    def sample(
        self,
        pixels: Array,
        offset: Shape,
        limits: Shape,
        points: Points,
        interpolation: str,
        fill_value: np.generic,
    ) -> Array:
        """See Kernels.sample."""
        return sample(pixels, offset, limits, points, interpolation, fill_value)

    def warm(self, dtypes: Iterable[np.dtype[np.generic]], method: str = "mean") -> None:
        """Nothing to make ready."""

    def close(self) -> None:
        """Nothing to free."""


# --- what all implementations on a CPU share


def settle(
    chunk: Array,
    valid: Shape,
    recipe: Recipe,
    method: Method | None,
    is_filled: Callable[[Array, np.generic], bool],
    encode: Callable[[Array, Codec], bytes | memoryview],
    meter: Meter,
) -> Settled:
    """One chunk of Kernels.settle."""
    frame = parent = None
    meter.add(chunks=1, raw_bytes=chunk.nbytes)
    if recipe.codec is not None:
        with meter.timed("encode_seconds"):
            if not is_filled(chunk, recipe.fill_value):
                frame = encode(chunk, recipe.codec)
        meter.add(encoded_bytes=len(frame or b""))
    if recipe.factors is not None and method is not None:
        with meter.timed("downsample_seconds"):
            parent = method(chunk, valid, recipe.factors)
        meter.add(downsampled_bytes=chunk.nbytes)
    return Settled(frame, parent)


def over_blocks(
    recipe: Recipe,
    methods: Mapping[str, Method],
    halo_methods: Mapping[str, HaloMethod],
    meter: Meter,
) -> Callable[[Surrounded], Array]:
    """One block of Kernels.downsample; raises InvalidArgument for an unknown method."""
    factors = recipe.factors
    if factors is None:
        raise InvalidArgument("the top level has no parent", field="factors")
    around = halo_methods.get(recipe.downsampling)
    method = method_for(recipe, methods) if around is None else None

    def parent_of(block: Surrounded) -> Array:
        nbytes = block.pixels.nbytes
        meter.add(chunks=1, raw_bytes=nbytes, downsampled_bytes=nbytes)
        with meter.timed("downsample_seconds"):
            if around is not None:
                return around(block.pixels, block.before, block.valid, factors)
            assert method is not None
            return method(block.pixels, block.valid, factors)

    return parent_of


def decode(
    frame: bytes,
    codec_: Codec,
    dtype: np.dtype[np.generic],
    shape: Shape,
    with_: Callable[[bytes, Codec, np.dtype[np.generic], Shape], Array],
    meter: Meter,
) -> Array:
    """Kernels.decode."""
    with meter.timed("decode_seconds"):
        pixels = with_(frame, codec_, dtype, shape)
    meter.add(decoded_bytes=pixels.nbytes)
    return pixels
