"""Tests of other libraries' loops and models run where these are installed; elsewhere they are not collected."""

from importlib.util import find_spec

import pytest

EXTRAS = ("timm", "schedulefree")


def pytest_configure(config: pytest.Config) -> None:
    for extra in EXTRAS:
        config.addinivalue_line("markers", f"{extra}: needs the package of this name; runs where it is installed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = [extra for extra in EXTRAS if find_spec(extra) is None]
    absent = [item for item in items if any(item.get_closest_marker(extra) for extra in missing)]
    if absent:
        items[:] = [item for item in items if item not in absent]
        config.hook.pytest_deselected(items=absent)
