"""A recipe in hand: where it is kept, how its runs are done, and what its kind of series does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from subspaces.recipes import Recipe, Series, load_recipe
from subspaces.reproduce.csv_rows import COLUMNS, Row, read_rows, store_rows
from subspaces.reproduce.drawing import save_figure, style
from subspaces.reproduce.paths import Paths
from subspaces.runs.pools import TRAINER, Event


@dataclass(frozen=True)
class SeriesKind:
    """What is done with the series of a recipe of one kind."""

    run: Callable[[Work, Sequence[Series]], list[Row]]
    """Does the work; the rows of these series, which it also stores."""
    figures: Callable[[Recipe, Sequence[Row]], dict[str, Figure]]
    """The figures that follow from all rows of a recipe, by what is added to the recipe's name."""
    results: Callable[[Recipe, list[Row]], str]
    """The table on the page."""
    account: Callable[[Series, Sequence[Row]], str]
    """What the page says of a series: what was run, how long it took, and the note."""
    suffixes: tuple[str, ...] = ("",)
    """Figures in the order of the page, by what is added to the recipe's name."""
    caption: str = ""


@dataclass
class Work:
    """A recipe that is carried out."""

    recipe: Recipe
    paths: Paths
    kind: SeriesKind
    workers: int = 2
    trainer: str = TRAINER
    on_event: Callable[[Series, Event], Any] | None = None

    @property
    def folder(self) -> Path:
        """Where the runs of the recipe are kept."""
        return self.paths.runs / self.recipe.name

    def tell(self, series: Series, event: Event | None) -> None:
        """Pass an event of a series on."""
        if event is not None and self.on_event is not None:
            self.on_event(series, event)

    def write(self, rows: list[Row], series: Series, columns: Sequence[str] = COLUMNS) -> None:
        """Store the rows of a series in place of its earlier ones."""
        store_rows(self.paths.rows(self.recipe.name), rows, [series.name], columns)

    def draw(self) -> None:
        """Draw the figures of the recipe from its rows."""
        write_figures(self.recipe, self.paths, self.kind)


def write_figures(recipe: Recipe, paths: Paths, kind: SeriesKind) -> None:
    """Draw all rows of a recipe that are there; nothing where there are none."""
    recipe, rows = _with_beside(recipe, read_rows(paths.rows(recipe.name)), paths)
    with style():
        for name, figure in kind.figures(recipe, rows).items():
            save_figure(figure, paths.figure(recipe.name + name))


def _with_beside(recipe: Recipe, rows: list[Row], paths: Paths) -> tuple[Recipe, list[Row]]:
    """The recipe and its rows with the intrinsic dimensions of other recipes that are drawn with them."""
    series, found = list(recipe.series), list(rows)
    for text in recipe.beside if rows else ():
        other, _, name = text.partition(":")
        one = load_recipe(other).named(name)
        series.append(dataclasses.replace(one, name=text, title=f"{one.title} ({other})", panel=""))
        found += [
            Row({**row, "series": text})
            for row in read_rows(paths.rows(other))
            if row["series"] == name and row["quantity"].startswith("d_int")
        ]
    return dataclasses.replace(recipe, series=tuple(series)), found
