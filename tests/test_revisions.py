"""Results of another revision of a task: taken as absent, named, kept, never mixed with those of today."""

import dataclasses
import json

import fake_trainer
import pytest
from training import Interrupt

from subspaces import tasks
from subspaces.dimension.measure import measure_dimension
from subspaces.dimension.result import Rule
from subspaces.dimension.series import gather
from subspaces.runs.fingerprint import fingerprint, is_of_today
from subspaces.runs.records import decode_row, encode_row
from subspaces.runs.run import Run
from subspaces.runs.stop import StopPolicy
from subspaces.runs.store import load_result, load_rows, run_once, status
from subspaces.runs.sweep import run_many
from subspaces.runs.train import train
from subspaces.tasks import TASKS, Images, Network, image_task

WITH = f"{__name__}:with_option"
DIGITS, MNIST = Run.of("digits-fc-16x1", d=10, epochs=2), Run.of("mnist-fc", d=750)


@pytest.mark.parametrize(
    ("config", "known"),
    [
        (Run.of("digits-fc"), "r1-94726dc2ef"),
        (MNIST, "r2-8134882a0c"),
        (Run.of("toy", d=10), "r1-be42a7ff53"),
        (Run.of("cifar10-resnet20", d=1000), "r1-f128e1b839"),
    ],
)
def test_fingerprints_never_change_by_accident(config, known):
    """Golden: a change here makes every stored run of the task be done again. Meant? Then raise its `revision` too."""
    assert fingerprint(config) == known


def test_only_what_decides_numbers_is_in_the_fingerprint(monkeypatch):
    def now(**fields):
        monkeypatch.setitem(TASKS, "revised", dataclasses.replace(TASKS["digits-fc"], name="revised", **fields))
        return fingerprint(Run.of("revised", d=5, lr=0.1))

    plain = now()
    assert plain == now(source="elsewhere", baseline=0.5) == now(model=Network("fc", "digits"))
    settings = TASKS["digits-fc"].optimizer
    assert plain == now(optimizer=dataclasses.replace(settings, lr=9.0))  # the config has a rate of its own
    other = [
        now(revision=2), now(data=Images("digits", "none")), now(model=Network("fc", "digits", {"width": 3})),
        now(judged_on="train"),
        now(optimizer=dataclasses.replace(settings, epochs=1)), now(options=tasks.DataOptions(subset=9)),
    ]  # fmt: skip
    assert len({plain, *other}) == 7


def test_options_that_json_cannot_hold_have_a_lasting_name(monkeypatch):
    monkeypatch.setitem(TASKS, "revised", image_task("revised", "digits", WITH, model_options={"act": max}))
    first = fingerprint(Run.of("revised"))
    monkeypatch.setitem(TASKS, "revised", image_task("revised", "digits", WITH, model_options={"act": min}))
    assert fingerprint(Run.of("revised")) != first


def with_option(shape, classes, act):
    return TASKS["digits-fc"].build_model(0)


def test_results_from_before_count_where_the_task_is_as_it_was():
    assert is_of_today("", DIGITS)
    assert not is_of_today("", MNIST)
    assert is_of_today(fingerprint(MNIST), MNIST)
    assert is_of_today("r9-0", Run.of("gone.module:task"))  # nothing to compare with


def _from_before(folder, mark=""):
    """Turn a stored result into one of an earlier version of the program, or revision."""
    path = folder / "result.json"
    row = decode_row(path.read_bytes())
    row["fingerprint"] = mark
    if not mark:
        del row["fingerprint"]
    path.write_bytes(encode_row(row))
    return row


def test_a_result_of_another_revision_is_done_again_and_kept(tmp_path):
    folder = tmp_path / MNIST.key()
    run_once(MNIST, tmp_path, trainer=fake_trainer.known_curve)
    assert load_result(folder).fingerprint == fingerprint(MNIST)  # pyright: ignore[reportOptionalMemberAccess]
    old = _from_before(folder)
    text = rf"mnist-fc has changed \(r1, now r2-\w+\): its results in {tmp_path} count as not done"
    with pytest.warns(UserWarning, match=text) as caught:
        assert load_result(folder) is None
    assert "each old row is kept as result.json.r1" in str(caught[0].message)
    assert status(MNIST, tmp_path) == "started"  # it is said once
    (new,) = run_many([MNIST], tmp_path, 1, trainer="fake_trainer:known_curve")
    assert fake_trainer.logged(tmp_path) == [MNIST.key()] * 2
    assert load_result(folder).to_row() == new.to_row()  # pyright: ignore[reportOptionalMemberAccess]
    assert decode_row((folder / "result.json.r1").read_bytes()) == old
    assert len(list(load_rows(tmp_path))) == 1


def test_an_interrupted_renewal_keeps_the_old_result(tmp_path):
    run_once(MNIST, tmp_path, trainer=fake_trainer.known_curve)
    old = _from_before(tmp_path / MNIST.key())
    with pytest.warns(UserWarning, match="count as not done"), pytest.raises(ValueError, match="power of two"):
        run_once(MNIST, tmp_path, trainer=fake_trainer.fails)
    assert decode_row((tmp_path / MNIST.key() / "result.json").read_bytes()) == old


def test_one_line_for_a_folder_of_runs(tmp_path):
    configs = [MNIST.but(d=d) for d in (1, 2, 3)]
    for config in configs:
        run_once(config, tmp_path, trainer=fake_trainer.known_curve)
        _from_before(tmp_path / config.key())
    with pytest.warns(UserWarning, match="count as not done") as caught:
        assert [load_result(tmp_path / config.key()) for config in configs] == [None] * 3
    assert len(caught) == 1


def test_results_without_a_fingerprint_stay_where_nothing_changed(tmp_path):
    run_once(DIGITS, tmp_path, trainer=fake_trainer.known_curve)
    _from_before(tmp_path / DIGITS.key())
    assert run_once(DIGITS, tmp_path, trainer=fake_trainer.fails) is not None


def test_a_run_given_up_under_another_revision_is_not_taken_over(tmp_path, monkeypatch):
    config, policy = Run.of("digits-fc", d=2), StopPolicy(threshold=0.99)
    fields = {"trainer": fake_trainer.learning, "policy": policy}
    assert run_once(config, tmp_path, **fields).status == "stopped"  # pyright: ignore[reportOptionalMemberAccess]
    monkeypatch.setitem(TASKS, "digits-fc", dataclasses.replace(TASKS["digits-fc"], revision=2))
    with pytest.warns(UserWarning, match="count as not done"):
        assert load_result(tmp_path / config.key(), policy) is None
    run_once(config, tmp_path, **fields)
    assert len(list((tmp_path / config.key()).glob("stopped.json*"))) == 2


def test_a_state_of_another_revision_is_not_gone_on_from(tmp_path, monkeypatch):
    config = Run.of("digits-fc-16x1", d=5, epochs=3, subset=256)
    with pytest.raises(KeyboardInterrupt):
        train(config, folder=tmp_path, callbacks=[Interrupt(6)])
    task = dataclasses.replace(tasks.get_task(config.task), revision=2)
    monkeypatch.setitem(TASKS, config.task, task)
    with pytest.warns(UserWarning, match=r"digits-fc-16x1 has changed \(r1-.*, now r2-.*was interrupted.*anew"):
        result = train(config, folder=tmp_path)
    assert result.curves[0]["epoch"] == 1
    assert len(list(tmp_path.glob("state.safetensors.r1-*"))) == 1


def test_a_measurement_does_not_build_on_another_revision(tmp_path, monkeypatch):
    def measure():
        rule = Rule(baseline="local", max_runs=12)
        return measure_dimension(Run.of("digits-fc"), tmp_path, rule, workers=1, trainer="fake_trainer:known_curve")

    before = measure()
    count = len(fake_trainer.logged(tmp_path / "runs"))
    monkeypatch.setitem(TASKS, "digits-fc", dataclasses.replace(TASKS["digits-fc"], revision=2))
    with pytest.warns(UserWarning, match="count as not done"):
        after = measure()
    assert after.estimate.d_int == before.estimate.d_int
    assert len(fake_trainer.logged(tmp_path / "runs")) == 2 * count
    record = json.loads((tmp_path / "measurement.json").read_bytes())
    assert record["fingerprint"].startswith("r2-")


def test_a_report_does_not_mix_revisions(tmp_path):
    configs = [MNIST.but(d=d) for d in (10, 20, 40)]
    run_many(configs, tmp_path, 1, trainer="fake_trainer:known_curve")
    for config in configs[:2]:
        _from_before(tmp_path / config.key())
    with pytest.warns(UserWarning, match="2 results of another revision of their task are left out"):
        (series,) = gather([tmp_path])
    assert list(series.by_d()) == [40]
    _from_before(tmp_path / configs[2].key())
    assert list(gather([tmp_path])[0].by_d()) == [10, 20, 40]  # nothing newer: the report of an old folder stays
