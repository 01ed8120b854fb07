"""Ray on a local cluster of two nodes, and submitit's executor on this machine; deselected where they are absent."""

import functools
import os
from pathlib import Path

import fake_trainer
import pytest

from subspaces.dimension.measure import measure_dimension
from subspaces.dimension.result import Rule
from subspaces.runs import clusters
from subspaces.runs.clusters import SlurmPool
from subspaces.runs.run import Run
from subspaces.runs.store import load_result
from subspaces.runs.sweep import LAUNCHERS, events, run_many
from subspaces.tasks import Objective, register_task

CONFIGS = [Run.of("digits-fc", d=d) for d in (10, 20, 40, 80)]


def on_a_node(config, *, folder: Path, callbacks=()):
    """Half a second, and a file named by the node that did it."""
    import ray

    (folder.parent / f"node-{ray.get_runtime_context().get_node_id()}").touch()
    return fake_trainer.slow_and_noisy(config, folder=folder)


@pytest.fixture
def two_nodes(monkeypatch):
    """The address of a Ray cluster of two nodes of one processor each, on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default: never their turn on a busy machine
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


def _with_these_tests() -> str:
    """Where a job of its own finds the trainers of the tests."""
    return os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])


@pytest.mark.ray
@pytest.mark.filterwarnings("default")  # what Ray warns of is not ours
def test_ray_shares_runs_among_two_nodes_and_passes_errors_on(two_nodes, tmp_path):
    results = run_many(CONFIGS, tmp_path, launcher="ray", trainer=f"{__name__}:on_a_node")
    assert [result.config for result in results] == CONFIGS
    assert all(load_result(tmp_path / config.key()) is not None for config in CONFIGS)
    assert len(list(tmp_path.glob("node-*"))) == 2
    with pytest.raises(RuntimeError, match="`block` must be a power of two; got 3"):
        run_many([Run.of("digits-fc", d=5)], tmp_path, launcher="ray", trainer="fake_trainer:fails")


@pytest.mark.submitit
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("cluster", ["debug", "local"])
def test_submitit_does_runs_in_jobs(tmp_path, monkeypatch, cluster):
    """`debug` runs a job in this process, `local` in one of its own, as Slurm would."""
    monkeypatch.setenv("PYTHONPATH", _with_these_tests())
    with SlurmPool(tmp_path, 2, "fake_trainer:known_curve", cluster=cluster) as pool:
        for config in CONFIGS[:2]:
            pool.submit(config)
        done = [event.config for event in events(pool, 2)]
    assert sorted(config.d or 0 for config in done) == [10, 20]
    assert all(load_result(tmp_path / config.key()) is not None for config in CONFIGS[:2])


@pytest.mark.submitit
@pytest.mark.filterwarnings("default")
def test_a_whole_measurement_in_jobs(tmp_path, monkeypatch):
    """Baseline, search and record by submitit's jobs, which are processes of this machine here."""
    monkeypatch.setenv("PYTHONPATH", _with_these_tests())
    monkeypatch.setitem(LAUNCHERS, "slurm", functools.partial(SlurmPool, cluster="local"))
    rule = Rule(baseline="local", baseline_runs=2, max_runs=6, start=fake_trainer.TRUE_D)
    found = measure_dimension(
        Run.of("digits-fc"), tmp_path, rule, workers=2, launcher="slurm", trainer="fake_trainer:known_curve"
    )
    assert len(found.direct) == 2
    assert found.estimate.d_int == pytest.approx(fake_trainer.TRUE_D, rel=0.2)
    assert len(list((tmp_path / "runs" / "slurm").glob("*_result.pkl"))) == 2 + len(found.results)
    assert (tmp_path / "measurement.json").is_file()


@pytest.mark.submitit
@pytest.mark.filterwarnings("default")
def test_submitit_passes_errors_on(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", _with_these_tests())
    with SlurmPool(tmp_path, 2, "fake_trainer:fails", cluster="local") as pool:
        pool.submit(CONFIGS[0])
        with pytest.raises(RuntimeError, match="`block` must be a power of two; got 3"):
            list(events(pool, 1))


NOTEBOOK = """
scale = 40

def run(d, seed):
    return {"score": min(1.0, (d or 300) / scale), "test_score": seed / 10}
"""


@pytest.fixture
def notebook(tmp_path):
    """Runs of a function that no other process can import, as one of a notebook."""
    cell = {"__name__": "__main__"}
    exec(NOTEBOOK, cell)
    register_task(Objective("ramp", cell["run"], D=300, baseline=1.0))
    return [Run.of("ramp", d=d, seed_model=3) for d in (10, 80)]


def _ramp(results) -> list[tuple[float, float]]:
    return [(result.score, result.test_score) for result in results]


@pytest.mark.ray
@pytest.mark.filterwarnings("default")
def test_ray_takes_a_function_of_a_notebook(two_nodes, tmp_path, notebook):
    assert _ramp(run_many(notebook, tmp_path, launcher="ray")) == [(0.25, 0.3), (1.0, 0.3)]


@pytest.mark.submitit
@pytest.mark.filterwarnings("default")
def test_jobs_take_a_function_of_a_notebook(tmp_path, monkeypatch, notebook):
    monkeypatch.setitem(LAUNCHERS, "slurm", functools.partial(SlurmPool, cluster="local"))
    assert _ramp(run_many(notebook, tmp_path, launcher="slurm")) == [(0.25, 0.3), (1.0, 0.3)]


def test_local_workers_take_a_function_of_a_notebook(tmp_path, notebook):
    assert _ramp(run_many(notebook, tmp_path, workers=2)) == [(0.25, 0.3), (1.0, 0.3)]


def test_an_extra_that_is_missing_is_named_with_its_command():
    with pytest.raises(RuntimeError, match=r'not installed\. Install it: pip install "subspaces\[ray\]"'):
        clusters._extra("no_such_package", "ray")


def test_the_reason_is_the_exception_not_the_paths_of_logs():
    trace = "Job failed with trace:\n---\nTraceback (most recent call last):\n  raise x\n"
    trace += "ValueError: `d` must be 1.\n---\nLogs:\n  - a.out"
    assert clusters._reason(trace) == "ValueError: `d` must be 1."
    assert clusters._reason("worker died\nno more is known") == "no more is known"
