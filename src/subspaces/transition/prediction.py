"""Predicted thresholds of a task: from each start the loss is followed down, with the curvature on the way."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import torch
from torch import Tensor

from subspaces.runs.build import build, task_of
from subspaces.runs.pools import worker_environment
from subspaces.runs.run import Run
from subspaces.training.batches import InMemory
from subspaces.training.state import Fit
from subspaces.transition.result import Prediction
from subspaces.transition.theory import ProximalOptions, StartPrediction, predict_from_start

POINTS = 10
"""Points of a proximal path among which the passes of training are shared; it has about so many."""

STEPS = 200
"""Fewest steps at a point, whatever the passes: a path that is not descended makes predictions too high."""

RATE = 1 / 3
"""Part of the native rate: at the whole one the path leaves the start's surroundings."""


def predict_transition(
    config: Run,
    burn_in: Sequence[int],
    levels: Sequence[float],
    *,
    d: int,
    epochs: int = 5,
    examples: int = 1000,
    seed: int = 0,
    workers: int = 1,
) -> Iterator[tuple[int, Prediction]]:
    """Predicted d* for each burn-in time, from starts t steps along one trajectory of direct training, as in the runs.

    Curvature and losses are those of the first ``examples`` training examples; the path from each start is trained on
    all of them, at the native rate of the runs. See `theory.predict_from_start` for what it is worth.

    Args:
        config: the runs; d, burn-in and seeds are set here.
        burn_in: times t, in steps.
        levels: training losses ε.
        d: a dimension that the projection allows; it has no effect on the result.
        epochs: passes of training along each path.
        examples: training examples for the curvature.
        seed: of the initial parameters and of the order of the data.
        workers: processes that share the starts; 1 computes in this one.

    Yields:
        The burn-in time and its prediction, as soon as it is there.

    Raises:
        RuntimeError: a process failed, said after the others have answered; the message has its last words.
    """
    seeds = {"seed_model": seed, "seed_data": seed, "seed_projection": seed}
    base = config.but(d=d, record_trace=False, redraw_every=0, **seeds)
    asked = [PredictionJob(base.but(burn_in=t), tuple(levels), epochs, examples, seed) for t in sorted(burn_in)]
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
    epochs: int
    examples: int
    seed: int

    def answer(self) -> Prediction:
        """The prediction, computed here; threads and random state are left as they were."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.config.compute.threads)
        try:
            with torch.random.fork_rng(devices=[]):
                return _at(self.config, self.levels, self.epochs, self.examples, self.seed)
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


def _at(config: Run, levels: Sequence[float], epochs: int, examples: int, seed: int) -> Prediction:
    fit, full = build(config)
    if not isinstance(fit.batches, InMemory):
        raise ValueError(f"`task` must have its data in memory for predictions; {config.task} has a DataLoader.")
    origin = _origin(fit)
    model = task_of(config).build_model(seed).to(config.compute.device, next(fit.model.parameters()).dtype)
    if config.compute.channels_last:
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    buffers = {name: buffer for name, buffer in fit.model.state_dict().items() if name in model.state_dict()}
    model.load_state_dict({**buffers, **origin})
    settings = full.optimizer
    steps = max(STEPS, epochs * fit.batches.per_epoch // POINTS)
    options = ProximalOptions(
        lr=RATE * (settings.lr or 1e-3),
        steps=steps,
        batch_size=settings.batch_size or 128,
        examples=examples,
        seed=seed,
    )
    data = fit.batches.data.split("train")
    return _prediction(predict_from_start(model, fit.loss, data, levels, options, names=list(origin)))


def _origin(fit: Fit) -> dict[str, Tensor]:
    assert fit.subspace is not None
    return {name: tensor.detach().clone() for name, tensor in fit.subspace.origin.items()}


def _prediction(found: StartPrediction) -> Prediction:
    order = sorted(range(len(found.levels)), key=lambda i: found.levels[i])

    def sort(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(values[i] for i in order)

    return Prediction(
        levels=sort(found.levels),
        d_star=sort(found.d_star),
        upper_bound=sort(found.upper_bound),
        radius=found.points[-1].distance,
        minimum_loss=found.points[-1].loss,
        start_loss=found.start_loss,
        quadratic_start_loss=found.end_start_loss,
        caveats=found.caveats,
        others={"quadratic at the start": sort(found.at_start), "well at the end": sort(found.at_end)},
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
