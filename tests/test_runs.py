"""Names of runs, results written whole or not at all, claims."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_trainer
import pytest
import warm

from subspaces import files
from subspaces.files import atomic_write
from subspaces.runs.records import Result, decode_row, encode_row
from subspaces.runs.run import Run
from subspaces.runs.stop import StopPolicy
from subspaces.runs.store import load_result, load_rows, run_once, status

CONFIG = Run.of("digits-fc", d=10)


# ---- names


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (Run.of("digits-fc"), "digits-fc-29d2276e9011"),
        (Run.of("mnist-fc", d=750, seed_projection=1, seed_model=1, seed_data=1), "mnist-fc-843e93c7bbfc"),
        (
            Run.of("mnist-lenet", d=290, projection="fastfood", projection_options=("block=global",), lr=1e-3),
            "mnist-lenet-9eb725b28894",
        ),
    ],
)
def test_keys_never_change(config, key):
    """Golden: a change here orphans every run that was ever stored. A new field must default to "no effect"."""
    assert config.key() == key


def test_key_depends_on_values_not_on_how_they_were_given():
    as_typed = Run.from_dict({"task": "toy", "d": 5, "lr": 1, "only": ["a", "b"]})
    assert as_typed.key() == Run.of("toy", d=5, lr=1.0, only=("a", "b")).key()
    assert Run.of("toy", threads=4, device="cuda").key() == Run.of("toy").key()


def test_each_hashed_field_changes_the_key():
    changed = [
        Run.of("toy", d=5), Run.of("toy", seed_data=1), Run.of("toy", seed_model=1),
        Run.of("toy", seed_projection=1), Run.of("toy", seed_split=1), Run.of("toy", lr=0.1),
    ]  # fmt: skip
    assert len({config.key() for config in [Run.of("toy"), *changed]}) == 7


def test_config_survives_json():
    config = Run.of("toy", d=5, only=("a.*",), projection_options=("block=64",), lr=3e-4)
    assert Run.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="later_field"):
        Run.from_dict({**config.to_dict(), "later_field": 1})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d": 0}, "`d` must be at least 1; got 0"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
        ({"lr": float("nan")}, "`lr` must be a number; got nan"),
        ({"lr": -1.0}, "`lr` must be finite and above 0; got -1"),
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\)"),
        ({"label_noise": 1.5}, r"`label_noise` must be in \[0, 1\]; got 1.5"),
        ({"d": 5, "projection_options": ("block",)}, "NAME=VALUE; got 'block'"),
    ],
)
def test_wrong_values_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Run.of("toy", **fields)


def test_options_are_read_as_json_or_text():
    config = Run.of("toy", d=5, projection_options=("block=64", "entries=gaussian", "c=0.5"))
    assert config.space.options() == {"block": 64, "entries": "gaussian", "c": 0.5}


# ---- rows


def test_row_round_trip_and_nan():
    result = fake_trainer.result_of(CONFIG, float("nan"))
    row = decode_row(encode_row(result.to_row()))
    assert row["score"] is None
    assert Result.from_row(row).config == CONFIG
    assert Result.from_row(row).score != Result.from_row(row).score


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[: len(content) // 2], "cut off"),
        (lambda content: b"", "cut off"),
        (lambda content: content.replace(b'"D": 55210', b'"D": 55211'), "checksum"),
        (lambda content: b"[1, 2]", "cut off or not a result row"),
    ],
)
def test_damage_is_noticed(damage, message):
    content = encode_row(fake_trainer.result_of(CONFIG, 0.5).to_row())
    with pytest.raises(ValueError, match=message):
        decode_row(damage(content))


# ---- absent, started, done


def test_done_runs_are_read_not_repeated(tmp_path):
    assert status(CONFIG, tmp_path) == "absent"
    first = run_once(CONFIG, tmp_path, trainer=fake_trainer.known_curve)
    second = run_once(CONFIG, tmp_path, trainer=fake_trainer.known_curve)
    assert status(CONFIG, tmp_path) == "done"
    assert first is not None
    assert second is not None
    assert first.to_row() == second.to_row()
    assert fake_trainer.logged(tmp_path) == [CONFIG.key()]
    assert sorted(p.name for p in (tmp_path / CONFIG.key()).iterdir()) == ["result.json"]


def test_a_damaged_result_is_named_set_aside_and_done_again(tmp_path):
    other = Run.of("digits-fc", d=11)
    for config in (CONFIG, other):
        run_once(config, tmp_path, trainer=fake_trainer.known_curve)
    path = tmp_path / CONFIG.key() / "result.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match=rf"{CONFIG.key()}/result.json: it is cut off.*result.json.corrupt"):
        result = run_once(CONFIG, tmp_path, trainer=fake_trainer.known_curve)
    assert result is not None
    assert path.with_name("result.json.corrupt").stat().st_size == 100
    assert fake_trainer.logged(tmp_path) == [CONFIG.key(), other.key(), CONFIG.key()]
    assert len(list(load_rows(tmp_path))) == 2


def test_a_run_that_is_given_up_is_no_result_and_goes_on_to_the_bit(tmp_path):
    config = Run.of("digits-fc-16x1", d=2, epochs=10, batch_size=64)
    folder, policy = tmp_path / config.key(), StopPolicy(threshold=0.99)
    stopped = run_once(config, tmp_path, policy=policy)
    assert stopped is not None
    assert (stopped.status, len(stopped.curves)) == ("stopped", 4)
    assert "given up after 4 evaluations: no hope of accuracy 0.99" in stopped.message
    assert sorted(path.name for path in folder.iterdir()) == ["state.safetensors", "stopped.json"]
    again = run_once(config, tmp_path, policy=policy, trainer=fake_trainer.fails)
    assert again is not None
    assert again.curves == stopped.curves
    assert load_result(folder, StopPolicy(threshold=0.999)) is not None  # it would have been given up there too
    assert load_result(folder, StopPolicy(threshold=0.05)) is None
    assert load_result(folder) is None
    assert list(load_rows(tmp_path)) == []
    (row,) = load_rows(tmp_path, stopped=True)
    assert (row["status"], row["score"], row["test_score"]) == ("stopped", None, None)
    whole, alone = run_once(config, tmp_path), run_once(config, tmp_path / "alone")
    assert whole is not None
    assert alone is not None
    times = {"seconds": 0.0}
    assert [row | times for row in whole.curves] == [row | times for row in alone.curves]
    assert sorted(path.name for path in folder.iterdir()) == ["result.json", "subspace.safetensors"]


def test_rows_of_a_later_version_are_refused_not_thrown_away(tmp_path):
    run_once(CONFIG, tmp_path, trainer=fake_trainer.known_curve)
    path = tmp_path / CONFIG.key() / "result.json"
    row = decode_row(path.read_bytes())
    row["config"]["colour"] = "red"
    path.write_bytes(encode_row(row))
    with pytest.raises(ValueError, match=r"colour.*update"):
        load_result(path.parent)
    assert path.exists()


def test_reports_pass_over_damaged_rows(tmp_path):
    run_once(CONFIG, tmp_path, trainer=fake_trainer.known_curve)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "result.json").write_text("{")
    with pytest.warns(UserWarning, match="other/result.json"):
        assert len(list(load_rows(tmp_path))) == 1


def test_an_error_leaves_no_claim_and_no_result(tmp_path):
    with pytest.raises(ValueError, match="power of two"):
        run_once(CONFIG, tmp_path, trainer=fake_trainer.fails)
    assert list((tmp_path / CONFIG.key()).iterdir()) == []


# ---- the disk


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "the disk is full. Free"), (errno.EROFS, "read-only. Choose"), (errno.EACCES, "no permission")],
)
def test_a_disk_that_cannot_be_written(tmp_path, monkeypatch, number, message):
    path = tmp_path / "kept.json"
    atomic_write(path, b"old")

    def full(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=message) as caught:
        atomic_write(path, b"new")
    assert caught.value.errno == number
    assert "kept.json" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.json"]


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(OSError, match="Choose another folder"):
        run_once(CONFIG, tmp_path / "runs", trainer=fake_trainer.known_curve)


# ---- kills


def _python(code: str) -> warm.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    return warm.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


def test_kill_9_loses_only_the_run_in_hand(tmp_path):
    run_once(Run.of("digits-fc", d=9), tmp_path, trainer=fake_trainer.known_curve)
    code = f"""
import fake_trainer
from subspaces.runs.run import Run
from subspaces.runs.store import run_once
run_once(Run.of("digits-fc", d=10), {str(tmp_path)!r}, trainer=fake_trainer.endless)
"""
    process = _python(code)
    end = time.monotonic() + 30
    while len(fake_trainer.logged(tmp_path)) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    assert run_once(CONFIG, tmp_path, wait=False, trainer=fake_trainer.known_curve) is None  # it is being worked on
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert load_result(tmp_path / CONFIG.key()) is None
    assert load_result(tmp_path / Run.of("digits-fc", d=9).key()) is not None
    assert run_once(CONFIG, tmp_path, wait=False, trainer=fake_trainer.known_curve) is not None


def test_many_processes_on_one_folder_do_no_run_twice(tmp_path):
    code = f"""
import fake_trainer
from subspaces.runs.run import Run
from subspaces.runs.store import run_once
for d in range(1, 9):
    run_once(Run.of("digits-fc", d=d), {str(tmp_path)!r}, trainer=fake_trainer.known_curve)
"""
    processes = [_python(code) for _ in range(2)]
    assert [process.communicate()[0] for process in processes] == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(fake_trainer.logged(tmp_path)) == len(set(fake_trainer.logged(tmp_path))) == 8
