"""Is the lowest tick right whatever the order in which they come and go?"""

from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine.cache.ticks import Ticks


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=60))
def test_the_lowest(steps: list[tuple[bool, int]]) -> None:
    ticks, model, taken = Ticks(), set[int](), set[int]()
    for more, number in steps:
        if more and number not in taken:
            taken.add(number)
            model.add(number)
            ticks.add(number)
        elif not more and model:
            gone = sorted(model)[number % len(model)]
            model.remove(gone)
            ticks.remove(gone)
        assert ticks.lowest() == min(model, default=None)
    for tick in model:
        ticks.remove(tick)
    assert ticks.lowest() is None
    assert not ticks._gone
