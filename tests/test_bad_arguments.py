"""Every wrong argument gets one message that names it, the value and what to do; and nothing is changed by it.

The cases are tables by area, `bad_arguments_*.py`. Those of the API run in one process without the checks of types that
tests switch on (`bad_arguments_run.py`), those of the command line in another one.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import bad_arguments_api
import bad_arguments_cli
import bad_arguments_measuring
import bad_arguments_tasks
import bad_arguments_training
import pytest
import warm

from subspaces.errors import at_least, check_folder, checked, one_of, shown, within

HERE = Path(__file__).parent
TABLES = {
    area: cases
    for module in (bad_arguments_api, bad_arguments_training, bad_arguments_tasks, bad_arguments_measuring)
    for area, cases in module.CASES.items()
}
REFUSALS = {"ValueError", "TypeError", "FileNotFoundError", "RuntimeError", "IndexError"}


ENV = {**os.environ, "PYTHONPATH": f"{HERE.parent / 'src'}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def outcomes(kind: str, folder: Path) -> list[dict]:
    """What became of all cases of a kind, done in one process."""
    command = [sys.executable, str(HERE / "bad_arguments_run.py"), kind]
    done = subprocess.run(command, cwd=folder, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """Outcomes by expression."""
    codes = [code for cases in TABLES.values() for code, _ in cases] + list(bad_arguments_tasks.FINE)
    return dict(zip(codes, outcomes("api", tmp_path_factory.mktemp("api")), strict=True))


@pytest.fixture(scope="module")
def cli(tmp_path_factory):
    """Outcomes by command line."""
    lines = [line for cases in bad_arguments_cli.CASES.values() for line, _ in cases]
    return dict(zip(lines, outcomes("cli", tmp_path_factory.mktemp("cli")), strict=True))


def mismatch(pattern: str, message: str) -> str:
    """The first part of a pattern that the message lacks, in order; "" where it has them all."""
    place = 0
    for part in pattern.split(" … "):
        found = message.find(part, place)
        if found < 0:
            return part
        place = found + len(part)
    return ""


@pytest.mark.parametrize("area", list(TABLES))
def test_a_wrong_argument_is_told_by_its_name_and_value_and_changes_nothing(api, area):
    wrong = []
    for code, pattern in TABLES[area]:
        got = api[code]
        message = " ".join(got["message"].split())
        if got["raised"] not in REFUSALS or " must " not in message or (lacks := mismatch(pattern, message)):
            wrong.append(f"{code}: {got['raised']} {message!r} lacks {locals().get('lacks', 'must')!r}")
        elif got["changed"]:
            wrong.append(f"{code}: changed {got['changed']}")
    assert not wrong, "\n".join(wrong)


def test_the_tables_name_an_argument_a_value_and_what_to_do():
    cases = [case for cases in (*TABLES.values(), *bad_arguments_cli.CASES.values()) for case in cases]
    assert len(cases) >= 300
    assert len({code for code, _ in cases}) == len(cases)
    for code, pattern in cases:
        assert pattern.startswith("`"), code
        assert re.search(r" must\b", pattern.partition(" … ")[0]), code


@pytest.mark.parametrize("code", bad_arguments_tasks.FINE)
def test_what_is_right_though_it_looks_odd_is_taken(api, code):
    assert (api[code]["raised"], api[code]["message"]) == ("", "")


@pytest.mark.parametrize("area", list(bad_arguments_cli.CASES))
def test_a_wrong_command_ends_with_one_message_and_its_status(cli, area):
    wrong = []
    for line, pattern in bad_arguments_cli.CASES[area]:
        got = cli[line]
        if (got["status"], got["raised"], got["out"]) != (2, "", "") or got["changed"]:
            wrong.append(f"{line}: {got}")
        elif lacks := mismatch(pattern, got["err"]):
            wrong.append(f"{line}: {got['err']!r} lacks {lacks!r}")
        elif "Traceback" in got["err"] or got["err"].count("error: ") != 1:
            wrong.append(f"{line}: {got['err']!r} is not one message")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["train", "digits-fc", "--d", "0"], 2, "error: `--d` must be at least 1; got 0. Give 1 or more."),
        (["list", "tasks", "--jsn"], 2, "error: `--jsn` must be left out"),
        (["check", "broken.py:task"], 1, "ZeroDivisionError"),
        (["--version"], 0, ""),
    ],
)
def test_a_process_ends_with_the_status(tmp_path, words, status, told):
    (tmp_path / "broken.py").write_text("import subspaces as ss\ntask = lambda: 1 / 0\n")
    command = [sys.executable, "-m", "subspaces", *words]
    done = warm.run(command, cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert done.returncode == status
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stdout == "") == (status != 0)


# ---- the mechanism


@checked
def paint(width: int, colour: str = "red", *, seed: int = 0, sizes: tuple[int, ...] = (), share: float | None = None):
    """A function of all sorts of arguments."""
    return width, colour, seed, sizes, share


def test_checked_gives_numbers_on_as_plain_ones_and_leaves_the_rest():
    import numpy as np

    width, _, seed, sizes, share = paint(np.int64(3), seed=np.uint64(2**64 - 1), sizes=[1, np.int8(2)], share=1)
    assert (width, seed, sizes, share) == (3, 2**64 - 1, (1, 2), 1)
    assert [type(n) for n in (width, seed, *sizes)] == [int] * 4
    assert paint.__doc__ == "A function of all sorts of arguments."


@pytest.mark.parametrize(
    ("args", "words", "message"),
    [
        ((), {}, "`width` must be given to paint; got nothing. See help(paint)."),
        ((3,), {"widht": 4}, "`widht` must be left out; got 4, but paint has no such argument. Did you mean `width`?"),
        ((3,), {"width": 4}, "`width` must be given once; got it by its place and by its name. Remove one."),
        ((3, "red", 5), {}, "`paint` must have at most 2 arguments without a name; got 3. Name the others."),
        (("3",), {}, "`width` must be an integer; got '3'. Write it without quotes: width=3."),
        ((True,), {}, "`width` must be an integer; got True. Write width=1 if that is meant."),
        ((3.0,), {}, "`width` must be an integer; got 3.0. Write width=3."),
        ((2**63,), {}, "`width` must be below 2**63 in size; got 9223372036854775808. Choose a smaller one."),
        ((3,), {"seed": 2**64}, "`seed` must be between 0 and 2**64 - 1; got 18446744073709551616."),
        ((3,), {"sizes": "12"}, "`sizes` must be a list of integers; got '12'. Put it in a list: sizes=[…]."),
        ((3,), {"sizes": [1, "2"]}, "`sizes` must be a list of integers; got [1, '2']. Check its entries."),
        ((3,), {"share": float("nan")}, "`share` must be a number; got nan."),
    ],
)
def test_checked_refuses_in_the_words_of_the_caller(args, words, message):
    with pytest.raises((TypeError, ValueError)) as refused:
        paint(*args, **words)
    assert str(refused.value).startswith(message)


def test_ranges_are_told_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    for refuse, message in (
        (lambda: at_least(1, epochs=0), "`epochs` must be at least 1; got 0. Give 1 or more."),
        (lambda: within("c", 2, 0, 1, advice="Such as 0.5."), "`c` must be in [0, 1]; got 2. Such as 0.5."),
        (lambda: one_of(("a", "bc"), word="bd"), "`word` must be one of a, bc; got 'bd'. Did you mean 'bc'?"),
        (lambda: check_folder("out", tmp_path / "file" / "x"), "`out` must be a folder; got "),
    ):
        with pytest.raises(ValueError) as refused:
            refuse()
        assert str(refused.value).startswith(message)
    at_least(1, epochs=None)
    within("c", None, 0, 1)
    check_folder("out", tmp_path / "new")


def test_a_value_is_shown_in_one_short_line_whatever_it_is():
    import torch

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    values = (10**5000, "a" * 10**5, Broken(), torch.zeros(3, 3), torch.nn.ReLU(), print, int, {"a": Broken()})
    assert all(0 < len(shown(value)) <= 70 and "\n" not in shown(value) for value in values)
    assert shown(5) == "5"
