"""What was promised to be durable, in the order of its arrival: the write-ahead log."""

from ziggurat_engine.log.commit import Durable, Failed
from ziggurat_engine.log.log import Appended, Log, LogStats
from ziggurat_engine.log.record import Close, Record, Region, Skip
from ziggurat_engine.log.replay import Replayed
from ziggurat_engine.log.segment import segment_of

__all__ = [
    "Appended",
    "Close",
    "Durable",
    "Failed",
    "Log",
    "LogStats",
    "Record",
    "Region",
    "Replayed",
    "Skip",
    "segment_of",
]
