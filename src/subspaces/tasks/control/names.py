"""The published control tasks by name, with the sizes of their policies."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

from subspaces.tasks.control.course import Settings
from subspaces.tasks.control.dqn import Dqn
from subspaces.tasks.control.environments import Environment
from subspaces.tasks.control.evolve import Evolution
from subspaces.tasks.control.policies import Policy
from subspaces.tasks.control.task import Control, control_task

LI = "Li et al. 2018, arXiv 1804.08838, §3.4"
OF_COMPARISON = {"pole": "angle", "cart": "position"}

_CARTPOLE = re.compile(r"(cartpole|cartpole-v1|pole|cart)(?:-w([1-9]\d{0,3}))?")


def _cartpole(name: str, which: str, width: int) -> Control:
    """4-W-W-2 on the cart-pole: 200 steps as CartPole-v0, 500 as v1; "pole" and "cart" end by one of the limits only.

    D = 562 for W = 20 and 163,202 for W = 400. The environments behind the published "Pole" (angle only) and "Cart"
    (interval only) were not released; what ends an episode follows from these titles of their figures.
    """
    steps, solved = (500, 475.0) if which == "cartpole-v1" else (200, 195.0)
    limits: Any = OF_COMPARISON.get(which, "both")
    environment = Environment(
        "CartPole-v1", (4,), 2, True, steps, best=float(steps), solved=solved, limits=limits, kind="cartpole"
    )
    evolution = Evolution(epochs=60, sigma=0.3, episodes=4, stop=float(steps))
    algorithms: Mapping[str, Settings] = {
        "dqn": Dqn(stop=solved),
        "dqn-native": Dqn(stop=solved, rate="native"),
        "cma": dataclasses.replace(evolution, method="cma"),
        "es": dataclasses.replace(evolution, method="es"),
    }
    policy = Policy((4,), (width, width), 2)
    return control_task(name, environment, policy, algorithms, source=LI, revision=2)  # 1: DQN by other random numbers


def _inverted_pendulum() -> Control:
    """4-20-20-2, D = 562 as printed, on InvertedPendulum-v5: the two outputs pull opposite ways.

    The environment takes one number. With one output the network would have D = 541; how the published one used two was
    not released, nor were its activations and the step of its ES. Tanh and normalised observations are those of the
    MuJoCo policies of the code that ES comes from (openai/evolution-strategies-starter, `humanoid.json`). Both matter
    here: ReLU has its kinks at the point where the pole stands, and without the scale the biases that P w moves drown
    angles of a few hundredths; then d = 4 and 8 end at about 100 of 1,000, with the cart at the end of its rail.
    CMA-ES has twice the usual candidates: with 12, a third of the starts stay at 100 of 1,000 at d = 4 to 8.
    """
    environment = Environment("InvertedPendulum-v5", (4,), 1, False, 1000, best=1000.0, solved=950.0, normalise=2000)
    evolution = Evolution(epochs=100, sigma=0.1, cma_sigma=0.2, least=24, lr=0.05, pairs=10, stop=950.0, sure=10)
    algorithms = {"evolution": evolution}
    algorithms |= {name: dataclasses.replace(evolution, method=name) for name in ("cma", "es")}
    policy = Policy((4,), (20, 20), 2, activation="tanh", head="opposed")
    return control_task("inverted-pendulum", environment, policy, algorithms, source=LI, episodes=20, revision=3)


def _humanoid() -> Control:
    """348-256-256-17 on Humanoid-v5, D = 159,505; published 376-256-256-17 on v1, D = 166,673.

    v5 leaves out 28 observations that were always 0. Observations are normalised by those of random actions, once, so
    that workers need to exchange nothing but returns.
    """
    environment = Environment("Humanoid-v5", (348,), 17, False, 1000, best=None, solved=6000.0, normalise=4000)
    es = Evolution("es", epochs=500, sigma=0.02, lr=0.01, pairs=20, episodes=1, decay=0.005, chunk=4)
    policy = Policy((348,), (256, 256), 17, activation="tanh", head="bounded")
    return control_task("humanoid", environment, policy, {"es": es}, source=LI, episodes=20)


def _pong() -> Control:
    """The convolutional network of the paper on ALE/Pong-v5, D = 1,005,974; scores −21 … 21 count as 0 … 42."""
    environment = Environment("ALE/Pong-v5", (4, 84, 84), 6, True, 27_000, shift=21.0, best=42.0, kind="atari")
    es = Evolution("es", epochs=500, sigma=0.02, lr=0.01, pairs=20, episodes=1, decay=0.005, chunk=2)
    policy = Policy((4, 84, 84), (256,), 6, network="atari")
    return control_task("pong", environment, policy, {"es": es}, source=LI, episodes=10)


_MADE = {"inverted-pendulum": _inverted_pendulum, "humanoid": _humanoid, "pong": _pong}
CONTROL: tuple[str, ...] = (
    "cartpole", "cartpole-w400", "cartpole-v1", "pole", "pole-w400", "cart", "cart-w400", *_MADE,
)  # fmt: skip
"""Names of the published tasks; any width is ``cartpole-w100``."""


@functools.cache
def named(name: str) -> Control | None:
    """The control task of a name; None for another name."""
    if name in _MADE:
        return _MADE[name]()
    if found := _CARTPOLE.fullmatch(name):
        return _cartpole(name, found[1], int(found[2] or 20))
    return None
