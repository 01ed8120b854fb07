"""Full disks, quotas, read-only file systems and forbidden folders at every change of the disk that anything makes.

For every n: the n-th change fails (or all from the n-th on). Then old files are whole, no temporary file is left, and
the error is one line with the path and what to do; or there is no error, and the new file is whole.
"""

import dataclasses
import errno
import functools
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import fake_trainer
import numpy as np
import pytest
import torch
from faults import Faults
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from small_disk import SmallDisk, contents, failing
from small_network import small_network
from torch import nn
from training import begun, curves

from subspaces import Subspace
from subspaces.datasets import files as data_files
from subspaces.learned.affine import trajectory_figure
from subspaces.learned.bases import dldr, load_basis
from subspaces.learned.stored import load_subspace, save_ticket
from subspaces.learned.tickets import magnitude_ticket
from subspaces.learned.trajectory import Trajectory, TrajectoryRecorder
from subspaces.report import write
from subspaces.report.figures import save as save_figure
from subspaces.report.page import Part
from subspaces.reproduce.csv_rows import COLUMNS, read_rows, store_rows
from subspaces.runs.cargo import Cargo
from subspaces.runs.run import Run
from subspaces.runs.store import load_result, run_once
from subspaces.training.callbacks import Callback
from subspaces.training.state import Fit, read_state, save_state

RUN = Run.of("digits-fc", d=10)
TINY = Run.of("digits-fc-16x1", d=3, epochs=2, batch_size=64)


@dataclasses.dataclass(frozen=True)
class Site:
    """Something that writes: what lies there before, what is done, and how one sees that a file is whole."""

    act: Callable[[Path], object]
    whole: Callable[[Path], object]
    before: Callable[[Path], object] | None = None


def _recorder(path: Path) -> TrajectoryRecorder:
    torch.manual_seed(0)
    recorder = TrajectoryRecorder(nn.Linear(3, 2), 1, path, resume=path.exists())
    recorder.step()
    return recorder


def _samples() -> TrajectoryRecorder:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    recorder = TrajectoryRecorder(model, 1)
    for _ in range(3):
        nn.init.normal_(model.weight)
        recorder.step()
    return recorder


@functools.cache
def _fit() -> Fit:
    return begun(TINY)


def _subspace(seed: int = 1) -> Subspace:
    return Subspace(small_network(), d=5, seed=seed)


def _figure() -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.add_artist(Line2D([0, 1], [0, 1]))
    return figure


def _page(folder: Path) -> None:
    part = Part("title", "lead", (), "", "", "")
    original, write._parts = write._parts, lambda *_: ([part], [part])
    try:
        write.write_report(folder)
    finally:
        write._parts = original


ROW = dict.fromkeys(COLUMNS, "1")
SITES = {
    "checkpoint": Site(
        lambda f: _subspace().save(f / "w.safetensors"),
        lambda f: Subspace.load(small_network(), f / "w.safetensors"),
        lambda f: _subspace().save(f / "w.safetensors"),
    ),
    "basis": Site(
        lambda f: dldr(_samples(), 2).save(f / "new" / "b.safetensors"),
        lambda f: load_basis(f / "new" / "b.safetensors"),
    ),
    "ticket": Site(
        lambda f: save_ticket(f / "t.safetensors", magnitude_ticket(_samples()[2], _samples()[0], 3)),
        lambda f: load_subspace(f / "t.safetensors"),
    ),
    "trajectory": Site(
        lambda f: _recorder(f / "new" / "t.bin").close(), lambda f: Trajectory.open(f / "new" / "t.bin")
    ),
    "sample": Site(
        lambda f: _recorder(f / "t.bin").close(),
        lambda f: Trajectory.open(f / "t.bin"),
        lambda f: _recorder(f / "t.bin").close(),
    ),
    "claim and row": Site(
        lambda f: run_once(RUN, f, trainer=lambda run, **_: fake_trainer.result_of(run, 0.5)),
        lambda f: load_result(f / RUN.key()),
    ),
    "state": Site(lambda f: save_state(begun(TINY), f), lambda f: read_state(f), lambda f: save_state(begun(TINY), f)),
    "figure of a page": Site(
        lambda f: save_figure(_figure(), f / "figures", "one"),
        lambda f: (f / "figures" / "one.svg").read_text().rindex("</svg>"),
    ),
    "figure of a basis": Site(
        lambda f: trajectory_figure(_samples(), dldr(_samples(), 2), f / "b.png"),
        lambda f: (f / "b.png").read_bytes().index(b"IEND"),
    ),
    "page": Site(_page, lambda f: (f / "report.html").read_text().index("</html>"), _page),
    "csv": Site(
        lambda f: store_rows(f / "rows.csv", [ROW]),
        lambda f: read_rows(f / "rows.csv")[0],
        lambda f: store_rows(f / "rows.csv", [ROW]),
    ),
}
DISKS = (("full", True), ("full", False), ("quota", True), ("read-only", True), ("forbidden", False))
"""What fails, and whether all that follows fails too."""
NUMBERS = {"full": errno.ENOSPC, "quota": errno.EDQUOT, "read-only": errno.EROFS, "forbidden": errno.EACCES}
ADVICE = {
    "full": "the disk is full. Free some space",
    "quota": "the quota is used up. Free some space",
    "read-only": "the file system is read-only. Choose another",
    "forbidden": "there is no permission to write. Choose another",
}


def _attempt(site: Site, folder: Path, at: int, number: int, *, stays: bool) -> tuple[OSError | None, Faults]:
    with Faults(folder, failing(at, number, stays=stays)) as faults, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            site.act(folder)
        except OSError as error:
            return error, faults
    return None, faults


@pytest.mark.filterwarnings("ignore:.*ends in a sample cut short")
@pytest.mark.parametrize("name", SITES)
def test_whatever_fails_old_files_are_whole_and_the_error_says_what_to_do(tmp_path, name):
    site, tried = SITES[name], 0
    for disk, stays in DISKS[:1] if "figure" in name else DISKS:  # drawing takes long
        at = 0
        while True:
            at += 1
            folder = tmp_path / f"{disk}-{stays}-{at}"
            folder.mkdir()
            if site.before is not None:
                site.before(folder)
            old = contents(folder)
            error, faults = _attempt(site, folder, at, NUMBERS[disk], stays=stays)
            if len(faults.calls) < at:
                break
            tried += 1
            where = f"{disk}, change {at}: {faults.calls[at - 1]}"
            if error is None:
                site.whole(folder)
            else:
                assert error.errno == NUMBERS[disk], where
                assert str(folder) in str(error), where
                assert ADVICE[disk] in str(error), where
                assert "\n" not in str(error), where
            new = contents(folder)
            assert all(new[path] == content or site.whole(folder) is not None for path, content in old.items()), where
            removable = not (stays and disk == "read-only")
            left = [path for path in new if path.endswith(".tmp") or Path(path).name in ("claim", ".takeover", ".room")]
            assert not (left and removable and faults.calls[at - 1].op not in ("unlink",)), f"{where} leaves {left}"
            shutil.rmtree(folder)
    assert tried >= 5


# ---- what the message promises


class Epochs(Callback):
    """At which epoch a run begins, and where it ends."""

    def __init__(self) -> None:
        self.first: int | None = None

    def start(self, fit) -> None:
        self.first = fit.epoch


RECORD = Run.of("digits-fc-16x1", epochs=6, batch_size=128, record="epoch")


@pytest.mark.parametrize("source", ["weights", "gradients"])
def test_a_recorded_run_on_a_full_disk_goes_on_at_the_epoch_that_the_message_names(tmp_path, source):
    run = RECORD.but(record_source=source)
    calm = run_once(run, tmp_path / "calm")
    size = (tmp_path / "calm" / run.key() / "trajectory.bin").stat().st_size
    with SmallDisk(tmp_path / "full", 10**8) as disk, pytest.raises(OSError) as caught:
        run_once(run, tmp_path / "full", callbacks=[Shrink(disk, size // 6)])
    said = str(caught.value)
    assert "the disk is full. Free some space" in said
    assert "trajectory.bin" in said
    epoch = int(said.rpartition("The same command goes on from epoch ")[2].split()[0])
    assert 0 < epoch < 6
    epochs = Epochs()
    result = run_once(run, tmp_path / "full", callbacks=[epochs])
    assert epochs.first == epoch
    assert curves(result) == curves(calm)
    trajectories = [tmp_path / name / run.key() / "trajectory.bin" for name in ("calm", "full")]
    assert trajectories[0].read_bytes() == trajectories[1].read_bytes()
    assert sorted(path.name for path in trajectories[1].parent.iterdir()) == sorted(
        path.name for path in trajectories[0].parent.iterdir()
    )


class Shrink(Callback):
    """After the second epoch a disk has room for no further sample."""

    def __init__(self, disk: SmallDisk, least: int) -> None:
        self.disk, self.least = disk, least

    def epoch(self, fit, row) -> None:
        if fit.epoch == 2:
            self.disk.capacity = self.disk.used() + self.least // 2


def test_a_state_that_cannot_be_written_says_where_the_run_goes_on(tmp_path, monkeypatch):
    from subspaces.training import loop

    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    states = []

    def act(call, go, half):
        if call.op == "replace" and call.place == "state":
            states.append(call)
            if len(states) == 3:
                raise OSError(errno.EDQUOT, "Disk quota exceeded")
        return go()

    run = Run.of("digits-fc-16x1", d=3, epochs=5, batch_size=128)
    with Faults(tmp_path, act), pytest.raises(OSError, match=r"quota is used up.*goes on from epoch 2 of 5"):
        run_once(run, tmp_path)
    epochs = Epochs()
    assert curves(run_once(run, tmp_path, callbacks=[epochs])) == curves(run_once(run, tmp_path / "calm"))
    assert epochs.first == 2


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "source"
    source.write_text("1")
    at = 0
    while True:
        at += 1
        with Faults(tmp_path, failing(at, errno.ENOSPC, stays=False)) as faults:
            found = data_files.cached("numbers", source, lambda: {"x": np.arange(3)})
        assert found["x"].tolist() == [0, 1, 2]
        if len(faults.calls) < at:
            break
        assert [path for path in contents(tmp_path) if path.endswith(".tmp")] == []
        shutil.rmtree(tmp_path / "subspaces", ignore_errors=True)
    assert at > 4


def test_a_task_that_cannot_be_packed_for_workers_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("subspaces.runs.cargo.pack", lambda name: b"packed")
    cargo = Cargo()
    with Faults(tmp_path, failing(2, errno.ENOSPC, stays=False)), pytest.raises(OSError, match=r"disk is full.*TMPDIR"):
        cargo.place("mine")
    cargo.close()
    assert list(tmp_path.iterdir()) == []


# ---- strange paths


def _loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def _file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


STRANGE = {
    "a circle of links": (_loop, "symbolic links go round in a circle|part of this path is a file"),
    "a name that is too long": (lambda f: f / ("x" * 300), "a name in this path is too long"),
    "a file in the place of the folder": (_file, "a part of this path is a file"),
    "a folder below a file": (lambda f: _file(f) / "below", "a part of this path is a file"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_folders_are_named_with_what_to_do(tmp_path, name):
    make, message = STRANGE[name]
    folder = make(tmp_path)
    for act in (
        lambda: run_once(RUN, folder, trainer=fake_trainer.known_curve),
        lambda: store_rows(folder / "rows.csv", [ROW]),
        lambda: save_figure(_figure(), folder, "one"),
        lambda: save_ticket(folder / "t", magnitude_ticket(_samples()[2], _samples()[0], 3)),
        lambda: TrajectoryRecorder(nn.Linear(3, 2), 1, folder / "t.bin"),
        lambda: dldr(_samples(), 2).save(folder / "b.safetensors"),
    ):
        with pytest.raises(OSError, match=message) as caught:
            act()
        assert str(folder)[:100] in str(caught.value)
        assert "Choose another" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"`path` must be a file; got .*w.safetensors', which is a folder"):
        _subspace().save(tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == [tmp_path / "w.safetensors"]


def test_names_as_long_as_the_system_allows_can_be_written(tmp_path):
    path = tmp_path / ("ä" * 121 + ".safetensors")  # 254 bytes
    _subspace().save(path)
    Subspace.load(small_network(), path)


def test_paths_that_are_no_text_can_be_written_and_told(tmp_path, capsysbinary):
    from subspaces.cli import main

    folder = tmp_path / os.fsdecode(b"gr\xf6\xdfe")
    run = ["train", "digits-fc-16x1", "--d", "3", "--epochs", "1", "--out", str(folder)]
    with pytest.raises(SystemExit) as end:
        main(run)
    assert end.value.code == 0
    result = load_result(next(folder.iterdir()))
    assert result is not None
    with pytest.raises(SystemExit) as end:
        main(["report", str(folder)])
    assert end.value.code == 0
    assert b"</html>" in (folder / "report.html").read_bytes()
