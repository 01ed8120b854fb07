"""Learned subspaces from the command line and by recipes of several stages."""

import json

import pytest

from subspaces.cli import main
from subspaces.recipes import RECIPES, Series, load_recipe
from subspaces.reproduce.run import reproduce
from subspaces.runs.pools import Event
from subspaces.runs.recording import TRAJECTORY
from subspaces.runs.store import load_rows, run_once


def command(capsys, *arguments: str) -> tuple[int, str]:
    """Exit status and output of the program."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0), capsys.readouterr().out


# ---- the command line


def test_three_commands_from_end_to_end(capsys, tmp_path):
    common = ["digits-fc-16x1", "--batch-size", "32", "--out", str(tmp_path), "--json"]
    status, text = command(capsys, "train", *common, "--record", "epoch", "--epochs", "5", "--lr", "5e-3")
    run = tmp_path / json.loads(text)["key"]
    assert status == 0
    assert (run / TRAJECTORY).is_file()
    status, text = command(capsys, "extract", str(run), "--d", "3")
    assert status == 0
    assert "|PᵀP − I|" in text
    assert "its projection" in text
    file = run / "dldr-3.safetensors"
    assert str(file) in text
    status, text = command(capsys, "train", *common, "--subspace", str(file), "--optimizer", "pbfgs", "--epochs", "3")
    row = json.loads(text)
    assert (status, row["trained"]) == (0, 3)
    assert row["test_score"] > 0.85
    assert len(list(load_rows(tmp_path))) == 2


# ---- recipes


def test_recipes_with_stages_parse_and_build_their_configs():
    names = [name for name in RECIPES if name.startswith(("dldr2021", "larsen2021"))]
    assert len(names) >= 7
    for name in names:
        for recipe in (load_recipe(name), load_recipe(name).smoked()):
            for one in recipe.series:
                if one.source:
                    assert recipe.named(one.source).train["record"]
                assert one.d or not one.source


def test_a_source_must_be_there_and_record(tmp_path):
    text = 'title=""\npaper=""\nclaim=""\nprotocol=""\n[[series]]\nname="a"\ntask="digits-fc"\nd=["direct"]\n'
    stage = '[[series]]\nname="b"\ntask="digits-fc"\nd=[3]\nsource="{}"\n'
    for source, message in (("a", "must record"), ("c", "source")):
        (tmp_path / "r.toml").write_text(text + stage.format(source))
        with pytest.raises(ValueError, match=message):
            load_recipe(tmp_path / "r.toml")


SMALL = """
title = "small"
paper = "none"
claim = "none"
protocol = "none"
[train]
epochs = 3
batch_size = 32
[[series]]
name = "sgd"
task = "digits-fc-16x1"
d = ["direct"]
seeds = 2
train = { lr = 5e-3, record = "10", record_ema = 0.9 }
[[series]]
name = "dldr"
task = "digits-fc-16x1"
d = [2, 4]
seeds = 2
source = "sgd"
train = { optimizer = "pbfgs" }
[[series]]
name = "ratio"
task = "digits-fc-16x1"
d = [1, 4]
seeds = 2
source = "sgd"
measure = "pca_ratio"
[[series]]
name = "end"
task = "digits-fc-16x1"
d = [4]
source = "sgd"
seeds = 1
measure = "projection"
[[series]]
name = "iterate"
task = "digits-fc-16x1"
d = ["direct"]
source = "sgd"
seeds = 1
measure = "mean"
last = 1
[[series]]
name = "mean"
task = "digits-fc-16x1"
d = ["direct"]
source = "sgd"
seeds = 2
measure = "mean"
last = 4
[[series]]
name = "ema"
task = "digits-fc-16x1"
d = ["direct"]
source = "sgd"
seeds = 1
measure = "ema"
samples = 10
[[series]]
name = "twa"
task = "digits-fc-16x1"
d = [3]
source = "sgd"
basis = "twa"
last = 3
seeds = 1
train = { optimizer = "sgd" }
[[series]]
name = "ticket"
task = "digits-fc-16x1"
d = [400]
source = "sgd"
basis = "ticket"
seeds = 1
train = { optimizer = "sgd", lr = 0.1 }
[[series]]
name = "imp"
task = "digits-fc-16x1"
d = [200]
source = "sgd"
basis = "imp"
seeds = 1
train = { optimizer = "sgd", lr = 0.1 }
"""


def in_this_process(configs, root, workers, *, on_event, trainer):
    """`run_many` without processes, which cost seconds to start."""
    results = [run_once(config, root) for config in configs]
    for config, result in zip(configs, results, strict=True):
        on_event(Event("done", config, result))
    return results


def test_a_recipe_of_stages_runs_and_goes_on(tmp_path, monkeypatch):
    for module in ("reproduce.grid", "reproduce.stages"):
        monkeypatch.setattr(f"subspaces.{module}.run_many", in_this_process)
    (tmp_path / "small.toml").write_text(SMALL)
    rows = reproduce(tmp_path / "small.toml", workers=1, out=tmp_path / "out")
    found = {(row["series"], row["d"]): float(row["measured"]) for row in rows}
    assert list(found) == [
        ("sgd", "direct"), ("dldr", 2), ("dldr", 4), ("ratio", 1), ("ratio", 4), ("end", 4), ("iterate", "direct"),
        ("mean", "direct"), ("ema", "direct"), ("twa", 3), ("ticket", 400), ("imp", 200),
    ]  # fmt: skip
    assert 0 < found["ratio", 1] < found["ratio", 4] <= 1
    assert found["dldr", 4] > 80
    assert found["end", 4] > 70
    assert all(found[name, "direct"] > 80 for name in ("iterate", "mean", "ema"))
    assert len({found[name, "direct"] for name in ("iterate", "mean", "ema")}) == 3
    assert found["twa", 3] > 80
    told = {row["series"]: row["settings"] for row in rows}
    assert told["mean"].endswith("mean of the last 4 of all samples")
    assert told["ema"].endswith("EMA 0.9 at the last of samples 0 to 9")
    before = len(list(load_rows(tmp_path / "out" / "runs")))
    again = reproduce(tmp_path / "small.toml", workers=1, out=tmp_path / "out")
    assert [row["measured"] for row in again] == [row["measured"] for row in rows]
    assert len(list(load_rows(tmp_path / "out" / "runs"))) == before


def test_averages_are_of_a_source_that_keeps_them(tmp_path):
    text = 'title=""\npaper=""\nclaim=""\nprotocol=""\n[[series]]\nname="a"\ntask="digits-fc"\nd=["direct"]\n'
    text += 'train={record="epoch"}\n[[series]]\nname="b"\ntask="digits-fc"\nsource="a"\n'
    for stage, message in (('d=["direct"]\nmeasure="ema"', "record_ema"), ('d=[3]\nmeasure="mean"', "direct")):
        (tmp_path / "r.toml").write_text(text + stage)
        with pytest.raises(ValueError, match=message):
            load_recipe(tmp_path / "r.toml")


def test_a_series_describes_its_stage():
    series = Series("b", "b", "digits-fc", (3,), source="a")
    assert (series.basis, series.measure, series.samples) == ("dldr", "score", None)
