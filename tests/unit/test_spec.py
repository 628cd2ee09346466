"""Does a description check itself, and survive being written down?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from ziggurat_engine.layout import resolve
from ziggurat_engine.spec import Axis, Blosc, Channel, Gzip, Image, ImageSpec, Uncompressed, Zstd

GOOD: dict[str, Any] = {
    "name": "lab/a",
    "axes": [{"name": "c", "size": 2}, {"name": "y", "size": 9}, {"name": "x", "size": 7}],
    "data_type": "uint16",
}


def test_defaults() -> None:
    spec = ImageSpec.model_validate(GOOD)
    assert spec.shape == (2, 9, 7)
    assert spec.dtype == np.dtype("uint16")
    assert spec.fill_value == 0
    assert spec.axes[0] == Axis(name="c", size=2, scale=1.0, unit="")
    assert spec.layout.codec == Blosc(compressor="zstd", level=1, shuffle="bit")
    assert Channel() == Channel(label="", color="FFFFFF", window=None)


BAD: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "name": (("name",), {"name": 5}),
    "no-axes": (("axes",), {"axes": []}),
    "unknown-axis": (("axes", 0, "name"), {"axes": [{"name": "q", "size": 1}] * 2}),
    "size": (("axes", 1, "size"), {"axes": [GOOD["axes"][1], {"name": "x", "size": 0}]}),
    "size-large": (("axes", 1, "size"), {"axes": [GOOD["axes"][1], {"name": "x", "size": 2**41}]}),
    "scale-nan": (
        ("axes", 1, "scale"),
        {"axes": [GOOD["axes"][1], {"name": "x", "size": 1, "scale": math.nan}]},
    ),
    "dtype": (("data_type",), {"data_type": "complex64"}),
    "unknown-field": (("colour",), {"colour": "red"}),
    "channels": ((), {"channels": [{}]}),
    "fill-range": ((), {"fill_value": 65536}),
    "fill-nan": ((), {"fill_value": math.nan}),
    "fill-fraction": ((), {"fill_value": 1.5}),
    "codec": (("layout", "codec"), {"layout": {"codec": {"kind": "jpeg"}}}),
    "blosc-level": (
        ("layout", "codec", "blosc", "level"),
        {"layout": {"codec": {"kind": "blosc", "level": 10}}},
    ),
    "downsampling": (("downsampling",), {"downsampling": "blur"}),
    "kind": (("kind",), {"kind": "mask"}),
    "labels-mean": ((), {"kind": "labels", "downsampling": "mean"}),
    "labels-median": ((), {"kind": "labels", "downsampling": "median"}),
    "labels-gaussian": ((), {"kind": "labels", "downsampling": "gaussian"}),
    "labels-of-floats": ((), {"kind": "labels", "data_type": "float32"}),
    "labels-of": ((), {"labels_of": "lab/there"}),
}


@pytest.mark.parametrize(("place", "change"), BAD.values(), ids=BAD)
def test_refused(place: tuple[Any, ...], change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        ImageSpec.model_validate(GOOD | change)
    assert error.value.errors()[0]["loc"] == place


def test_values_are_frozen() -> None:
    spec = ImageSpec.model_validate(GOOD)
    with pytest.raises(ValidationError):
        spec.name = "b"


FILLS = {
    "uint8": [0, 255],
    "uint64": [2**64 - 1, 2**63 + 1],
    "int64": [-(2**63), 2**63 - 1],
    "float32": [math.nan, math.inf, -math.inf, -0.0, 1.5],
    "float64": [5e-324, 1.7976931348623157e308],
}
CASES = [(dtype, value) for dtype, values in FILLS.items() for value in values]


@pytest.mark.parametrize(("dtype", "value"), CASES)
@pytest.mark.parametrize("codec", [Blosc(), Zstd(level=-5), Gzip(), Uncompressed()], ids=repr)
def test_written_down_and_read_again(dtype: str, value: float, codec: Any) -> None:
    """JSON knows neither NaN nor 64-bit integers, unless one takes care."""
    spec = ImageSpec.model_validate(
        GOOD | {"data_type": dtype, "fill_value": value, "layout": {"codec": codec}}
    )
    try:
        image = resolve(spec)
    except ValueError:
        raise
    again = Image.model_validate_json(image.model_dump_json())
    found, wanted = (i.dtype.type(i.fill_value) for i in (again, image))
    assert found.tobytes() == wanted.tobytes()
    assert again.model_dump(exclude={"fill_value"}) == image.model_dump(exclude={"fill_value"})
