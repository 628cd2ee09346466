"""What does an edit of one box cost, in images of any size?

    uv run python -m benchmarks.edit --sizes 256,512,1024,2048 --box 64

Sparse cubes on a real server: a box was written once, and is written again with other
pixels. Printed is how many downsampled blocks that made on all levels together, how many
chunks were encoded, and how long it took until everything was stored and exact. Exits
with 1 where the blocks grow with the image by more than one for each level more. The
last line is JSON with everything.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import ziggurat

from benchmarks import _machine
from benchmarks._server import ServerProcess, exit_on_sigterm


@dataclass(frozen=True)
class Edit:
    """One image and one edit of it. blocks, chunks: made and encoded for the edit."""

    size: int
    levels: int
    blocks: int
    chunks: int
    seconds: float


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.edit", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--sizes", default="256,512,1024,2048", help="edges of the cubes, pixels")
    parser.add_argument("--box", type=int, default=64, help="edge of what is edited, pixels")
    parser.add_argument("--chunk", type=int, default=64, help="edge of a chunk, pixels")
    parser.add_argument(
        "--data", type=Path, help="directory for the server's data; a new one in it"
    )
    return parser.parse_args()


def edit(client: ziggurat.Client, size: int, box: int, chunk: int) -> Edit:
    """Writes a box into a new image, then again; the second time counts."""
    image = client.create(
        f"edit/{size}", axes="zyx", shape=(size,) * 3, dtype="uint16", chunk_shape=(chunk,) * 3
    )
    offset = (size // 2 // chunk * chunk,) * 3
    dice = np.random.default_rng(size)
    before, started = client.status().settle, 0.0
    for _ in range(2):
        pixels = dice.integers(1, 60_000, (box,) * 3, np.uint16)
        before, started = client.status().settle, time.perf_counter()
        with image.writer() as writer:
            writer.write_region(pixels, offset)
    seconds = time.perf_counter() - started
    after = client.status().settle
    return Edit(
        size,
        len(image.levels),
        after.blocks_made - before.blocks_made,
        after.chunks_encoded - before.chunks_encoded,
        seconds,
    )


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    exit_on_sigterm()
    arguments = _arguments()
    sizes = sorted(int(size) for size in arguments.sizes.split(","))
    with (
        tempfile.TemporaryDirectory(prefix="ziggurat-edit-", dir=arguments.data) as made,
        ServerProcess(Path(made, "data"), Path(made, "log")) as server,
        ziggurat.connect(server.address) as client,
    ):
        print("  size  levels  blocks made  chunks encoded  seconds to exact")
        edits = []
        for size in sizes:
            edits.append(edit(client, size, arguments.box, arguments.chunk))
            row = edits[-1]
            print(f"{row.size:6}{row.levels:8}{row.blocks:13}{row.chunks:16}{row.seconds:18.3f}")
    grown = [row for row in edits if row.blocks > edits[0].blocks + row.levels - edits[0].levels]
    if grown:
        print("FAILED: blocks made grow with the image", file=sys.stderr)
    print(json.dumps({"machine": _machine.facts(), "edits": [asdict(row) for row in edits]}))
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
