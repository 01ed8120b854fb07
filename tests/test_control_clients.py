"""A client from outside: Stable-Baselines3 with a subspace on its policy, unchanged otherwise."""

import pytest
import torch

import subspaces as ss
from subspaces.tasks.control import enter

pytestmark = pytest.mark.rl


def dqn(**options):
    from stable_baselines3 import DQN

    known = {"learning_starts": 20, "train_freq": 4, "target_update_interval": 40, "seed": 0, "device": "cpu"}
    return DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [20, 20]}, **{**known, **options})


def ppo():
    from stable_baselines3 import PPO

    return PPO(
        "MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [20]}, n_steps=64, n_epochs=2, seed=0, device="cpu"
    )


def weights(subspace):
    return {name: p.detach().clone() for name, p in subspace.model.named_parameters() if name in subspace.layout.names}


@pytest.mark.parametrize(("make", "steps"), [(dqn, 120), (ppo, 128)])
def test_an_algorithm_trains_w_and_stays_on_the_line(make, steps):
    model = make()
    subspace = enter(model, d=11, seed=5)
    before = {name: tensor.clone() for name, tensor in subspace.origin.items()}
    rest = {n: p.clone() for n, p in model.policy.named_parameters() if n not in before and "coordinates" not in n}
    model.learn(steps)
    assert float(subspace.coordinates.detach().abs().max()) > 0
    theta = torch.cat([before[n].reshape(-1) for n in subspace.layout.names])
    theta = theta + subspace.projection(subspace.coordinates.detach())
    torch.testing.assert_close(
        torch.cat([w.reshape(-1) for _, w in sorted(weights(subspace).items())]), theta, atol=1e-6, rtol=0
    )
    assert [p.shape for group in model.policy.optimizer.param_groups for p in group["params"]] == [(11,)]
    assert set(rest) == ({n for n, _ in model.policy.named_parameters() if "target" in n} if make is dqn else set())


def test_the_target_of_dqn_follows_the_network():
    model = dqn()
    subspace = enter(model, d=11)
    model.learn(120)
    for ours, theirs in zip(model.policy.q_net.parameters(), model.policy.q_net_target.parameters(), strict=True):
        moved = float((ours - theirs).detach().abs().max())
        assert moved < 0.2
    target = torch.cat([p.detach().reshape(-1) for p in model.policy.q_net_target.parameters()])
    start = torch.cat([subspace.origin[n].reshape(-1) for n, _ in named_of(model)])
    assert float((target - start).abs().max()) > 1e-4


def named_of(model):
    return [(f"q_net.{n}", p) for n, p in model.policy.q_net.named_parameters()]


def test_rates_are_those_of_the_subspace_and_follow_the_schedule():
    model = dqn(learning_rate=lambda left: 1e-3 * left)
    subspace = enter(model, d=11)
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(subspace.lr(1e-3, "adam"))
    model.learn(120)
    assert model.policy.optimizer.param_groups[0]["lr"] < 0.1 * subspace.lr(1e-3, "adam")


def test_d_numbers_are_saved_and_loaded_both_ways(tmp_path):
    model = dqn()
    subspace = enter(model, d=11, seed=5)
    model.learn(120)
    model.save(tmp_path / "whole.zip")
    subspace.save(tmp_path / "w.safetensors")
    expected, seen = weights(subspace), torch.randn(6, 4)
    actions = model.predict(seen.numpy(), deterministic=True)[0]
    fresh = dqn()
    again = ss.Subspace.load(fresh.policy, tmp_path / "w.safetensors")
    assert weights(again).keys() == expected.keys()
    for name, tensor in weights(again).items():
        assert torch.equal(tensor, expected[name])
    assert (fresh.predict(seen.numpy(), deterministic=True)[0] == actions).all()
    other = dqn()
    enter(other, d=11, seed=5)
    other.set_parameters(tmp_path / "whole.zip")
    assert (other.predict(seen.numpy(), deterministic=True)[0] == actions).all()
    assert (tmp_path / "w.safetensors").stat().st_size < 4000  # the target network was trained beside it


def test_actors_with_optimisers_of_their_own_are_told_apart():
    from stable_baselines3 import SAC

    with pytest.raises(TypeError, match="one optimiser, such as DQN, PPO or A2C; got SAC"):
        enter(SAC("MlpPolicy", "Pendulum-v1", device="cpu"), d=5)
