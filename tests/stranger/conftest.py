"""What the stranger registers and imports is gone after each test."""

import pytest
from clean_registry import clean_registry


@pytest.fixture(autouse=True)
def _alone():
    with clean_registry(lambda name: name.startswith(("stranger_package", "own", "program"))):
        yield
