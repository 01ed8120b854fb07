"""Re-estimated statistics against the closed form."""

import pytest
import torch
from torch import nn

from subspaces.learned.batchnorm import refresh_batchnorm


def make_model() -> nn.Sequential:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 4), nn.BatchNorm1d(4))
    model[0].momentum = 0.3
    return model


def test_cumulative_average_of_the_batches():
    model, batches = make_model(), [2 * torch.randn(16, 3) + 1 for _ in range(5)]
    assert refresh_batchnorm(model, batches) == 2
    torch.testing.assert_close(model[0].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0))
    torch.testing.assert_close(model[0].running_var, torch.stack([b.var(0) for b in batches]).mean(0))
    # dropout is off: the second layer sees what it will see in evaluation
    seen = [model[2](nn.functional.batch_norm(b, None, None, training=True)) for b in batches]
    torch.testing.assert_close(model[3].running_mean, torch.stack([s.mean(0) for s in seen]).mean(0))


def test_modes_and_momentum_are_restored():
    model = make_model()
    model.train()
    model[3].eval()
    refresh_batchnorm(model, [(torch.randn(4, 3), torch.zeros(4))] * 3, limit=2)
    assert [m.training for m in model] == [True, True, True, False]
    assert (model[0].momentum, model[3].momentum) == (0.3, 0.1)
    assert int(model[0].num_batches_tracked) == 2


def test_policies():
    model = make_model()
    model(torch.randn(8, 3) + 5)
    kept = model[0].running_mean.clone()
    refresh_batchnorm(model, policy="keep")
    assert torch.equal(model[0].running_mean, kept)
    refresh_batchnorm(model, policy="reset")
    assert torch.equal(model[0].running_mean, torch.zeros(3))
    assert torch.equal(model[3].running_var, torch.ones(4))


def test_nothing_is_lost_on_bad_input():
    model = make_model()
    model(torch.randn(8, 3) + 5)
    old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="not finite"):
        refresh_batchnorm(model, [torch.full((4, 3), float("nan"))])
    with pytest.raises(ValueError, match="at least one batch"):
        refresh_batchnorm(model, [])
    with pytest.raises(ValueError, match="`batches` must be given"):
        refresh_batchnorm(model)
    with pytest.raises(ValueError, match="Did you mean 're-estimate'"):
        refresh_batchnorm(model, policy="reestimate")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, old[name]), name


def test_a_model_without_batchnorm_is_left_alone():
    assert refresh_batchnorm(nn.Linear(2, 2)) == 0


# ---- batches of all kinds


def test_statistics_weigh_examples_not_batches():
    model, x = nn.BatchNorm1d(3), torch.randn(70, 3)
    refresh_batchnorm(model, [x[:64], x[64:]])
    torch.testing.assert_close(model.running_mean, x.mean(0))
    expected = (64 * x[:64].var(0) + 6 * x[64:].var(0)) / 70
    torch.testing.assert_close(model.running_var, expected)


def test_batches_of_one_join_their_neighbours():
    model, x = nn.BatchNorm1d(3), torch.randn(65, 3)
    refresh_batchnorm(model, [x[:64], x[64:]])
    torch.testing.assert_close(model.running_var, x.var(0))
    refresh_batchnorm(model, [(row[None], 0) for row in x[:40]])
    torch.testing.assert_close(model.running_var, x[:40].var(0))
    before = model.running_mean.clone()
    with pytest.raises(ValueError, match="at least two examples"):
        refresh_batchnorm(model, [x[:1]])
    assert torch.equal(model.running_mean, before)


def test_dictionaries_hold_more_than_the_model_takes():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, inputs):
            return self.norm(inputs)

    model, x = Named(), torch.randn(30, 3)
    refresh_batchnorm(model, [{"inputs": x[:20], "labels": torch.zeros(20), "text": "a"}, {"inputs": x[20:]}])
    torch.testing.assert_close(model.norm.running_mean, x.mean(0))
