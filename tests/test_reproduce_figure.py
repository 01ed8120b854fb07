"""Figures of recipes, drawn from rows: what stands in which panel, on which scale, and with room for it."""

import pytest
from matplotlib.axes import Axes

from subspaces.recipes import Recipe, Series, load_recipe
from subspaces.reproduce.csv_rows import COLUMNS, Row, store_rows
from subspaces.reproduce.kinds import KINDS
from subspaces.reproduce.paths import Paths
from subspaces.reproduce.table_figure import draw, figures
from subspaces.reproduce.work import write_figures


def _row(series: str, d: int | str, measured: float, published: str = "") -> Row:
    known = {"series": series, "d": str(d), "measured": str(measured), "published": published}
    fixed = {"quantity": "accuracy", "part": "test", "task": "digits-fc"}
    return Row(dict.fromkeys(COLUMNS, "") | fixed | known)


def _panels(series: list[Series], rows: list[Row]) -> dict[str, Axes]:
    drawn = figures(Recipe("r", "t", "p", "c", "o", tuple(series)), rows)
    drawn[""].draw_without_rendering()
    return {axes.get_title(loc="left") or axes.get_title(): axes for axes in drawn[""].axes}


def _heights(axes: Axes) -> set[float]:
    """Of the lines across a whole panel."""
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == ":"]  # type: ignore[arg-type]
    return {float(line.get_ydata()[0]) for line in lines}  # type: ignore[index]


DIRECT = Series("sgd", "SGD", "digits-fc", (None,))
NOISY = Series("noisy-sgd", "SGD, wrong labels", "digits-fc", (None,))
CURVE = Series("random", "random", "digits-fc", (10, 20), panel="digits")
ROWS = [_row("random", 10, 60.0), _row("random", 20, 70.0)]


def test_direct_training_is_a_line_in_the_panel_of_its_task():
    panels = _panels([DIRECT, CURVE], [_row("sgd", "direct", 97.0), *ROWS])
    assert list(panels) == ["digits"]
    assert _heights(panels["digits"]) == {97.0}


def test_direct_training_that_diverged_is_no_line():
    row = Row(_row("sgd", "direct", 0.0) | {"measured": "", "outcome": "diverged"})
    panels = _panels([DIRECT, CURVE], [row, *ROWS])
    assert list(panels) == ["digits"]
    assert _heights(panels["digits"]) == set()


def test_direct_training_with_a_published_number_is_compared_with_it():
    panels = _panels([DIRECT, CURVE], [_row("sgd", "direct", 97.0, published="98"), *ROWS])
    assert list(panels) == ["digits", "single dimensions and direct training"]
    assert _heights(panels["digits"]) == set()


def test_of_several_direct_trainings_each_is_with_what_was_learned_from_it():
    learned = Series("learned", "learned", "digits-fc", (2, 3), source="noisy-sgd", panel="wrong labels")
    rows = [_row("sgd", "direct", 97.0), _row("noisy-sgd", "direct", 41.0), *ROWS]
    panels = _panels([DIRECT, NOISY, CURVE, learned], [*rows, _row("learned", 2, 39.0), _row("learned", 3, 43.0)])
    assert _heights(panels["wrong labels"]) == {41.0}
    assert _heights(panels["digits"]) == set()
    assert set(panels) == {"digits", "wrong labels", "single dimensions and direct training"}


@pytest.mark.parametrize(("lowest", "scale"), [(20.0, "function"), (89.0, "linear")])
def test_scores_near_100_are_spread_by_what_is_missing_where_others_are_far_below(lowest, scale):
    scores = [lowest, 90.0, 95.0, 97.0, 98.0, 98.5, 98.8, 98.9, 99.0, 99.1]
    rows = [_row("random", 2**i, score) for i, score in enumerate(scores)]
    (axes,) = _panels([CURVE], rows).values()
    assert axes.get_yscale() == scale
    place = axes.transData.transform
    if scale == "function":  # 90 to 99 is as far as 0 to 90
        low, middle, high = (place((1, y))[1] for y in (0.0, 90.0, 99.0))
        assert high - middle == pytest.approx(middle - low, rel=1e-6)


def test_a_long_legend_stands_beside_the_curves():
    series = [Series(f"s{i}", f"series {i}", "digits-fc", (10, 20), panel="digits") for i in range(6)]
    rows = [_row(one.name, d, 50.0 + d) for one in series for d in (10, 20)]
    (axes,) = _panels(series, rows).values()
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().x0 > axes.get_window_extent().x1
    assert axes.get_position().width > 0.45


def test_long_names_leave_room_for_the_points():
    figure = draw([("points", "points", {"a title of many words " * 8: [_row("s", "direct", 90.0)]})])
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().width > 0.4


def test_dimensions_of_another_recipe_are_drawn_beside(tmp_path, monkeypatch):
    """CartPole beside MNIST: the rows of the other recipe are read where its results lie."""
    recipe, paths = load_recipe("li2018-control"), Paths.of(tmp_path)
    own = Row(_row("cartpole-cma", "", 3.0, "25") | {"recipe": "li2018-control", "quantity": "d_int90"})
    other = Row(_row("fc", "", 651.0, "750") | {"recipe": "li2018-mnist", "quantity": "d_int90"})
    grid = Row(_row("grid-50x1", "", 737.0, "800") | {"recipe": "li2018-mnist", "quantity": "d_int90"})
    store_rows(paths.rows("li2018-control"), [own])
    store_rows(paths.rows("li2018-mnist"), [other, grid])
    drawn = []
    monkeypatch.setattr("subspaces.reproduce.work.save_figure", lambda figure, path: drawn.append(figure))
    write_figures(recipe, paths, KINDS["table"])
    (axes,) = drawn[0].axes
    named = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    assert len(named) == 2
    assert named[0] == "CartPole W=20, CMA-ES"
    assert named[1] == "FC 2×200 (li2018-mnist)"
