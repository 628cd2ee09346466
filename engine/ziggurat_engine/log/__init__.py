"""What was promised to be durable, in the order of its arrival: the write-ahead log."""

from ziggurat_engine.log.log import Appended, Log, LogStats, Replayed
from ziggurat_engine.log.record import Advance, Close, Record, Region, Skip

__all__ = [
    "Advance",
    "Appended",
    "Close",
    "Log",
    "LogStats",
    "Record",
    "Region",
    "Replayed",
    "Skip",
]
