"""What holds from one process to the next: saved files, and names that installed packages give."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from subspaces import Subspace
from subspaces.registry import import_object

FOLDER = Path(__file__).parent
SOURCES = FOLDER.parents[1] / "src"
NETWORK = """
import sys, torch
from torch import nn
torch.manual_seed(1)
model = nn.Linear(12, 4)
"""


def python(code: str, folder: Path, *paths: Path) -> str:
    """What a new process prints that runs this code in a folder."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [SOURCES, *paths]))}
    done = subprocess.run(
        [sys.executable, "-c", NETWORK + code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def saved(path: Path, projection: str) -> list[list[float]]:
    """A file, and the outputs of the model that it holds."""
    torch.manual_seed(1)
    model = nn.Linear(12, 4)
    subspace = Subspace(model, d=5, projection=projection, seed=3, shift=1)
    subspace.move_to(torch.arange(5.0))
    subspace.save(path)
    return model(torch.ones(1, 12)).tolist()


def test_a_saved_file_imports_nothing_and_loads_once_its_module_is_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(FOLDER)
    outputs = saved(tmp_path / "tile.safetensors", "stranger_package.maps:Tile")
    own = saved(tmp_path / "own.safetensors", "own.py:Backwards")
    code = f"""
from subspaces import Subspace, registry
for name in ("tile", "own"):
    try:
        Subspace.load(model, f"{tmp_path}/{{name}}.safetensors")
    except ValueError as error:
        print(error)
print(any(name.startswith(("stranger_package", "own_")) for name in sys.modules))
import stranger_package.maps
print(Subspace.load(model, "{tmp_path}/tile.safetensors").model(torch.ones(1, 12)).tolist())
registry.import_object("projection", "own.py:Backwards")
torch.manual_seed(1)
model = nn.Linear(12, 4)
print(Subspace.load(model, "{tmp_path}/own.safetensors").model(torch.ones(1, 12)).tolist())
"""
    first, second, imported, *numbers = python(code, FOLDER).splitlines()
    assert "'stranger_package.maps:Tile'" in first
    assert "first import stranger_package.maps, or pass its class as `allow`" in first
    assert 'first subspaces.registry.import_object("projection", "path/to/own.py:Backwards")' in second
    assert imported == "False"
    assert [json.loads(line) for line in numbers] == [outputs, own]


def test_a_class_of_the_program_itself_is_found_again_by_its_file(tmp_path, monkeypatch):
    program = f"""
from stranger_package.maps import Tile
from subspaces import Subspace
class Mine(Tile):
    pass
if __name__ == "__main__":
    {NETWORK.replace(chr(10), chr(10) + "    ")}
    subspace = Subspace(model, d=5, projection="program.py:Mine")
    print(type(subspace.projection) is Mine, subspace.projection.spec["kind"])
    subspace.save("program.safetensors")
"""
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [SOURCES, FOLDER]))}
    command = [sys.executable, "program.py"]
    assert subprocess.check_output(command, cwd=tmp_path, env=environment, text=True) == "True program.py:Mine\n"
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    model = nn.Linear(12, 4)
    mine = import_object("projection", "program.py:Mine")
    assert type(Subspace.load(model, "program.safetensors").projection) is mine


ENTRY_POINTS = """[subspaces.projections]
stranger-installed = stranger_package.maps:Tile
stranger-broken = stranger_broken:Tile

[subspaces.models]
stranger-installed-net = stranger_package.nets:net
"""


def installed(folder: Path) -> Path:
    """A folder as pip would have left it: a package with entry points, of which one is broken."""
    information = folder / "stranger_package-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-package\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "stranger_broken.py").write_text("import torch\n\nTile = torch.no_such_thing\n")
    return folder


def test_installed_packages_give_names_by_entry_points(tmp_path):
    code = f"""
from subspaces import Subspace
from subspaces.models import make_model
from subspaces.cli import main
Subspace(nn.Linear(2, 2), d=2)
print("stranger_package" in sys.modules)
subspace = Subspace(model, d=5, projection="stranger-installed")
subspace.save("{tmp_path}/named.safetensors")
print(subspace.projection.spec["kind"], make_model("stranger-installed-net", width=3)[1].out_features)
for name in ("stranger-broken", "stranger-instaled"):
    try:
        Subspace(nn.Linear(2, 2), d=2, projection=name)
    except (RuntimeError, ValueError) as error:
        print(error)
try:
    main(["list", "projections", "--json"])
except SystemExit as ended:
    print(ended.code)
"""
    imported, made, broken, unknown, rows, status = python(code, tmp_path, installed(tmp_path), FOLDER).splitlines()
    assert imported == "False"
    assert made == "stranger-installed 3"
    assert "module 'torch' has no attribute 'no_such_thing'" in broken
    assert "stranger_broken.py, line 3" in broken
    assert "entry point 'stranger-broken': stranger_broken:Tile of stranger-package" in broken
    assert "Did you mean 'stranger-installed'" in unknown
    listed = {row["projection"]: row for row in json.loads(rows)}
    assert "shift=0" in next(v for k, v in listed["stranger-installed"].items() if k.startswith("options"))
    assert "no_such_thing" in listed["stranger-broken"]["what it is"]
    assert status == "0"
    code = f"""
from subspaces import Subspace
print(type(Subspace.load(model, "{tmp_path}/named.safetensors").projection).__name__)
"""
    assert python(code, tmp_path, tmp_path, FOLDER).strip() == "Tile"
