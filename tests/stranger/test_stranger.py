"""One of each from outside: a projection, an optimiser, a method, a data set and a model, trained with and saved."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from training import RECORDED

from subspaces import LayerKronecker, ManySubspaces, Subspace, make_projection
from subspaces.cli import main
from subspaces.datasets import load_data
from subspaces.models import make_model
from subspaces.projections import from_spec
from subspaces.registry import register, resolve
from subspaces.runs.run import Run
from subspaces.runs.train import train

FOLDER = Path(__file__).parent


@pytest.fixture
def here(monkeypatch):
    """In the folder of the stranger's package and file."""
    monkeypatch.chdir(FOLDER)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 3))


# ---- projections


def test_a_projection_of_ones_own_is_the_same_however_it_is_given(here):
    from stranger_package.maps import NamedTile, Tile

    D = 10 * 16 + 16 + 16 * 3 + 3
    given = {
        "class": (Tile, {}),
        "path": ("stranger_package.maps:Tile", {}),
        "name": ("stranger-tile", {}),
        "object": (Tile(7, D, 2), None),
        "with an option": (NamedTile, {"shift": 0}),
    }
    thetas = []
    for projection, options in given.values():
        model = network()
        if options is None:
            subspace = Subspace(model, projection=projection)
        else:
            subspace = Subspace(model, d=7, projection=projection, seed=2, **options)
        subspace.move_to(torch.arange(7.0))
        thetas.append(torch.cat([p.detach().reshape(-1) for _, p in sorted(subspace.plain().named_parameters())]))
    assert len({theta.numpy().tobytes() for theta in thetas}) == 1
    assert not torch.equal(thetas[0], torch.cat([p.reshape(-1) for _, p in sorted(network().named_parameters())]))


def test_its_map_has_an_exact_transpose_and_unit_columns(here):
    P = make_projection("own.py:Backwards", 6, 101, 3, shift=2)
    dense = P.to_dense(torch.float64)
    g = torch.randn(101, dtype=torch.float64)
    torch.testing.assert_close(P.adjoint(g), dense.T @ g)
    torch.testing.assert_close(dense.norm(dim=0), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(P.lift_rows(torch.eye(6, dtype=torch.float64), 40, 77).T, dense[40:77])


def test_files_name_it_by_its_registered_name_else_by_its_path(here):
    from stranger_package.maps import NamedTile, Tile

    assert make_projection(Tile, 3, 20).spec["kind"] == "stranger_package.maps:Tile"
    assert make_projection(NamedTile, 3, 20).spec["kind"] == "stranger-tile"
    assert make_projection("own.py:Backwards", 3, 20).spec["kind"] == "own.py:Backwards"
    for kind in (Tile, NamedTile, "own.py:Backwards"):
        P = make_projection(kind, 3, 20, 5, shift=1)
        again = from_spec(json.loads(json.dumps(P.spec)))
        assert type(again) is type(P)
        assert torch.equal(again.to_dense(), P.to_dense())


def test_a_subclass_of_a_kind_is_never_taken_for_it():
    from subspaces.projections import Hadamard

    class Doubled(Hadamard):
        def _lift(self, w, start, stop):
            return 2 * super()._lift(w, start, stop)

    Subspace(network(), d=4, projection=Doubled)
    assert Hadamard.kind == "hadamard"
    with pytest.raises(ValueError, match="must name what is registered or imported already"):
        from_spec(Doubled(4, 20).spec)  # defined within a function: no path leads there
    assert type(from_spec(Doubled(4, 20).spec, allow=Doubled)) is Doubled


def test_a_file_that_names_something_else_is_refused_before_it_is_called():
    spec = {"kind": "os:remove", "version": 1, "d": 3, "D": 20, "seed": 0, "options": {}}
    with pytest.raises(ValueError, match="must be a subclass of Projection; got <built-in function remove>"):
        from_spec(spec)


def test_it_works_in_every_form_of_a_subspace(here, tmp_path):
    assert Subspace.largest_d(network(), "own.py:Backwards") == 10 * 16 + 16 + 16 * 3 + 3
    blocks = Subspace(network(), d=8, projection="own.py:Backwards", blocks="layer")
    assert [part["kind"] for part in blocks.projection.spec["options"]["parts"]] == ["own.py:Backwards"] * 2
    kronecker = LayerKronecker(network(), d=8, rank=4, inner="own.py:Backwards")
    assert kronecker.projection.spec["kind"] == "own.py:Backwards"
    kronecker.move_to(torch.arange(8.0))
    kronecker.save(tmp_path / "kronecker.safetensors")
    again = network()
    assert type(Subspace.load(again, tmp_path / "kronecker.safetensors")) is LayerKronecker
    torch.testing.assert_close(again(torch.ones(2, 10)), kronecker.model(torch.ones(2, 10)))
    many = ManySubspaces([network(), network()], d=8, projection="own.py:Backwards")
    with torch.no_grad():
        many.coordinates += 0.1
    x = torch.randn(4, 10)
    torch.testing.assert_close(many(x)[0], many.model(0)(x))


@pytest.mark.parametrize("blocks", [None, "layer"])
def test_a_trained_one_is_saved_and_loaded(here, tmp_path, blocks):
    from stranger_package.maps import Tile

    model, x, y = network(), torch.randn(30, 10), torch.arange(30) % 3
    subspace = Subspace(model, d=40, projection=Tile, seed=3, shift=4, blocks=blocks)
    optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(1e-2, "adam"))
    before = float(cross_entropy(model(x), y).detach())
    for _ in range(60):
        cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(cross_entropy(model(x), y).detach()) < before - 0.1
    path = tmp_path / "tile.safetensors"
    subspace.save(path)
    again = network()
    Subspace.load(again, path)
    assert torch.equal(again(x), model(x))
    subspace.move_to(torch.zeros(subspace.d))
    subspace.swap(path)
    assert torch.equal(again(x), model(x))


def test_a_file_is_loaded_with_the_class_handed_over_when_its_module_is_gone(here, tmp_path):
    subspace = Subspace(network(), d=5, projection="own.py:Backwards", seed=3)
    subspace.move_to(torch.arange(5.0))
    subspace.save(tmp_path / "own.safetensors")
    mine = type(subspace.projection)
    x = torch.randn(4, 10)
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]
    with pytest.raises(ValueError, match=r"'own.py:Backwards'.*not imported.*pass its class as `allow`"):
        Subspace.load(network(), tmp_path / "own.safetensors")
    for allow in (mine, [mine], {"own.py:Backwards": mine}):
        again = network()
        Subspace.load(again, tmp_path / "own.safetensors", allow=allow)
        assert torch.equal(again(x), subspace.model(x))


# ---- what a mistaken class is told


def test_mistaken_projections_are_told_what_is_missing(here):
    from stranger_package.maps import Tile

    from subspaces import Projection

    class Bare(Projection):
        def _lift(self, w, start, stop):
            return w.new_zeros(len(w), stop - start)

    class Silent(Tile):
        options = Projection.options

    with pytest.raises(TypeError, match="must define _adjoint"):
        Subspace(network(), d=4, projection=Bare)
    with pytest.raises(TypeError, match=r"must give shift in its `options`"):
        Subspace(network(), d=4, projection=Silent)
    for name in ("basis", "blocks", "layer-kronecker"):
        with pytest.raises(ValueError, match="which stand for something else"):
            register("projection", name, Tile)
    with pytest.raises(TypeError, match="must be a subclass of Projection"):
        Subspace(network(), d=4, projection="stranger_package.nets:net")
    with pytest.raises(
        TypeError, match=r"`shfit` must be left out; got 3, .* stranger_package.maps:Tile has no such option"
    ):
        Subspace(network(), d=4, projection="stranger_package.maps:Tile", shfit=3)


# ---- optimisers


def test_an_optimiser_of_ones_own_trains_by_its_record(here):
    from stranger_package.optimisers import Signed

    model, x, y = network(), torch.randn(30, 10), torch.arange(30) % 3
    subspace = Subspace(model, d=50)
    ratio = subspace.D / 50
    assert subspace.lr(1.0, "stranger-half") == pytest.approx(ratio)
    assert subspace.lr(1.0, Signed) == pytest.approx(ratio**0.5)
    record = resolve("optimizer", "stranger_package.optimisers:Signed")
    optimizer = record.build(subspace, {"lr": subspace.lr(3e-3, record), "momentum": 0.5})
    before = float(cross_entropy(model(x), y).detach())
    for _ in range(40):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    assert float(cross_entropy(model(x), y).detach()) < before - 0.1
    with pytest.raises(ValueError, match="must be among lr, momentum; got beta2"):
        record.build(subspace, {"beta2": 0.9})
    with pytest.raises(TypeError, match="must be given a subspace"):
        resolve("optimizer", "stranger-half").build(model.parameters())


# ---- data and models


def test_the_librarys_loop_trains_its_model_on_its_data_in_its_subspace(here):
    task = "stranger_package.data:STRIPES"
    assert load_data(task).train_x.shape == (100, 1, 6, 6)
    first = load_data("own.py:dataset").test_x.clone()
    assert torch.equal(first, load_data("own.py:dataset").test_x)  # what is kept was not normalised in place
    run = Run.of(
        "stranger-stripes@stranger_package.nets:net", d=20, projection="stranger_package.maps:Tile", epochs=10,
        batch_size=20, lr=1e-2, l2=0.0,
    )  # fmt: skip
    result = train(run)
    assert result.status == "done"
    assert result.curves[-1]["test_score"] > 0.9


def test_a_model_of_ones_own_is_made_by_name_and_path(here):
    import stranger_package.nets

    for name in ("stranger-net", "stranger_package.nets:net", "own.py:net"):
        assert make_model(name, width=5)[1].out_features == 5
    assert stranger_package.nets.net(width=3)[1].out_features == 3  # the decorator gave it back as it was


# ---- methods


def test_a_method_of_ones_own_extracts_a_subspace_that_trains(here, recorded, tmp_path, capsys):
    words = ["extract", str(recorded), "--method", "stranger_package.methods:last_samples", "--d", "3"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(tmp_path / "mine.safetensors"), "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "stranger_package.methods:last_samples"
    assert found["orthonormality"] < 1e-5
    assert found["distance"] < 1e-3  # the last sample is one of the directions
    assert found["projected_score"] == pytest.approx(found["last_score"], abs=0.01)
    result = train(Run.of(RECORDED.task, subspace=found["basis"], optimizer="adam", lr=1e-3, epochs=1))
    assert result.curves[0]["val_score"] > 0.8


def test_a_method_that_gives_no_basis_is_told_so_and_its_file_has_a_plain_name(here, recorded):
    from subspaces.runs.extract import extract

    with pytest.raises(TypeError, match=r"`method` stranger_package.methods:nothing must give a LearnedBasis"):
        extract(recorded, "stranger_package.methods:nothing", 2)
    assert extract(recorded, "own.py:method", 2).basis.name == "own.py_method-2.safetensors"
    with pytest.raises(ValueError, match="must be a number of directions with frequent-directions"):
        extract(recorded, "frequent-directions", 0.9)
