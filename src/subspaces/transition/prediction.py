"""Predicted thresholds of a task: from each start by Gordon's comparison, trained as the runs are."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from subspaces.runs.build import build, task_of
from subspaces.runs.pools import worker_environment
from subspaces.runs.run import Run
from subspaces.training.batches import InMemory
from subspaces.training.schedules import factor
from subspaces.training.state import Fit
from subspaces.transition.result import Prediction
from subspaces.transition.theory import ComparisonOptions, StartPrediction, predict_from_start

PRICE = 1.3
"""Measured d* over the d that geometry asks for: what training, and nine successes in ten, cost above a half of the
subspaces that contain a good point. The one constant of the prediction (`benchmarks/threshold_predictions.py`)."""


def predict_transition(
    config: Run,
    burn_in: Sequence[int],
    levels: Sequence[float],
    *,
    d: int,
    window: int = 50,
    examples: int = 1000,
    seed: int = 0,
    workers: int = 1,
) -> Iterator[tuple[int, Prediction]]:
    """Predicted d* for each burn-in time, from starts t steps along one trajectory of direct training, as in the runs.

    d* is `PRICE` times the d of `theory.predict_from_start`, which is trained as long and at the rate of the runs, on
    the same examples (without augmentation), by Adam. It costs about as much as 10 to 20 runs for each start.

    Args:
        config: the runs; d, burn-in and seeds are set here.
        burn_in: times t, in steps.
        levels: training losses ε.
        d: a dimension that the projection allows; it has no effect on the result.
        window: steps over whose batches a loss is averaged before it is compared with a level, as in the rule.
        examples: training examples for the curvature at the start.
        seed: of the initial parameters and of the order of the data.
        workers: processes that share the starts; 1 computes in this one.

    Yields:
        The burn-in time and its prediction, as soon as it is there.

    Raises:
        RuntimeError: a process failed, said after the others have answered; the message has its last words.
    """
    seeds = {"seed_model": seed, "seed_data": seed, "seed_projection": seed}
    base = config.but(d=d, record_trace=False, redraw_every=0, **seeds)
    asked = [PredictionJob(base.but(burn_in=t), tuple(levels), window, examples, seed) for t in sorted(burn_in)]
    if workers == 1 or len(asked) == 1:
        yield from ((one.config.space.burn_in, one.answer()) for one in asked)
        return
    with ThreadPoolExecutor(workers) as threads:  # each waits for a process
        waiting = {threads.submit(one.elsewhere): one.config.space.burn_in for one in asked}
        failed: dict[int, BaseException] = {}  # told at the end, the earliest start first: the others are kept
        for done in as_completed(waiting):
            if error := done.exception():
                failed[waiting[done]] = error
            else:
                yield waiting[done], done.result()
    if failed:
        raise failed[min(failed)]


@dataclass(frozen=True)
class PredictionJob:
    """What one prediction is made of."""

    config: Run
    levels: tuple[float, ...]
    window: int
    examples: int
    seed: int

    def answer(self) -> Prediction:
        """The prediction, computed here; threads and random state are left as they were."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.config.compute.threads)
        try:
            with torch.random.fork_rng(devices=[]):
                return _at(self.config, self.levels, self.window, self.examples, self.seed)
        finally:
            torch.set_num_threads(threads)

    def elsewhere(self) -> Prediction:
        """The prediction, computed in a process of its own."""
        told = json.dumps(dataclasses.asdict(self) | {"config": self.config.to_dict()})
        call = [sys.executable, "-m", __name__]
        done = subprocess.run(call, input=told, capture_output=True, text=True, env=worker_environment())
        if done.returncode:
            words = " / ".join(done.stderr.strip().splitlines()[-3:])
            raise RuntimeError(f"the prediction from t = {self.config.space.burn_in} failed: {words}")
        return Prediction.from_dict(json.loads(done.stdout))


def _at(config: Run, levels: Sequence[float], window: int, examples: int, seed: int) -> Prediction:
    model, fit, options, names = comparison_of(config, window, seed)
    data = fit.batches.data.split("train")  # pyright: ignore[reportAttributeAccessIssue]
    return _prediction(predict_from_start(model, fit.loss, data, levels, options, names=names, examples=examples))


def comparison_of(config: Run, window: int, seed: int) -> tuple[nn.Module, Fit, ComparisonOptions, list[str]]:
    """The model at the start of a run with d, the run before its first step, and a training like it for the comparison.

    Raises:
        ValueError: the data are a DataLoader.
    """
    fit, full = build(config)
    if not isinstance(fit.batches, InMemory):
        raise ValueError(f"`task` must have its data in memory for predictions; {config.task} has a DataLoader.")
    origin = _origin(fit)
    model = task_of(config).build_model(seed).to(config.compute.device, next(fit.model.parameters()).dtype)
    if config.compute.channels_last:
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    buffers = {name: buffer for name, buffer in fit.model.state_dict().items() if name in model.state_dict()}
    model.load_state_dict({**buffers, **origin})
    settings, total = full.optimizer, fit.total_steps
    milestones = [epoch * fit.batches.per_epoch for epoch in settings.milestones]

    def rate(share: float) -> float:
        return factor(settings.schedule or "constant", round(share * total), total, settings.warmup, milestones)

    options = ComparisonOptions(
        lr=settings.lr or 1e-3, steps=total, batch_size=settings.batch_size or 128, rate=rate,
        window=min(window, total), seed=seed,
    )  # fmt: skip
    return model, fit, options, list(origin)


def _origin(fit: Fit) -> dict[str, Tensor]:
    assert fit.subspace is not None
    return {name: tensor.detach().clone() for name, tensor in fit.subspace.origin.items()}


def _prediction(found: StartPrediction) -> Prediction:
    order = sorted(range(len(found.levels)), key=lambda i: found.levels[i])

    def sort(values: Sequence[float], factor: float = 1.0) -> tuple[float, ...]:
        return tuple(factor * values[i] for i in order)

    price = f"d* is {PRICE:g} times what geometry asks for: the price of training, fitted on other tasks."
    return Prediction(
        levels=sort(found.levels),
        d_star=tuple(min(d, float(found.D)) if math.isfinite(d) else d for d in sort(found.d_star, PRICE)),
        geometric=sort(found.d_star),
        start_loss=found.start_loss,
        caveats=(*found.caveats, price),
        others={"quadratic at the start": sort(found.at_start)},
    )


def main() -> None:
    """Answer what is asked on the standard input: ``python -m subspaces.transition.prediction``."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not get into the answer
    fields = json.load(sys.stdin)
    config = Run.from_dict(fields.pop("config"))
    found = PredictionJob(config, tuple(fields.pop("levels")), **fields).answer()
    with channel:
        json.dump(found.to_dict(), channel, allow_nan=False)


if __name__ == "__main__":
    main()
