"""Reports from result rows alone."""

import html
import json
import re
import shutil
import xml.etree.ElementTree as ET

import fake_trainer
import pytest

from subspaces.dimension.measure import measure_dimension
from subspaces.dimension.result import Rule
from subspaces.dimension.series import gather
from subspaces.report.figures import integer_ticks, round_numbers, whole_numbers
from subspaces.report.write import SECTIONS, write_report
from subspaces.runs.run import Run
from subspaces.runs.store import run_once
from subspaces.runs.sweep import run_many

TRAINER = "fake_trainer:known_curve"
SPANS = [(1.0, 10.0), (300.0, 320.0), (117.0, 531.0), (3.0, 2e5), (0.02, 2.3), (90.0, 90.1)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits")
    measure_dimension(Run.of("digits-fc"), out, Rule(baseline="local", max_runs=12), workers=1, trainer=TRAINER)
    return out


def test_page_says_what_was_measured(measured, tmp_path):
    page = write_report(measured, tmp_path)
    assert page == tmp_path / "report.html"
    text = page.read_text()
    estimate = gather([measured])[0].estimate
    assert estimate is not None
    assert f">{estimate.d_int}<" in text
    assert f"{estimate.low} – {estimate.high}" in text
    assert "55,210" in text
    assert text.count("<svg") == 2
    for config in ("lr", "hadamard", "torch"):
        assert config in text
    assert all(re.search(rf"<td>{d:,}</td>", text) for d in gather([measured])[0].by_d())


def test_page_is_self_contained(measured, tmp_path):
    text = write_report(measured, tmp_path).read_text()
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text)
    assert not re.findall(r"url\((?!#)[^)]*\)", text)
    assert "<script" not in text


def test_tuned_rates_make_one_series_and_are_shown(tmp_path):
    rule = Rule(baseline="1.0", tune_lr=True, rates=(0.005, 0.01, 0.02, 0.04), max_runs=12)
    found = measure_dimension(Run.of("digits-fc"), tmp_path, rule, workers=1, trainer="fake_trainer:rate_sensitive")
    (series,) = gather([tmp_path])
    assert len({row["config"]["lr"] for row in series.rows}) > 3
    assert len(series.rows) == len(found.results)
    assert len(series.tuning) == len(found.tuning)
    assert series.estimate == found.estimate
    text = write_report(tmp_path).read_text()
    assert "Learning rates" in text
    assert "native rate" in text
    assert text.count("chosen") == len(found.rates)


def test_runs_that_were_given_up_are_shown_as_such(tmp_path):
    rule = Rule(baseline="1.0", stop_early=True, start=1, max_runs=9)
    measure_dimension(Run.of("digits-fc"), tmp_path, rule, workers=1, trainer="fake_trainer:learning")
    (series,) = gather([tmp_path])
    stopped = [row for row in series.rows if row["status"] == "stopped"]
    assert sorted(row["config"]["d"] for row in stopped) == [1, 2, 4, 8]
    assert not {1, 2, 4, 8} & set(series.scores()[0])
    text = write_report(tmp_path).read_text()
    assert text.count("given up") == 4
    assert "1 (1 stopped)" in text


def test_figures_are_there_and_valid(measured, tmp_path):
    write_report(measured, tmp_path)
    for name in ("score_against_d", "training_curves"):
        assert (tmp_path / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert ET.parse(tmp_path / "figures" / f"{name}.svg").getroot().tag.endswith("svg")


def test_folders_are_compared(measured, tmp_path):
    other = tmp_path / "other"
    config = Run.of("digits-fc", projection="sparse")
    measure_dimension(config, other, Rule(baseline="1.0", max_runs=8), workers=1, trainer=TRAINER)
    page = write_report([measured, other], tmp_path / "both")
    text = page.read_text()
    assert "2 compared" in text
    assert (tmp_path / "both" / "figures" / "intervals.png").exists()
    assert [one.label for one in gather([measured, other])] == ["hadamard", "sparse"]
    assert "sparse" in text


def test_folders_of_the_same_settings_have_their_own_names(measured, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(measured, again)
    assert [one.label for one in gather([measured, again])] == [measured.name, "again"]


def test_several_folders_without_runs_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match="must hold finished runs"):
        write_report([tmp_path / "a", tmp_path / "b"])


# ---- which runs belong together


def test_a_record_lists_its_runs(tmp_path):
    rule = Rule(baseline="local", baseline_runs=2, tune_lr=True, rates=(0.005, 0.02), max_runs=8)
    found = measure_dimension(Run.of("digits-fc"), tmp_path, rule, workers=1, trainer="fake_trainer:rate_sensitive")
    runs = json.loads((tmp_path / "measurement.json").read_bytes())["runs"]
    kinds = {"subspace": found.results, "direct": found.direct, "tuning": found.tuning}
    assert len(found.direct) == 2
    for kind, results in kinds.items():
        expected = [(run.config.key(), run.config.d, run.config.seeds.model) for run in results]
        assert expected
        assert sorted((r["key"], r["d"], r["seed"]) for r in runs if r["kind"] == kind) == sorted(expected, key=str)
    assert {path.parent.name for path in tmp_path.rglob("result.json")} == {run["key"] for run in runs}


def test_runs_that_a_record_does_not_list_are_not_of_its_measurement(measured, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(measured, out)
    (before,) = gather([out])
    other = run_once(Run.of("digits-fc", d=33, seed_model=77), out / "runs", trainer=fake_trainer.known_curve)
    assert other is not None
    (series,) = gather([out])
    assert series.rows == before.rows
    assert [row["key"] for row in series.others] == [other.config.key()]
    assert other.config.key() in write_report(out).read_text()
    run_once(Run.of("digits-fc", d=33, l2=0.5), out / "runs", trainer=fake_trainer.known_curve)
    assert sorted(len(one.rows) for one in gather([out])) == [1, len(before.rows)]


def test_a_record_from_before_the_list_takes_the_runs_of_its_settings(measured, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(measured, out)
    record = json.loads((out / "measurement.json").read_bytes())
    del record["runs"]
    (out / "measurement.json").write_text(json.dumps(record))
    assert gather([out])[0].rows == gather([measured])[0].rows


THIRD = """
from subspaces.report.page import Part

def claims(folder):
    return (folder / "third.txt").exists()

def section(folders, drawings, *, level):
    names = ", ".join(folder.name for folder in folders)
    return Part("A third thing", f"about {names}", [("value", "7", "")], f"<p>{drawings}</p>", "", "<pre>third</pre>")
"""


def test_another_wing_is_one_line(measured, tmp_path, monkeypatch):
    (tmp_path / "third_wing.py").write_text(THIRD)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("subspaces.report.write.SECTIONS", ("third_wing", *SECTIONS))
    out = tmp_path / "out"
    shutil.copytree(measured, out)
    assert "A third thing" not in write_report(out).read_text()
    (out / "third.txt").touch()
    shutil.rmtree(out / "figures")
    text = write_report(out).read_text()
    assert "<h1>A third thing</h1>" in text
    assert "about out" in text
    assert f"<p>{out / 'figures'}</p>" in text
    assert "Every d tried" in text  # the runs are listed by the wing that knows them, which draws nothing
    assert not (out / "figures").exists()
    both = write_report([out, measured], tmp_path / "both").read_text()
    assert "<h1>digits-fc: 2 compared</h1>" in both
    assert f"<p>{tmp_path / 'both' / 'figures'}</p>" in both


def test_kinds_of_runs_in_one_folder_are_told_apart(tmp_path):
    configs = [Run.of("digits-fc", d=d, projection=kind) for d in (10, 40, 90) for kind in ("hadamard", "fastfood")]
    run_many(configs, tmp_path, 1, trainer=TRAINER)
    series = gather([tmp_path])
    assert sorted(one.label for one in series) == ["fastfood", "hadamard"]
    assert [sorted(one.by_d()) for one in series] == [[10, 40, 90]] * 2


def test_direct_runs_give_the_baseline_of_a_plain_sweep(tmp_path):
    configs = [Run.of("digits-fc", seed_model=s) for s in range(3)]
    configs += [Run.of("digits-fc", d=d, seed_model=d) for d in (10, 20, 30, 35, 40, 45, 50, 60, 90)]
    run_many(configs, tmp_path, 1, trainer=TRAINER)
    (series,) = gather([tmp_path])
    assert series.estimate is not None
    assert series.estimate.baseline == pytest.approx(0.999)
    assert series.estimate.d_int == pytest.approx(fake_trainer.TRUE_D, rel=0.25)


def test_direct_and_diverged_runs_alone_make_a_page(tmp_path):
    run_once(Run.of("digits-fc"), tmp_path, trainer=fake_trainer.known_curve)
    run_once(Run.of("digits-fc", d=7), tmp_path, trainer=fake_trainer.diverging)
    assert "diverged" in write_report(tmp_path).read_text()


def test_names_cannot_break_the_page(tmp_path):
    run_once(Run.of("<b>&task", d=7), tmp_path, trainer=fake_trainer.known_curve)
    text = write_report(tmp_path).read_text()
    assert "<b>" not in text
    assert "&lt;b&gt;&amp;task" in text


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere, which is not there"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"must hold finished runs.*Make some"):
        write_report(tmp_path)


def test_a_level_that_no_estimate_follows_is_refused_before_anything_is_drawn(measured, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in measured.rglob("*")}
    with pytest.raises(ValueError, match=r"`level` must go with runs that no search made.*; got 0.8, and none"):
        write_report(measured, level=0.8)
    assert {path: path.stat().st_mtime_ns for path in measured.rglob("*")} == before
    shutil.copytree(measured, tmp_path / "runs")
    (tmp_path / "runs" / "measurement.json").unlink()
    assert "d_int80" in write_report(tmp_path / "runs", level=0.8).read_text()


def test_a_damaged_measurement_is_named(measured, tmp_path):
    run_once(Run.of("digits-fc", d=7), tmp_path, trainer=fake_trainer.known_curve)
    (tmp_path / "measurement.json").write_text(json.dumps({"measurement": {}}))
    with pytest.warns(UserWarning, match=r"measurement.json cannot be read"):
        write_report(tmp_path)


@pytest.mark.parametrize(("low", "high"), SPANS)
def test_round_numbers_lie_within_and_are_few(low, high):
    ticks = round_numbers(low, high)
    assert 2 <= len(ticks) <= 14
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(("low", "high"), [(0.87, 2.3), (0.95, 1.1), (0.9, 11.0), (3.5, 4.6), (90.0, 91.5), *SPANS])
def test_no_tick_of_an_axis_of_whole_numbers_says_what_another_one_says(low, high):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.set(xscale="log", xlim=(low, high))
    integer_ticks(axes)
    written = [axes.xaxis.get_major_formatter()(tick) for tick in axes.get_xticks()]
    assert written == [f"{tick:,}" for tick in whole_numbers(low, high)]
    assert 1 <= len(written) == len(set(written)) <= 14
    assert axes.get_xlim() == (low, high)


def test_the_scale_of_d_is_marked_by_whole_numbers_only():
    """Runs at d = 1 and 2 alone: the scale beside their curves had 2 three times."""
    from subspaces.dimension.figures import training_curves
    from subspaces.dimension.series import RunSeries

    curve = [{"epoch": k, "train_loss": 1 / k, "score": k / 10} for k in (1, 2, 3)]
    rows = [{"config": {"d": d, "seed_model": 0}, "curves": curve, "score": 0.3, "D": 9, "score_name": "accuracy"}
            for d in (1, 2)]  # fmt: skip
    figure = training_curves([RunSeries("digits", "digits-fc", rows)])
    assert figure.axes[-1].get_yticks().tolist() == [1, 2]


@pytest.mark.parametrize("name", [r"$\frac{$", "$x$ and $y$", "100 % of {a}", "größe µ"])
def test_a_dollar_in_a_name_is_no_formula(tmp_path, name):
    from matplotlib.figure import Figure

    from subspaces.report.figures import save

    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.plot([1, 1000], [1, 1000], label=name)
    axes.set(title=name, xlabel=name, xscale="log")
    axes.legend()
    text = save(figure, tmp_path, "named")
    assert (tmp_path / "named.png").stat().st_size > 1000
    assert f"<!-- {html.escape(name, quote=False)} -->" in text
    assert not axes.title.get_parse_math()
    assert all(label.get_parse_math() for label in axes.get_xticklabels(which="major"))  # powers of ten still


def test_a_page_of_very_many_runs_shows_some_and_counts_the_rest(monkeypatch):
    """10,000 runs make a page of 0.6 MB; here the limits are lowered, so that drawing them takes no time."""
    from subspaces.dimension import figures, tables
    from subspaces.dimension.series import RunSeries

    rows = [
        fake_trainer.result_of(Run.of("digits-fc", d=d, seed_model=seed), 0.5).to_row()
        for d in (4, 8, 16) for seed in range(20)
    ]  # fmt: skip
    series = RunSeries("many", "digits-fc", rows, [])
    monkeypatch.setattr(tables, "LISTED", 50)
    text = tables.all_runs(series, False)
    assert text.count("<tr>") == 51
    assert "10 more runs are in their folders" in text
    monkeypatch.setattr(figures, "CURVES", 7)
    monkeypatch.setattr(figures, "DOTS", 10)
    chosen = figures.drawn(rows, 7)
    assert [row["config"]["d"] for row in chosen] == [4, 4, 4, 8, 8, 16, 16]
    assert (chosen[0]["key"], chosen[-1]["key"]) == (rows[0]["key"], rows[-1]["key"])
    left, _, _ = figures.training_curves([series]).axes
    assert len(left.lines) == 7
    (dots,) = figures.score_against_d([series]).axes[0].collections
    assert dots.get_rasterized()
