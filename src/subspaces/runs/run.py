"""A run is absent, started or done: one folder, one claim, one result row.

The folder ``ROOT/KEY`` (the key is the hash of the config) holds ``result.json`` when the run is done, a ``claim``
while somebody works on it, and the training state of a run that was interrupted.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from subspaces.files import atomic_write
from subspaces.runs.claims import Claim
from subspaces.train.config import TrainConfig
from subspaces.train.records import Result, decode_row, encode_row

RESULT = "result.json"
Trainer = Callable[..., Result]


def run_once(
    config: TrainConfig,
    root: str | Path,
    *,
    wait: bool = True,
    trainer: Trainer | None = None,
    **options: Any,
) -> Result | None:
    """The result of ``config``: read if it is there, resumed if it was started, else trained.

    Any number of processes, on any number of machines that share ``root``, may ask for the same run: one of them
    does it. A process that dies, even by ``kill -9``, loses its claim and another one goes on.

    Args:
        config: what to run.
        root: folder of all runs.
        wait: while another process works on it, wait for its result (True) or return None at once (False).
        trainer: what to call in place of ``subspaces.train.loop.train``.
        options: passed to the trainer (``callbacks``, ``resume``).

    Returns:
        The result, or None if another process works on the run and ``wait`` is false.

    Raises:
        OSError: ``root`` cannot be written; the message says why and what to do.
    """
    folder = Path(root) / config.key()
    while True:
        result = load_result(folder)
        if result is not None:
            return result
        with Claim(folder) as claim:
            if claim.held:
                # the run may have been finished between the look above and the claim
                return load_result(folder) or _train_and_store(config, folder, trainer, options)
        if not wait:
            return None
        time.sleep(0.2)


def _train_and_store(config: TrainConfig, folder: Path, trainer: Trainer | None, options: dict[str, Any]) -> Result:
    if trainer is None:
        from subspaces.train.loop import train as trainer  # torch is needed only where something is trained
    result = trainer(config, folder=folder, **options)
    atomic_write(folder / RESULT, encode_row(result.to_row()))
    for leftover in folder.glob("state.safetensors"):
        leftover.unlink(missing_ok=True)
    return result


def status(config: TrainConfig, root: str | Path) -> str:
    """``absent``, ``started`` or ``done``."""
    folder = Path(root) / config.key()
    if (folder / RESULT).exists():
        return "done"
    return "started" if folder.exists() else "absent"


def load_result(folder: str | Path) -> Result | None:
    """The result in a run's folder; None if the run is not done.

    A result file that is cut off or altered is renamed to ``result.json.corrupt`` with a warning that names it,
    and the run counts as not done.
    """
    path = Path(folder) / RESULT
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Result.from_row(decode_row(content))
    except (ValueError, KeyError, TypeError) as error:
        aside = path.with_name(RESULT + ".corrupt")
        path.replace(aside)
        warnings.warn(f"{path}: {error}. It was renamed to {aside.name}; the run is done again.", stacklevel=2)
        return None


def load_rows(root: str | Path) -> Iterator[dict[str, Any]]:
    """All readable result rows below ``root``, in the order of their keys; damaged ones are named and passed over."""
    for path in sorted(Path(root).rglob(RESULT)):
        try:
            yield decode_row(path.read_bytes())
        except ValueError as error:
            warnings.warn(f"{path}: {error}. It is left out.", stacklevel=2)
