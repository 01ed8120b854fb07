"""Who holds a run, when a claim is void, and that nobody waits without being told for whom. Clocks are fakes."""

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import fake_trainer
import pytest

from subspaces import processes
from subspaces.processes import Patience, is_dead, mark, this_process
from subspaces.runs import claims, store
from subspaces.runs.claims import Claim, holder
from subspaces.runs.run import Run
from subspaces.runs.store import run_once, status

CONFIG = Run.of("digits-fc", d=10)
ELSEWHERE = {"host": "elsewhere", "boot": "?", "pid": 12, "started": "1", "token": "x"}


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(claims, "_SEEN", {})
    return Clock()


def _held(folder, clock) -> bool:
    with Claim(folder, clock=clock) as claim:
        return claim.held


def test_one_claim_at_a_time(tmp_path):
    with Claim(tmp_path) as first:
        assert first.held
        with Claim(tmp_path) as second:
            assert not second.held
        assert (tmp_path / "claim").exists()
    with Claim(tmp_path) as third:
        assert third.held
    assert list(tmp_path.iterdir()) == []


def test_a_claim_is_not_waited_for_unless_asked(tmp_path):
    with Claim(tmp_path / CONFIG.key()):
        assert run_once(CONFIG, tmp_path, wait=False, trainer=fake_trainer.known_curve) is None
        assert status(CONFIG, tmp_path) == "started"


def test_claims_of_dead_processes_are_void_at_once(tmp_path, clock):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (tmp_path / "claim").write_text(json.dumps({**this_process(), "pid": int(gone.stdout), "token": "x"}))
    assert _held(tmp_path, clock)
    assert list(tmp_path.iterdir()) == []


def test_a_process_number_that_is_used_again_does_not_keep_a_claim(tmp_path, clock):
    (tmp_path / "claim").write_text(json.dumps({**this_process(), "started": "1", "token": "x"}))
    assert _held(tmp_path, clock)


@pytest.mark.parametrize("ahead", [0, 7200, -600, -3000], ids=["right", "two hours ahead", "late", "very late"])
def test_a_claim_of_another_machine_is_void_after_a_minute_of_watching_whatever_its_clock_says(tmp_path, clock, ahead):
    path = tmp_path / "claim"
    path.write_text(json.dumps(ELSEWHERE))
    os.utime(path, (time.time() + ahead,) * 2)
    assert not _held(tmp_path, clock)
    clock.now += 59
    assert not _held(tmp_path, clock)
    clock.now += 2
    assert _held(tmp_path, clock)


def test_a_machine_that_gives_signs_of_life_by_a_late_clock_keeps_its_claim(tmp_path, clock):
    path = tmp_path / "claim"
    path.write_text(json.dumps(ELSEWHERE))
    for beat in range(10):
        os.utime(path, (time.time() - 1800 + 5 * beat,) * 2)
        assert not _held(tmp_path, clock)
        clock.now += 30


def test_a_claim_of_another_machine_that_is_hours_old_is_void_at_once(tmp_path, clock):
    path = tmp_path / "claim"
    path.write_text(json.dumps(ELSEWHERE))
    os.utime(path, (time.time() - 4000,) * 2)
    assert _held(tmp_path, clock)


@pytest.mark.parametrize("content", [b"", b"\xff{", b"[1]"], ids=["empty", "no text", "no object"])
def test_a_claim_without_a_name_is_void_after_two_seconds(tmp_path, clock, content):
    (tmp_path / "claim").write_bytes(content)
    assert not _held(tmp_path, clock)
    clock.now += 2.5
    assert _held(tmp_path, clock)


def test_a_claim_is_never_seen_without_a_name(tmp_path, monkeypatch):
    """It is linked to its place when it is whole, so that a kill cannot leave an empty one."""
    seen = []
    link = os.link

    def linked(source, target):
        seen.append(json.loads(Path(source).read_text())["token"])
        link(source, target)

    monkeypatch.setattr(os, "link", linked)
    with Claim(tmp_path) as claim:
        assert claim.held
        assert seen == [json.loads((tmp_path / "claim").read_text())["token"]]


def test_where_the_file_system_has_no_links_claims_work_too(tmp_path, monkeypatch):
    def refused(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with Claim(tmp_path) as first, Claim(tmp_path) as second:
        assert (first.held, second.held) == (True, False)
    assert list(tmp_path.iterdir()) == []


def test_holders_give_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT", 0.01)
    with Claim(tmp_path):
        os.utime(tmp_path / "claim", (0, 0))
        end = time.monotonic() + 10
        while (tmp_path / "claim").stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert (tmp_path / "claim").stat().st_mtime > 0


def test_a_claim_taken_over_by_another_is_left_to_it(tmp_path):
    with Claim(tmp_path):
        (tmp_path / "claim").write_text(json.dumps({"token": "of another"}))
    assert (tmp_path / "claim").exists()


def test_what_killed_processes_left_in_a_folder_is_removed_by_the_next_holder(tmp_path):
    dead = mark().rpartition("-")[0] + "-1"  # this number, started at another time
    (tmp_path / f".result.json.{dead}.0123abcd.tmp").write_text("half")
    alive = tmp_path / f".result.json.{mark()}.0123abcd.tmp"
    alive.write_text("half")
    (tmp_path / ".notes.tmp").write_text("of somebody else")
    with Claim(tmp_path):
        pass
    assert is_dead(dead)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.tmp", alive.name]


# ---- waits


def test_the_holder_is_told_in_words(tmp_path):
    path = tmp_path / "claim"
    path.write_text(json.dumps(ELSEWHERE))
    assert holder(tmp_path).startswith("process 12 on elsewhere (sign of life 0 s ago; it is taken over after 60 s")
    os.utime(path, (time.time() - 600,) * 2)
    assert "silent for 10 min" in holder(tmp_path)
    path.write_text("")
    assert "a full disk" in holder(tmp_path)
    path.unlink()
    assert holder(tmp_path) == ""
    with Claim(tmp_path):
        assert holder(tmp_path) == f"process {os.getpid()} on {this_process()['host']}"


def test_a_wait_is_told_after_three_seconds_and_then_each_minute(monkeypatch):
    clock, told = Clock(), []
    monkeypatch.setattr(processes.time, "monotonic", clock)
    patience = Patience(told.append)
    for _ in range(130):
        patience.wait(lambda: f"waiting at {clock.now - 1000:.0f}")
        clock.now += 1
    assert told == ["waiting at 3", "waiting at 63", "waiting at 123"]
    patience.over()
    patience.wait("again")
    assert len(told) == 3


def test_a_run_in_other_hands_is_waited_for_with_a_line_that_says_whose(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "QUIET", 0.0)
    folder = tmp_path / CONFIG.key()
    folder.mkdir()
    (folder / "claim").write_text(json.dumps(ELSEWHERE))
    monkeypatch.setattr(claims, "LAPSE", 60.0)
    seconds = iter(map(float, range(0, 10_000, 40)))
    monkeypatch.setattr(claims, "_SEEN", {})
    monkeypatch.setattr(store, "Claim", functools.partial(Claim, clock=lambda: next(seconds)))
    assert run_once(CONFIG, tmp_path, trainer=fake_trainer.known_curve) is not None
    assert f"waiting for {CONFIG.key()}, in the hands of process 12 on elsewhere" in capsys.readouterr().err


def test_a_measurement_says_whose_runs_it_waits_for(tmp_path, monkeypatch):
    from subspaces.runs import sweep

    monkeypatch.setattr(processes, "QUIET", 0.0)
    folder = tmp_path / CONFIG.key()
    folder.mkdir()
    (folder / "claim").write_text(json.dumps(ELSEWHERE))
    told = []

    def take(event):
        told.append((event.kind, event.message))
        if event.kind == "waiting":
            (folder / "claim").unlink()

    sweep.run_many([CONFIG], tmp_path, 1, on_event=take, trainer="fake_trainer:known_curve")
    assert [kind for kind, _ in told] == ["busy", "waiting", "done"]
    assert told[1][1].startswith(f"waiting for {CONFIG.key()}: process 12 on elsewhere")
