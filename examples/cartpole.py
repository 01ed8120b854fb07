"""How many dimensions does balancing a pole need? A loop of one's own: cross-entropy search over w, no gradients."""

import gymnasium
import torch

import subspaces as ss


def balanced(theta, seed):
    env = gymnasium.make_vec("CartPole-v1", len(theta), vectorization_mode="vector_entry_point")
    seen, up, steps = torch.from_numpy(env.reset(seed=seed)[0]), torch.tensor(True), torch.zeros(len(theta))
    for _ in range(200):
        hidden = (theta[:, :64].view(-1, 4, 16) * seen[:, :, None]).sum(1).tanh()
        push = (hidden * theta[:, 64:]).sum(1) > 0
        seen, _, fell = map(torch.as_tensor, env.step(push.long().numpy())[:3])
        up, steps = up & ~fell, steps + up
    return steps / 200


def run(d, seed):  # torch is seeded with it
    P, start, w = ss.make_projection("hadamard", d, 80, seed), torch.randn(80), torch.zeros(d)
    for generation in range(20):
        tries = w + 4 * torch.randn(100, d)
        w = tries[balanced(start + P(tries), generation).topk(15).indices].mean(0)
    return float(balanced(start + P(w.expand(100, d)), 100).mean())


if __name__ == "__main__":
    print(ss.intrinsic_dimension(run, D=80, baseline=1.0, score="share of 200 steps", ratio=2.0, max_runs=30))
