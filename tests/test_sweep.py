"""Many runs: workers, crashes, interruptions, two sweeps on one folder, clusters."""

import importlib.util
import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_trainer
import pytest
import warm

from subspaces.runs import pools
from subspaces.runs.run import Run
from subspaces.runs.store import load_result
from subspaces.runs.sweep import events, open_pool, run_many

CONFIGS = [Run.of("digits-fc", d=d) for d in (10, 20, 40)]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_asked_and_are_kept(tmp_path, workers):
    asked = [*CONFIGS, CONFIGS[0]]
    results = run_many(asked, tmp_path, workers, trainer="fake_trainer:known_curve")
    assert [result.config for result in results] == asked
    again = run_many(asked, tmp_path, workers, trainer="fake_trainer:fails")  # nothing is left to do
    assert [r.score for r in again] == [r.score for r in results]
    assert sorted(fake_trainer.logged(tmp_path)) == sorted(config.key() for config in CONFIGS)


def test_workers_share_the_runs_and_may_print(tmp_path, cold_workers):
    run_many(CONFIGS, tmp_path, 2, trainer="fake_trainer:slow_and_noisy")
    processes = {line.split()[0] for line in (tmp_path / "log.txt").read_text().splitlines()}
    assert len(processes) == 2
    assert str(os.getpid()) not in processes


def test_events_tell_of_every_run(tmp_path):
    seen = []
    run_many(
        CONFIGS, tmp_path, 1, trainer="fake_trainer:known_curve", on_event=lambda e: seen.append((e.kind, e.config))
    )
    assert seen == [("done", config) for config in CONFIGS]


def test_a_run_whose_process_dies_is_tried_again(tmp_path):
    with open_pool(tmp_path, 2, trainer="fake_trainer:dies_once") as pool:
        pool.submit(CONFIGS[0])
        kinds = [event.kind for event in events(pool, 1) if event.kind != "waiting"]  # for the worker that starts
    assert kinds == ["done"]


def test_a_run_that_always_kills_its_process_is_named(tmp_path):
    message = rf"{CONFIGS[0].key()} failed: its process ended 2 times \(signal 9, as when memory"
    with open_pool(tmp_path, 2, trainer="fake_trainer:dies") as pool:
        pool.submit(CONFIGS[0])
        with pytest.raises(RuntimeError, match=message):
            list(events(pool, 1))


def test_no_byte_that_a_worker_writes_stops_a_sweep(tmp_path):
    found = run_many(CONFIGS[:2], tmp_path / "a", 2, trainer="fake_trainer:writes_bytes")  # two runs, in two workers
    assert [result.status for result in found] == ["done", "done"]
    with pytest.raises(RuntimeError, match=r"ended 2 times .* Its last words: .*gr\ufffd\ufffde"):
        run_many(CONFIGS[:2], tmp_path / "b", 2, trainer="fake_trainer:writes_bytes_and_dies")


def test_lines_that_are_no_events_do_not_stop_the_listener(tmp_path, monkeypatch):
    """Whatever comes through the pipe of a worker, its end is heard."""
    code = r"import os; os.write(1, b'\xff\n{}\n[1]\nnull\n{\"event\": \"done\"}\n')"
    heard = queue.Queue()
    monkeypatch.setattr(pools.subprocess, "Popen", lambda _, **kw: subprocess.Popen([sys.executable, "-c", code], **kw))
    process = pools._Process(tmp_path, "x", heard)
    events = [heard.get(timeout=20)[1]["event"] for _ in range(2)]
    process.dismiss()
    process.end()
    assert events == ["done", "gone"]


def test_new_workers_are_waited_for_with_a_line_that_says_so(tmp_path, monkeypatch, cold_workers):
    from subspaces import processes

    monkeypatch.setattr(processes, "QUIET", 0.0)
    told = []
    run_many(
        CONFIGS[:2],
        tmp_path,
        2,
        on_event=lambda e: told.append((e.kind, e.message)),
        trainer="fake_trainer:known_curve",
    )
    assert ("waiting", "waiting for 2 new workers to load the libraries and the data") in told


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_are_passed_on_in_words(tmp_path, workers):
    with pytest.raises((RuntimeError, ValueError), match="`block` must be a power of two; got 3"):
        run_many(CONFIGS[:2], tmp_path, workers, trainer="fake_trainer:fails")


def test_a_diverged_run_is_a_result(tmp_path):
    (result,) = run_many(CONFIGS[:1], tmp_path, 1, trainer="fake_trainer:diverging")
    assert result.status == "diverged"
    assert result.score != result.score


def test_wrong_launchers_and_workers_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`launcher` must be one of local, ray, slurm; got 'rey'. Did you mean 'ray'"):
        open_pool(tmp_path, 2, "rey")
    with pytest.raises(ValueError, match=r"`workers` must be in \[1, 1,024\]; got 0"):
        open_pool(tmp_path, 0)


@pytest.mark.parametrize(("launcher", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_missing_extras_name_the_command(tmp_path, monkeypatch, launcher, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeError, match=rf'pip install "subspaces\[{launcher}\]"'):
        open_pool(tmp_path, 2, launcher)


def _sweep(root: Path, configs: str, trainer: str) -> warm.Popen:
    code = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # even where the tests run in the background of a shell
from subspaces.runs.run import Run
from subspaces.runs.sweep import run_many
run_many({configs}, {str(root)!r}, 2, trainer="fake_trainer:{trainer}")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    return warm.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)


def test_two_sweeps_share_a_folder(tmp_path):
    asked = '[Run.of("digits-fc", d=d) for d in range(1, 7)]'
    sweeps = [_sweep(tmp_path, asked, "slow_and_noisy") for _ in range(2)]
    assert [sweep.communicate()[1] for sweep in sweeps] == ["", ""]
    assert len(fake_trainer.logged(tmp_path)) == len(set(fake_trainer.logged(tmp_path))) == 6


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, number):
    """Whatever ends a sweep, no worker lives on and the same call does what is left."""
    sweep = _sweep(tmp_path, '[Run.of("digits-fc", d=d) for d in (10, 20)]', "endless")
    end = time.monotonic() + 30
    while len(fake_trainer.logged(tmp_path)) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    workers = [int(line.split()[0]) for line in (tmp_path / "log.txt").read_text().splitlines()]
    os.kill(sweep.pid, number)
    sweep.communicate()
    while any(map(_alive, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(_alive, workers))
    assert len(workers) == 2
    assert len(run_many(CONFIGS[:2], tmp_path, 1, trainer="fake_trainer:known_curve")) == 2


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if importlib.util.find_spec("submitit"):

    def test_slurm_by_its_local_stand_in(tmp_path):
        from subspaces.runs.clusters import SlurmPool

        with SlurmPool(tmp_path, 2, "fake_trainer:known_curve", cluster="debug") as pool:
            pool.submit(CONFIGS[0])
            (event,) = pool.wait(30)
        assert event.kind == "done"
        assert load_result(tmp_path / CONFIGS[0].key()) is not None


if importlib.util.find_spec("ray"):

    def test_ray_on_a_cluster_of_two_nodes(tmp_path, monkeypatch):
        import ray  # pyright: ignore[reportMissingImports]
        from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        try:
            results = run_many(CONFIGS, tmp_path, 2, "ray", trainer="fake_trainer:slow_and_noisy")
            assert len(ray.nodes()) == 2
            assert [result.config for result in results] == CONFIGS
            with pytest.raises(RuntimeError, match="`block` must be a power of two"):
                run_many([Run.of("digits-fc", d=50)], tmp_path, 2, "ray", trainer="fake_trainer:fails")
        finally:
            ray.shutdown()
            cluster.shutdown()
