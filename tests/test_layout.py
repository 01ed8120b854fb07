"""Who may import whom: the table of docs/design.md, read off the sources."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "subspaces"
DESIGN = (PACKAGE.parents[1] / "docs" / "design.md").read_text()


def _levels() -> dict[str, int]:
    """Top-level module → level, from the table in docs/design.md."""
    section = DESIGN.split("## Levels")[1].split("\n## ")[0]
    found = {}
    for line in section.splitlines():
        if match := re.match(r"\|\s*(\d+)\s*\|([^|]*)\|", line):  # level and names; the third column is prose
            for name in re.findall(r"`(\w+)`", match[2]):
                found[name] = int(match[1])
    return found


def _imports(path: Path) -> set[str]:
    """Top-level modules of ours that a file imports at any depth."""
    package = ["subspaces", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)] if module == "subspaces" else [module]
        else:
            continue
        found |= {parts[1] for parts in (n.split(".") for n in names) if parts[0] == "subspaces" and len(parts) > 1}
    return found


def _modules() -> list[str]:
    return sorted({p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in PACKAGE.rglob("*.py")} - {"__init__"})


def test_every_module_has_a_level():
    assert set(_modules()) == set(_levels())


@pytest.mark.parametrize("module", _modules())
def test_modules_import_only_from_below(module):
    levels = _levels()
    files = [PACKAGE / f"{module}.py"] if (PACKAGE / f"{module}.py").exists() else (PACKAGE / module).rglob("*.py")
    known = set(_modules())
    for path in files:
        above = {n for n in _imports(path) & known if n != module and levels[n] >= levels[module]}
        assert not above, f"{path.name} (level {levels[module]}) imports {above} of the same level or above"
