"""How much may one read bring, and look at?"""

from __future__ import annotations

from dataclasses import dataclass

from ziggurat_engine.config import Settings
from ziggurat_engine.errors import LimitExceeded


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Of one call; the settings say what each is for.

    part_bytes: about how large a part of a result is. projection_bytes: for the sums of one
    projection.
    """

    part_bytes: int
    max_read_bytes: int
    max_read_chunks: int
    max_small_read_bytes: int
    projection_bytes: int
    max_projected_bytes: int
    max_batch_boxes: int

    @classmethod
    def of(cls, settings: Settings) -> ReadLimits:
        """By the settings."""
        return cls(
            part_bytes=settings.read_part_bytes,
            max_read_bytes=settings.max_read_bytes,
            max_read_chunks=settings.max_read_chunks,
            max_small_read_bytes=settings.max_small_read_bytes,
            projection_bytes=settings.read_projection_bytes,
            max_projected_bytes=settings.max_projected_bytes,
            max_batch_boxes=settings.max_batch_boxes,
        )

    def check_total(self, nbytes: int, chunks: int, field: str) -> None:
        """LimitExceeded where one call may not bring, or look at, so much."""
        _check("max_read_bytes", self.max_read_bytes, nbytes, f"{nbytes} bytes", field)
        _check(
            "max_read_chunks", self.max_read_chunks, chunks, f"{chunks} chunks to look at", field
        )

    def check_small(self, nbytes: int, field: str) -> None:
        """LimitExceeded where a result is too large to come whole."""
        limit = "max_small_read_bytes"
        _check(limit, self.max_small_read_bytes, nbytes, f"{nbytes} bytes", field)

    def check_projected(self, nbytes: int) -> None:
        """LimitExceeded where a projection may not be made of so much."""
        _check(
            "max_projected_bytes",
            self.max_projected_bytes,
            nbytes,
            f"projection: {nbytes} bytes of pixels",
            "projection",
            "; a coarser level, or steps, have fewer",
        )

    def check_batch(self, count: int) -> None:
        """LimitExceeded where a batch may not have so many reads."""
        _check("max_batch_boxes", self.max_batch_boxes, count, f"{count} reads", "reads")


def _check(limit: str, value: int, asked: int, what: str, field: str, advice: str = "") -> None:
    if asked > value:
        raise LimitExceeded(
            f"{what} are more than {limit} = {value}{advice}",
            field=field,
            limit=limit,
            value=value,
            asked=asked,
        )
