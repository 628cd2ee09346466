"""What Tiled serves in benchmarks.read: the Zarr array that the environment names."""

from __future__ import annotations

import os

from tiled.adapters.mapping import MapAdapter
from tiled.adapters.zarr import ZarrAdapter

tree = MapAdapter({"0": ZarrAdapter.from_uris(f"file://{os.environ['ZIGGURAT_BENCHMARK_ARRAY']}")})
