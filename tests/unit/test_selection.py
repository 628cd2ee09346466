"""Is what contradicts itself refused, whatever the way it comes?"""

from __future__ import annotations

from typing import Any, cast

import pytest
from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.images import OpenImage
from ziggurat_engine.reads.selection import Selection, select
from ziggurat_engine.region import Region

BOX = Region((0, 0), (1, 1))
BOTH: dict[str, tuple[str, dict[str, Any]]] = {
    "level-resolution": ("resolution", {"level": 0, "resolution": {"x": 1.0}}),
    "level-max_voxels": ("max_voxels", {"level": 0, "max_voxels": 5}),
    "resolution-max_voxels": ("max_voxels", {"resolution": {}, "max_voxels": 5}),
    "box-level0_box": ("level0_box", {"box": BOX, "level0_box": BOX}),
    "box-physical_box": ("physical_box", {"box": BOX, "physical_box": {}}),
    "two-that-know-no-level": ("physical_box", {"level0_box": BOX, "physical_box": {}}),
    "box-resolution": ("offset", {"box": BOX, "resolution": {}}),
}


@pytest.mark.parametrize(("field", "given"), BOTH.values(), ids=BOTH)
def test_choices_that_exclude_each_other(field: str, given: dict[str, Any]) -> None:
    # Refused before the image is looked at.
    with pytest.raises(InvalidArgument) as error:
        select(cast(OpenImage, None), Selection(**given))
    assert error.value.field == field
