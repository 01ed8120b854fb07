"""How many dimensions does balancing a pole need? A loop of one's own: evolution strategies on w, no gradients."""

import gymnasium
import numpy as np
import torch
from torch import nn

import subspaces as ss


def steps(policy, seed):
    env = gymnasium.make("CartPole-v1", max_episode_steps=200)
    observation, total, over = env.reset(seed=seed)[0], 0.0, False
    while not over:
        action = int(policy(torch.from_numpy(observation)).argmax())
        observation, reward, done, cut, _ = env.step(action)
        total, over = total + reward, done or cut
    return total


def run(d, seed):
    torch.manual_seed(seed)
    rng, policy = np.random.default_rng(seed), nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    subspace, w = ss.Subspace(policy, d=d or 114, projection="hadamard", seed=seed), np.zeros(d or 114)
    for _ in range(12):
        noise = rng.standard_normal((8, w.size))
        returns = [steps(at(subspace, w + 2 * e), 1000 + i) for i, e in enumerate(noise)]
        w += 2 * (np.array(returns) - np.mean(returns)) @ noise / (8 * np.std(returns) + 1e-9)
    return np.mean([steps(at(subspace, w), seed) for seed in range(10)]) / 200


def at(subspace, w):
    subspace.move_to(torch.from_numpy(w).float())
    return subspace.model


if __name__ == "__main__":
    print(ss.intrinsic_dimension(run, D=114, baseline=1.0, max_runs=20, name="cartpole"))
