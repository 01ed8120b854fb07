"""Shapes are checked while testing; one thread; reproducible order of nothing in particular."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

_HOOK = install_import_hook("subspaces", "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """GPU tests run where there is a GPU and are not collected elsewhere."""
    if torch.cuda.is_available():
        return
    absent = [item for item in items if item.get_closest_marker("gpu")]
    items[:] = [item for item in items if item not in absent]
    config.hook.pytest_deselected(items=absent)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Tests draw from a known state, so that a failure can be repeated."""
    torch.manual_seed(0)
