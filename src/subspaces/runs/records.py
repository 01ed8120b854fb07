"""What comes out of one run: its result row, and how the row is written and checked."""

import dataclasses
import functools
import hashlib
import json
import math
import os
import platform
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from subspaces.runs.run import Run

ROW_VERSION = 1


@dataclass
class Result:
    """One run: the scores per epoch, the times, the sizes and how it ended.

    Scores are fractions or rewards, higher is better, as the task defines them; the last evaluated epoch counts
    (never the best one). A run whose loss became NaN or infinite is a result too: its status is ``diverged``.
    """

    config: Run
    status: Literal["done", "diverged", "stopped"]
    D: int
    """Parameters of the network that may move (all of them in direct training)."""
    trained: int
    """Numbers that the optimiser changes: d, or D in direct training."""
    curves: list[dict[str, float | int | None]]
    """One row per evaluation: epoch, step, seconds, lr, score, and loss and score of train, val, test."""
    seconds: float
    score_name: str = "score"
    message: str = ""
    """What to do about a run that diverged."""
    resolved: dict[str, Any] = field(default_factory=dict)
    """The values that the task gave to fields left at None, and the learning rate after scaling."""
    sizes: dict[str, float | int | None] = field(default_factory=dict)
    """Bytes: ``native`` (all weights), ``coordinates``, ``checkpoint`` (the file), ``projection`` (in memory)."""
    trace: list[float] = field(default_factory=list)
    """Training loss of every step, where it was asked for."""
    environment: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    """Of the task that the run was made of; written when the result is stored (`runs.fingerprint`)."""
    made_of: dict[str, str] = field(default_factory=dict)
    """Digests of the parts of a person's own task, so that a change is told by name; written with the fingerprint."""

    @property
    def score(self) -> float:
        """The score to choose by: of the last evaluation on the validation part (or on the training part, where
        memorising is the task); NaN where there is none, and for a run that diverged."""
        return math.nan if self.status == "diverged" else self._last("score")

    @property
    def test_score(self) -> float:
        """Test score of the last evaluation, to report; NaN where there is none, and for a run that diverged."""
        return math.nan if self.status == "diverged" else self._last("test_score")

    @property
    def score_error(self) -> float:
        """Standard error of the score by its own evaluation, such as that of a mean of episodes; 0 if not told."""
        error = self._last("score_se")
        return error if math.isfinite(error) else 0.0

    def _last(self, name: str) -> float:
        value = self.curves[-1].get(name) if self.curves else None
        return math.nan if value is None else float(value)

    def to_row(self) -> dict[str, Any]:
        """The result as one JSON object; NaN and infinity become null."""
        row = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        row["config"] = self.config.to_dict()
        row["key"] = self.config.key()
        row["version"] = ROW_VERSION
        row["score"], row["test_score"] = self.score, self.test_score
        return _finite(row)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Result":
        """The result written by ``to_row``."""
        fields = {f.name: row[f.name] for f in dataclasses.fields(cls) if f.name in row}
        fields["config"] = Run.from_dict(row["config"])
        return cls(**fields)


def encode_row(row: dict[str, Any]) -> bytes:
    """A row as JSON text with its own sha256, so that any damage is noticed."""
    body = json.dumps(row, sort_keys=True, allow_nan=False)
    return (json.dumps({"sha256": _digest(body), "row": row}, sort_keys=True, indent=1) + "\n").encode()


def decode_row(content: bytes) -> dict[str, Any]:
    """The row in the bytes that ``encode_row`` made.

    Raises:
        ValueError: the bytes are cut off or altered; the message says which.
    """
    try:
        record = json.loads(content)
        row, digest = record["row"], record["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"it is cut off or not a result row ({len(content)} bytes)") from error
    if _digest(json.dumps(row, sort_keys=True)) != digest:
        raise ValueError("its contents do not match their checksum")
    if not isinstance(row, dict) or not isinstance(row.get("config"), dict) or "task" not in row["config"]:
        raise ValueError("it is not the row of a run: it lacks the config")
    if row.get("version", 0) > ROW_VERSION:
        raise ValueError(f"it has format {row['version']}, this version reads up to {ROW_VERSION}; update subspaces")
    return row


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _finite(value: Any) -> Any:
    """The same structure with NaN and infinities replaced by None, which JSON can hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


@functools.cache
def environment() -> dict[str, Any]:
    """Versions, processor and the state of the source tree, for the record of a run."""
    import numpy
    import torch

    from subspaces import __version__

    return {
        "subspaces": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git": _git_commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """Commit of the source tree this package is run from; None if installed."""
    return commit_of(Path(__file__).resolve().parents[1])


def commit_of(package: Path) -> str | None:
    """Commit of the tree that a package lies in, with ``-dirty`` if the package itself was changed; None without one.

    Rows and pages that a reproduction writes beside the package (results/, docs/) change nothing of what was run.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", "-C", str(package), *arguments], capture_output=True, text=True, timeout=10)

    try:
        if git("ls-files", "--error-unmatch", "__init__.py").returncode:
            return None  # installed inside some other repository
        name = git("describe", "--always", "--abbrev=12", "--exclude=*").stdout.strip()
        changed = git("status", "--porcelain", "--untracked-files=all", "--", ".").stdout.strip()
        return f"{name}-dirty" if name and changed else name or None
    except (OSError, subprocess.SubprocessError):
        return None
