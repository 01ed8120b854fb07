"""Recipes of phase transitions and of wells, from end to end."""

import pytest

from subspaces.recipes import load_recipe
from subspaces.reproduce.csv_rows import read_rows
from subspaces.reproduce.run import reproduce
from subspaces.reproduce.transition_page import results

TRANSITION = """
title = "Thresholds of a well"
paper = "nobody 1900"
claim = "There is a threshold."
protocol = "Small."

[[series]]
name = "digits"
title = "FC on digits"
task = "digits-fc"

[series.transition]
burn_in = [0, 20]
levels = [0.4]
added = [0.2]
accuracies = [0.5]
d_min = 50
d_max = 480
runs = 10
budget = 25
window = 5
predict = false
"""


def test_thresholds_and_runs_become_rows_figures_and_a_page(tmp_path):
    """Larsen's isotropic well: d* for P = ½ lies at D (1 − ε/L₀); levels chosen late are marked."""
    path = tmp_path / "phase.toml"
    path.write_text(TRANSITION)
    rows = reproduce(path, workers=1, out=tmp_path / "out", trainer="fake_wells:isotropic")
    stars = {(row["part"], row["burn_in"], row["level"]): row for row in rows}
    assert set(stars) == {(p, t, e) for p, e in (("train", "0.2"), ("train", "0.4"), ("test", "0.5")) for t in (0, 20)}
    late = {row["level"] for row in rows if row["added"]}
    assert late == {"0.2"}
    far, near = float(stars["train", 0, "0.4"]["measured"]), float(stars["train", 20, "0.4"]["measured"])
    assert far == pytest.approx(500 * (1 - 0.4), rel=0.2)
    assert near < 0.6 * far
    stored = read_rows(tmp_path / "out" / "phase.csv")
    runs = [row for row in stored if row["quantity"] == "run"]
    assert 2 * sum(int(stars["train", t, "0.4"]["runs"]) for t in (0, 20)) == len(runs)
    names = {"phase.png", "phase-thresholds.png"}
    assert {p.name for p in (tmp_path / "out" / "figures").iterdir()} >= names
    text = results(load_recipe(path), stored)
    assert "| digits | ε = 0.2† | random (loss 1.00) |" in text
    assert "chosen after data had been seen" in text
    again = reproduce(path, workers=1, out=tmp_path / "out", trainer="fake_wells:fails")  # all runs are read
    assert [row["measured"] for row in again] == [row["measured"] for row in rows]


def test_wells_hold_the_exact_law_beside_the_prediction(tmp_path):
    path = tmp_path / "toy.toml"
    head = TRANSITION.split("[[series]]")[0]
    path.write_text(head + '[[series]]\nname = "flat"\ntitle = "isotropic"\n[series.wells]\nexponent = 0.0\n'
                    "fractions = [0.5, 0.2]\nmeasured = 1\nD = 60\ndraws = 60\nruns = 4\n")  # fmt: skip
    rows = reproduce(path, workers=1, out=tmp_path / "out")
    assert [row["fraction"] for row in rows] == ["0.5", "0.2"]
    for row in rows:
        exact = 60 * (1 - float(row["fraction"]))
        assert float(row["predicted_d50"]) == pytest.approx(exact)
        assert row["oracle_d50"] == pytest.approx(exact, abs=4)
        assert row["oracle_d90"] == pytest.approx(row["law_d90"], abs=3)
        assert row["gordon"] <= row["oracle_d90"]
    assert rows[0]["measured"] != ""
    assert rows[1]["measured"] == ""
    suffixes = ("", "-heatmap", "-curves", "-widths", "-measured")
    assert {p.name for p in (tmp_path / "out" / "figures").iterdir()} >= {f"toy{suffix}.png" for suffix in suffixes}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("levels = [0.4]", "level = [0.4]", "transition of .*Did you mean 'levels'"),
        ('task = "digits-fc"', "", "`task` must be given"),
        ('task = "digits-fc"', 'task = "digits-fc"\nd = [5]', "must be left out with `transition`"),
        ("predict = false", 'predict = false\n[[series]]\nname = "b"\ntask = "digits-fc"\nd = [5]', "one kind"),
    ],
)
def test_mistakes_in_a_transition_are_named(tmp_path, old, new, message):
    path = tmp_path / "phase.toml"
    path.write_text(TRANSITION.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        load_recipe(path)
