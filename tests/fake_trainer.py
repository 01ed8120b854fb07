"""Trainers that cost nothing: they stand in for `subspaces.runs.train.train` where only the machinery is under test."""

import math
import os
import time
from pathlib import Path
from typing import Any

from subspaces.runs.records import Result
from subspaces.runs.run import Run

TRUE_D = 40


def result_of(config: Run, score: float) -> Result:
    curves = [
        {"epoch": e, "step": 10 * e, "lr": 0.1, "train_loss": 2.0 / e, "train_score": score * e / 2, "seconds": 0.1 * e}
        | {"val_loss": 1.0, "val_score": score, "test_loss": 1.0, "test_score": score - 0.01, "score": score}
        for e in (1, 2)
    ]
    sizes: dict[str, Any] = {"native": 220840, "coordinates": 4 * (config.d or 0), "projection": 0}
    return Result(
        config, "done", D=55210, trained=config.d or 55210, curves=curves, seconds=0.2, score_name="accuracy",
        resolved={"lr": 0.001}, sizes=sizes, environment={"torch": "0", "python": "3"},
    )  # fmt: skip


def known_curve(config: Run, *, folder: Path, callbacks: Any = ()) -> Result:
    """Accuracy 0.9 at d = TRUE_D exactly, ± a per cent by seed; direct training has 1.0. Every call is logged."""
    _log(folder, config)
    if config.d is None:
        return result_of(config, 1.0 - 0.001 * (config.seeds.model % 3))
    noise = 0.01 * math.sin(12.9898 * config.seeds.model + 1.0)
    return result_of(config, min(1.0, max(0.1, 0.9 + 0.12 * math.log(config.d / TRUE_D) + noise)))


def learning(config: Run, *, folder: Path, callbacks: Any = ()) -> Result:
    """The same curve reached in ten evaluations; given up where a callback has terms that say so."""
    result = known_curve(config, folder=folder)
    result.resolved["epochs"], result.curves = 10, [
        result.curves[0] | {"epoch": t, "score": result.score * (1 - 2.0**-t)} for t in range(1, 11)
    ]  # fmt: skip
    scores = [row["score"] for row in result.curves]
    for policy in [callback.policy for callback in callbacks if hasattr(callback, "policy")]:
        end = next((t for t in range(1, 11) if policy.gives_up(scores[:t], 10)), None)
        if end is not None:
            result.status, result.curves = "stopped", result.curves[:end]
    return result


def best_rate(d: int) -> float:
    """The native rate that `rate_sensitive` likes best."""
    return 0.02 * (40 / d) ** 0.3


def rate_sensitive(config: Run, *, folder: Path, callbacks: Any = ()) -> Result:
    """The same curve, lower by 5 % for each factor of e that the rate is off."""
    result = known_curve(config, folder=folder)
    if config.d is not None:
        loss = 0.05 * abs(math.log((config.optimizer.lr or 1e-3) / best_rate(config.d)))
        for row in result.curves:
            row["score"] = max(0.0, (row["score"] or 0) - loss)
    return result


def uneven_curve(config: Run, *, folder: Path, callbacks: Any = ()) -> Result:
    """The same after anything up to a tenth of a second, so that runs end in any order and two processes meet."""
    time.sleep(0.1 * os.urandom(1)[0] / 256)
    return known_curve(config, folder=folder)


def slow_and_noisy(config: Run, *, folder: Path, callbacks: Any = ()) -> Result:
    """Half a second per run, with something printed into the worker's standard output."""
    _log(folder, config)
    print("a library says hello")
    time.sleep(0.5)
    return result_of(config, 0.5)


def endless(config: Run, *, folder: Path, callbacks: Any = ()) -> Result:
    """Never ends."""
    _log(folder, config)
    time.sleep(600)
    return result_of(config, 0.5)


def dies_once(config: Run, *, folder: Path, callbacks: Any = ()) -> Result:
    """The first attempt at each run kills its process, as the system does when memory runs out."""
    mark = folder / "tried"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
    return result_of(config, 0.5)


def dies(config: Run, *, folder: Path, callbacks: Any = ()) -> Result:
    """Every attempt kills its process."""
    os.kill(os.getpid(), 9)
    return result_of(config, 0.5)


def fails(config: Run, *, folder: Path, callbacks: Any = ()) -> Result:
    """Raises, as a wrong option does."""
    raise ValueError("`block` must be a power of two; got 3.")


def diverging(config: Run, *, folder: Path, callbacks: Any = ()) -> Result:
    """Ends with a NaN loss."""
    result = result_of(config, 0.5)
    result.status, result.message = "diverged", "Lower it: --lr 0.1"
    return result


def _log(folder: Path, config: Run) -> None:
    with open(folder.parent / "log.txt", "a") as file:
        file.write(f"{os.getpid()} {config.key()}\n")


def logged(root: Path) -> list[str]:
    """Keys of the runs that were started below a root, in order."""
    path = root / "log.txt"
    return [line.split()[1] for line in path.read_text().splitlines()] if path.exists() else []


def slow_learner(config: Run, *, folder: Path, callbacks: Any = ()) -> Result:
    """The same curve, 0.06 lower in subspaces, of which half is made up for with each doubling of 30 epochs."""
    result = known_curve(config, folder=folder)
    if config.d is not None:
        lost = 0.06 * 30 / (config.optimizer.epochs or 30)
        for row in result.curves:
            row["score"] = max(0.0, (row["score"] or 0) - lost)
    return result


def writes_bytes(config: Run, *, folder: Path, callbacks: Any = ()) -> Result:
    """Bytes that are no text, and more of them than a pipe holds, from the standard streams of a worker."""
    os.write(2, b"gr\xf6\xdfe\n" + b"\xff" * 240_000 + b"\n")
    os.write(1, b"\xf6 no event\n{}\n[1]\n")
    return result_of(config, 0.5)


def writes_bytes_and_dies(config: Run, *, folder: Path, callbacks: Any = ()) -> Result:
    """Last words that are no text."""
    os.write(2, b"x" * 300_000 + b"\ngr\xf6\xdfe\n")
    os.kill(os.getpid(), 9)
    return result_of(config, 0.5)
