"""Names and import paths: what they lead to, what is refused, and what a mistake is told."""

import sys
import textwrap

import pytest
from clean_registry import clean_registry

from subspaces import registry
from subspaces.registry import import_object, name_of, register, resolve


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, which is not on the path; writes modules, and forgets them and what they registered."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    with clean_registry(lambda name: name.startswith(("mine", "nets", "solo", "beside", "lazy", "quiet"))):
        yield write


# ---- names


def test_every_kind_knows_what_the_library_brings():
    known = {
        "projection": "hadamard", "optimizer": "adam", "method": "dldr", "dataset": "digits", "model": "lenet",
    }  # fmt: skip
    for kind, name in known.items():
        assert name in registry.names(kind)
        assert resolve(kind, name) is registry.table(kind)[name]


def test_a_decorator_and_a_call_register_the_same_way(folder):
    @register("model", "decorated")
    def build():
        return None

    register("model", "called", build)
    assert resolve("model", "decorated") is resolve("model", "called") is build
    assert name_of("model", build) == "decorated"


def test_a_name_is_taken_once_but_the_same_definition_may_come_again(folder):
    folder("nets.py", "def net(): ...\n")
    net = import_object("model", "nets:net")
    register("model", "mine", net)
    register("model", "mine", net)
    del sys.modules["nets"]
    again = import_object("model", "nets:net")  # a module loaded anew, as in a notebook
    assert again is not net
    register("model", "mine", again)
    assert resolve("model", "mine") is again
    with pytest.raises(
        ValueError, match=r"`name` must be new; got 'mine', which is the model nets:net.*for builtins:len"
    ):
        register("model", "mine", len)
    with pytest.raises(ValueError, match="got 'lenet', which is the model"):
        register("model", "lenet", net)
    for name in ("a:b", ""):
        with pytest.raises(ValueError, match="without ':'"):
            register("model", name, net)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("projection", "hadamrd", "`projection` must be one of .*Did you mean 'hadamard'"),
        ("optimizer", "adan", "`optimizer` must be one of .*Did you mean 'adam'"),
        ("method", "dlrd", "`method` must be one of .*Did you mean 'dldr'"),
        ("dataset", "minst", "`dataset` must be one of .*Did you mean 'mnist'"),
        ("model", "lennet", "`model` must be one of .*Did you mean 'lenet'"),
        ("model", "my.nets.build", "written package.module:object or path/to/file.py:object"),
        ("modle", "lenet", "`kind` must be one of .*Did you mean 'model'"),
    ],
)
def test_mistyped_names_are_told_the_nearest(kind, name, message):
    with pytest.raises(ValueError, match=message):
        resolve(kind, name)


@pytest.mark.parametrize(
    ("kind", "thing"),
    [("projection", dict), ("optimizer", dict), ("method", 3), ("dataset", dict), ("model", 3)],
)
def test_what_is_not_of_the_kind_is_refused(folder, kind, thing):
    with pytest.raises(TypeError, match=f"`{kind}` must be"):
        register(kind, "mine", thing)
    assert "mine" not in registry.table(kind)
    with pytest.raises(TypeError, match="`choice` must be"):
        resolve(kind, thing, argument="choice")


# ---- import paths


def test_a_module_of_the_current_folder_is_found_and_the_path_left_as_it_was(folder):
    folder("mine/__init__.py", "")
    folder("mine/nets.py", "from mine.helper import base\n\nclass Outer:\n    class Inner:\n        value = base\n")
    folder("mine/helper.py", "base = 7\n")
    before = list(sys.path)
    assert import_object("model", "mine.nets:Outer.Inner").value == 7
    assert sys.path == before


def test_a_file_is_loaded_once_with_the_modules_beside_it(folder):
    folder("maps/solo.py", "import beside\n\ndef build():\n    return beside.value\n")
    folder("maps/beside.py", "value = 3\n")
    build = resolve("model", "maps/solo.py:build")
    assert build() == 3
    assert resolve("model", "maps/../maps/solo.py:build") is build
    assert sys.modules[build.__module__].build is build
    assert name_of("model", build) == "solo.py:build"
    assert resolve("model", "solo.py:build", trusted=False) is build


def test_a_file_that_was_imported_as_a_module_is_that_module(folder):
    folder("solo.py", "def build(): ...\n")
    assert import_object("model", "solo:build") is import_object("model", "solo.py:build")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("nowhere.at_all:net", ValueError, "import path package.module:object; got 'nowhere.at_all:net'.*PYTHONPATH"),
        ("absent:build", ValueError, r"'absent:build' \(No module.*Install its package, change to the folder"),
        ("maps/solo:build", ValueError, r"A file is written with its ending, maps/solo.py:build"),
        ("maps/other.py:build", FileNotFoundError, "there is no .*other.py"),
        ("maps/solo.py:biuld", ValueError, "no attribute 'biuld'. Did you mean 'build'"),
        (":build", ValueError, "be written package.module:object"),
        ("solo.py:", ValueError, "be written package.module:object"),
        (".solo:build", ValueError, "be written package.module:object"),
    ],
)
def test_paths_that_lead_nowhere_say_what_to_do(folder, text, kind, message):
    folder("maps/solo.py", "def build(): ...\n")
    with pytest.raises(kind, match=f"`model` must .*{message}" if kind is ValueError else message):
        resolve("model", text)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import math\n\nbase = math.no_such\n", r"AttributeError: module 'math' has no.*solo.py, line 3\)"),
        ("import not_installed_anywhere\n", r"No module named 'not_installed_anywhere' \(.*solo.py, line 1\)"),
        ("def build(:\n", r"SyntaxError: .*solo.py, line 1\)"),
        ("import re\n\n\nre.compile('(')\n", r"error.*solo.py, line 4\)"),
        ("import solo_helper\n", r"ZeroDivisionError: .*solo_helper.py, line 2\)"),
        (
            "import sys\nsys.exit(3)\n",
            r"it ends the program \(.*solo.py, line 2\). Put what is to run under `if __name__",
        ),
    ],
)
@pytest.mark.parametrize("text", ["solo:build", "solo.py:build"])
def test_a_mistake_in_the_users_module_is_shown_with_its_own_line(folder, source, told, text):
    folder("solo.py", source)
    folder("solo_helper.py", "\n1 / 0\n")
    with pytest.raises(RuntimeError, match=f"(?i)`model` must be importable; got '{text}': .*{told}"):
        resolve("model", text)
    folder("solo.py", "def build():\n    return 5\n" + "#" * len(source))
    assert resolve("model", text)() == 5  # mended, in the same process


# ---- what was not typed by the user


def test_what_a_file_names_is_found_without_importing_anything(folder):
    folder("quiet.py", "raise SystemExit('imported')\n")
    assert resolve("model", "lenet", trusted=False) is registry.table("model")["lenet"]
    assert resolve("model", "subspaces.models:lenet", trusted=False) is sys.modules["subspaces.models"].lenet
    for text in ("quiet:build", "quiet.py:build", "./quiet.py:build"):
        with pytest.raises(ValueError, match=r"`spec` must name what is .*not imported.*first .*quiet.*, or ask\."):
            resolve("model", text, trusted=False, argument="spec", advice="ask")
    assert "quiet" not in sys.modules
    with pytest.raises(ValueError, match="its module has no such object"):
        resolve("model", "subspaces.models:no_such", trusted=False)


def test_a_lazy_module_is_not_made_to_import_by_what_a_file_names(folder):
    folder("lazy.py", "def __getattr__(name):\n    raise SystemExit(name)\n")
    with pytest.raises(SystemExit):
        import_object("model", "lazy:build")
    with pytest.raises(ValueError, match="its module has no such object"):
        resolve("model", "lazy:build", trusted=False)


def test_two_files_of_one_name_are_not_guessed_between(folder):
    folder("one/solo.py", "def build(): ...\n")
    folder("two/solo.py", "def build(): ...\n")
    first, second = resolve("model", "one/solo.py:build"), resolve("model", "two/solo.py:build")
    assert first is not second
    with pytest.raises(ValueError, match="several files of this name have it"):
        resolve("model", "solo.py:build", trusted=False)
