"""How are boxes, shapes and voxel sizes written on a command line?"""

from __future__ import annotations

import re
from typing import Any

import click

from ziggurat._errors import InvalidArgument
from ziggurat._spec import parse_bytes


class _Box(click.ParamType):
    """Slices with commas between: "0:10,:,5:20"; one number is that plane alone."""

    name = "box"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(self._span(part.strip(), param, ctx) for part in value.split(","))

    def _span(self, text: str, param: Any, ctx: Any) -> slice:
        if re.fullmatch(r"\d+", text):
            return slice(int(text), int(text) + 1)
        found = re.fullmatch(r"(-?\d+)?:(-?\d+)?", text)
        if found is None:
            self.fail(f'{text!r} is not like "5:20", ":" or "7"', param, ctx)
        return slice(*(int(n) if n is not None else None for n in found.groups()))


class _Ints(click.ParamType):
    """Whole numbers with commas between."""

    name = "n,n,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(int(n) for n in value.split(","))
        except ValueError:
            self.fail(f'{value!r} is not like "1,64,256"', param, ctx)


class _AxisValues(click.ParamType):
    """Numbers for named axes: "z=0.5,y=0.1,x=0.1"."""

    name = "axis=size,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            pairs = [part.split("=") for part in value.split(",")]
            return {axis.strip(): float(size) for axis, size in pairs}
        except ValueError:
            self.fail(f'{value!r} is not like "z=0.5,y=0.1"', param, ctx)


class _Size(click.ParamType):
    """A number of bytes: "512MiB"."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return parse_bytes("size", value)
        except InvalidArgument as error:
            self.fail(str(error), param, ctx)


BOX, INTS, AXIS_VALUES, SIZE = _Box(), _Ints(), _AxisValues(), _Size()
