"""One cache for all images: clean chunks, dirty chunks, one budget in bytes."""

from ziggurat_engine.cache.budget import Budget
from ziggurat_engine.cache.clean import CleanChunks
from ziggurat_engine.cache.deferred import Deferred
from ziggurat_engine.cache.directory import DirtyDirectory
from ziggurat_engine.cache.dirty import DirtyChunk, DirtyShard, ShardKey
from ziggurat_engine.cache.residents import ChunkKey

__all__ = [
    "Budget",
    "ChunkKey",
    "CleanChunks",
    "Deferred",
    "DirtyChunk",
    "DirtyDirectory",
    "DirtyShard",
    "ShardKey",
]
