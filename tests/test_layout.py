"""Who may import whom: the table of docs/design.md, read off the sources."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "subspaces"
DESIGN = (PACKAGE.parents[1] / "docs" / "design.md").read_text()


def _levels() -> dict[str, int]:
    """Module, with dots below the package → level, from the table in docs/design.md."""
    section = DESIGN.split("## Levels")[1].split("\n## ")[0]
    found = {}
    for line in section.splitlines():
        if match := re.match(r"\|\s*(-?\d+)\s*\|([^|]*)\|", line):  # level and names; the third column is prose
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
    package = ["subspaces", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
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
