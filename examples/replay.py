"""A policy of 25 numbers, read from a file of 740 bytes: play it, and write an episode as a GIF without a display.

    python examples/replay.py                               examples/cartpole-25.safetensors, cartpole.gif
    python examples/replay.py FILE GIF                      any policy that a run of a published task left

The file holds w, the seed of P and the seed of θ₀; task and seed stand in its header. It was made by the first revision
of the task, whose DQN drew other random numbers than today's. One of today is made by

    subspaces train cartpole --d 25 --seed-projection 1 --seed-model 1 --out runs
"""

import sys
from pathlib import Path

from subspaces.tasks.control import load_policy


def main(file: Path, gif: Path) -> str:
    policy = load_policy(file)
    returns = policy.returns(episodes=100, seed=0)
    policy.gif(gif)
    error = returns.std() / len(returns) ** 0.5
    return (
        f"{policy.task}, {policy.w.numel()} numbers ({policy.w.nbytes} bytes of {file.stat().st_size}): mean return "
        f"{returns.mean():.1f} ± {error:.1f} in 100 fresh episodes; {gif}"
    )


if __name__ == "__main__":
    given = sys.argv[1:] or [Path(__file__).with_name("cartpole-25.safetensors"), "cartpole.gif"]
    print(main(Path(given[0]), Path(given[1])))
