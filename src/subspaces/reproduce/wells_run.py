"""Quadratic wells computed, stored and drawn."""

from collections.abc import Sequence

import torch

from subspaces.recipes import Series
from subspaces.reproduce.csv_rows import Row
from subspaces.reproduce.drawing import save_figure
from subspaces.reproduce.wells import WELLS_COLUMNS, Computed, compute
from subspaces.reproduce.wells_draws import figures
from subspaces.reproduce.work import Work


def run_wells(work: Work, wanted: Sequence[Series]) -> list[Row]:
    """Rows of the wanted wells, and the figures that need the draws and not the rows alone. One thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows: list[Row] = []
        done: dict[str, Computed] = {}
        for one in wanted:
            done[one.title], new = compute(work.recipe.name, one)
            work.write(new, one, WELLS_COLUMNS)
            rows += new
        for name, figure in figures(done).items():
            save_figure(figure, work.paths.figure(work.recipe.name + name))
    finally:
        torch.set_num_threads(threads)
    work.draw()
    return rows
