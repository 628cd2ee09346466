"""How are boxes, shapes and voxel sizes written on a command line?

Each function reads the text of one option and raises click.BadParameter, which click
shows with the option's name.
"""

from __future__ import annotations

import re

import click

from ziggurat._errors import InvalidArgument
from ziggurat._spec import parse_bytes


def box(text: str) -> tuple[slice, ...]:
    """Slices with commas between: "0:10,:,5:20"; one number is that plane alone."""
    return tuple(_span(part.strip()) for part in text.split(","))


def integers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between: "1,64,256"."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise click.BadParameter(f'{text!r} is not like "1,64,256"') from None


def axis_values(text: str) -> dict[str, float]:
    """Numbers for named axes: "z=0.5,y=0.1,x=0.1"."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {axis.strip(): float(size) for axis, size in pairs}
    except ValueError:
        raise click.BadParameter(f'{text!r} is not like "z=0.5,y=0.1"') from None


def size(text: str) -> int:
    """A number of bytes: "512MiB"."""
    try:
        return parse_bytes("size", text)
    except InvalidArgument as error:
        raise click.BadParameter(str(error)) from None


def _span(text: str) -> slice:
    if re.fullmatch(r"\d+", text):
        return slice(int(text), int(text) + 1)
    found = re.fullmatch(r"(-?\d+)?:(-?\d+)?", text)
    if found is None:
        raise click.BadParameter(f'{text!r} is not like "5:20", ":" or "7"')
    start, stop = (None if number is None else int(number) for number in found.groups())
    return slice(start, stop)
