"""Values written into θ and w alike (as DistributedDataParallel does when it is made) outlive every way of reading."""

import pytest
import torch
from torch import nn

from subspaces import Subspace

READ = {
    "parameters()": lambda model: list(model.parameters()),
    "state_dict()": lambda model: model.state_dict(),
    "a weight": lambda model: model[0].weight,
    "a pass": lambda model: model(torch.ones(1, 6)),
    "a compiled pass": lambda model: torch.compile(model, backend="eager")(torch.ones(1, 6)),
    "a step": lambda model: torch.optim.SGD(model.parameters(), 0.1).step(),
}


@pytest.mark.parametrize("read", READ)
def test_values_that_were_broadcast_become_the_origin_whatever_reads_first(read):
    model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3))
    subspace = Subspace(model, d=12)
    torch.manual_seed(1)
    sent = {name: torch.randn_like(tensor) for name, tensor in subspace.origin.items()}
    for name, parameter in [(n, p) for n, p in model.named_parameters() if n in sent]:
        parameter.detach().copy_(sent[name])
    subspace.coordinates.detach().copy_(torch.zeros(12))  # its version is another one
    READ[read](model)
    model(torch.ones(1, 6)).sum().backward()
    torch.optim.SGD(model.parameters(), 0.0).step()
    for name, tensor in subspace.origin.items():
        assert torch.equal(tensor, sent[name])
        assert torch.equal(dict(model.named_parameters())[name], sent[name])
    assert subspace.coordinates.grad.any()
