"""The published rule beside ours: the best epoch on the test set, and the smallest d whose best epoch passes."""

import math
from pathlib import Path

import pytest

from subspaces.projections import make_projection
from subspaces.recipes import PublishedRule, load_recipe
from subspaces.reproduce import table_page
from subspaces.reproduce.csv_rows import LATER, Row, read_rows
from subspaces.reproduce.rows import best_of, config_of, rule_row
from subspaces.reproduce.run import reproduce
from subspaces.runs.records import Result
from subspaces.runs.run import Run
from subspaces.runs.store import load_rows

RECIPE = """
title = "Digits by the rule of the paper"
paper = "nobody 1900"
claim = "A few dimensions do."
protocol = "Small."

[train]
epochs = 12
subset = 400

[[series]]
name = "best"
title = "best epoch"
task = "digits-fc"
d = [10, 40, 80]
seeds = 1
published = { 10 = 99 }
published_best = { 10 = 99.5, 80 = 30 }
rule = { passes = PASSES, published = 10 }
coordinate_lr = 0.01
entries = "1/d"
train = { projection = "hadamard", optimizer = "sgd", schedule = "constant", momentum = 0.0 }
"""


def _recipe(folder: Path, passes: float = 20.0, text: str = RECIPE) -> Path:
    path = folder / "tiny.toml"
    path.write_text(text.replace("PASSES", str(passes)))
    return path


def _result(*curves: float | None) -> Result:
    rows = [{"epoch": i, "test_score": score} for i, score in enumerate(curves)]
    return Result(Run.of("digits-fc", d=5), "done", 100, 5, rows, 1.0)


def test_the_best_epoch_is_each_run_s_own():
    assert best_of([_result(0.2, 0.9, 0.5), _result(0.7, None, 0.1)], 100.0) == pytest.approx(80.0)
    assert math.isnan(best_of([_result(None)]))
    assert best_of([_result(0.4, math.nan)]) == 0.4


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, list[Row]]:
    """The recipe, run below `out` beside it, and its rows."""
    recipe = _recipe(tmp_path_factory.mktemp("best"))
    return recipe, reproduce(recipe, out=recipe.parent / "out", workers=1)


def test_rows_hold_the_best_epoch_and_the_smallest_d_that_passes(made):
    recipe, rows = made
    done = {row["config"]["d"]: row for row in load_rows(recipe.parent / "out" / "runs" / "tiny")}
    by_d = {row["d"]: row for row in rows}
    for d in (10, 40, 80):
        best = max(point["test_score"] for point in done[d]["curves"])
        assert float(by_d[d]["best"]) == pytest.approx(100 * best, abs=0.01)
        assert float(by_d[d]["best"]) >= float(by_d[d]["measured"])
    passing = [d for d in (10, 40, 80) if float(by_d[d]["best"]) >= 20]
    assert passing
    assert by_d[""]["measured"] == passing[0]
    assert by_d[""]["quantity"] == "d_int, best epoch"
    assert (by_d[10]["published_best"], by_d[40]["published_best"]) == ("99.5", "")


def test_a_rule_that_no_d_passes_says_so(made):
    recipe, rows = made
    scores = [row for row in rows if row["d"]]
    row = rule_row("tiny", load_recipe(recipe).series[0], PublishedRule(101.0, 10), scores, _result(0.1))
    assert (row["measured"], row["outcome"], row["verdict"]) == ("", "none passed", "not reached")


def test_a_rate_on_entries_of_variance_1_over_d_makes_the_same_steps_on_ours():
    """w' = η Pᵀg on columns of norm √(D/d): θ moves by η D/d along our P Pᵀ g."""
    series = load_recipe("gargiulo2023").named("lenet-published-rule")
    config = config_of(series, 170)
    D = 44_426
    projection = make_projection("dense", 170, D, seed=0)
    rate = config.optimizer.lr * math.sqrt(D / 170)  # of the coordinates, from the native one
    assert projection.column_norm == pytest.approx(1.0, rel=0.01)
    assert rate == pytest.approx(0.01 * D / 170, rel=1e-3)


@pytest.mark.parametrize("fault", ["eval_every = 2", "eval_every = 1000"])
def test_a_best_epoch_needs_every_epoch(tmp_path, fault):
    path = _recipe(tmp_path, text=RECIPE.replace("epochs = 12", f"epochs = 12\n{fault}"))
    with pytest.raises(ValueError, match="`eval_every` must be 1"):
        load_recipe(path)


def test_files_without_the_later_columns_are_read(tmp_path):
    old = Path(__file__).parents[1] / "results" / "li2018-toy.csv"
    kept = read_rows(old)
    assert kept
    assert all(row[column] == "" for row in kept for column in LATER)


def test_the_page_shows_best_epochs_beside_the_published_ones(made):
    recipe, rows = made
    text = table_page.results(load_recipe(recipe), [Row({k: str(v) for k, v in row.items()}) for row in rows])
    best = next(row for row in rows if row["d"] == 10)["best"]
    assert "| best epoch | published |" in text
    assert f"| {best} | 99.5 |" in text
