"""One function that measures the intrinsic dimension of anything: a task, a model with data, a person's own loop."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from subspaces.dimension.measure import measure_dimension
from subspaces.dimension.result import IntrinsicDimension, Rule
from subspaces.errors import check_folder, checked, no_argument, shown
from subspaces.registry import name_of
from subspaces.runs.folders import default_folder
from subspaces.runs.run import WORDS, Run
from subspaces.runs.sweep import check_workers
from subspaces.tasks import Objective, Task, get_task, register_task
from subspaces.tasks.readers import read_examples

_RULE = {f.name for f in dataclasses.fields(Rule)} - {"level", "baseline", "baseline_scores"}
_WORDS = {word for word in WORDS if word not in ("task", "d", "subspace", "start")}
_READ = {p.name for p in inspect.signature(read_examples).parameters.values() if p.kind == p.KEYWORD_ONLY}
_PLACES = {"device", "threads"}
"""Words of a run that any task takes: where it is computed."""


@checked
def intrinsic_dimension(
    what: str | Task | Objective | Callable[..., Any],
    data: Any = None,
    *,
    D: int | None = None,
    baseline: float | str | Iterable[float] = "auto",
    level: float = 0.9,
    loss: Any = None,
    score: Any = None,
    judged_on: str | None = None,
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
    whatever way, and returns at once where it was finished. A changed function (also one that it calls, or a value that
    it has closed over), model, loss or data set makes new runs, with a warning; a changed comment does not.

    Args:
        what: function, task or name, see above.
        data: with a model function, whatever `Task` takes: arrays, a Dataset, a DataLoader, a path.
        D: with a run function, the native dimension: the largest d.
        baseline: a score; the scores of direct runs that were done already; "local" measures it by direct runs;
            "global" is the published one of a named task; "auto" is global where there is one.
        level: share of the baseline to reach, in (0, 1).
        loss, score: see `Task`; with a run function, ``score`` is the name of what it returns.
        judged_on: with data, the part whose score counts: val, or train where memorising is the task.
        name: of folders and pages; that of the function without it.
        workers: local processes of one thread each. A function of a notebook or script is sent to them.
        launcher: local, ray or slurm.
        out: folder of runs and page; ``runs/NAME-dimension`` without it, with what tells the settings apart.
        report: write the page ``report.html`` below ``out``.
        progress: show the search on stderr.
        **settings: of the search (ratio, confidence, max_runs, minutes, d_min, d_max, first_seed, baseline_runs, …; see
            `Rule`); of the runs, with data or a task, by the words of the command line (epochs, lr, batch_size,
            optimizer, projection, subset, …); of a file or folder of data (target, text, tokenizer, length, size,
            columns, classes, standardise, test; see `tasks.readers.read_examples`).

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
    words = {key: settings.pop(key) for key in sorted(_WORDS & settings.keys())}
    rules = {key: settings.pop(key) for key in sorted(_RULE & settings.keys())}
    about = {"data": data, "D": D, "loss": loss, "score": score, "name": name, "judged_on": judged_on}
    about |= {key: settings.pop(key) for key in sorted(_READ & settings.keys())}
    for key, value in settings.items():
        known = [*inspect.signature(intrinsic_dimension).parameters, *sorted({*_WORDS, *_RULE, *_READ})]
        raise ValueError(no_argument(key, value, "intrinsic_dimension", known))
    check_folder("out", out)
    check_workers(workers, launcher)
    about = {key: value for key, value in about.items() if value is not None}
    task = _task(what, about, words)
    run = Run.of(task if isinstance(task, str) else register_task(task), **_named(words))
    rule = Rule(level=level, **_baseline(baseline), **rules)
    told = {key: value for key, value in about.items() if key not in ("name", "data") and _plain(value)}
    folder = Path(out) if out is not None else default_folder(run, "dimension", rule, **told)
    with _display(f"intrinsic dimension of {run.task}, kept in {folder}", progress) as display:
        found = measure_dimension(run, folder, rule, workers=workers, launcher=launcher, on_event=display)
    found.folder = folder
    if report:
        from subspaces.report.write import write_report

        found.report = write_report(folder)
    return found


def _task(what: Any, about: dict[str, Any], words: dict[str, Any]) -> str | Task | Objective:
    """The task that the arguments describe; a name is checked and stays a name."""
    if isinstance(what, str | Task | Objective):
        for key in about:
            raise ValueError(
                f"`{key}` must be left out with a task, which has its own; got {shown(about[key])}. Remove it."
            )
        if isinstance(task := get_task(what), Objective):
            _refuse_words(words, task.takes)
        return what
    if not callable(what) or isinstance(what, nn.Module):
        raise TypeError(
            "`what` must be a function run(d, seed) -> score with `D`, a function that makes a model with `data`, or a "
            f"task; got {type(what).__name__}."
        )
    return _with_data(what, **about) if "data" in about else _own_loop(what, words, **about)


def _own_loop(
    run: Any, words: dict[str, Any], *, D: int | None = None, score: Any = None, name: str | None = None, **other: Any
) -> Objective:
    """run(d, seed) -> score."""
    if D is None:
        raise ValueError(
            "`D` must be given with a function run(d, seed), the number of parameters, the largest d; got nothing. "
            "Or give `data` with a function that makes a model."
        )
    for key, value in other.items():
        raise ValueError(
            f"`{key}` must be left out with a function run(d, seed), which trains by itself; got {shown(value)}. "
            "Put it into the function."
        )
    if not isinstance(score or "", str):
        raise TypeError(f"`score` must be the name of what run(d, seed) returns; got {type(score).__name__}.")
    _refuse_words(words)
    return Objective(_name_of(run) if name is None else name, run, D, score_name=score or "score")


def _with_data(
    model: Any, *, data: Any, D: int | None = None, loss: Any = None, score: Any = None, name: str | None = None,
    judged_on: str = "val", **read: Any,
) -> Task:  # fmt: skip
    """A function that makes a model, and data."""
    if D is not None:
        raise ValueError(f"`D` must be left out with `data`: it is counted; got {D}. Remove it.")
    loss = "cross_entropy" if loss is None else loss
    return Task(_name_of(model) if name is None else name, model, data, loss, score, judged_on=judged_on, read=read)


def _refuse_words(words: dict[str, Any], heeded: Iterable[str] = ()) -> None:
    if given := sorted(words.keys() - _PLACES - {*heeded}):
        raise ValueError(
            f"`{given[0]}` must be left out with a function run(d, seed), which trains by itself; "
            f"got {shown(words[given[0]])}. Put it into the function."
        )


def _plain(value: Any) -> bool:
    """Whether it can be part of the name of a folder: functions and data are seen by the fingerprint of runs."""
    return isinstance(value, str | int) or (isinstance(value, list | tuple) and all(map(_plain, value)))


def _named(words: dict[str, Any]) -> dict[str, Any]:
    """Classes of optimisers and projections by the names that other processes find them by."""
    return {
        key: name_of(key, value) if key in ("optimizer", "projection") and isinstance(value, type) else value
        for key, value in words.items()
    }


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return "own" if name == "<lambda>" else re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def _baseline(given: float | str | Iterable[float]) -> dict[str, Any]:
    if isinstance(given, str):
        return {"baseline": given}
    if isinstance(given, Iterable):
        if not (scores := tuple(float(score) for score in given)):
            raise ValueError("`baseline` must be at least one score; got an empty list. Leave it out to measure it.")
        return {"baseline_scores": scores}
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
