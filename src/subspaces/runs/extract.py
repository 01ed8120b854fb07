"""A subspace from a recorded run: basis file, table of its quality, figure. The command ``subspaces extract``."""

import dataclasses
import json
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from subspaces.errors import at_least, checked
from subspaces.learned.affine import distance_to_affine, projected_coordinates, trajectory_figure
from subspaces.learned.basis import LearnedBasis
from subspaces.learned.methods import METHODS, Method
from subspaces.learned.samples import Sample, Trajectory
from subspaces.registry import resolve
from subspaces.runs.build import build, refresh
from subspaces.runs.recording import TRAJECTORY
from subspaces.runs.records import decode_row
from subspaces.runs.run import Run
from subspaces.runs.settings import Recording
from subspaces.runs.store import RESULT
from subspaces.runs.stored import enter_stored
from subspaces.subspace import Subspace
from subspaces.tasks.find import is_known
from subspaces.tasks.text import leads_elsewhere
from subspaces.training.state import Fit
from subspaces.training.step import evaluate

DIRECTIONS = 15
"""Directions that are taken where nothing is said, if there are so many (Li et al. 2021, ResNet-8)."""


@dataclasses.dataclass(frozen=True)
class Extraction:
    """What was extracted, how good it is, and where it lies.

    Attributes:
        basis: file of the basis.
        figure: file of the figure.
        method, d, D, samples: what it is.
        singular_values, ratio: of every direction found, descending.
        orthonormality: largest entry of |PᵀP − I|.
        distance: ‖(I − PPᵀ)(θ_T − θ₀)‖ / ‖θ_T − θ₀‖, how much of the way of the training lies outside; None for
            recorded gradients, which have no last iterate.
        last_score, projected_score: test scores of the last iterate and of the point of the affine set nearest to it,
            BatchNorm statistics re-estimated; None where the task is not known.
    """

    basis: Path
    figure: Path
    method: str
    d: int
    D: int
    samples: int
    singular_values: list[float]
    ratio: list[float]
    orthonormality: float
    distance: float | None
    last_score: float | None
    projected_score: float | None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self) | {"basis": str(self.basis), "figure": str(self.figure)}


@checked
def extract(
    source: str | Path,
    method: str = "dldr",
    d: int | float | None = None,
    *,
    out: str | Path | None = None,
    samples: int | None = None,
    every: int = 1,
    data_root: str | None = None,
    trust: Collection[str] = (),
) -> Extraction:
    """Learn a subspace from the trajectory of a run.

    Args:
        source: the folder of a run with a trajectory file, or such a file.
        method: a key of `subspaces.learned.methods.METHODS`, or the import path of one of your own.
        d: number of directions, or a variance ratio in (0, 1) (not for frequent-directions); 15 without it, or as many
            as fewer samples give.
        out: basis file; ``METHOD-d.safetensors`` beside the trajectory without it. The figure lies beside it.
        samples: use only the first so many samples.
        every: use every n-th sample.
        data_root: folder of the data sets, for the scores.
        trust: import paths, such as `my_tasks:task`, that the run may name; nothing else that it names is imported.

    Raises:
        FileNotFoundError: no trajectory there.
        ValueError: unknown method, d or samples out of range, a method that does not fit what was recorded, a run that
            names an import path which is not in ``trust``.

    Source: Li et al. (arXiv 2103.11154), §3.2; see `subspaces.learned.bases` for the others.
    """
    at_least(1, samples=samples, every=every)
    learner: Method = resolve("method", method)
    path = trajectory_path(source)
    config = recorded_config(path.parent, trust)
    chosen = choose(Trajectory.open(path), samples, every)
    if config is not None and config.record.source != learner.records:
        fitting = ", ".join(name for name, known in METHODS.items() if known.records == config.record.source)
        raise ValueError(
            f"`method` must fit what was recorded; got {method} of {config.record.source}. "
            f"Use {fitting}, or record with --record-source {learner.records}."
        )
    gradients = learner.records == "gradients"
    basis = learner(chosen, max(1, min(DIRECTIONS, len(chosen) - learner.lost)) if d is None else d)
    if gradients:
        _start_at_initialisation(basis, config, data_root)
    stem = re.sub(r"[^\w.-]+", "_", learner.name)
    target = Path(out) if out is not None else path.parent / f"{stem}-{basis.d}.safetensors"
    basis.save(target)
    figure = target.with_suffix(".png")
    trajectory_figure(chosen, basis, figure)
    outside = None if gradients else distance_to_affine(chosen[-1], basis, _origin(basis)).relative
    scores = (None, None) if config is None or gradients else _scores(config, target, chosen, data_root)
    return Extraction(
        basis=target, figure=figure, method=learner.name, d=basis.d, D=basis.D, samples=len(chosen),
        singular_values=basis.singular_values.tolist(), ratio=basis.ratio.tolist(),
        orthonormality=orthonormality(basis), distance=outside, last_score=scores[0], projected_score=scores[1],
    )  # fmt: skip


def trajectory_path(source: str | Path) -> Path:
    """The trajectory file of a run's folder, or the file itself."""
    path = Path(source)
    if path.is_dir():
        path = path / TRAJECTORY
    if not path.is_file():
        raise FileNotFoundError(
            f"`source` must be a run with a trajectory; got {source}, which has none. Train with --record epoch --out."
        )
    return path


def recorded_config(folder: Path, trust: Collection[str] = ()) -> Run | None:
    """The config of the run in a folder; None where there is no result.

    Raises:
        ValueError: it names an import path that is not in ``trust``.
    """
    try:
        fields = decode_row((folder / RESULT).read_bytes())["config"]
    except (OSError, ValueError):
        return None
    for name in ("task", "projection", "optimizer"):
        value = fields.get(name)
        known = value in trust or is_known(str(value))  # what this process has is imported already
        if isinstance(value, str) and (":" in value or leads_elsewhere(value)) and not known and not _ours(value):
            what = "an import path" if ":" in value else "which leads to files or a model of its own"
            raise ValueError(
                f"`source` must name what is registered; got the {name} {value!r} in {folder / RESULT}, {what}. "
                f"If you know that code and trust it, add --trust {value}."
            )
    try:
        return Run.from_dict(fields)
    except (ValueError, TypeError):
        return None


def _ours(path: str) -> bool:
    """Whether an import path leads into this library."""
    return path.rpartition("@")[2].partition(":")[0].split(".")[0] == "subspaces"


def choose(trajectory: Trajectory, samples: int | None, every: int = 1) -> Trajectory:
    """The first samples of a trajectory, or every n-th of them."""
    if samples is not None and not 2 <= samples <= len(trajectory):
        raise ValueError(f"`samples` must be 2…{len(trajectory)}, those recorded; got {samples}.")
    return trajectory.every(every, 0, samples)


def orthonormality(basis: LearnedBasis) -> float:
    """Largest entry of |PᵀP − I|, summed in float64."""
    products = torch.zeros(basis.d, basis.d, dtype=torch.float64)
    for part in basis.rows.split(1 << 16, dim=1):
        products += part.double() @ part.double().T
    return float((products - torch.eye(basis.d, dtype=torch.float64)).abs().max())


def _origin(basis: LearnedBasis) -> Any:
    return basis.mean if basis.at_mean else basis.start


def _start_at_initialisation(basis: LearnedBasis, config: Run | None, root: str | None) -> None:
    """Gradients carry no point: the subspace is laid through the initial weights of the run."""
    if config is None:
        raise ValueError("`source` must be the folder of a finished run, whose initial weights the subspace starts at.")
    fit, _ = build(config, None, root)
    named = dict(fit.model.named_parameters(remove_duplicate=False))
    assert basis.layout is not None
    basis.start = torch.cat([named[name].detach().float().cpu().reshape(-1) for name in basis.layout.names])
    basis.mean = None


def projected_score(config: Run, path: Path, chosen: Trajectory, d: int) -> float:
    """Test score of the last iterate projected on the first d directions of a stored basis; no training."""
    found = _scores(config, path, chosen, None, d)[1]
    return math.nan if found is None else found


def point_score(config: Run, point: Sample) -> float:
    """Test score of a point of a recorded run, such as an average; BatchNorm statistics re-estimated."""
    fit, _ = build(dataclasses.replace(config, record=Recording()))
    point.load_into(fit.model)
    found = _score(fit)
    return math.nan if found is None else found


def _scores(config: Run, path: Path, chosen: Trajectory, root: str | None, d: int | None = None) -> tuple[Any, Any]:
    """Test scores of the last iterate and of its projection; statistics re-estimated for both."""
    fit, _ = build(dataclasses.replace(config, record=Recording()), None, root)
    if fit.subspace is not None:
        fit.subspace.remove()
    chosen[-1].load_into(fit.model)
    last = _score(fit)
    subspace: Subspace = enter_stored(fit.model, path, d)
    basis = subspace.projection
    start = torch.cat([tensor.reshape(-1) for tensor in subspace.origin.values()])
    with torch.no_grad():
        subspace.coordinates.copy_(projected_coordinates(chosen[-1], basis, start))
    subspace.sync()
    return last, _score(fit)


def _score(fit: Fit) -> float | None:
    refresh(fit)
    found = evaluate(fit, "test")
    return None if found is None else found[1]


def rows(found: Extraction) -> list[tuple[str, str]]:
    """The printed table: name and value."""
    held = sum(found.ratio[: found.d])
    shown = ", ".join(f"{value:.3g}" for value in found.singular_values[: min(found.d, 8)])
    more = ", …" if found.d > 8 else ""
    lines = [
        ("directions", f"d = {found.d} of D = {found.D:,}, {found.method} of {found.samples} samples"),
        ("singular values", shown + more),
        ("PCA ratio", f"{held:.6f} ({', '.join(f'{x:.3g}' for x in found.ratio[: min(found.d, 8)])}{more})"),
        ("|PᵀP − I|", f"{found.orthonormality:.2g}"),
    ]
    if found.distance is not None:
        lines.append(("end of the run", f"{found.distance:.4f} of the way lies outside the subspace"))
    if found.projected_score is not None:
        lines.append(("test, last iterate", f"{found.last_score:.4f}"))
        lines.append(("test, its projection", f"{found.projected_score:.4f} without training in the subspace"))
    return lines


def as_json(found: Extraction) -> str:
    """The extraction as one JSON object."""
    return json.dumps(found.to_dict())
