"""The commit in a result row: marked where what was run is not what was committed."""

import dataclasses
import subprocess

import pytest

from subspaces.reproduce import run
from subspaces.runs.records import commit_of

NOTHING = dataclasses.replace(run.KINDS["table"], run=lambda work, series: [])


@pytest.fixture
def package(tmp_path):
    """A package in a repository of its own, committed."""
    folder = tmp_path / "src" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (tmp_path / "results.csv").write_text("a\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return folder


def test_a_clean_package_has_the_plain_commit_whatever_changed_beside_it(package):
    (package.parents[1] / "results.csv").write_text("b\n")
    head = subprocess.run(["git", "-C", str(package), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert commit_of(package) == head.stdout.strip()[:12]


@pytest.mark.parametrize("name", ["__init__.py", "new.py"])
def test_a_changed_or_new_file_of_the_package_is_marked(package, name):
    (package / name).write_text("x = 1\n")
    found = commit_of(package)
    assert found is not None
    assert found.endswith("-dirty")


def test_a_package_that_is_only_installed_has_no_commit(package):
    other = package.parent / "installed"
    other.mkdir()
    (other / "__init__.py").write_text("")
    assert commit_of(other) is None


def test_a_reproduction_into_a_checkout_says_that_the_package_has_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("results", "docs"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(run, "environment", lambda: {"git": "0123456789ab-dirty"})
    monkeypatch.setitem(run.KINDS, "table", NOTHING)
    with pytest.warns(UserWarning, match="rows will say 0123456789ab-dirty. Commit them first"):
        assert run.reproduce("li2018-toy") == []
    assert run.reproduce("li2018-toy", out=tmp_path / "elsewhere") == []  # files of nobody's checkout
    monkeypatch.setattr(run, "environment", lambda: {"git": "0123456789ab"})
    assert run.reproduce("li2018-toy") == []
