"""One function that measures the intrinsic dimension of anything: a task, a model with data, a person's own loop."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from subspaces.dimension.measure import measure_dimension
from subspaces.dimension.result import IntrinsicDimension, Rule
from subspaces.errors import unknown_name
from subspaces.runs.folders import default_folder
from subspaces.runs.run import WORDS, Run
from subspaces.tasks import Hyper, Objective, Task, get_task, register_task

_RULE = {f.name for f in dataclasses.fields(Rule)}
_OWN = {"optimizer", "lr", "momentum", "batch_size", "epochs", "l2", "schedule", "augment"} & {
    f.name for f in dataclasses.fields(Hyper)
}


def intrinsic_dimension(
    what: str | Task | Objective | Callable[..., Any],
    data: Any = None,
    *,
    D: int | None = None,
    baseline: float | str | Sequence[float] = "auto",
    level: float = 0.9,
    loss: Any = None,
    score: Any = None,
    name: str | None = None,
    workers: int = 2,
    launcher: str = "local",
    out: str | Path | None = None,
    report: bool = True,
    progress: bool = True,
    **settings: Any,
) -> IntrinsicDimension:
    """The smallest d at which training in a random subspace reaches ``level`` × the baseline score.

    Three things can be measured:

    * ``intrinsic_dimension(run, D=…)``: any loop, in any framework. ``run(d, seed)`` trains in d dimensions (everything
      where d is None) and returns a score, higher is better, NaN where it failed.
    * ``intrinsic_dimension(model_fn, data, loss=…, score=…)``: the library trains networks that ``model_fn()`` makes.
    * ``intrinsic_dimension("mnist-lenet")``: a task by name, import path or object.

    Runs are shared among processes and kept below ``out``: the same call goes on where an earlier one was ended, in
    whatever way, and returns at once where it was finished. A changed function, loss or data set makes new runs.

    Args:
        what: function, task or name, see above.
        data: with a model function, whatever `Task` takes: arrays, a Dataset, a DataLoader, a path.
        D: with a run function, the native dimension: the largest d.
        baseline: a score; the scores of direct runs that were done already; "local" measures it by direct runs;
            "global" is the published one of a named task; "auto" is global where there is one.
        level: share of the baseline to reach, in (0, 1).
        loss, score: see `Task`; with a run function, ``score`` is the name of what it returns.
        name: of folders and pages; that of the function without it.
        workers: local processes of one thread each. A function of a notebook or script is sent to them.
        launcher: local, ray or slurm.
        out: folder of runs and page; ``runs/NAME-dimension`` without it, with what tells the settings apart.
        report: write the page ``report.html`` below ``out``.
        progress: show the search on stderr.
        **settings: of the search (ratio, confidence, max_runs, minutes, d_min, d_max, first_seed, baseline_runs, …; see
            `Rule`) and of the runs by the words of the command line (epochs, lr, batch_size, optimizer, projection, …).

    Returns:
        `IntrinsicDimension`, with ``d_int``, ``interval``, ``to_dataframe()`` and ``plot(ax)``.

    Raises:
        ValueError, TypeError: an argument that does not fit; the message says which.
        RuntimeError: a run raised an error; finished runs are kept.

    Cost: 15 to 60 runs; the search itself takes milliseconds a run.

    Example:
        >>> def run(d, seed):
        ...     return min(1.0, (d or 1000) / 50)
        >>> found = intrinsic_dimension(run, D=1000, baseline=1.0, workers=1, out="demo")       # doctest: +SKIP
        >>> found.d_int                                                                        # doctest: +SKIP
        45
    """
    words = {key: value for key, value in settings.items() if key in WORDS and key not in ("task", "d", "start")}
    rules = {key: value for key, value in settings.items() if key in _RULE}
    for key in settings.keys() - words.keys() - rules.keys():
        raise unknown_name("argument", key, {*WORDS, *_RULE} - {"task", "d"})
    task = _task(what, data, D, loss, score, name, words)
    run = Run.of(task if isinstance(task, str) else register_task(task), **words)
    rule = Rule(level=level, **_baseline(baseline), **rules)
    folder = Path(out) if out is not None else default_folder(run, "dimension", rule)
    with _display(f"intrinsic dimension of {run.task}, kept in {folder}", progress) as display:
        found = measure_dimension(run, folder, rule, workers=workers, launcher=launcher, on_event=display)
    found.folder = folder
    if report:
        from subspaces.report.write import write_report

        found.report = write_report(folder)
    return found


def _task(what: Any, data: Any, D: int | None, loss: Any, score: Any, name: str | None, words: dict[str, Any]) -> Any:
    """The task that the arguments describe; a name is checked and stays a name."""
    if isinstance(what, str | Task | Objective):
        for given, value in (("data", data), ("D", D), ("loss", loss), ("score", score)):
            if value is not None:
                raise ValueError(f"`{given}` must be left out with a task, which has its own; got {what!r} too.")
        get_task(what)
        return what
    if not callable(what):
        raise TypeError(
            "`what` must be a function run(d, seed) -> score with `D`, a function that makes a model with `data`, or a "
            f"task; got {type(what).__name__}."
        )
    make: Any = what
    called = name or _name_of(what)
    if data is None:
        if D is None:
            raise ValueError("`D` must be given with a function run(d, seed): the number of parameters, the largest d.")
        if loss is not None:
            raise ValueError(
                "`loss` must be left out with a function run(d, seed), which trains by itself. Or give `data`."
            )
        if words.keys() - {"device", "threads"}:
            raise ValueError(f"`{min(words)}` must be left out with a function run(d, seed), which trains by itself.")
        return Objective(called, what, D, score_name=score or "score")
    if D is not None:
        raise ValueError(f"`D` must be left out with `data`: it is counted; got {D}.")
    hyper = dataclasses.replace(Task.optimizer, **{key: words.pop(key) for key in sorted(_OWN & words.keys())})
    return Task(called, model=make, data=data, loss=loss or "cross_entropy", score=score, optimizer=hyper)


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return "own" if name == "<lambda>" else re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def _baseline(given: float | str | Sequence[float]) -> dict[str, Any]:
    if isinstance(given, str):
        return {"baseline": given}
    if isinstance(given, Sequence):
        return {"baseline": "given", "baseline_scores": tuple(float(score) for score in given)}
    return {"baseline": str(float(given))}


def _display(title: str, wanted: bool) -> Any:
    if wanted:
        from subspaces.dimension.terminal import SearchDisplay

        return SearchDisplay(title)
    return Quiet()


class Quiet:
    """Shows nothing."""

    def __enter__(self) -> "Quiet":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, event: Any, found: Any) -> None:
        return None
