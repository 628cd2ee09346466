"""Which step is this thread at? Told to a tracer, where there is one.

Without one a span costs a function call. Which tracer there is the process decides once;
server/tracing.py knows one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

Fact: TypeAlias = str | int | tuple[int, ...]
T = TypeVar("T")


class Tracer(Protocol):
    """What spans are told to; called from any thread."""

    def __call__(
        self, name: str, facts: dict[str, Fact], *, root: bool
    ) -> AbstractContextManager[Any]:
        """A span while the block runs; root: it begins a trace of its own."""
        ...


_NOTHING = nullcontext()
_tracer: Tracer | None = None


def trace_with(tracer: Tracer | None) -> None:
    """From now on spans are told to `tracer`; None: to nobody."""
    global _tracer  # noqa: PLW0603 - the process has one, as it has one log
    _tracer = tracer


def span(name: str, **facts: Fact) -> AbstractContextManager[Any]:
    """A step of what this thread is at, while the block runs."""
    return _NOTHING if _tracer is None else _tracer(name, facts, root=False)


def root(name: str, **facts: Fact) -> AbstractContextManager[Any]:
    """As `span`, for one of many steps of something that may last for days."""
    return _NOTHING if _tracer is None else _tracer(name, facts, root=True)


def carried(task: Callable[[], T]) -> Callable[[], T]:
    """`task` as a step of what this thread is at, whichever thread runs it."""
    return task if _tracer is None else partial(copy_context().run, task)
