"""Event files of TensorBoard, read back by TensorBoard itself; deselected where it is not installed."""

import sys

import pytest
from training import Interrupt

from subspaces.cli import main
from subspaces.dimension.measure import measure_dimension
from subspaces.runs.run import Run
from subspaces.runs.train import train
from subspaces.training.callbacks import TensorBoard

CONFIG = Run.of("digits-fc-16x1", d=10, epochs=3, subset=256)  # 4 steps per epoch
COMMAND = (
    "`tensorboard` needs the package tensorboard, which is not installed. "
    'Install it: pip install "subspaces[tensorboard]"'
)


def read(folder):
    """The curves in the event files of a run: tag → [(step, value)]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)


def test_the_error_has_the_command_that_installs_it(absent, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        TensorBoard(tmp_path)
    assert str(caught.value) == COMMAND


def test_a_search_refuses_before_its_first_run(absent, tmp_path):
    with pytest.raises(RuntimeError, match="which is not installed"):
        measure_dimension(Run.of("digits-fc"), tmp_path, tensorboard=True, trainer="fake_trainer:fails")


def test_the_command_ends_with_it(absent, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "digits-fc", "--d", "5", "--tensorboard"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {COMMAND}\n".replace("`tens", "`--tens")


@pytest.mark.tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scalars_are_those_of_the_result(tmp_path):
    result = train(CONFIG, callbacks=[TensorBoard(tmp_path)])
    curves = read(tmp_path / CONFIG.key())
    assert set(curves) == {f"{what}/{part}" for what in ("loss", "score") for part in ("train", "val", "test")} | {
        "lr", "score", "seconds",
    }  # fmt: skip
    for tag, name in (("loss/train", "train_loss"), ("score/test", "test_score"), ("lr", "lr")):
        assert curves[tag] == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in result.curves]


@pytest.mark.tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("at", [8, 10])  # at the end of an epoch, and between
def test_an_interrupted_run_goes_on_in_the_same_curves(tmp_path, at):
    logs = tmp_path / "tensorboard"
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, folder=tmp_path, callbacks=[TensorBoard(logs), Interrupt(at)])
    assert [step for step, _ in read(logs / CONFIG.key())["loss/train"]] == [4, 8]
    train(CONFIG, folder=tmp_path, callbacks=[TensorBoard(logs)])
    assert [step for step, _ in read(logs / CONFIG.key())["loss/train"]] == [4, 8, 12]
