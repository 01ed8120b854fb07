"""docs/file-format.md holds: a reader written from it agrees with the library, and golden files of both formats."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import numpy_reader
import pytest
import torch
from safetensors.torch import save_file
from test_checkpoint_contents import GOLDEN, _golden_network
from torch import nn

from subspaces import Subspace, container
from subspaces.learned.bases import load_basis
from subspaces.learned.stored import load_subspace
from subspaces.learned.trajectory import Trajectory, TrajectoryRecorder
from subspaces.training.fit import fit
from subspaces.training.state import STATE, read_state

PAGE = (Path(__file__).parents[1] / "docs" / "file-format.md").read_text()


def _bits(tensors: dict[str, torch.Tensor]) -> str:
    """A hash of names, shapes and bits."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(f"{name}{tuple(tensors[name].shape)}".encode())
        total.update(tensors[name].reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


# ---- the reader


@pytest.mark.parametrize("dtype", ["full", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("options", [{}, {"block": 16}, {"projection": "dense"}], ids=str)
def test_the_reader_rebuilds_w_and_theta_of_a_checkpoint(tmp_path, options, dtype):
    subspace = Subspace(_golden_network(), 20, seed=7, **options)
    subspace.move_to(torch.linspace(-1, 2, 20))
    path = tmp_path / "a.safetensors"
    subspace.save(
        path, dtype=dtype, extra={"note": 'é "x" 😀\n', "numbers": [0.1, 1e-5, 1.5e16, 5.0, 2**70], "n": None}
    )
    header, arrays = numpy_reader.read(path)
    assert header["projection"] == {**subspace.projection.spec, "options": subspace.projection.options}
    assert (header["projection"]["seed"], header["projection"]["D"]) == (7, subspace.D)
    layout = subspace.layout
    shapes = [list(shape) for shape in layout.shapes]
    assert numpy_reader.layout(header) == [list(row) for row in zip(layout.names, shapes, layout.dtypes, strict=True)]
    again = Subspace.load(_golden_network(), path)
    np.testing.assert_array_equal(numpy_reader.coordinates(arrays).astype("f4"), again.coordinates.detach().numpy())
    origin = {name: p.detach().numpy() for name, p in _golden_network().named_parameters()}
    found = numpy_reader.theta(path, origin)
    named = dict(again.model.named_parameters())
    for name in layout.names:
        np.testing.assert_allclose(found[name], named[name].detach().numpy(), atol=2e-6, err_msg=name)


def test_the_reader_reads_a_stored_origin_and_a_damaged_file_not_at_all(tmp_path):
    subspace = Subspace(_golden_network(), 20)
    subspace.move_to(torch.linspace(-1, 2, 20))
    subspace.save(tmp_path / "a.safetensors", include_origin=True)
    found = numpy_reader.theta(tmp_path / "a.safetensors")
    for name in subspace.layout.names:
        np.testing.assert_allclose(found[name], dict(subspace.model.named_parameters())[name].detach(), atol=2e-6)
    content = bytearray((tmp_path / "a.safetensors").read_bytes())
    content[-5] ^= 4
    (tmp_path / "b.safetensors").write_bytes(bytes(content))
    with pytest.raises(AssertionError):
        numpy_reader.read(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    "name", ["basis-v2-mapped", "basis-v2-saved", "ticket-v2", "state-v2-direct", "checkpoint-v2-said"]
)
def test_the_reader_and_the_library_read_the_same_from_golden_files(name):
    path, kind = GOLDEN / f"{name}.safetensors", name.partition("-")[0]
    header, arrays = numpy_reader.read(path)
    own_header, tensors = container.read(path, kind)
    assert header == {key: value for key, value in own_header.items() if key != "content_digest"}
    assert arrays.keys() == tensors.keys()
    for key, tensor in tensors.items():
        wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        np.testing.assert_array_equal(arrays[key], wide.numpy())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_reader_reads_trajectories(dtype):
    path = GOLDEN / f"trajectory-v2-{dtype}"
    own = Trajectory.open(path)
    header, samples = numpy_reader.trajectory(path)
    assert (header["D"], [step for step, _, _ in samples]) == (own.D, own.steps)
    for sample, (_, arrays, _) in zip(own, samples, strict=True):
        for name in own.layout.names:
            np.testing.assert_array_equal(arrays[name], sample[name].numpy())


def test_the_reader_is_short_and_stands_alone():
    source = Path(numpy_reader.__file__).read_text()
    assert len(source.splitlines()) <= 100
    assert "torch" not in source.replace("without torch", "")
    assert "import subspaces" not in source
    assert "from subspaces" not in source


@pytest.mark.parametrize("name", ["checkpoint", "basis", "ticket", "state"])
def test_the_page_names_every_kind_and_entry(name):
    assert f"## `{name}`" in PAGE
    for path in GOLDEN.glob(f"{name}-v2*.safetensors"):
        header, _ = container.read(path, name)
        assert all(f"`{key}`" in PAGE for key in header), path


# ---- golden files

GOLDEN_BITS = {
    "basis-mapped": "7a1d8f4a4f9acdb5",
    "basis-saved": "86f3e85b363e6ff1",
    "ticket": "3ddb7b0c45b157c8",
    "trajectory-float32": "c8a82ec3b703630b",
    "trajectory-bfloat16": "c8a82ec3b703630b",  # its steps have few bits
    "state-direct": "453a398b06641e4f",
    "state-subspace": "2995fea2476601d2",
}


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("name", ["mapped", "saved"])
def test_bases_of_every_format_are_read_for_ever(version, name):
    basis = load_basis(GOLDEN / f"basis-{version}-{name}.safetensors")
    assert basis.mean is not None
    assert basis.start is not None
    assert basis.end is not None
    parts = {"rows": basis.rows, "mean": basis.mean, "start": basis.start, "end": basis.end}
    assert _bits(parts | {"values": basis.singular_values} | dict(basis.origin)) == GOLDEN_BITS[f"basis-{name}"]
    assert (basis.method, basis.d, basis.D) == ("dldr", 2 if name == "mapped" else 3, 147)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_tickets_of_every_format_are_read_for_ever(version):
    stored = load_subspace(GOLDEN / f"ticket-{version}.safetensors")
    assert (stored.method, stored.projection.d) == ("ticket", 20)
    assert _bits(dict(stored.origin) | {"rows": stored.projection.rows}) == GOLDEN_BITS["ticket"]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trajectories_of_every_format_are_read_for_ever(version, dtype):
    samples = Trajectory.open(GOLDEN / f"trajectory-{version}-{dtype}")
    assert samples.steps == [0, 1, 2, 3]
    found = {f"{i}.{name}": tensor for i, sample in enumerate(samples) for name, tensor in sample.items()}
    assert _bits(found) == GOLDEN_BITS[f"trajectory-{dtype}"]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_trajectories_of_every_format_are_gone_on_with(version, tmp_path):
    path = shutil.copy(GOLDEN / f"trajectory-{version}-float32", tmp_path / "t")
    recorder = TrajectoryRecorder(_golden_network(), every=1, path=path, resume=True)
    recorder.step()
    recorder.close()
    samples = Trajectory.open(path)
    assert samples.steps == [0, 1, 2, 3, 4]
    assert torch.equal(samples[4].vector, samples[0].vector)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("name", ["direct", "subspace"])
def test_states_of_every_format_are_taken_up_for_ever(version, name, tmp_path):
    shutil.copy(GOLDEN / f"state-{version}-{name}.safetensors", tmp_path / STATE)
    kept = read_state(tmp_path)
    assert kept is not None
    tensors, scalars = kept
    assert (scalars["step"], scalars["summed"], len(scalars["curves"])) == (5, 2, 1)
    bits = {key: tensor for key, tensor in tensors.items() if key.startswith(("param", "coord", "buffer", "optim"))}
    assert _bits(bits) == GOLDEN_BITS[f"state-{name}"]
    fitted = fit(_state_model(name), _state_data(), lr=0.01, epochs=2, batch_size=16, folder=tmp_path)
    assert [row["step"] for row in fitted.curves] == [3, 6]


def test_a_state_of_format_1_goes_on_to_the_same_bits(tmp_path):
    shutil.copy(GOLDEN / "state-v2-direct.safetensors", tmp_path / STATE)
    kept = read_state(tmp_path)
    assert kept is not None
    models = [_state_model("direct"), _state_model("direct")]
    fit(models[0], _state_data(), lr=0.01, epochs=2, batch_size=16, folder=tmp_path)
    save_file(kept[0], tmp_path / STATE, {"state": json.dumps(kept[1])})
    fit(models[1], _state_data(), lr=0.01, epochs=2, batch_size=16, folder=tmp_path)
    assert _bits(models[0].state_dict()) == _bits(models[1].state_dict())


def _state_model(name: str) -> nn.Module:
    model = _golden_network()
    if name == "subspace":
        Subspace(model, 5)
    return model


def _state_data() -> tuple[torch.Tensor, torch.Tensor]:
    n = torch.arange(48 * 6, dtype=torch.float32)
    return (((n * 29) % 97 - 48) / 32).view(48, 6), torch.arange(48) % 3


def test_a_state_of_another_model_is_refused_and_changes_nothing(tmp_path):
    shutil.copy(GOLDEN / "state-v2-direct.safetensors", tmp_path / STATE)
    model = nn.Sequential(nn.Linear(6, 3))
    before = _bits(model.state_dict())
    with pytest.raises(ValueError, match=rf"a {STATE} with 'parameter\.0\.weight' of shape \(12, 6\) where the model"):
        fit(model, _state_data(), lr=0.01, epochs=2, batch_size=16, folder=tmp_path)
    assert _bits(model.state_dict()) == before


def test_a_damaged_state_is_put_aside_and_the_training_begins_anew(tmp_path):
    content = bytearray((GOLDEN / "state-v2-direct.safetensors").read_bytes())
    content[-100] ^= 1
    (tmp_path / STATE).write_bytes(bytes(content))
    models = [_state_model("direct"), _state_model("direct")]
    with pytest.warns(UserWarning, match=rf"{STATE} is damaged \(.*do not match their hash.*The run begins anew"):
        fit(models[0], _state_data(), lr=0.01, epochs=2, batch_size=16, folder=tmp_path)
    fit(models[1], _state_data(), lr=0.01, epochs=2, batch_size=16)
    assert _bits(models[0].state_dict()) == _bits(models[1].state_dict())
    assert (tmp_path / f"{STATE}.corrupt").read_bytes() == bytes(content)
