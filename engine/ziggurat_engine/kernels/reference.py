"""What are the right results? Plain NumPy on one thread, the oracle of the others.

The mean walks over the places of a window in lexicographic order, and adds the
pixels at that place of all windows at once. A window that the edge clips has no
pixel at its last places: only the windows that do have one are added to.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.kernels import codec
from ziggurat_engine.kernels.protocol import Recipe, Settled
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, Codec

Method: TypeAlias = Callable[[Array, Shape, Shape], Array]
"""(chunk, valid, factors) -> a new C-contiguous array of shape ceil(valid / factors)."""


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
        result = total // count
        twice = 2 * (total - result * count)
        up = (twice > count) | ((twice == count) & (result % 2 == 1))
        result = result + up
    rounded: Array = result.astype(chunk.dtype)
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


METHODS: Mapping[str, Method] = {"mean": mean}


def method_for(recipe: Recipe, methods: Mapping[str, Method]) -> Method:
    """The recipe's downsampling method; raises InvalidArgument where `methods` has none."""
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


class ReferenceKernels:
    """Kernels that work on the caller's thread, one chunk when it is asked for."""

    name = "reference"

    def settle(
        self, chunks: Sequence[Array], valid: Sequence[Shape], recipe: Recipe
    ) -> Generator[Settled, None, None]:
        """See Kernels.settle. Raises InvalidArgument for an unknown method."""
        method = method_for(recipe, METHODS)
        return (
            _settle(chunk, extent, recipe, method)
            for chunk, extent in zip(chunks, valid, strict=True)
        )

    def decode(
        self, frame: bytes, codec_: Codec, dtype: np.dtype[np.generic], shape: Shape
    ) -> Array:
        """See Kernels.decode."""
        return codec.decode(frame, codec_, dtype, shape)

    def warm(self, dtypes: Iterable[np.dtype[np.generic]]) -> None:
        """Nothing to make ready."""

    def close(self) -> None:
        """Nothing to free."""


def _settle(chunk: Array, valid: Shape, recipe: Recipe, method: Method) -> Settled:
    frame = parent = None
    if recipe.codec is not None and not is_filled(chunk, recipe.fill_value):
        frame = codec.encode(chunk, recipe.codec)
    if recipe.factors is not None:
        parent = method(chunk, valid, recipe.factors)
    return Settled(frame, parent)
