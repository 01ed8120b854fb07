"""The answer is printed whatever becomes of the page, the terminal or the process; a signal says what is kept."""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import warm

from subspaces.cli import main

OBJECTIVE = """
import time
import subspaces as ss

def run(d, seed):
    time.sleep({seconds})
    return min(1.0, (d or 1000) / 50) - 0.001 * seed % 3

objective = ss.Objective("own", run, D=1000)
"""
SEARCH = ["--baseline", "1.0", "--max-runs", "4", "--workers", "1"]


@pytest.fixture
def objective(tmp_path):
    (tmp_path / "own.py").write_text(OBJECTIVE.format(seconds=0))
    return f"{tmp_path / 'own.py'}:objective"


def _fails(*_):
    raise RuntimeError("Failed to process string with tex because latex could not be found")


def test_a_page_that_fails_is_a_warning_after_the_answer(tmp_path, objective, monkeypatch, capsys):
    monkeypatch.setattr("subspaces.report.write.write_report", _fails)
    with pytest.warns(UserWarning, match=r"no page: Failed .* latex .*once more: subspaces report"), \
            pytest.raises(SystemExit) as end:  # fmt: skip
        main(["dimension", objective, *SEARCH, "--out", str(tmp_path / "out")])
    assert end.value.code == 0
    assert "d_int90 = " in capsys.readouterr().out


def test_json_is_printed_without_a_page_too(tmp_path, objective, monkeypatch, capsys):
    monkeypatch.setattr("subspaces.report.write.write_report", _fails)
    with pytest.warns(UserWarning, match="no page"), pytest.raises(SystemExit) as end:
        main(["dimension", objective, *SEARCH, "--out", str(tmp_path / "out"), "--json"])
    assert end.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] is None
    assert found["estimate"]["d_int"] > 0


def _command(arguments: list[str], start: Any = subprocess.Popen, **environment: str) -> Any:
    paths = os.pathsep.join(path for path in sys.path if path)
    return start(
        [sys.executable, "-m", "subspaces", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )  # fmt: skip


def test_a_notebooks_backend_latex_and_an_ascii_locale_do_no_harm(tmp_path, objective):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.family: nonexistent\naxes.grid: False\n")
    surroundings = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
        "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict",
    }  # fmt: skip
    command = _command(["dimension", objective, *SEARCH, "--out", str(tmp_path / "öut")], **surroundings)
    out, err = command.communicate()
    assert (command.returncode, b"warning" in err) == (0, False), err
    assert b"d_int90 = " in out
    page = next(path for path in tmp_path.rglob("report.html"))
    assert "</html>" in page.read_text(encoding="utf-8")


def test_sigterm_ends_a_search_with_what_is_kept_and_how_to_go_on(tmp_path):
    (tmp_path / "own.py").write_text(OBJECTIVE.format(seconds=0.3))
    out = tmp_path / "out"
    command = _command(["dimension", f"{tmp_path / 'own.py'}:objective", *SEARCH, "--out", str(out)], warm.Popen)
    end = time.monotonic() + 60
    while not any(out.rglob("result.json")) and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(command.pid, signal.SIGTERM)
    _, err = command.communicate(timeout=60)
    done = len(list(out.rglob("result.json")))
    runs = f"{done} finished run{'s' * (done != 1)} kept in {out / 'runs'}"
    assert command.returncode == 143
    assert err.decode().splitlines()[-1] == f"interrupted. {runs}; the same command goes on from there"


def test_ctrl_c_says_the_same(tmp_path, capsys):
    stops = OBJECTIVE.format(seconds=0).replace("return", "if seed == 2:\n        raise KeyboardInterrupt\n    return")
    (tmp_path / "own.py").write_text(stops)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        main(["dimension", f"{tmp_path / 'own.py'}:objective", *SEARCH, "--out", str(out)])
    assert end.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"interrupted. 2 finished runs kept in {out / 'runs'}; the same command goes on from there"
    )
    assert list(out.rglob("claim")) == []


def test_figures_do_not_read_the_users_style(monkeypatch):
    import matplotlib
    from matplotlib.figure import Figure

    from subspaces.report.figures import STYLE

    with matplotlib.rc_context({"text.usetex": True, "lines.linewidth": 20.0}), matplotlib.rc_context(STYLE):
        assert (matplotlib.rcParams["text.usetex"], matplotlib.rcParams["lines.linewidth"]) == (False, 1.5)
        assert Figure().dpi == 100
