"""Networks of other packages as models of tasks."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from subspaces.models.zoo import Enlarged, timm, torchvision
from subspaces.tasks import get_task


def network(name: str, num_classes: int, in_chans: int) -> nn.Module:
    """What timm.create_model is called with."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * in_chans, num_classes))


@pytest.fixture
def fake_timm(monkeypatch):
    """A package of two networks."""
    fake = SimpleNamespace(list_models=lambda: ["vgg11_bn", "inception_v3"], create_model=network)
    monkeypatch.setitem(sys.modules, "timm", fake)


@pytest.mark.parametrize(("package", "name"), [(timm, "timm"), (torchvision, "torchvision")])
def test_a_package_that_is_not_installed_is_named_with_its_installation(monkeypatch, package, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeError, match=f"pip install {name}"):
        package.vgg11_bn((3, 32, 32), 100)


def test_a_network_by_name_is_a_task(fake_timm):
    task = get_task("cifar10@subspaces.models.zoo:timm.vgg11_bn")
    assert task.D == 16 * 3 * 10 + 10
    assert task.build_model(0)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_network_of_large_images_sees_enlarged_ones(fake_timm):
    model = timm.inception_v3((3, 32, 32), 10)
    assert isinstance(model, Enlarged)
    sizes = []
    model.network.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    model(torch.zeros(2, 3, 32, 32))
    assert sizes == [(2, 3, 96, 96)]


def test_an_unknown_network_is_refused(fake_timm):
    with pytest.raises(ValueError, match="list_models"):
        timm.vgg12((3, 32, 32), 10)
