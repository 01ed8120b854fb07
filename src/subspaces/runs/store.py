"""A run is absent, started or done: one folder, one claim, one result row.

The folder ``ROOT/KEY`` (the key is the hash of the config) holds ``result.json`` when the run is done, a ``claim``
while somebody works on it, and the training state of a run that was interrupted. A run that was given up as
hopeless is not done: ``stopped.json`` has its row, for those who would have given it up too, and its state is kept.
A result of another revision of the task counts as not done; its row is put aside when the new one is written.
"""

import contextlib
import errno
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from subspaces.errors import checked, need_posix
from subspaces.files import KEPT, atomic_write, explain, sweep
from subspaces.processes import Patience
from subspaces.runs.claims import Claim, holder, release_void
from subspaces.runs.fingerprint import changed, fingerprint, made_of, mark, row_is_of_today
from subspaces.runs.records import Result, decode_row, encode_row
from subspaces.runs.run import Run
from subspaces.runs.stop import PLAIN, StopPolicy
from subspaces.training.callbacks import Callback

RESULT, GIVEN_UP, STATE, ROOM = "result.json", "stopped.json", "state.safetensors", ".room"
Trainer = Callable[..., Result]
_TOLD: dict[tuple[Path, str], str] = {}
"""Folder of runs and task → the revision whose runs it was said of that they are done again."""


def folder_of(root: str | Path, config: Run) -> Path:
    """The folder of a run below ``root``; one that an earlier version named by a task with '@', ':' or '/' stays."""
    folder, former = Path(root) / config.key(), Path(root) / config.former_key()
    return former if former != folder and former.exists() and not folder.exists() else folder


@checked
def run_once(
    config: Run,
    root: str | Path,
    *,
    wait: bool = True,
    policy: StopPolicy = PLAIN,
    trainer: Trainer | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Result | None:
    """The result of ``config``: read if it is there, resumed if it was started, else trained.

    Any number of processes, on any number of machines that share ``root``, may ask for the same run: one of them
    does it. A process that dies, even by ``kill -9``, loses its claim and another one goes on.

    Args:
        config: what to run.
        root: folder of all runs.
        wait: while another process works on it, wait for its result (True; after three seconds a line on standard error
            says for whom) or return None at once (False).
        policy: whether to give it up where it is hopeless, and where to log it.
        trainer: what to call in place of ``subspaces.runs.train.train``.
        callbacks: objects to call during the training.
        options: passed to the trainer (``resume``).

    Returns:
        The result, or None if another process works on the run and ``wait`` is false.

    Raises:
        OSError: ``root`` cannot be written; the message says why and what to do.
    """
    need_posix("run_once")
    folder, patience = folder_of(root, config), Patience()
    while True:
        result = load_result(folder, policy, asked=config)
        if result is not None:
            tidy(folder, config.task)
            return result
        with Claim(folder) as claim:
            if claim.held:
                # the run may have been finished between the look above and the claim
                options["callbacks"] = [*callbacks, *policy.callbacks(config, folder)]
                done = load_result(folder, policy, asked=config)
                return done or _train_and_store(config, folder, policy, trainer, options)
        if not wait:
            return None
        patience.wait(lambda: f"waiting for {config.key()}, in the hands of {holder(folder) or 'nobody now'}")
        time.sleep(0.2)


def _train_and_store(
    config: Run, folder: Path, policy: StopPolicy, trainer: Trainer | None, options: dict[str, Any]
) -> Result:
    if trainer is None:
        from subspaces.runs.train import train as trainer  # torch is needed only where something is trained
    result = trainer(config, folder=folder, **options)
    return store_result(result, folder, policy)


def store_result(result: Result, folder: str | Path, policy: StopPolicy = PLAIN) -> Result:
    """Write the row of a run into its folder, whole or not at all; what it leaves no use for is removed.

    A run that was given up by ``policy`` is kept beside the place of a result, where nobody takes it for one. A row of
    an earlier revision of the task is put aside under a name that says so.
    """
    folder = Path(folder)
    result.fingerprint, result.made_of = fingerprint(result.config), made_of(result.config)
    if result.status == "stopped" and policy.accept(result):
        name = result.score_name
        result.message = f"given up after {len(result.curves)} evaluations: no hope of {name} {policy.threshold:.4g}"
        _replace(folder / GIVEN_UP, result)
        return result
    _replace(folder / RESULT, result)
    _remove_leftovers(folder)
    return result


def tidy(folder: Path, task: str) -> None:
    """Remove from a run's folder what a killed process left: its claim, temporary files, and beside a result a state.

    The state stays where the result is of another revision of the task: it may be that of a run of today.
    """
    try:
        names = set(os.listdir(folder))
    except OSError:
        return
    if "claim" in names or ".takeover" in names or any(name.endswith(".tmp") for name in names):
        release_void(folder)
        if (folder / "claim").exists():
            return
        sweep(folder, again=True)
    if RESULT in names and names & {STATE, ROOM}:
        try:
            row = decode_row((folder / RESULT).read_bytes())
            if row["config"]["task"] == task and row_is_of_today(row, task):
                _remove_leftovers(folder)
        except (OSError, ValueError, KeyError, TypeError):
            pass


def tidy_all(root: str | Path, task: str) -> None:
    """The same for all runs of a task below ``root``."""
    with contextlib.suppress(OSError):
        for folder in Path(root).iterdir():
            tidy(folder, task)


def _remove_leftovers(folder: Path) -> None:
    for leftover in (STATE, GIVEN_UP, ROOM):
        with contextlib.suppress(OSError):  # the result is there: what else lies beside it does no harm
            (folder / leftover).unlink(missing_ok=True)


def _replace(path: Path, result: Result) -> None:
    """Write a row; one of another revision that stands in its place is kept beside it."""
    try:
        if path.exists():
            old = _decoded(path)
            made = "" if old is None else old.get("fingerprint", "")
            if old is not None and made != result.fingerprint and not row_is_of_today(old, result.config.task):
                path.replace(path.with_name(f"{path.name}.{mark(made)}"))
        atomic_write(path, encode_row(result.to_row()), kept=KEPT)
    except OSError as error:
        raise explain(error, path, KEPT) from error


def status(config: Run, root: str | Path) -> str:
    """``absent``, ``started`` or ``done``."""
    folder = folder_of(root, config)
    if (folder / RESULT).exists() and load_result(folder, asked=config) is not None:
        return "done"
    return "started" if folder.exists() else "absent"


def load_result(folder: str | Path, policy: StopPolicy = PLAIN, *, asked: Run | None = None) -> Result | None:
    """The result in a run's folder; None if the run is not done.

    A run that was given up counts as done for ``policy`` by which it would have been given up too.

    Nothing that the row names is imported: its task is looked up if it is that of ``asked``, the run which the caller
    wants, or a registered name. A row of another task than that of ``asked`` is damaged.

    A result of another revision of the task counts as not done, with a warning per folder of runs and task; it stays
    where it is until the run was done again.

    A result file that is cut off or altered is renamed to ``result.json.corrupt`` with a warning that names it,
    and the run counts as not done.

    Raises:
        ValueError: the result was written by a later version, whose fields this one does not know.
    """
    typed = None if asked is None else asked.task
    result = _of_today(Path(folder) / RESULT, typed)
    if result is not None or policy.threshold is None:
        return result
    stopped = _of_today(Path(folder) / GIVEN_UP, typed)
    return stopped if stopped is not None and policy.accept(stopped) else None


def _of_today(path: Path, typed: str | None) -> Result | None:
    """The result in a file, if it was made by the task as it is now."""
    row = _decoded(path, typed)
    if row is None:
        return None
    result = Result.from_row(row)
    if row_is_of_today(row, typed):
        return result
    now = fingerprint(result.config)
    if _TOLD.get((path.parent.parent, result.config.task)) == now:  # once for all runs of a folder
        return None
    _TOLD[path.parent.parent, result.config.task] = now
    warnings.warn(
        f"{changed(result.config, result.fingerprint, result.made_of)}: its results in {path.parent.parent} count as "
        f"not done. They are done again; each old row is kept as {path.name}.{mark(result.fingerprint)}.",
        stacklevel=1,
    )
    return None


def _decoded(path: Path, typed: str | None = None) -> dict[str, Any] | None:
    """The row in a file; None without one, and for a damaged one or one of another task, which is renamed."""
    try:
        row = decode_row(path.read_bytes())
        if typed is not None and row["config"]["task"] != typed:
            raise ValueError(f"it is of the task {row['config']['task']!r}, not of {typed!r}")
        return row
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):  # nothing can lie there; who writes there says so
            return None
        raise
    except ValueError as error:
        aside = path.with_name(path.name + ".corrupt")
        path.replace(aside)
        warnings.warn(f"{path}: {error}. It was renamed to {aside.name}; the run is done again.", stacklevel=3)
        return None


def load_rows(root: str | Path, *, stopped: bool = False) -> Iterator[dict[str, Any]]:
    """All readable result rows below ``root``, in the order of their keys; damaged ones are named and passed over.

    Args:
        root: folder of runs, or one above it.
        stopped: also the runs that were given up and not finished since; their scores are None, since they have none.
    """
    paths = [*Path(root).rglob(RESULT), *(Path(root).rglob(GIVEN_UP) if stopped else ())]
    for path in sorted(paths):
        if path.name == GIVEN_UP and (path.parent / RESULT).exists():
            continue
        try:
            row = decode_row(path.read_bytes())
        except ValueError as error:
            warnings.warn(f"{path}: {error}. It is left out.", stacklevel=2)
            continue
        yield row | {"score": None, "test_score": None} if path.name == GIVEN_UP else row


def latest(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that were made by their tasks as they are now; of a task that has none of these, all rows.

    Only registered tasks are looked up: a row of any other one is taken as of today, since looking would import it.
    """
    rows = list(rows)
    now = [row_is_of_today(row) for row in rows]
    renewed = {row["config"]["task"] for row, fits in zip(rows, now, strict=True) if fits}
    kept = [row for row, fits in zip(rows, now, strict=True) if fits or row["config"]["task"] not in renewed]
    if len(kept) < len(rows):
        warnings.warn(f"{len(rows) - len(kept)} results of another revision of their task are left out.", stacklevel=2)
    return kept
