"""How are chunks settled at the speed of all cores? Compiled loops on a pool of threads.

Each chunk is one task, on one thread from end to end. A batch keeps only so many
tasks going or waiting to be consumed, so its results take bounded memory however slow
the consumer is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np

from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.kernels import _fill, _gaussian, _mean, _order, _sample, coding, reference
from ziggurat_engine.kernels.meter import Meter
from ziggurat_engine.kernels.protocol import KernelTotals, Points, Recipe, Settled, Surrounded
from ziggurat_engine.kernels.reference import HaloMethod, Method, method_for
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, Codec

# Of raw pixels: what a batch's results that nobody took yet may have been.
AHEAD_BYTES = 64 * 2**20

METHODS: Mapping[str, Method] = {
    "mean": _mean.mean,
    "median": _order.median,
    "mode": _order.mode,
    "min": _order.minimum,
    "max": _order.maximum,
    "stride": reference.stride,
}
HALO_METHODS: Mapping[str, HaloMethod] = {"gaussian": _gaussian.gaussian}

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class CpuKernels:
    """Kernels on `threads` threads of their own, shared by all batches.

    threads: at least 1, or InvalidArgument. meter: of kernels that these work for. `decode`
    works on the caller's thread.
    """

    name = "cpu"
    devices = ()

    def __init__(self, threads: int, meter: Meter | None = None) -> None:
        if threads < 1:
            raise InvalidArgument(f"threads must be at least 1, got {threads}", field="threads")
        self._meter = meter or Meter()
        self._ahead = 2 * threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kernel")

    @property
    def totals(self) -> KernelTotals:
        """See Kernels.totals."""
        return self._meter.totals

    def warm(self, dtypes: Iterable[np.dtype[np.generic]], method: str = "mean") -> None:
        """Compiles ahead what chunks of `dtypes` need; otherwise the first chunk waits for it.

        What an earlier process compiled is loaded.
        """
        warm(dtypes, method)

    def settle(
        self, chunks: Sequence[Array], valid: Sequence[Shape], recipe: Recipe
    ) -> Generator[Settled, None, None]:
        """See Kernels.settle. Few results are ahead of the consumer.

        At most 2 * threads, and of AHEAD_BYTES of pixels unless it is one. Work starts
        when the first result is asked for. The error of a chunk is raised in its turn and
        ends the batch. When the iterator is exhausted, closed or has raised, no thread
        reads the arrays any more.
        Raises InvalidArgument for an unknown method.
        """
        return self.settle_pairs(zip(chunks, valid, strict=True), recipe)

    def settle_pairs(
        self, pairs: Iterable[tuple[Array, Shape]], recipe: Recipe
    ) -> Generator[Settled, None, None]:
        """As `settle`, for chunks each with its extent."""
        method = method_for(recipe, METHODS)
        return self._each(
            lambda pair: reference.settle(
                *pair, recipe, method, _fill.is_filled, coding.encode, self._meter
            ),
            pairs,
            lambda pair: pair[0].nbytes,
        )

    def downsample(self, blocks: Iterable[Surrounded], recipe: Recipe) -> Generator[Array]:
        """See Kernels.downsample; at work as `settle` is."""
        return self._each(
            reference.over_blocks(recipe, METHODS, HALO_METHODS, self._meter),
            blocks,
            lambda block: block.pixels.nbytes,
        )

    def _each(
        self,
        work: Callable[[_Item], _Result],
        items: Iterable[_Item],
        nbytes: Callable[[_Item], int],
    ) -> Generator[_Result]:
        going: deque[Future[_Result]] = deque()
        try:
            for item in items:
                ahead = max(1, min(self._ahead, AHEAD_BYTES // max(1, nbytes(item))))
                if len(going) == ahead:
                    yield going.popleft().result()
                going.append(self._pool.submit(work, item))
            while going:
                yield going.popleft().result()
        finally:
            for future in going:
                future.cancel()
            wait(going)

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
        return _sample.sample(pixels, offset, limits, points, interpolation, fill_value)

    def decode(
        self, frame: bytes, codec_: Codec, dtype: np.dtype[np.generic], shape: Shape
    ) -> Array:
        """See Kernels.decode."""
        return reference.decode(frame, codec_, dtype, shape, coding.decode, self._meter)

    def close(self) -> None:
        """Waits for the threads to end."""
        self._pool.shutdown()


def warm(dtypes: Iterable[np.dtype[np.generic]], method: str = "mean") -> None:
    """See CpuKernels.warm."""
    coding.warm()
    for dtype in dtypes:
        pixels: Array = np.zeros((2, 2), dtype)
        if method in HALO_METHODS:
            HALO_METHODS[method](pixels, (0, 0), (2, 2), (2, 2))
        else:
            METHODS[method](pixels, (2, 2), (2, 2))
        _fill.is_filled(pixels, pixels[0, 0])
