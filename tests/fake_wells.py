"""A trainer whose success probability is known: runs on an isotropic quadratic well, solved exactly, at no cost."""

from pathlib import Path
from typing import Any

import numpy as np

from subspaces.runs.records import Result
from subspaces.runs.run import Run

WELL = 500
"""Dimensions of the well; the network's own D plays no part."""


def start_loss(burn_in: int) -> float:
    """Loss where the subspace is laid."""
    return 1.0 if burn_in == 0 else 0.5


def isotropic(config: Run, *, folder: Path, callbacks: Any = ()) -> Result:
    """Falls in one step to the lowest loss in the plane, start · Beta((D − d)/2, d/2), and stays there."""
    with open(folder.parent / "log.txt", "a") as file:
        file.write(f"{config.key()}\n")
    d = config.d or 0
    lowest = start_loss(config.space.burn_in) * np.random.default_rng(config.seeds.model).beta((WELL - d) / 2, d / 2)
    curves = [
        {"epoch": e, "step": 10 * e, "seconds": 0.1, "lr": 0.1, "train_loss": lowest, "train_score": 1 - lowest}
        | {"val_loss": lowest, "val_score": 1 - lowest, "test_loss": lowest, "test_score": 1 - lowest - 0.01 * e}
        | {"score": 1 - lowest}
        for e in (1, 2)
    ]
    if config.data.validation == 0:
        curves = [row | {"val_loss": None, "val_score": None, "score": None} for row in curves]
    return Result(
        config, "done", D=55210, trained=d, curves=curves, seconds=0.2, score_name="accuracy",
        trace=[start_loss(config.space.burn_in), *[float(lowest)] * 19], environment={"torch": "0"},
    )  # fmt: skip


def fails(config: Run, *, folder: Path, callbacks: Any = ()) -> Result:
    """Raises: nothing is to be run."""
    raise ValueError("no run was expected")


def logged(root: Path) -> list[str]:
    """Keys of the runs that were made below a root."""
    path = root / "log.txt"
    return path.read_text().split() if path.exists() else []
