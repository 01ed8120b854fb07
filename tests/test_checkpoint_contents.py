"""What a file holds and leaves out: precision of w, changed buffers, what was trained beside; golden files; swap."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from subspaces import Subspace, checkpoint
from subspaces.checkpoint import container

GOLDEN = Path(__file__).parent / "golden"
THETA = {  # SHA-256 of the bits of θ, tensors in the order of their names
    "plain": "14bae514fb5a313389e55ec6b6985090e467877ca8f6f4e065b614ed647518f3",
    "said": "5d1262301343a88baf6ceba64de7032dc6af6712360367d8163e4114170d4e46",
    "own-origin": "14bae514fb5a313389e55ec6b6985090e467877ca8f6f4e065b614ed647518f3",
}


def _golden_network() -> nn.Module:
    """θ₀ of integers over 64: the same bits on every machine."""
    model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 3))
    with torch.no_grad():
        for k, (_, p) in enumerate(sorted(model.named_parameters())):
            n = torch.arange(p.numel(), dtype=torch.float32)
            p.copy_((((n * 37 + k * 11) % 101 - 50) / 64).view(p.shape))
    return model


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("name", THETA)
def test_files_of_every_format_decode_to_the_same_bits_for_ever(version, name):
    model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 3))
    if name != "own-origin":
        model = _golden_network()
    subspace = Subspace.load(model, GOLDEN / f"checkpoint-{version}-{name}.safetensors")
    named = dict(model.named_parameters())
    bits = b"".join(named[n].detach().numpy().tobytes() for n in subspace.layout.names)
    assert hashlib.sha256(bits).hexdigest() == THETA[name]
    assert float(model[1].running_mean[0]) == 0.5
    assert int(model[1].num_batches_tracked) == 3


class _Masked(nn.Module):
    """A large constant buffer and one that changes."""

    def __init__(self, fill: float = 1.0):
        super().__init__()
        torch.manual_seed(1)
        self.body, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.register_buffer("mask", torch.full((512, 512), fill))

    def forward(self, x):
        return self.norm(self.body(x) * self.mask[:6, 0])


def _names(path) -> set[str]:
    with safe_open(str(path), "pt") as file:
        return set(file.keys())


def test_constant_buffers_are_not_stored_but_must_be_there(tmp_path):
    model = _Masked()
    subspace = Subspace(model, 5)
    model(torch.randn(8, 6))
    subspace.save(tmp_path / "a.safetensors")
    assert os.path.getsize(tmp_path / "a.safetensors") < 2000
    assert _names(tmp_path / "a.safetensors") == {
        "coordinates", "buffer.norm.running_mean", "buffer.norm.running_var", "buffer.norm.num_batches_tracked",
    }  # fmt: skip
    again = Subspace.load(_Masked(), tmp_path / "a.safetensors")
    assert torch.equal(again.model.norm.running_mean, model.norm.running_mean)
    with pytest.raises(ValueError, match=r"must have the buffers that .* among mask"):
        Subspace.load(_Masked(2.0), tmp_path / "a.safetensors")
    subspace.save(tmp_path / "b.safetensors", include_origin=True)
    other = Subspace.load(_Masked(2.0), tmp_path / "b.safetensors")
    assert torch.equal(other.model.mask, model.mask)


@pytest.mark.parametrize(("dtype", "error"), [("float16", 1e-3), ("bfloat16", 8e-3), ("int8", 8e-3)])
@pytest.mark.parametrize("layer_scale", [False, True])
def test_coordinates_of_fewer_bits(tmp_path, dtype, error, layer_scale):
    model = _golden_network()
    subspace = Subspace(model, 120, layer_scale=layer_scale)
    subspace.move_to(torch.linspace(-1, 1, 120))
    subspace.save(tmp_path / "full.safetensors")
    subspace.save(tmp_path / "low.safetensors", dtype=dtype)
    assert os.path.getsize(tmp_path / "low.safetensors") < os.path.getsize(tmp_path / "full.safetensors")
    again = Subspace.load(_golden_network(), tmp_path / "low.safetensors")
    assert again.coordinates.dtype == torch.float32
    assert float((again.coordinates - subspace.coordinates).detach().abs().max()) <= error
    d = again.projection.d
    assert torch.equal(again.coordinates[d:], subspace.coordinates[d:])


def test_numbers_that_are_none_are_not_saved(tmp_path):
    subspace = Subspace(_golden_network(), 5)
    with pytest.raises(ValueError, match="`w` must be finite"):
        subspace.move_to(torch.tensor([0.0, 1.0, float("nan"), 0.0, 0.0]))
    subspace.coordinates.data[2] = float("nan")  # as a step that went wrong leaves it
    with pytest.raises(ValueError, match="`coordinates` must be finite"):
        subspace.save(tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()
    subspace = Subspace(_golden_network(), 5, exclude="3.*")
    subspace.model[3].weight.data[0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"`3\.weight` must be finite to be saved"):
        subspace.save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="Did you mean 'float16'"):
        subspace.save(tmp_path / "a.safetensors", dtype="float_16")


# ---- what is trained beside the subspace


def _headed(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.ModuleDict({"body": nn.Linear(6, 8), "head": nn.Linear(8, 3)})


def _trained_with_head(seed: int) -> Subspace:
    model = _headed()
    subspace = Subspace(model, 5, exclude="head*")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(4):
        optimizer.zero_grad()
        out = model["head"](torch.tanh(model["body"](torch.randn(16, 6, generator=generator))))
        (out - 1.0).square().mean().backward()
        optimizer.step()
    return subspace


def test_what_was_trained_beside_the_subspace_is_in_the_file_or_named(tmp_path):
    subspace = _trained_with_head(0)
    subspace.save(tmp_path / "a.safetensors")
    again = Subspace.load(_headed(), tmp_path / "a.safetensors")
    assert torch.equal(again.model["head"].weight, subspace.model["head"].weight)
    with pytest.warns(UserWarning, match=r"not in the file: head\.bias"):
        subspace.save(tmp_path / "b.safetensors", also="*.weight")
    assert "also.head.weight" in _names(tmp_path / "b.safetensors")
    with pytest.warns(UserWarning, match="not in the file"):
        subspace.save(tmp_path / "c.safetensors", also=())
    assert _names(tmp_path / "c.safetensors") == {"coordinates"}
    with pytest.raises(ValueError, match=r"must have 'head\.bias'"):
        Subspace.load(nn.ModuleDict({"body": _headed()["body"]}), tmp_path / "a.safetensors")


def test_a_head_that_is_not_finite_is_not_loaded(tmp_path):
    _trained_with_head(0).save(tmp_path / "a.safetensors")
    header, tensors = checkpoint.read(tmp_path / "a.safetensors")
    tensors["also.head.weight"][1, 2] = float("nan")
    del header["content_digest"]
    container.write(tmp_path / "a.safetensors", header, tensors)
    with pytest.raises(ValueError, match=r"finite numbers beside the subspace; got NaN or inf in 'head\.weight'"):
        Subspace.load(_headed(), tmp_path / "a.safetensors")


def test_a_head_that_nobody_trained_is_not_stored(tmp_path):
    subspace = Subspace(_headed(), 5, exclude="head*")
    subspace.save(tmp_path / "a.safetensors")
    assert _names(tmp_path / "a.safetensors") == {"coordinates"}


# ---- swap, off, remove


def test_swap_goes_to_the_numbers_of_another_file_in_place(tmp_path):
    first, second = _trained_with_head(0), _trained_with_head(1)
    first.save(tmp_path / "a.safetensors")
    second.save(tmp_path / "b.safetensors")
    x, weight = torch.randn(4, 6), first.model["head"].weight
    expected = second.model["head"](second.model["body"](x))
    first.swap(tmp_path / "b.safetensors")
    assert first.model["head"].weight is weight
    assert torch.equal(first.coordinates, second.coordinates)
    assert torch.equal(first.model["head"](first.model["body"](x)), expected)


def test_swap_refuses_files_of_others_and_changes_nothing(tmp_path):
    subspace = _trained_with_head(0)
    w = subspace.coordinates.detach().clone()
    others = {
        "must be of this model": Subspace(_golden_network(), 5),
        "must be of the projection": Subspace(_headed(), 5, exclude="head*", seed=3),
        "must stand at the origin": Subspace(_headed(7), 5, exclude="head*"),
        "must hold what was trained beside": Subspace(_headed(), 5, exclude="head*"),
    }
    for message, other in others.items():
        other.save(tmp_path / "o.safetensors")
        with pytest.raises(ValueError, match=message):
            subspace.swap(tmp_path / "o.safetensors")
    assert torch.equal(subspace.coordinates, w)


def test_off_is_the_base_and_remove_can_go_back_to_it():
    model, base = _golden_network().eval(), _golden_network().eval()
    subspace, x = Subspace(model, 5), torch.randn(4, 6)
    subspace.move_to(torch.ones(5))
    at_w = model(x)
    with subspace.off():
        assert torch.equal(model(x), base(x))
    assert torch.equal(model(x), at_w)
    assert not torch.equal(at_w, base(x))
    subspace.remove(keep=False)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), base.state_dict().values(), strict=True))


def test_loading_takes_calls_in_proportion_to_the_tensors(tmp_path):
    """Once 20,000 tensors took 251 s; they take 0.7 s. Calls are counted, since times depend on the machine."""
    import sys

    def calls(count: int) -> int:
        model = nn.ParameterDict({f"p{i}": nn.Parameter(torch.zeros(3)) for i in range(count)})
        Subspace(model, d=5).save(tmp_path / "many.safetensors")
        model, seen = nn.ParameterDict({f"p{i}": nn.Parameter(torch.zeros(3)) for i in range(count)}), [0]

        def count_one(*_) -> None:
            seen[0] += 1

        sys.setprofile(count_one)
        try:
            Subspace.load(model, tmp_path / "many.safetensors")
        finally:
            sys.setprofile(None)
        return seen[0]

    assert calls(800) < 2.2 * calls(400)
