"""Who may import whom: the table of docs/design.md, read off the sources; and no circles within a package."""

import ast
import re
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "subspaces"
DESIGN = (PACKAGE.parents[1] / "docs" / "design.md").read_text()


def _levels() -> dict[str, int]:
    """Module, with dots below the package → level, from the table in docs/design.md."""
    section = DESIGN.split("## Levels")[1].split("\n## ")[0]
    found = {}
    for line in section.splitlines():
        if match := re.match(r"\|\s*(\d+)\s*\|([^|]*)\|", line):  # level and names; the third column is prose
            for name in re.findall(r"`([\w.]+)`", match[2]):
                found[name] = int(match[1])
    return found


def _room(module: str) -> str:
    """The longest name of the table that a module stands under."""
    parts, levels = module.split("."), _levels()
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((name for name in names if name in levels), parts[0])


def _imports(path: Path) -> set[str]:
    """Our own modules that a file imports at any depth, with dots, without the package's name."""
    return _names(path, ast.walk(ast.parse(path.read_text())))


def _names(path: Path, nodes: Iterable[ast.AST]) -> set[str]:
    """Our own modules that the import statements among some nodes of a file name."""
    package = ["subspaces", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [
                f"{module}.{alias.name}" if _is_module(f"{module}.{alias.name}") else module for alias in node.names
            ]
        else:
            continue
        found |= {name.removeprefix("subspaces.") for name in names if name.startswith("subspaces.")}
    return found


def _is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_module_has_a_level_and_every_level_a_module():
    rooms = {_room(_module(path)) for path in FILES}
    assert rooms == set(_levels())


@pytest.mark.parametrize("room", sorted({_room(_module(path)) for path in FILES}))
def test_modules_import_only_from_below(room):
    levels = _levels()
    for path in FILES:
        if _room(_module(path)) != room:
            continue
        above = {n for n in _imports(path) if _room(n) != room and levels[_room(n)] >= levels[room]}
        above = {n for n in above if not (levels[_room(n)] == levels[room] and n.split(".")[0] == room.split(".")[0])}
        assert not above, f"{path.name} (level {levels[room]}) imports {above} of the same level or above"


def _first_level(path: Path) -> set[str]:
    """Our own modules that a file imports when it is loaded, and those that it imports for its annotations only."""
    tree = ast.parse(path.read_text())
    later = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    inside = {id(inner) for node in ast.walk(tree) if isinstance(node, later) for inner in ast.walk(node)}
    return _names(path, [node for node in ast.walk(tree) if id(node) not in inside])


PACKAGES = sorted({_module(path).split(".")[0] for path in FILES if path.parent != PACKAGE})


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_of_a_package_import_each_other_in_a_circle(package):
    mine = {_module(path): path for path in FILES if _module(path).split(".")[0] == package}
    graph = {name: _first_level(path) & mine.keys() for name, path in mine.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' → '.join(error.args[1])}")
