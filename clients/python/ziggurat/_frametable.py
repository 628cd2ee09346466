"""What is known of an image's frames, one row each?"""

from __future__ import annotations

import datetime
import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ziggurat_proto.v1 import read_pb2

from ziggurat._errors import InvalidArgument

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


@dataclass(frozen=True, eq=False)
class Frames:
    """Columns of equal length; the rows of one stream are in the order they were sent.

    A row stands for a frame written with a timestamp or metadata, or for a skip, of which
    the shape is 0 and the metadata {"skipped_frames": n}.

    stream_id, sequence: which message it came with. offset, shape: (rows, axes), of the
    message, which holds the first strip of the frame. timestamp_ns: nanoseconds since the
    Unix epoch, -2**63 where none was given. metadata: None where none was given.
    """

    stream_id: tuple[str, ...]
    sequence: NDArray[np.uint64]
    offset: NDArray[np.uint64]
    shape: NDArray[np.uint64]
    timestamp_ns: NDArray[np.int64]
    metadata: tuple[dict[str, Any] | None, ...]

    @property
    def time(self) -> NDArray[np.datetime64]:
        """The timestamps as datetime64[ns] in UTC; NaT where none was given."""
        return self.timestamp_ns.view("datetime64[ns]")

    def __len__(self) -> int:
        return len(self.stream_id)


def frames_of(answers: Iterable[read_pb2.FrameRows], axes: int) -> Frames:
    """The rows of all messages, one after the other."""
    stream_id: list[str] = []
    sequence: list[int] = []
    offset: list[int] = []
    shape: list[int] = []
    timestamp_ns: list[int] = []
    metadata: list[dict[str, Any] | None] = []
    for answer in answers:
        stream_id += [answer.stream_ids[k] for k in answer.stream]
        sequence += answer.sequence
        offset += answer.offset
        shape += answer.shape
        timestamp_ns += answer.timestamp_ns
        metadata += [json.loads(text) if text else None for text in answer.metadata_json]
    return Frames(
        tuple(stream_id),
        np.array(sequence, np.uint64),
        np.array(offset, np.uint64).reshape(-1, axes),
        np.array(shape, np.uint64).reshape(-1, axes),
        np.array(timestamp_ns, np.int64),
        tuple(metadata),
    )


def nanoseconds(timestamp: int | datetime.datetime | None) -> int | None:
    """Nanoseconds since the Unix epoch. Raises InvalidArgument."""
    if timestamp is None:
        return None
    if isinstance(timestamp, datetime.datetime):
        return (timestamp.astimezone(datetime.UTC) - _EPOCH) // _MICROSECOND * 1000
    try:
        number = operator.index(timestamp)
    except TypeError:
        number = 2**63
    # The lowest stands for no timestamp.
    if not -(2**63) < number < 2**63:
        raise InvalidArgument(
            f"timestamp must be a datetime or nanoseconds, got {timestamp!r}", field="timestamp"
        )
    return number


def json_object(metadata: Mapping[str, Any] | None) -> bytes:
    """The metadata as the wire has it. Raises InvalidArgument."""
    if metadata is None:
        return b""
    try:
        if not isinstance(metadata, Mapping):
            raise TypeError("it is no mapping")
        text = json.dumps(
            dict(metadata), ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"metadata can't be said as a JSON object: {error}", field="metadata"
        ) from None
