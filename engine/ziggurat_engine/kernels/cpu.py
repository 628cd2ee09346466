"""How are chunks settled at the speed of all cores? Compiled loops on a pool of threads.

Each chunk is one task, on one thread from end to end. A batch keeps only so many
tasks going or waiting to be consumed, so its results take bounded memory however slow
the consumer is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.kernels import _mean, codec
from ziggurat_engine.kernels.protocol import Recipe, Settled
from ziggurat_engine.kernels.reference import Method, method_for
from ziggurat_engine.region import Shape
from ziggurat_engine.spec import Array, Codec

# Of raw pixels: what a batch's results that nobody took yet may have been.
AHEAD_BYTES = 64 * 2**20

METHODS: Mapping[str, Method] = {"mean": _mean.mean}


class CpuKernels:
    """Kernels on `threads` threads of their own, shared by all batches.

    threads: at least 1, or InvalidArgument. `decode` works on the caller's thread.
    """

    name = "cpu"

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise InvalidArgument(f"threads must be at least 1, got {threads}", field="threads")
        self._ahead = 2 * threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kernel")

    def warm(self, dtypes: Iterable[np.dtype[np.generic]]) -> None:
        """Compiles ahead what chunks of `dtypes` need; otherwise the first chunk waits for it."""
        _mean.warm(dtypes)

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
        return self._settle(chunks, valid, recipe, method_for(recipe, METHODS))

    def _settle(
        self, chunks: Sequence[Array], valid: Sequence[Shape], recipe: Recipe, method: Method
    ) -> Generator[Settled, None, None]:
        going: deque[Future[Settled]] = deque()
        try:
            for chunk, extent in zip(chunks, valid, strict=True):
                ahead = max(1, min(self._ahead, AHEAD_BYTES // max(1, chunk.nbytes)))
                if len(going) == ahead:
                    yield going.popleft().result()
                going.append(self._pool.submit(_settle, chunk, extent, recipe, method))
            while going:
                yield going.popleft().result()
        finally:
            for future in going:
                future.cancel()
            wait(going)

    def decode(
        self, frame: bytes, codec_: Codec, dtype: np.dtype[np.generic], shape: Shape
    ) -> Array:
        """See Kernels.decode."""
        return codec.decode(frame, codec_, dtype, shape)

    def close(self) -> None:
        """Waits for the threads to end."""
        self._pool.shutdown()


def _settle(chunk: Array, valid: Shape, recipe: Recipe, method: Method) -> Settled:
    frame = parent = None
    if recipe.codec is not None and not _mean.is_filled(chunk, recipe.fill_value):
        frame = codec.encode(chunk, recipe.codec)
    if recipe.factors is not None:
        parent = method(chunk, valid, recipe.factors)
    return Settled(frame, parent)
