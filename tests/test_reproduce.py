"""Recipes against the published tables, verdicts on closed cases, and a small recipe from end to end."""

import math
from pathlib import Path

import pytest

from subspaces.cli import main
from subspaces.dimension.estimate import DimensionEstimate
from subspaces.projections import PROJECTIONS, make_projection
from subspaces.recipes import RECIPES, Series, load_recipe
from subspaces.reproduce.csv_rows import COLUMNS, read_rows, store_rows
from subspaces.reproduce.page import status, unexplained
from subspaces.reproduce.paths import Paths
from subspaces.reproduce.rows import (
    Interval,
    config_of,
    facts,
    interval_of_mean,
    judge_dimension,
    judge_score,
    settings,
)
from subspaces.reproduce.run import redraw, reproduce
from subspaces.runs.run import Run
from subspaces.runs.settings import Compute
from subspaces.tasks import get_task
from subspaces.text_words import is_text_task

EVERY = [(name, series) for name in RECIPES for series in load_recipe(name).series if series.kind == "table"]
IDS = [f"{name}-{series.name}" for name, series in EVERY]

RECIPE = """
title = "Digits in a few dimensions"
paper = "nobody 1900"
claim = "A few dimensions do."
protocol = "Small."

[train]
epochs = 2
eval_every = 10

[smoke]
train = { epochs = 1 }
points = 1

[[series]]
name = "digits"
title = "FC on digits"
task = "digits-fc"
d = [20, 200, "direct"]
seeds = 2
published = { 20 = 10, 200 = 99.9 }
note = "A note."

[[series]]
name = "search"
title = "its dimension"
task = "digits-fc"
d = [20, 200]
seeds = 1
train = { epochs = 3 }
dimension = { published = 500, baseline = "0.9", max_runs = 3 }

[[series]]
name = "named"
title = "only when named"
task = "digits-fc"
d = [5]
default = false
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


# ---- the recipes that are shipped


def test_all_tables_of_the_plan_are_there():
    assert set(RECIPES) >= {
        "greydanus2017", "li2018-mnist", "li2018-toy", "li2018-cifar10", "li2018-shuffled-labels", "gargiulo2023",
        "rbd2020",
    }  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_what_is_claimed_and_run_without_being_named(name):
    recipe = load_recipe(name)
    assert min(map(len, (recipe.title, recipe.paper, recipe.claim, recipe.protocol))) > 20
    assert recipe.choose()
    smoked = recipe.smoked()
    assert smoked.series
    assert sum(len(one.d) * one.seeds for one in smoked.series) <= 16


BUILDABLE = [
    pytest.param(*one, marks=[pytest.mark.text] * is_text_task(one[1].task), id=name)
    for one, name in zip(EVERY, IDS, strict=True)
]
"""Networks of texts are built with the extra `text`."""


@pytest.mark.parametrize(("name", "series"), BUILDABLE)
def test_tasks_kinds_and_options_exist(name, series):
    task = get_task(series.task)
    configs = [config_of(series, d, i) for d in series.d for i in range(series.seeds)]
    assert len({config.key() for config in configs}) == len(configs) == len(series.d) * series.seeds
    for config in configs:
        assert settings(config)  # resolved against the task: a rate where the optimiser is another
        if config.d is not None:
            if "subspaces.models.zoo" not in series.task:  # networks of packages that need not be installed
                assert config.d <= task.D
            assert config.space.projection in PROJECTIONS
    first = configs[0] if configs else series.search_config()
    kind, options = first.space.projection, first.space.options()
    make_projection(kind, 4, 100, **options)  # refuses an option that the kind does not have
    assert series.dimension is None or series.search_config().d is None


@pytest.mark.parametrize(
    ("recipe", "series", "published"),
    [
        ("greydanus2017", "conv-table", {10000: 98.8, 3000: 97.0, 1000: 93.5, None: 99.0}),  # the four-row table
        ("greydanus2017", "fc-curve", {3: 10, 10: 12, 30: 21, 100: 52, 300: 75, 1000: 90, None: 97.76}),
        ("li2018-mnist", "lenet", {290: 90.12, 1000: 96.28, None: 99.08}),
        ("li2018-mnist", "fc", {750: 89.42, 1500: 92.52, None: 98.11}),
        ("li2018-toy", "toy", {8: 0.0476, 9: 0.165, 10: 0.99977}),
        ("li2018-cifar10", "lenet", {1000: 46.27, 2900: 53.41, 10000: 59.82, None: 58.40}),
        ("li2018-shuffled-labels", "labels-5000", {50000: 57.5, 90000: 89.9}),
        ("gargiulo2023", "lenet-dense", {170: 87.5, 200: 91.9}),
        ("rbd2020", "fc-rbd", {250: 93.893}),
        ("rbd2020", "cnn-fpd", {250: 88.9}),
    ],
)
def test_published_accuracies(recipe, series, published):
    (found,) = load_recipe(recipe).choose([series])
    assert {d: found.published[d] for d in published} == published


def test_published_dimensions():
    mnist = {one.name: one.dimension.published for one in load_recipe("li2018-mnist").series if one.dimension}
    assert mnist["fc"] == 750
    assert mnist["lenet"] == 290
    assert [mnist[n] for n in ("fc-tied", "untied", "fc-lenet", "lenet-shuffled")] == [425, 600, 2000, 1400]
    grid = {
        50: [800, 700, 750, 800, 675],
        100: [675, 750, 775, 750, 775],
        200: [775, None, 750, 800, 850],  # 2×200 is `fc`
        400: [800, 800, 800, 900, 850],
    }
    assert {w: [mnist.get(f"grid-{w}x{k}") for k in range(1, 6)] for w in grid} == grid


def test_published_rates_are_those_of_the_coordinates():
    """Gressmann et al.: base·32 with columns of unit norm, so 2⁻⁵·32 = 1; here 10, which the native rate must give."""
    (series,) = load_recipe("rbd2020").choose(["fc-rbd"])
    config = config_of(series, 250)
    assert config.optimizer.lr is not None
    assert config.optimizer.lr * math.sqrt(101_770 / 250) == pytest.approx(10, rel=1e-4)


def test_the_breakdown_of_fastjl_shows_in_the_facts():
    """q = 2 ln²60000/ln³d; K drops from √d to ln d above 6,000, so columns grow by √6000/ln 6001 = 8.9."""
    (series,) = load_recipe("gargiulo2023").choose(["breakdown"])
    below, above = facts(series.config(6000)), facts(series.config(6001))
    q = 2 * math.log(60_000) ** 2 / math.log(6000) ** 3
    assert below.frozen == pytest.approx(1 - q, abs=0.01)
    assert above.column_norm / below.column_norm == pytest.approx(math.sqrt(6000) / math.log(6001), rel=0.02)


# ---- mistakes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('task = "digits-fc"', 'tusk = "digits-fc"', r"tiny.toml: \[\[series\]\] 'digits': .*Did you mean 'task'"),
        ("d = [20, 200]", "d = [20, -3]", "`d` must be positive integers"),
        ("200 = 99.9", "300 = 99.9", r"`published` must be at d of the series; got \['300'\]"),
        ("epochs = 3 }", 'epochs = 3 }\nmissed = { 20 = "why" }', r"`missed` must be of published .*got \['20'\]"),
        ("epochs = 3", "epoch = 3", "`epoch` must be left out; got 3, but a run has no such option"),
        ("epochs = 3", "epochs = 0", "`epochs` must be at least 1; got 0"),
        ('title = "Digits', 'titel = "Digits', "Did you mean 'title'"),
        ("epochs = 3 }", "epochs = 3 }\ncoordinate_lr = 1.0", "`coordinate_lr` must stand without"),
        ('name = "named"', 'name = "search"', "`name` must be different"),
        ("[smoke]", "[smoke", "tiny.toml"),
    ],
)  # fmt: skip
def test_mistakes_in_a_recipe_are_named(recipe, old, new, message):
    recipe.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe)


def test_mistyped_names():
    with pytest.raises(
        ValueError, match=r"`recipe` must be one of .*; got 'li2018-minst'. Did you mean 'li2018-mnist'"
    ):
        load_recipe("li2018-minst")
    with pytest.raises(ValueError, match=r"`series` must be one of .*Did you mean 'lenet'"):
        load_recipe("li2018-mnist").choose(["lenett"])
    with pytest.raises(FileNotFoundError, match=r"absent\.toml"):
        load_recipe("absent.toml")


# ---- verdicts


def test_interval_of_the_mean_is_students():
    """n = 3, sd = 1: half-width t₀.₉₇₅,₂/√3 = 4.302653/1.732051."""
    found = interval_of_mean([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.sd == 1.0
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), rel=1e-6)
    assert interval_of_mean([5.0]) == Interval(5.0, None, None, None)


@pytest.mark.parametrize(
    ("measured", "published", "verdict"),
    [
        (Interval(91.0, 0.1, 90.8, 91.2), 90.0, "beaten"),
        (Interval(91.0, 0.9, 89.5, 92.5), 90.0, "matched"),  # above, but not surely
        (Interval(89.8, 0.2, 89.5, 90.1), 90.0, "matched"),  # below by less than both margins
        (Interval(89.4, 0.2, 89.1, 89.7), 90.0, "not reached"),
        (Interval(88.0, 3.0, 80.0, 96.0), 90.0, "not reached"),  # a wide interval alone matches nothing
        (Interval(89.6, None, None, None), 90.0, "matched"),  # one run: the published noise alone
        (Interval(99.0, None, None, None), 90.0, "matched"),  # one run never beats
        (Interval(math.nan, None, None, None), 90.0, "not reached"),
        (Interval(91.0, 0.1, 90.8, 91.2), None, ""),
    ],
)
def test_verdict_on_a_score(measured, published, verdict):
    assert judge_score(measured, published) == verdict


def _estimate(d_int: int | None, low: int | None, high: int | None) -> DimensionEstimate:
    return DimensionEstimate(
        "found", d_int, low, high, 0.9, 0.0, 0.9, 1.0, 0.0, 0, 0.95, 1, 1000, None, (), {}, ()
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ((600, 550, 660), "beaten"),
        ((740, 700, 790), "matched"),
        ((770, 740, 800), "matched"),
        ((820, 780, 870), "not reached"),
        ((700, 600, None), "matched"),  # an open end cannot beat
        ((800, 700, None), "not reached"),
        ((None, 1000, None), "not reached"),
    ],
)
def test_verdict_on_a_dimension(found, verdict):
    assert judge_dimension(_estimate(*found), 750) == verdict
    assert judge_dimension(_estimate(*found), None) == ""


# ---- from end to end


def test_a_recipe_runs_resumes_and_is_drawn(recipe, tmp_path):
    told = []
    out = tmp_path / "out"
    rows = reproduce(recipe, workers=1, out=out, on_event=lambda series, event: told.append(event))
    assert [(row["series"], row["quantity"], row["d"]) for row in rows] == [
        ("digits", "accuracy", 20), ("digits", "accuracy", 200), ("digits", "accuracy", "direct"),
        ("search", "accuracy", 20), ("search", "accuracy", 200), ("search", "d_int90", ""),
    ]  # fmt: skip
    assert [row["verdict"] for row in rows[:3]] == ["matched", "not reached", ""]  # two runs beat little
    assert float(rows[0]["low"]) <= float(rows[0]["measured"]) <= float(rows[0]["high"])
    assert rows[0]["runs"] == 2
    assert rows[-1]["published"] == 500
    assert rows[-1]["runs"] == 3  # two of them those of the table
    assert (out / "figures" / "tiny.png").stat().st_size > 10_000
    assert (out / "reproduction.md").exists()
    stored = read_rows(out / "tiny.csv")
    assert [{**row} for row in stored] == [{k: str(v) for k, v in row.items()} for row in rows]

    again: list = []
    second = reproduce(recipe, workers=1, out=out, on_event=lambda series, event: again.append(event))
    assert [event.config for event in told if event.result] != []
    assert [event for event in again if event.result] == []  # every run was read
    assert [{**row, "seconds": ""} for row in second] == [{**row, "seconds": ""} for row in rows]


def test_naming_a_series_repaths_only_its_rows(recipe, tmp_path):
    out = tmp_path / "out"
    reproduce(recipe, series=["named"], workers=1, out=out, trainer="fake_trainer:known_curve")
    reproduce(recipe, series=["digits"], workers=1, out=out, trainer="fake_trainer:known_curve")
    assert [row["series"] for row in read_rows(out / "tiny.csv")] == ["named", *["digits"] * 3]
    reproduce(recipe, series=["named"], workers=1, out=out, trainer="fake_trainer:known_curve")
    assert [row["series"] for row in read_rows(out / "tiny.csv")] == [*["digits"] * 3, "named"]


def test_where_to_compute_is_free_and_the_number_format_is_another_run(recipe, tmp_path):
    def configs(**chosen) -> list[Run]:
        done: list[Run] = []
        reproduce(
            recipe, series=["named"], workers=1, out=tmp_path, trainer="fake_trainer:known_curve", **chosen,
            on_event=lambda series, event: done.append(event.config) if event.result else None,
        )  # fmt: skip
        return done

    first = configs(threads=2, device="mps")
    assert [c.compute for c in first] == [Compute(threads=2, device="mps")] * 3
    assert configs() == []  # the same runs, wherever they were done
    assert [c.compute for c in configs(autocast=True)] == [Compute(autocast=True)] * 3
    assert read_rows(tmp_path / "tiny.csv")[0]["settings"].endswith("in bfloat16")


def test_a_diverged_run_is_a_row(recipe, tmp_path):
    (row,) = reproduce(recipe, series=["named"], workers=1, out=tmp_path, trainer="fake_trainer:diverging")
    assert (row["measured"], row["outcome"], row["diverged"], row["verdict"]) == ("", "diverged", 3, "")


def test_smoke_is_small_and_stays_out_of_the_results(recipe, tmp_path, monkeypatch):
    for folder in ("results", "docs"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    assert Paths.of().rows("tiny") == Path("results/tiny.csv")
    assert Paths.of().page == Path("docs/reproduction.md")
    rows = reproduce(recipe, smoke=True, workers=1, trainer="fake_trainer:known_curve")
    assert [row["d"] for row in rows if row["series"] == "digits"] == [20, "direct"]
    assert list((tmp_path / "results").iterdir()) == list((tmp_path / "docs").iterdir()) == []


def _row(**fields) -> dict:
    known = {"recipe": "li2018-toy", "series": "toy", "quantity": "exp(−loss)", "D": 1000, "d": 10, "runs": 8}
    known |= {"measured": "0.9731", "verdict": "not reached", "published": "0.99977", "seconds": "1.0", "frozen": "0.0"}
    return dict.fromkeys(COLUMNS, "") | known | {"column_norm": "1", "part": "train"} | fields


def test_the_page_is_made_of_the_rows(tmp_path):
    paths = Paths.of(tmp_path)
    store_rows(paths.rows("li2018-toy"), [_row(), _row(d=12, measured="", outcome="diverged", verdict="")])
    page = redraw(paths).read_text()
    assert "| toy | exp(−loss) | 10 | 0.9731 |  | 0.99977 |  | **not reached** | 8 |" in page
    assert "| 12 | diverged |" in page
    assert "0.9999" not in page
    store_rows(paths.rows("li2018-toy"), [_row(measured="0.9999", verdict="matched", low="0.98", high="1")], ["toy"])
    page = redraw(paths).read_text()
    assert "| 0.9999 | 0.98 – 1 |" in page
    assert "**not reached**" not in page
    assert "0.9731" not in page
    assert paths.figure("li2018-toy").exists()
    (line,) = [line for line in status(paths) if line["recipe"] == "li2018-toy"]
    assert (line["run"], line["series"], line["matched"]) == (1, 3, 1)


def test_the_reason_stands_below_a_row_that_was_not_reached(tmp_path):
    paths = Paths.of(tmp_path)
    rows = [_row(d=8), _row(d=9, verdict="matched"), _row(series="toy-dimension", d="", quantity="d_int90")]
    store_rows(paths.rows("li2018-toy"), rows)
    page = redraw(paths).read_text()
    reason = load_recipe("li2018-toy").choose(["toy"])[0].missed["8"]
    assert f"- `toy`, d = 8: {reason}" in page
    assert "- `toy-dimension`, d_int90: not known." in page
    assert "`toy`, d = 9:" not in page
    assert unexplained(load_recipe("li2018-toy"), read_rows(paths.rows("li2018-toy"))) == [("toy-dimension", "d_int90")]


@pytest.mark.parametrize("name", RECIPES)
def test_every_published_number_that_was_not_reached_has_its_reason(name):
    rows = read_rows(Path(__file__).parents[1] / "results" / f"{name}.csv")
    assert unexplained(load_recipe(name), rows) == []


def test_a_file_of_other_rows_is_not_touched(tmp_path):
    (tmp_path / "li2018-toy.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="must have the columns of a reproduction"):
        store_rows(tmp_path / "li2018-toy.csv", [_row()])
    assert (tmp_path / "li2018-toy.csv").read_text() == "a,b\n1,2\n"


def test_seeds_are_never_used_twice():
    series = Series("a", "a", "digits-fc", (10, 20, None), seeds=3)
    configs = [series.config(d, i) for d in (10, 20) for i in range(3)]
    assert len({config.seeds.model for config in configs}) == 6
    assert all(config.seeds.model == config.seeds.data == config.seeds.projection for config in configs)


class Asked(Exception):
    """With the rule of a search that was asked for."""


@pytest.mark.parametrize(("ratio", "rule"), [(0, None), (1.5, 1.5)])
def test_a_recipe_may_want_the_interval_that_the_command_wants(monkeypatch, tmp_path, ratio, rule):
    """No width of its own: 1.25, or wider where one run tells too little, as `subspaces dimension` has it."""
    from subspaces.recipes import Wanted
    from subspaces.reproduce import grid
    from subspaces.reproduce.kinds import KINDS
    from subspaces.reproduce.work import Work

    def measured(config, out, rule, **words):
        raise Asked(rule)

    monkeypatch.setattr(grid, "measure_dimension", measured)
    work = Work(load_recipe("li2018-control"), Paths.of(tmp_path), KINDS["table"])
    with pytest.raises(Asked) as asked:
        grid._measure(work, work.recipe.named("cartpole-dqn"), Wanted(published=25, baseline="195", ratio=ratio))
    (given,) = asked.value.args
    assert given.one_split  # that of the runs at single d, which are part of the search
    with pytest.raises(Asked) as asked:
        grid._measure(work, work.recipe.named("cartpole-dqn"), Wanted(published=25, baseline="195", own_splits=True))
    assert not asked.value.args[0].one_split
    assert (given.ratio, given.start, given.baseline) == (rule, 25, "195")


# ---- the command


def test_command_line(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", str(recipe), "--series", "named", "--workers", "1", "--out", "o", "--smoke", "--json"])
    assert ended.value.code == 0
    assert '"series": "named"' in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "--list"])
    assert ended.value.code == 0
    assert "li2018-mnist" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "grydanus2017"])
    assert ended.value.code == 2
    assert "Did you mean 'greydanus2017'" in " ".join(capsys.readouterr().err.split())
