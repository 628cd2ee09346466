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


def resolution(text: str) -> float | dict[str, float]:
    """A number for all spatial axes, or one for each: "2.5", "z=4,y=1"."""
    if "=" in text:
        return axis_values(text)
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f'{text!r} is not like "2.5" or "z=4,y=1"') from None


def intervals(text: str) -> dict[str, tuple[float, float]]:
    """From where to where along named axes: "z=2:4.5,x=0:30"."""
    try:
        found = {}
        for part in text.split(","):
            axis, interval = part.split("=")
            start, stop = interval.split(":")
            found[axis.strip()] = (float(start), float(stop))
    except ValueError:
        raise click.BadParameter(f'{text!r} is not like "z=2:4.5,x=0:30"') from None
    return found


def steps(text: str) -> dict[str, int]:
    """Whole numbers for named axes: "z=4,y=2"."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {axis.strip(): int(step) for axis, step in pairs}
    except ValueError:
        raise click.BadParameter(f'{text!r} is not like "z=4,y=2"') from None


def pair(text: str) -> tuple[float, float]:
    """Two numbers: "100,2000"."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise click.BadParameter(f'{text!r} is not like "100,2000"') from None
    return low, high


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
