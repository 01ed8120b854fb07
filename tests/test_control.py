"""Control: sizes of policies, episodes, search by returns, DQN, files and replays."""

import dataclasses
import importlib.util
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from subspaces.dimension.measure import Rule, measure_dimension
from subspaces.report.write import write_report
from subspaces.runs.protocols import quick
from subspaces.runs.run import Run
from subspaces.runs.train import train
from subspaces.tasks import Objective, get_task
from subspaces.tasks.control import (
    CONTROL,
    Environment,
    Evolution,
    Policy,
    Rollouts,
    control_task,
    load_policy,
    named,
)
from subspaces.tasks.control.course import GIF, POLICY, Course
from subspaces.tasks.control.policies import flat
from subspaces.tasks.control.replay import record
from subspaces.tasks.control.rollouts import episode_seed

SIZES = {
    "cartpole": 562, "cartpole-w400": 163_202, "cartpole-v1": 562, "pole": 562, "pole-w400": 163_202, "cart": 562,
    "cart-w400": 163_202, "inverted-pendulum": 562, "humanoid": 159_505, "pong": 1_005_974,
}  # fmt: skip
"""Li et al. 2018; of Humanoid on v5, whose observation has 28 numbers less than that of v1."""


def test_every_task_has_the_published_size():
    assert {name: get_task(name).D for name in CONTROL} == SIZES
    assert Policy((376,), (256, 256), 17, head="bounded").D == 166_673  # Humanoid-v1
    norms = [m for m in get_task("pong").build_model(0) if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert sum(p.numel() for m in norms for p in m.parameters()) == 608
    assert sum(p.numel() for p in get_task("inverted-pendulum").build_model(0).parameters()) == 562
    assert named("cartpole-w77").D == 77 * (4 + 1) + 77 * 78 + 2 * 78
    assert named("cartpool") is None


def test_pong_is_convolved_as_with_same_padding():
    model = get_task("pong").build_model(0).eval()
    shapes = []
    for module in model:
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape[1:])))
    assert model(torch.zeros(2, 4, 84, 84)).shape == (2, 6)
    assert shapes == [(16, 21, 21), (32, 11, 11)]


def test_a_mistyped_name_is_told_the_near_one():
    with pytest.raises(ValueError, match="Did you mean 'cartpole'"):
        get_task("cartpoel")


def test_without_the_extra_the_command_that_installs_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(RuntimeError, match=r"`cartpole` needs gymnasium.*pip install 'subspaces\[rl\]'"):
        measure_dimension(Run.of("cartpole"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_words_that_would_have_no_effect_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`l2` must be left out with cartpole.*It takes optimizer, lr, epochs"):
        measure_dimension(Run.of("cartpole", l2=0.1), tmp_path)
    with pytest.raises(ValueError, match="`lr` must be left out with cma"):
        get_task("cartpole").settings_of(Run.of("cartpole", optimizer="cma", lr=0.1))
    assert get_task("cartpole").settings_of(quick(Run.of("cartpole")))[1].epochs == 2500
    assert quick(Run.of("cartpole", epochs=7)).optimizer.epochs == 7
    with pytest.raises(ValueError, match="must be one of cma, dqn, dqn-native, es; got 'adam'"):
        get_task("cartpole").settings_of(Run.of("cartpole", optimizer="adam"))
    objective = Objective("words", lambda d, seed: 1.0, D=10)
    with pytest.raises(ValueError, match="`epochs` must be left out with words"):
        measure_dimension(Run.of(_session(objective), epochs=3), tmp_path)


def _session(objective):
    from subspaces.tasks import register_task

    return register_task(objective)


# ---- episodes


@pytest.mark.rl
@pytest.mark.parametrize("limits", ["both", "angle", "position"])
def test_the_bank_of_cart_poles_is_the_environment_of_gymnasium(limits):
    environment = Environment("CartPole-v1", (4,), 2, True, 99, limits=limits, kind="cartpole")
    bank, env, rng = environment.bank(3), environment.single(), random.Random(1)
    seen = bank.reset([5, 6, 7])
    env.reset(seed=0)
    env.unwrapped.state = tuple(bank.env.state[:, 1])
    for step in range(99):
        action = rng.randrange(2) if step < 10 else 1
        seen, reward, over = bank.step(np.array([0, action, 1]), np.ones(3, dtype=bool))
        expected, gained, fell, late, _ = env.step(action)
        np.testing.assert_allclose(seen[1], expected, rtol=1e-5, atol=1e-6)
        assert (reward[1], over[1]) == (gained, fell or late)
        if over[1]:
            break
    angle, place = abs(seen[1][2]) > 12 * np.pi / 180, abs(seen[1][0]) > 2.4
    assert (angle, place) == {"both": (True, False), "angle": (True, False), "position": (True, True)}[limits]
    assert fell


@pytest.mark.rl
def test_an_episode_depends_on_its_seed_and_policy_alone():
    task = named("cartpole")
    thetas = torch.stack([flat(task.build_model(seed)) for seed in range(4)])
    seeds = [episode_seed("test", 0, e) for e in range(5)]
    together = Rollouts(task.play.environment, task.play.policy).returns(thetas, seeds)
    alone = Rollouts(task.play.environment, task.play.policy)
    for k in range(4):
        for e in (0, 3):
            assert alone.returns(thetas[k : k + 1], [seeds[e]])[0, 0] == together[k, e]
    assert alone.steps == sum(together[:, [0, 3]].reshape(-1))
    assert len({episode_seed(stream, s, e) for stream in ("a", "b") for s in range(20) for e in range(20)}) == 800


@pytest.mark.rl
def test_stacked_policies_give_what_their_modules_give():
    for policy in (Policy((4,), (20, 20), 2), Policy((3,), (8,), 2, activation="tanh", head="bounded")):
        models = [policy.from_seed(seed) for seed in range(3)]
        seen = torch.randn(3, 7, *policy.inputs)
        forward = policy.forward(policy.from_seed(9), torch.stack([flat(m) for m in models]))
        for k, model in enumerate(models):
            torch.testing.assert_close(forward(seen)[k], model(seen[k]))


def test_heads_turn_outputs_into_actions():
    outputs = torch.tensor([[1.0, 3.0], [2.0, -1.0]])
    assert Policy((4,), (8,), 2).actions(outputs, None).tolist() == [1, 0]
    bounds = (np.array([-3.0]), np.array([3.0]))
    pulled = Policy((4,), (8,), 2, head="opposed").actions(outputs, bounds)
    np.testing.assert_allclose(pulled[:, 0], 3 * np.tanh([-2.0, 3.0]))
    low, high = np.array([0.0, -1.0]), np.array([2.0, 5.0])
    np.testing.assert_allclose(
        Policy((4,), (8,), 2, head="bounded").actions(outputs, (low, high)),
        [1, 2] + np.tanh(outputs.double().numpy()) * [1, 3],
    )


@pytest.mark.rl
def test_any_environment_of_gymnasium_is_a_task():
    environment = Environment.of("Acrobot-v1", shift=500.0)
    assert (environment.observation, environment.actions, environment.steps) == ((6,), 3, 500)
    task = control_task(
        "acrobot",
        environment,
        Policy((6,), (8,), 3),
        {"es": Evolution("es", epochs=1, pairs=1, episodes=1)},
        episodes=2,
    )
    found = Course(task.play, 5, 0).result()
    assert 0 <= found["score"] < 500
    assert task.score_name == "return + 500"
    with pytest.raises(ValueError, match="must give 3 outputs"):
        control_task("acrobot", environment, Policy((6,), (8,), 2), {"es": Evolution()})
    with pytest.raises(ValueError, match="`id` must be an environment of gymnasium"):
        Environment.of("NoSuchThing-v7")


@pytest.mark.rl
def test_a_factory_is_a_task_and_its_episodes_end_by_steps():
    import gymnasium

    task = control_task(
        "made", Environment.of(lambda: gymnasium.make("MountainCarContinuous-v0"), steps=20, shift=10.0),
        Policy((2,), (4,), 1, head="bounded"), {"cma": Evolution("cma", epochs=2, episodes=1, least=4)}, episodes=3,
    )  # fmt: skip
    assert Course(task.play, 3, 0).result()["step"] == 2 * 7 * 20


# ---- runs, files, pages


@pytest.mark.rl
def test_a_run_leaves_a_policy_and_a_replay(tmp_path, monkeypatch):
    run = Run.of("cartpole", d=10, seed_model=3, seed_projection=8, optimizer="cma", epochs=12)
    returns, threads = Rollouts.returns, set()
    monkeypatch.setattr(Rollouts, "returns", lambda *a: threads.add(torch.get_num_threads()) or returns(*a))
    torch.set_num_threads(2)  # one thread per process, whatever it was
    found, again = train(run, folder=tmp_path), train(run)
    assert (threads, torch.get_num_threads()) == ({1}, 2)
    torch.set_num_threads(1)
    assert (found.score, found.test_score) == (again.score, again.test_score)
    last = found.curves[-1]
    assert last["score_se"] == found.score_error
    assert last["steps_per_second"] > 0
    assert [row["epoch"] for row in found.curves] == sorted(row["epoch"] for row in found.curves)
    policy = load_policy(tmp_path / POLICY)
    assert (policy.task, policy.w.numel()) == ("cartpole", 10)
    assert found.sizes["checkpoint"] == (tmp_path / POLICY).stat().st_size < 1000
    seeds = [episode_seed("validation", 3, e) for e in range(100)]
    assert policy.rollouts.returns(policy.theta(), seeds).mean() == found.score
    with Image.open(tmp_path / GIF) as gif:
        assert gif.n_frames > 5
        assert gif.size == (300, 200)


@pytest.mark.rl
def test_an_interrupted_run_goes_on_from_its_returns(tmp_path, monkeypatch):
    from subspaces.tasks.control import evolve

    monkeypatch.setattr(evolve, "EVERY", 0.0)
    play = named("cartpole").play
    settings = Evolution("cma", epochs=8, episodes=2)
    whole = Course(play, 6, 1, "cma", settings)
    expected = whole.result()
    broken = Course(play, 6, 1, "cma", settings, folder=tmp_path)
    returns = evolve.here

    def fails(*arguments):
        play_on = returns(*arguments)

        def once(search, log):
            if len(log) == 5:
                raise KeyboardInterrupt
            return play_on(search, log)

        return once

    monkeypatch.setattr("subspaces.tasks.control.course.here", fails)
    with pytest.raises(KeyboardInterrupt):
        broken.result()
    monkeypatch.undo()
    on = Course(play, 6, 1, "cma", settings, folder=tmp_path)
    found = on.result()
    assert (found["score"], found["test_score"]) == (expected["score"], expected["test_score"])
    assert on.rollouts.steps < whole.rollouts.steps
    assert not (tmp_path / evolve.LOG).exists()


@pytest.mark.rl
def test_a_search_shows_a_replay_and_what_judges(tmp_path):
    config = Run.of("cartpole", optimizer="cma", epochs=15)
    found = measure_dimension(config, tmp_path, Rule(baseline="200", max_runs=3, start=20), workers=1)
    page = write_report(tmp_path).read_text()
    assert "data:image/gif;base64," in page
    assert "fresh episodes; its standard error counts as noise" in page
    assert "cma, at most 15 generations, or until 200 is returned; " in page
    assert " a CPU second) in one process" in page
    assert page.count('href="runs/cartpole-') == 2
    record = json.loads((tmp_path / "measurement.json").read_text())
    assert record["measurement"]["D"] == 562
    errors = {(run.d, run.seed): run.error for run in found.estimate.runs}
    for result in found.results:
        assert errors[result.config.d, result.config.seeds.model] == result.score_error


@pytest.mark.rl
def test_a_file_of_another_task_is_refused(tmp_path):
    import subspaces as ss

    other = ss.Subspace(nn.Linear(3, 2), d=2)
    other.save(tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="must be the policy of a published task"):
        load_policy(tmp_path / "plain.safetensors")
    other.save(tmp_path / "own.safetensors", extra={"task": "os:system", "seed_model": 0})
    with pytest.raises(ValueError, match="must be the policy of a published task"):
        load_policy(tmp_path / "own.safetensors")
    other.save(tmp_path / "false.safetensors", extra={"task": "cartpole", "seed_model": 0})
    with pytest.raises(ValueError, match="must have the parameters of"):
        load_policy(tmp_path / "false.safetensors")


EXAMPLE = Path(__file__).parents[1] / "examples" / "cartpole-25.safetensors"


@pytest.mark.rl
def test_25_numbers_balance_the_pole_in_100_fresh_episodes():
    policy = load_policy(EXAMPLE)
    assert (policy.task, policy.w.numel(), policy.w.nbytes) == ("cartpole", 25, 100)
    assert EXAMPLE.stat().st_size < 1000
    for seed in (1, 2):
        assert policy.returns(episodes=100, seed=seed).mean() >= 195
    with policy.subspace.off():
        start = policy.rollouts.returns(flat_of(policy)[None], [episode_seed("replay", 1, e) for e in range(20)])
    assert start.mean() < 100  # it is the 25 numbers that do it


def flat_of(policy):
    own = dict(policy.model.named_parameters())
    return torch.cat([own[name].detach().reshape(-1).clone() for name in policy.subspace.layout.names])


@pytest.mark.rl
def test_the_example_replays_a_file(tmp_path):
    spec = importlib.util.spec_from_file_location("example_replay", EXAMPLE.with_name("replay.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.main(EXAMPLE, tmp_path / "one.gif")
    assert text.startswith("cartpole, 25 numbers (100 bytes of ")
    assert (tmp_path / "one.gif").read_bytes()[:6] in (b"GIF89a", b"GIF87a")


@pytest.mark.rl
@pytest.mark.parametrize("name", ["inverted-pendulum", "humanoid", "pong"])
def test_every_kind_of_environment_is_played_and_drawn(name, tmp_path):
    """A few steps of each, drawn without a display: cart and pole, bodies, pixels."""
    play = named(name).play
    short = dataclasses.replace(play.environment, steps=12, normalise=min(play.environment.normalise, 50))
    rollouts = Rollouts(short, play.policy)
    theta = flat(play.policy.from_seed(0))[None]
    returns = rollouts.returns(theta, [1, 2])
    assert returns.shape == (1, 2)
    assert (returns >= 0).all()
    assert (rollouts.returns(theta, [1, 2]) == returns).all()
    path = record(rollouts, theta, 1, tmp_path / "play.gif")
    with Image.open(path) as gif:
        colours = gif.convert("RGB").getcolors(100_000)
        assert len(colours) > 3
    rollouts.close()
