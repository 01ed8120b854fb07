"""The grid past SGD: its statistics on known numbers, its images and courses of the rate, its table."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import common
import learned_grid
import learned_tables
import readme


def rows(**ways):
    """Accuracies by way, one for each seed."""
    return [
        {"seed": str(seed), "way": way, "d": "", "epochs": "30", "accuracy": str(value)}
        for way, values in ways.items()
        for seed, value in enumerate(values)
    ]


def test_differences_are_paired_and_have_the_interval_of_t():
    assert learned_tables.difference([1.0, 2.0, 3.0]) == "+2.00 ± 2.48"  # 4.303 · 1 / √3
    assert learned_tables.difference([1.0]) == ""
    known = rows(**{"EMA of SGD, constant rate": [50, 60], "SGD, cosine": [40, 50], "other": [51, 61]})
    lines = {line["way"]: line for line in learned_tables.summary(known)}
    assert lines["other"]["mean"] == "56.00"
    assert lines["other"]["– EMA of SGD, constant rate"] == "+1.00 ± 0.00"  # the seeds differ by 10, the pairs do not
    assert lines["other"]["– SGD, cosine"] == "+11.00 ± 0.00"


@pytest.mark.parametrize(
    ("course", "at"),
    [("constant", [1, 1, 1]), ("cosine", [1, 0.5, 0]), ("stepped", [1, 1, 0.1]), ("late", [1, 1, 0]),
     ("cyclic", [1, 0.5, 1])],
)  # fmt: skip
def test_rates_fall_as_they_are_called(course, at):
    found = [getattr(learned_grid, course)(share) for share in (0.0, 0.5, 1.0)]
    assert found == pytest.approx(at, abs=1e-9)


def test_images_are_flipped_and_shifted_and_nothing_else():
    x = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 1
    shaken = learned_grid.shaken(x, torch.Generator().manual_seed(1))
    assert shaken.shape == x.shape
    turned = [bool((a[:, 2:-2, 2:-2].sort().values == 0).any()) for a in shaken]
    assert not any(turned)  # the middle is never padded
    wide = torch.nn.functional.pad(x, (2,) * 4)
    places = [(i, j) for i in range(5) for j in range(5)]
    plain = [(wide[:, :, i : i + 16, j : j + 16] == shaken).flatten(1).all(1) for i, j in places]
    mirrored = [(wide.flip(3)[:, :, i : i + 16, j : j + 16] == shaken).flatten(1).all(1) for i, j in places]
    assert torch.stack(plain + mirrored).any(0).all()
    assert 0 < torch.stack(mirrored).any(0).sum() < 64


def test_the_table_has_the_best_way_first(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    assert readme.TABLES["learned_grid"]() == "Not measured yet.\n"
    names = {"EMA of SGD, constant rate": [60, 61], "SGD, cosine": [58, 59], "P-SGD": [59, 60]}
    common.write_rows("learned-grid", [{**row, "accuracy": float(row["accuracy"])} for row in rows(**names)])
    lines = readme.TABLES["learned_grid"]().splitlines()
    assert lines[0].startswith("| way | d | epochs | test accuracy, mean of 2 |")
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [
        "EMA of SGD, constant rate",
        "P-SGD",
        "SGD, cosine",
    ]
    assert "-1.00 ± 0.00 | +1.00 ± 0.00" in lines[3]
