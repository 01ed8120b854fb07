"""State dicts as loops write them: of the trained parameters only, of a part, of a lower precision."""

import pytest
import torch
from small_network import error_of, small_batch, small_network

from subspaces import Subspace
from subspaces.layout import COORDINATES

FORMS = {
    "plain": {"d": 10},
    "stream": {"d": 10, "gradients": "stream"},
    "no origin": {"d": 10, "store_origin": False},
    "SAID": {"d": 20, "layer_scale": True},
    "layer-kronecker": {"d": 10, "projection": "layer-kronecker", "rank": 4},
}


def wrapped(options, moved=False):
    subspace = Subspace(small_network(), **options)
    if moved:
        with torch.no_grad():
            subspace.coordinates.add_(torch.linspace(-1, 1, subspace.d))
    return subspace


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("kept", ["the trained", "without a layer", "all"])
@pytest.mark.parametrize("form", FORMS)
def test_what_a_state_dict_lacks_follows_w(form, kept, assign):
    trained, fresh = wrapped(FORMS[form], moved=True), wrapped(FORMS[form])
    wanted = {n for n, p in trained.model.named_parameters() if p.requires_grad}
    assert wanted == {COORDINATES}
    state = {
        name: tensor.detach().clone()
        for name, tensor in trained.model.state_dict().items()
        if kept == "all" or name in wanted or (kept == "without a layer" and not name.startswith("5."))
    }
    fresh.model.load_state_dict(state, strict=False, assign=assign)
    x, _ = small_batch()
    assert torch.equal(fresh.coordinates, trained.coordinates)
    assert torch.equal(fresh.model(x), trained.model(x))
    if form != "no origin":
        assert all(torch.equal(tensor, trained.origin[name]) for name, tensor in fresh.origin.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_state_dict_of_a_lower_precision_leaves_the_origin(dtype):
    """Lightning's `ckpt_path` loads before it casts the model."""
    trained, fresh = wrapped(FORMS["plain"], moved=True), wrapped(FORMS["plain"])
    state = {
        name: tensor.to(dtype) if tensor.is_floating_point() and name != COORDINATES else tensor
        for name, tensor in trained.model.state_dict().items()
    }
    fresh.model.load_state_dict(state)
    assert torch.equal(fresh.coordinates, trained.coordinates)
    assert all(torch.equal(tensor, trained.origin[name]) for name, tensor in fresh.origin.items())
    assert error_of(fresh) == 0


def test_a_state_dict_of_a_lower_precision_and_another_origin_moves_the_origin():
    trained = Subspace(small_network(seed=1), d=10)
    fresh = wrapped(FORMS["plain"])
    state = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor
             for name, tensor in trained.model.state_dict().items()}  # fmt: skip
    with pytest.warns(UserWarning, match="of another origin"):
        fresh.model.load_state_dict(state)
    assert torch.equal(fresh.origin["5.weight"], trained.origin["5.weight"].bfloat16().float())
