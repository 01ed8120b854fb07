"""An episode of a policy as an animated GIF."""

import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from subspaces.files import atomic_write
from subspaces.tasks.control.drawing import draw
from subspaces.tasks.control.rollouts import Rollouts

FRAMES = 60
"""Most frames of a replay."""
SECONDS = 5.0
"""It lasts so long."""


@torch.no_grad()
def record(rollouts: Rollouts, theta: Float[Tensor, "1 D"], seed: int, path: Path) -> Path:
    """Play one episode and write it.

    Args:
        rollouts: of the environment and policy.
        theta: weights.
        seed: of the episode.
        path: of the GIF.

    Returns:
        The path.

    Cost: the episode twice: first to learn how long it is, then to draw every so many steps of it.
    """
    length = _play(rollouts, theta, seed, 0)[0]
    _, frames = _play(rollouts, theta, seed, max(1, -(-length // FRAMES)))
    pictures = [draw(what, caption).quantize(32) for what, caption in frames]
    content = io.BytesIO()
    pictures[0].save(
        content, "GIF", save_all=True, append_images=pictures[1:], loop=0, duration=int(1000 * SECONDS / FRAMES)
    )
    atomic_write(path, content.getvalue(), durable=False)
    return path


def _play(rollouts: Rollouts, theta: Tensor, seed: int, every: int) -> tuple[int, list]:
    """Steps of the episode, and what to draw after every so many of them."""
    bank, forward = rollouts.bank(1), rollouts.policy.forward(rollouts.model, theta.float(), rollouts.reference)
    seen, total, frames = bank.reset([seed]), rollouts.environment.shift, []
    alive = np.ones(1, dtype=bool)
    for step in range(1, rollouts.environment.steps + 1):
        if every and (step - 1) % every == 0:
            frames.append((bank.frame(), f"step {step - 1:,}   return {total:,.0f}"))
        outputs = forward(torch.from_numpy(np.ascontiguousarray(seen)).float()[None])
        seen, reward, over = bank.step(rollouts.policy.actions(outputs, rollouts.bounds), alive)
        total += float(reward[0])
        if over[0]:
            break
    if every:
        frames.append((frames[-1][0] if over[0] else bank.frame(), f"step {step:,}   return {total:,.0f}"))
    return step, frames
