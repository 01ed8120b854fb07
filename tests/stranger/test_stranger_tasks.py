"""A task from outside with a projection and an optimiser from outside: trained, measured, saved, loaded, reported."""

from pathlib import Path

import pytest
import torch

import subspaces as ss
from subspaces.registry import resolve
from subspaces.report.write import write_report
from subspaces.runs.run import Run
from subspaces.runs.store import run_once
from subspaces.runs.train import CHECKPOINT
from subspaces.tasks import get_task

FOLDER = Path(__file__).parent
PATHS = ("stranger_package.tasks:SIDES", "stranger_package.tasks:made", "own.py:task")
OUTSIDE = {
    "projection": "stranger_package.maps:Tile",
    "optimizer": "stranger_package.optimisers:Signed",
    "momentum": 0.5,
    "lr": 0.02,
}


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """In the folder of the stranger's package and file, which worker processes are told of."""
    monkeypatch.chdir(FOLDER)
    monkeypatch.syspath_prepend(FOLDER)


def test_a_task_is_found_by_path_file_and_registered_name():
    import stranger_package.tasks as stranger

    assert {get_task(path) for path in (*PATHS[:2], "stranger-sides")} == {stranger.SIDES}
    assert get_task("own.py:task").D == stranger.SIDES.D == 33
    assert resolve("task", "stranger-sides") is stranger.SIDES


@pytest.mark.parametrize("task", PATHS)
def test_its_run_is_trained_saved_and_loaded_again(task, tmp_path):
    run = Run.of(task, d=20, **OUTSIDE)
    result = run_once(run, tmp_path)
    assert result.status == "done"
    assert result.score_name == "right"
    assert result.curves[-1]["val_score"] > 0.8
    assert result.fingerprint.startswith("r1-")
    model = get_task(task).build_model(0)
    subspace = ss.Subspace.load(model, tmp_path / run.key() / CHECKPOINT)
    assert type(subspace.projection).__name__ == "Tile"
    data = get_task(task).load_data()
    with torch.no_grad():
        again = get_task(task).score(model(data.val_x), data.val_y)
    assert again == pytest.approx(result.curves[-1]["val_score"])


@pytest.mark.parametrize("task", ["stranger_package.tasks:SIDES", "own.py:task", "object"])
def test_it_is_measured_in_worker_processes_and_reported(task, tmp_path):
    from stranger_package.maps import Tile
    from stranger_package.optimisers import Signed
    from stranger_package.tasks import SIDES

    what = SIDES if task == "object" else task
    words = OUTSIDE | ({"projection": Tile, "optimizer": Signed} if task == "object" else {})
    found = ss.intrinsic_dimension(
        what, baseline=1.0, max_runs=3, start=20, out=tmp_path, workers=2, progress=False, **words
    )
    assert {run.status for run in found.results} == {"done"}
    assert {run.config.space.projection for run in found.results} == {OUTSIDE["projection"]}
    assert {run.config.optimizer.name for run in found.results} == {OUTSIDE["optimizer"]}
    page = write_report(tmp_path).read_text()
    assert "right" in page
    assert "stranger" in page or "own.py" in page
    again = ss.intrinsic_dimension(
        what, baseline=1.0, max_runs=3, start=20, out=tmp_path, workers=1, progress=False, **words
    )
    assert [run.seconds for run in again.results] == [run.seconds for run in found.results]
