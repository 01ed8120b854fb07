"""Runs give the numbers that they gave before there were nested runs and a loop over objects.

On the machine that made the file (AVX-512, torch 2.13) losses were equal to the bit, and scores but for the last digit
of their float32 form: they are counted in float64 now. Other processors add in another order.
"""

import json
import os
from pathlib import Path

import pytest

from subspaces.runs.run import Run
from subspaces.runs.train import train

GOLDEN = json.loads((Path(__file__).parent / "golden" / "curves_v1.json").read_text())
NEED_FILES = ("mnist-fc", "mnist-lenet")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.data if name in NEED_FILES else ()) for name in GOLDEN]
)
def test_a_run_gives_the_numbers_that_it_gave(name):
    if name in NEED_FILES and not list((Path(os.environ.get("SUBSPACES_DATA", "")) / "mnist").glob("*")):
        pytest.skip("no mnist below SUBSPACES_DATA")
    known = GOLDEN[name]
    result = train(Run.from_dict(known["config"]))
    assert result.resolved["lr_scaled"] == pytest.approx(known["lr"], rel=1e-4)
    rows = result.curves[-len(known["curves"]) :]
    for row, wanted in zip(rows, known["curves"], strict=True):
        assert (row["epoch"], row["step"]) == (wanted["epoch"], wanted["step"])
        for field in ("train_loss", "val_loss", "test_loss"):
            assert row[field] == pytest.approx(wanted[field], rel=5e-3)
        for field in ("val_score", "test_score"):
            assert row[field] == pytest.approx(wanted[field], abs=0.02)
