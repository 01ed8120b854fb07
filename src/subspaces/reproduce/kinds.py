"""The kinds of recipes that there are: another one is another record here."""

from subspaces.recipes.series import Kind
from subspaces.reproduce import (
    stages,
    table_figure,
    table_page,
    transition,
    transition_figure,
    transition_page,
    wells_figure,
    wells_page,
    wells_run,
)
from subspaces.reproduce.work import SeriesKind

KINDS: dict[Kind, SeriesKind] = {
    "table": SeriesKind(
        stages.run_stages, table_figure.figures, table_page.results, table_page.account,
        caption="published against measured",
    ),
    "transition": SeriesKind(
        transition.run_transitions, transition_figure.figures, transition_page.results, transition_page.account,
        ("", "-thresholds"), "measured and predicted",
    ),
    "wells": SeriesKind(
        wells_run.run_wells, wells_figure.figures, wells_page.results, wells_page.account,
        ("", "-heatmap", "-curves", "-widths", "-measured"), "exact, predicted and measured",
    ),
}  # fmt: skip
"""What is done with the series of each kind."""
