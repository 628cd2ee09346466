"""What do the tests of the service share?"""

from __future__ import annotations

import pytest

from tests.service.subject import Subject, make_subject
from tests.support.raw import RawServer


@pytest.fixture
def subject(raw: RawServer, name: str) -> Subject:
    """An image that holds known pixels, and a stream that stands at number 2."""
    return make_subject(raw, name)
