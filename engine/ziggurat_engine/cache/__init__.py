"""One cache for all images: clean chunks, dirty chunks, one budget in bytes."""

from ziggurat_engine.cache.budget import Budget
from ziggurat_engine.cache.clean import CleanChunks, Pixels
from ziggurat_engine.cache.deferred import Deferred
from ziggurat_engine.cache.directory import DirtyDirectory
from ziggurat_engine.cache.dirty import DirtyChunk, DirtyShard, ShardKey
from ziggurat_engine.cache.residents import ChunkKey
from ziggurat_engine.cache.stretch import Extent, Extents, Stretch

__all__ = [
    "Budget",
    "ChunkKey",
    "CleanChunks",
    "Deferred",
    "DirtyChunk",
    "DirtyDirectory",
    "DirtyShard",
    "Extent",
    "Extents",
    "Pixels",
    "ShardKey",
    "Stretch",
]
