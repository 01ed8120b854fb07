"""Logs, pipes, code pages, narrow and dumb terminals, closed streams, no home, another system."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from subspaces.cli import COMMANDS, main
from subspaces.datasets.download import download
from subspaces.datasets.files import cache_root
from subspaces.dimension.terminal import SearchDisplay
from subspaces.errors import need_posix
from subspaces.runs.sweep import open_pool
from subspaces.screen import Screen, can_move
from subspaces.transition.terminal import TransitionDisplay

CURSOR = re.compile(r"\x1b\[(?!\d*(;\d+)*m)")
SOURCES = str(Path(__file__).parents[1] / "src")
ENV = {**os.environ, "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"}
TRAIN = ["train", "digits-fc", "--epochs", "1", "--batch-size", "512"]


def ended(words: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    return end.value.code  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("display", [SearchDisplay, TransitionDisplay])
def test_a_log_has_lines_and_no_cursor_movements_whatever_the_environment_says(monkeypatch, capsys, display):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with display("a [title] :smile:") as shown:
        shown._say("d = 5, seed 0: 90 % [now]")
    err = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().err)
    assert err.splitlines() == ["a [title] :smile:", "d = 5, seed 0: 90 % [now]"]
    assert not CURSOR.search(err)


def test_colours_are_given_to_a_log_by_force_and_taken_by_no_color(monkeypatch, capsys):
    from rich.text import Text

    def printed() -> str:
        Screen().print(Text("red", style="red"))
        return capsys.readouterr().out

    assert printed() == "red\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert printed() == "\x1b[31mred\x1b[0m\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert printed() == "red\n"


def test_a_terminal_whose_cursor_cannot_be_moved_is_none(monkeypatch):
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert can_move(Tty())
    monkeypatch.setenv("TERM", "dumb")
    assert not can_move(Tty())
    assert not can_move(io.StringIO())
    assert not can_move(None)
    closed = Tty()
    closed.close()
    assert not can_move(io.TextIOWrapper(io.BytesIO()))


def test_paths_with_brackets_are_shown_as_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ended([*TRAIN, "--out", "a[/b]"]) == 0
    out, err = capsys.readouterr()
    assert "kept in a[/b]/digits-fc-" in out
    assert "Traceback" not in err
    assert ended(["report", "[bold]x[/bold]"]) == 2
    assert "got [bold]x[/bold], which is not there" in capsys.readouterr().err


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_is_shown_in_an_old_code_page(monkeypatch, command):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252", errors="strict"))
    assert ended([command, "--help"]) == 0
    sys.stdout.flush()
    assert f"subspaces {command}".encode() in written.getvalue()


def test_messages_and_results_are_shown_in_ascii(tmp_path):
    env = {**ENV, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    words = [sys.executable, "-m", "subspaces", "list", "projections"]
    done = subprocess.run(words, env=env, capture_output=True)
    assert done.returncode == 0
    assert b"hadamard" in done.stdout
    assert done.stdout.isascii()
    assert done.stderr == b""


def test_names_are_whole_in_a_pipe_and_in_narrow_terminals(monkeypatch, capsys):
    from subspaces.tasks import TASKS

    for columns in ("200", "80", "40"):
        monkeypatch.setenv("COLUMNS", columns)
        assert ended(["list", "tasks"]) == 0
        names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:1].strip()]
        assert set(TASKS) <= set(names)


def test_a_table_is_whole_before_a_person_with_a_narrow_terminal():
    leader, follower = pty.openpty()
    env = {**ENV, "TERM": "xterm", "COLUMNS": "40", "NO_COLOR": "1"}
    words = [sys.executable, "-m", "subspaces", "list", "optimizers"]
    process = subprocess.Popen(words, env=env, stdout=follower, stderr=follower, stdin=follower)
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(leader)
    assert process.wait() == 0
    lines = re.sub(r"\x1b\[[\d;]*m", "", seen.decode()).splitlines()
    assert max(map(len, lines)) <= 40
    assert {"adam", "gauss-newton", "pbfgs"} <= {line.split()[0] for line in lines if line.strip()}


def test_a_reader_that_has_seen_enough_ends_a_command_quietly():
    code = "import sys; from subspaces.cli import main; main(['list', 'tasks', '--json'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    told = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert told == b""


def test_closed_streams_end_no_command(tmp_path):
    words = f"{sys.executable} -m subspaces list datasets"
    for closed, status in (("<&-", 0), (">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0)):
        done = subprocess.run(["sh", "-c", f"{words} {closed}"], capture_output=True, text=True, cwd=tmp_path, env=ENV)
        assert (done.returncode, done.stderr) == (status, "")


def test_who_has_no_home_has_a_cache_all_the_same(monkeypatch, tmp_path):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(homeless))
    assert cache_root().is_absolute()
    assert str(os.getuid()) in cache_root().name
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "subspaces"


def test_windows_is_refused_in_one_line_where_it_would_lose_runs(monkeypatch, tmp_path):
    need_posix("runs")
    monkeypatch.setattr(sys, "platform", "win32")
    for refused in (
        lambda: open_pool(tmp_path, 2),
        lambda: download(["http://localhost/a"], tmp_path / "a", "0"),
    ):
        with pytest.raises(RuntimeError, match=r"must be on Linux or macOS; got Windows\. Use WSL; [^\n]*$"):
            refused()
    assert not list(tmp_path.iterdir())
