"""Shapes are checked while testing; one thread; reproducible order of nothing in particular."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

_HOOK = install_import_hook("subspaces", "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Tests draw from a known state, so that a failure can be repeated."""
    torch.manual_seed(0)
