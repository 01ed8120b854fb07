"""DQN by hand in NumPy: values, gradients and updates are those of torch; settings, memory and score as published."""

import numpy as np
import pytest
import torch

from subspaces.runs.run import Run
from subspaces.runs.train import train
from subspaces.tasks import get_task
from subspaces.tasks.control import Dqn, Policy, named
from subspaces.tasks.control.course import Course
from subspaces.tasks.control.learner import Learner, learn
from subspaces.tasks.control.memory import FEW, Replay
from subspaces.tasks.control.networks import Networks, td_gradient
from subspaces.tasks.control.policies import flat


def test_values_and_their_gradient_by_hand_are_those_of_torch():
    policy = Policy((4,), (20, 20), 2)
    model, target, around, outer = policy.from_seed(3), policy.from_seed(4), torch.randn(2, 32, 4), torch.randn(32, 2)
    networks = Networks(model)
    networks.target[:] = flat(target)
    expected = torch.stack([model(around[0]), target(around[1])]).detach().numpy()
    np.testing.assert_allclose(networks.both(around.numpy()), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(networks.values(around[0].numpy()), expected[0], rtol=1e-5, atol=1e-6)
    (model(around[0]) * outer).sum().backward()
    gradient = torch.cat([p.grad.reshape(-1) for _, p in sorted(model.named_parameters())])
    np.testing.assert_allclose(networks.pull(outer.numpy()), gradient.numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="linear layers with ReLU"):
        Networks(Policy((4,), (8,), 2, activation="tanh").from_seed(0))


def test_updates_are_those_of_torch_on_w():
    """The loop by hand in torch: a subspace, Adam, gradients clipped tensor by tensor, a target that follows."""
    import subspaces as ss

    policy, settings = Policy((4,), (20, 20), 2), Dqn(clip=0.01, lr=1e-3)
    model, plain = policy.from_seed(1), policy.from_seed(1)
    subspace, target = ss.Subspace(model, d=12, seed=4), policy.from_seed(1)
    learner = Learner(plain, subspace.projection, 2e-2, (4,), 2, settings, 0)
    optimizer = torch.optim.Adam(subspace.parameters(), lr=2e-2, betas=settings.betas)
    rng = np.random.default_rng(0)
    for i in range(200):
        learner.replay.add(rng.normal(size=4), i % 2, 1.0, rng.normal(size=4), i % 7 == 0)
    draws = np.random.Generator(np.random.PCG64(0))
    for _ in range(20):
        loss = learner.update()
        learner.replay.rng, own = draws, learner.replay.rng
        (seen, after), actions, rewards, goes_on = map(torch.from_numpy, learner.replay.draw(32))
        learner.replay.rng = own
        with torch.no_grad():
            wanted = rewards + 0.95 * goes_on * target(after).amax(1)
        expected = (model(seen).gather(1, actions[:, None])[:, 0] - wanted).square().mean()
        optimizer.zero_grad()
        expected.backward()
        torch.nn.utils.clip_grad_norm_(subspace.parameters(), 0.01)
        optimizer.step()
        with torch.no_grad():
            for name, p in target.named_parameters():
                p.lerp_(model.get_parameter(name), 0.01)
        assert loss == pytest.approx(expected.item(), rel=1e-3)
    np.testing.assert_allclose(learner.w, subspace.coordinates.detach(), rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(learner.networks.network, flat_of(model, subspace), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(learner.networks.target, flat(target), rtol=1e-3, atol=1e-5)
    assert np.abs(learner.networks.target - learner.networks.network).max() > 1e-3  # published code: one and the same


def flat_of(model, subspace):
    subspace.sync()
    own = dict(model.named_parameters())
    return torch.cat([own[name].detach().reshape(-1) for name in subspace.layout.names])


def test_dqn_finds_the_values_of_a_chain():
    """Four states in a row; right leads on, left ends with 0.3; the last right pays 1. Q follows by γ = 0.5."""
    gamma = 0.5
    right = [gamma**3, gamma**2, gamma, 1.0]
    settings = Dqn(gamma=gamma, lr=3e-3, target=0.1, betas=(0.9, 0.999))
    learner = Learner(Policy((4,), (16,), 2).from_seed(0), None, settings.lr, (4,), 2, settings, 0)
    states = np.eye(5, 4)
    for s in range(4):
        for _ in range(8):
            learner.replay.add(states[s], 0, 0.3, states[s], True)
            learner.replay.add(states[s], 1, float(s == 3), states[s + 1], s == 3)
    for _ in range(3000):
        learner.update()
    values = learner.networks.values(states[:4].astype(np.float32))
    np.testing.assert_allclose(values, [[0.3, max(r, 0.3 * gamma) if s < 2 else r] for s, r in enumerate(
        [gamma * max(0.3, gamma * max(0.3, gamma)), gamma * max(0.3, gamma), gamma, 1.0])], atol=0.02)  # fmt: skip
    assert right[0] < 0.3  # so that the best way from the first state is not on


def test_the_memory_forgets_the_oldest_and_draws_without_repetition():
    replay = Replay(5, (1,))
    for i in range(8):
        replay.add([i], i, i, [i + 1], i == 7)
    (seen, after), actions, rewards, goes_on = replay.draw(5)
    assert sorted(seen[:, 0]) == sorted(rewards) == [3, 4, 5, 6, 7]
    assert (after[:, 0] == seen[:, 0] + 1).all()
    assert (actions == rewards).all()
    assert goes_on[actions == 7] == [0]
    assert goes_on.sum() == 4
    many = Replay(2 * FEW, (2, 3))
    for i in range(2 * FEW):
        many.add(np.full((2, 3), i), 0, 0.0, np.zeros((2, 3)), False)
    drawn = np.concatenate([many.places(32) for _ in range(400)])
    assert all(len(set(drawn[k : k + 32])) == 32 for k in range(0, len(drawn), 32))
    assert abs(drawn.mean() / (2 * FEW) - 0.5) < 0.02  # even over all of them
    assert many.draw(7)[0].shape == (2, 7, 6)


def test_the_loss_and_exploration_are_the_published_ones():
    loss, outer = td_gradient(
        np.array([[1.0, 2.0]], dtype=np.float32), np.array([1]), np.array([1.0], dtype=np.float32),
        np.array([[3.0, 4.0]], dtype=np.float32), np.array([1.0], dtype=np.float32), 0.5,
    )  # fmt: skip
    assert (loss, outer.tolist()) == (1.0, [[0.0, -2.0]])
    settings = Dqn()
    assert [settings.epsilon(n) for n in (0, 5000, 10_000, 20_000)] == pytest.approx([0.5, 0.3, 0.1, 0.1])
    published = (settings.replay, settings.store_every, settings.gamma, settings.batch, settings.target, settings.clip)
    assert published == (10_000, 5, 0.95, 32, 0.01, 5.0)


# ---- the score


@pytest.mark.rl
def test_the_score_is_that_of_the_last_episodes_of_training_as_published():
    run = Run.of("cartpole", d=9, epochs=7)
    found = train(run)
    play = named("cartpole").play
    settings = get_task("cartpole").settings_of(run)[1]
    course = Course(play, 9, 0, "dqn", settings)
    plain, rate = play.policy.from_seed(0), settings.coordinate_rate(course.subspace)
    learner = Learner(plain, course.subspace.projection, rate, (4,), 2, settings, 0)
    episodes = list(learn(learner, play.environment.single, 200, settings, 0))
    assert (found.score, found.score_error) == (episodes[-1].mean, episodes[-1].error)
    returns = np.diff([0, *(at.steps for at in episodes)])  # a reward of 1 a step
    assert found.score == pytest.approx(returns.mean())
    assert found.score_error == pytest.approx(returns.std(ddof=1) / 7**0.5)
    assert found.curves[-1]["test_score_se"] > 0
    assert found.test_score != found.score
    assert "the last 100 episodes of training, as published" in get_task("cartpole").told_judge(run)


@pytest.mark.rl
def test_the_policy_that_a_run_ends_with_can_be_judged_instead():
    found = Course(named("cartpole").play, 9, 0, "dqn", Dqn(epochs=3, judge="fresh")).result()
    assert found["score"] != found["train_score"]


def test_dqn_does_not_share_its_steps_among_processes():
    with pytest.raises(ValueError, match="`threads` must be 1 with dqn"):
        get_task("cartpole").answer(Run.of("cartpole", d=3, threads=2), None)
