"""Curves of score against d whose intrinsic dimension is known, with the noise and the failures of their runs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.special import ndtr, ndtri

from subspaces.dimension.estimate import DimensionEstimate
from subspaces.dimension.interval import DIP
from subspaces.dimension.reading import REACH, rising_means

D_MAX = 200_000
T = 0.9  # the threshold of all curves but those with a measured baseline; they pass it near 500

# Li et al. 2018, MNIST, FC 2×200, mean of 3 final test accuracies in % (notebook of the published code).
FC_D = [10, 50, 100, 200, 300, 350, 375, 400, 425, 450, 475, 500, 525, 550, 575, 600, 625, 650, 675, 700, 725, 750]
FC_D += [775, 800, 850, 900, 1000, 1250, 1500]
FC = [17.52, 45.10, 59.26, 75.84, 81.84, 83.11, 83.84, 83.92, 84.75, 85.55, 86.47, 86.46, 87.35, 87.66, 87.97, 88.02]
FC += [88.35, 88.64, 89.15, 88.99, 89.40, 89.42, 89.85, 89.96, 90.27, 90.61, 90.67, 91.90, 92.52]


def published_curve() -> Callable[[float], float]:
    """Monotone interpolation in ln d of the published means, from chance at d = 1 to direct training at D."""
    d = np.array([1, *FC_D, 3000, 10_000, 199_210])
    y = np.array([10, *rising_means(FC, [1] * len(FC)), 95, 97, 98.11]) / 100
    rising = np.append(True, np.diff(y) > 0)
    curve = PchipInterpolator(np.log(d[rising]), y[rising])
    return lambda x: float(curve(math.log(min(max(x, 1.0), 199_210.0))))


def logistic(z: float) -> float:
    return 1 / (1 + math.exp(-min(max(z, -500.0), 500.0)))


def saturating(d: float) -> float:
    return 0.1 + 0.88 * (1 - math.exp(-((d / 300) ** 0.7)))


def digits(d: float) -> float:
    """As digits-fc near its crossing: 0.9 at 500, slope 0.088 per unit of ln d, twice that at half of d."""
    return 0.1 + 0.88 * logistic(math.log(d / 500) / 0.83 + math.log(10))


def falling_late(d: float) -> float:
    """Rises over the threshold near 860, falls under it again beyond 15,000 (a learning rate that no longer fits)."""
    return saturating(d) * (1 - 0.3 * logistic(math.log(d / 15_000) / 0.3))


def stairs(jump: float, place: float | None = None) -> Callable[..., float]:
    """Slope 0.1 in jumps of this share of the threshold, which is at a random height of a step, or at a given one."""
    size = jump * T

    def curve(d: float, random: float) -> float:
        f = random if place is None else place
        return T + size * (math.floor(0.1 * math.log(d / 500) / size + f) - f + 0.5)

    return curve


def knee(below: float, above: float) -> Callable[[float], float]:
    """Two slopes that meet at the threshold."""
    return lambda d: T + (below if d < 500 else above) * math.log(d / 500)


def dip(up: float, down: float, begins: float, ends: float) -> Callable[[float], float]:
    """Over the threshold at 500 by ``up``, ``down`` below it from ``begins`` × 500 to ``ends`` × 500, then over it."""

    def curve(d: float) -> float:
        x = math.log(d / 500)
        base = T + (0.15 * x if x < 0 else up * (1 - math.exp(-x * 0.15 / up)))
        inside = logistic((x - math.log(begins)) / 0.03) * logistic((math.log(ends) - x) / 0.03)
        late = 0.06 * (1 - math.exp(-max(x - math.log(ends), 0) / 0.5))
        return min(1.0, base - (up + down) * inside + late)

    return curve


@dataclass(frozen=True)
class Scenario:
    """Expected score of d, noise of a run, and what else goes wrong."""

    name: str
    mean: Callable[..., float]
    sd: float
    what: str
    failing: tuple[float, float] | None = None  # share of runs that end low, and by how much; NaN or chance for 1
    two: tuple[float, float, float] | None = None  # good and bad score, width in ln d of the share that is good
    examples: int | None = None  # the score is a share of so many examples
    baseline: tuple[float, float, int] | None = None  # mean, sd, number of the direct runs
    step: tuple[float, bool] | None = None  # jump of stairs, and whether T lies within one sd of a step's height
    difficulty: float | None = None  # all runs are judged by the same examples, of so different difficulty (probit)
    at: float = 500  # where the curve, which passes T near 500, is moved to
    d_max: int = D_MAX
    excluded: bool = False  # by definition, or beyond what the noise shows: see docs/decision-rule.md

    @property
    def threshold(self) -> float:
        return T * (self.baseline[0] if self.baseline else 1.0)


FC_CURVE = published_curve()
SCENARIOS = [
    Scenario("digits, 200 images", digits, 0, "digits-fc: binomial of 200 images", examples=200),
    Scenario("digits, 700 images", digits, 0, "the same with 700 validation images", examples=700),
    Scenario("one split of 200", digits, 0, "the same 200 images judge all runs", examples=200, difficulty=0.6),
    Scenario("one split of 200, hard", digits, 0, "some images far harder", examples=200, difficulty=1.5),
    Scenario("one split of 5,000", digits, 0, "the same 5,000 judge all runs", examples=5000, difficulty=1.0),
    Scenario("steep", lambda d: 0.1 + 0.89 * logistic(math.log(d / 500) / 0.08), 0.01, "logistic, width 0.08 in ln d"),
    Scenario("shallow", lambda d: 1 - 0.1 * (d / 700) ** -0.3, 0.003, "slope 0.03 per unit of ln d"),
    Scenario("noisy", saturating, 0.02, "noise sd 0.02"),
    Scenario("falling late", falling_late, 0.005, "falls under the threshold at large d"),
    Scenario("flat", lambda d: 0.1 + 0.78 * (1 - math.exp(-((d / 100) ** 0.7))), 0.004, "0.88 at most: never reached"),
    Scenario("step", lambda d: 0.98 if d >= 400 else 0.2, 0.005, "jumps from 0.2 to 0.98"),
    Scenario("mnist-fc", FC_CURVE, 0.004, "published curve, exact threshold 0.9"),
    Scenario("mnist-fc, sd 0.01", FC_CURVE, 0.01, "2.5 times the usual noise"),
    Scenario("mnist-fc, local", FC_CURVE, 0.004, "baseline of 5 runs", baseline=(0.981, 0.002, 5)),
    Scenario("local, 3 runs", saturating, 0.004, "baseline of 3 runs that differ by 1 %", baseline=(0.98, 0.0098, 3)),
    *(Scenario(f"stairs {j:.1%}", stairs(j), 0.004, "jumps of the threshold's share") for j in (0.01, 0.025, 0.05)),
    *(Scenario(f"stairs {j:.1%}", stairs(j), 0.004, "jumps of the threshold's share") for j in (0.10, 0.15)),
    Scenario("stairs 2.5%, sd 0.01", stairs(0.025), 0.01, "jumps of twice the noise", excluded=True),
    Scenario("stairs 5.0%, sd 0.01", stairs(0.05), 0.01, "jumps of 4.5 times the noise", step=(0.05, False)),
    Scenario("step near T, sd 0.01", stairs(0.05), 0.01, "a step within the noise", step=(0.05, True), excluded=True),
    Scenario("stair at T", stairs(0.025, 0.5), 0.004, "a step exactly at the threshold", excluded=True),
    Scenario("knee, flatter", knee(0.3, 0.03), 0.004, "slope 0.3, then 0.03, at the threshold"),
    Scenario("knee, steeper", knee(0.03, 0.3), 0.004, "slope 0.03, then 0.3, at the threshold"),
    Scenario("knee, flatter, sd 0.01", knee(0.3, 0.03), 0.01, "the same at 2.5 times the noise", excluded=True),
    Scenario("dip", dip(0.017, 0.03, 1.3, 1.7), 0.004, "0.017 above, 0.03 below, at 1.3 to 1.7 times d_int"),
    Scenario("dip, sd 0.01", dip(0.017, 0.03, 1.3, 1.7), 0.01, "the same at 2.5 times the noise"),
    Scenario("dip within noise", dip(0.004, 0.004, 1.3, 1.7), 0.004, "0.4 % above, 0.4 % below", excluded=True),
    Scenario("dip far", dip(0.017, 0.03, 3, 6), 0.004, "0.03 below at 3 to 6 times d_int"),
    Scenario("5 % by 0.2", saturating, 0.004, "5 % of the runs end 0.2 low", failing=(0.05, 0.2)),
    Scenario("10 % by 0.2", saturating, 0.004, "10 % end 0.2 low", failing=(0.1, 0.2)),
    Scenario("10 % lost", saturating, 0.004, "10 % end at chance or at NaN", failing=(0.1, 1)),
    Scenario("15 % by 0.08", saturating, 0.004, "15 % end 0.08 low", failing=(0.15, 0.08)),
    Scenario("15 % by 0.08, sd 0.01", saturating, 0.01, "the same at 2.5 times the noise", failing=(0.15, 0.08)),
    Scenario("30 % by 0.2", saturating, 0.004, "30 % end 0.2 low", failing=(0.3, 0.2)),
    Scenario("0.95 or 0.80", saturating, 0.004, "two outcomes, half good at d_int", two=(0.95, 0.8, 0.1)),
    Scenario("0.97 or 0.60", saturating, 0.004, "two outcomes, half good at d_int", two=(0.97, 0.6, 0.3)),
    Scenario("small, 80 images", digits, 0, "d_int 31 of D = 740, 80 images", examples=80, at=31, d_max=740),
    Scenario("small, sd 0.03", saturating, 0.03, "d_int 31 of D = 740, noise sd 0.03", at=31, d_max=740),
    Scenario("small, 0.97 or 0.10", saturating, 0.004, "two outcomes", two=(0.97, 0.1, 0.3), at=31, d_max=740),
    Scenario("small, 0.97 or 0.60", saturating, 0.004, "two outcomes", two=(0.97, 0.6, 0.6), at=31, d_max=740),
]


class World:
    """One simulated task: the scenario with d stretched by a random factor, its own noise, its own baseline."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario, self.seed, rng = scenario, seed, np.random.default_rng([seed, 1804])
        self.stretch, self.height = math.exp(rng.uniform(-1, 1)), rng.random()
        while scenario.step and self._near_a_step(scenario.step[0]) != scenario.step[1]:
            self.height = rng.random()
        self.baseline: float | list[float] = 1.0
        self.examples = rng.standard_normal(scenario.examples or 0)
        if scenario.baseline:
            mean, sd, runs = scenario.baseline
            self.baseline = (mean + sd * rng.standard_normal(runs)).tolist()

    def _near_a_step(self, jump: float) -> bool:
        """Whether the height of a step lies within the noise of the threshold."""
        return jump * T * abs(self.height - 0.5) < self.scenario.sd

    @property
    def noise(self) -> float | None:
        """What is known of it beforehand."""
        n = None if self.shared else self.scenario.examples
        return math.sqrt(T * (1 - T) / n) if n else None

    @property
    def shared(self) -> int | None:
        """Examples by which all runs are judged."""
        return self.scenario.examples if self.scenario.difficulty else None

    def mean(self, d: float) -> float:
        """Expected score of runs that did not fail; where runs have two outcomes, how many pass, around T."""
        x = d * 500 / self.scenario.at / self.stretch
        if self.scenario.two:
            return T + logistic(math.log(x / 500) / self.scenario.two[2]) - 0.5
        return (
            self.scenario.mean(x, self.height)
            if "stair" in self.scenario.name or self.scenario.step
            else self.scenario.mean(x)
        )

    def evaluate(self, d: int, run: int) -> float:
        rng, scenario = np.random.default_rng([self.seed, run, d]), self.scenario
        mean = self.mean(d)
        if scenario.two:
            mean = scenario.two[0] if rng.random() < mean - T + 0.5 else scenario.two[1]
        if scenario.difficulty:  # Φ(√(1 + s²) Φ⁻¹(mean) + s z) over z ~ N(0, 1) has this mean
            level = math.sqrt(1 + scenario.difficulty**2) * ndtri(mean)
            return float(np.mean(rng.random(self.examples.size) < ndtr(level + scenario.difficulty * self.examples)))
        if scenario.examples:
            return rng.binomial(scenario.examples, mean) / scenario.examples
        if scenario.failing and rng.random() < scenario.failing[0]:
            if scenario.failing[1] == 1:
                return math.nan if rng.random() < 0.5 else 0.1
            mean -= scenario.failing[1]
        return mean + scenario.sd * rng.standard_normal()

    @property
    def truth(self) -> int:
        """Smallest integer that passes and is followed by no dip up to twice as large a d."""
        low, high = (max(1, self.scenario.at * part) for part in (0.06, 60))
        grid = np.unique(np.rint(np.geomspace(low, high, 6000)).astype(int))
        mean, threshold = np.array([self.mean(d) for d in grid]), self.scenario.threshold
        low = grid[mean <= threshold * (1 if self.scenario.two else 1 - DIP)]
        for d in grid[mean > threshold]:
            after = low[np.searchsorted(low, d) :]
            if not after.size or after[0] > REACH * d:
                return int(d)
        return self.scenario.d_max


def covered(found: DimensionEstimate, world: World) -> bool:
    """Whether the interval holds the truth; for the flat curve, whether the outcome is right."""
    if world.scenario.name == "flat":
        return found.outcome == "not reached"
    return (
        found.low is not None
        and found.low <= world.truth * 1.002
        and (found.high or world.scenario.d_max) >= world.truth
    )
