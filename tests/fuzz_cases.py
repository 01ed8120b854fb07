"""What becomes of a damaged file of each kind: refused by name, the same as before, or what must never be."""

import hashlib
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mutations import Mutant
from test_checkpoint_contents import GOLDEN, _golden_network

from subspaces import Subspace
from subspaces.learned.bases import load_basis
from subspaces.learned.stored import load_subspace
from subspaces.learned.trajectory import Trajectory, TrajectoryRecorder
from subspaces.subspace import subspace_of
from subspaces.subspace.layer_kronecker import LayerKronecker
from subspaces.training.state import STATE, read_state

REFUSED, SAME, SHORTER, SAID = "refused", "the same", "shorter", "as it says"
WRONG, UGLY, CHANGED, SLOW, HEAVY = "silently wrong", "another error", "model changed", "slow", "too much memory"
NEVER = (WRONG, UGLY, CHANGED, SLOW, HEAVY)
LIMIT = 5.0
"""Seconds of the processor that no file may take."""


class Refused(Exception):
    """How a state is refused: it is put aside with a warning."""


class Case(NamedTuple):
    """A kind of file: a good one, and what reading it gives, as a list of hashes; `grows` may end anywhere."""

    source: Path
    read: Callable[[Path], list[str]]
    grows: bool = False


def bits(tensors: Mapping[str, Any]) -> str:
    """A hash of names, dtypes, shapes and bits; anything else by its words."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        if isinstance(value, torch.Tensor):
            total.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
            total.update(value.detach().reshape(-1).contiguous().view(torch.uint8).numpy().data)
        else:
            total.update(f"{name} {value!r};".encode(errors="replace"))
    return total.hexdigest()


_BASE = bits(_golden_network().state_dict())


class ModelChanged(Exception):
    """A refused file left its traces."""


def _checkpoint(path: Path) -> list[str]:
    model = _golden_network()
    try:
        subspace = Subspace.load(model, path)
    except BaseException as error:
        if bits(model.state_dict()) != _BASE or subspace_of(model) is not None:
            raise ModelChanged from error
        raise
    return [bits({**model.state_dict(), "d": subspace.d})]


def _basis(path: Path) -> list[str]:
    stored, basis = load_subspace(path), load_basis(path)
    parts = {"rows": basis.rows, "values": basis.singular_values, "mean": basis.mean, "end": stored.end}
    return [bits({**stored.origin, **parts, "method": basis.method, "d": stored.projection.d})]


def _ticket(path: Path) -> list[str]:
    stored = load_subspace(path)
    return [bits({**stored.origin, "rows": stored.projection.rows, "method": stored.method})]  # type: ignore[attr-defined]


def _trajectory(path: Path) -> list[str]:
    samples = Trajectory.open(path)
    return [bits({**samples[i], "step": samples.steps[i]}) for i in range(len(samples))]


def _resumed(path: Path) -> list[str]:
    """As `_trajectory`, opened for going on; what is refused stays as it was."""
    before = path.read_bytes()
    try:
        recorder = TrajectoryRecorder(_golden_network(), every=1, path=path, resume=True)
        recorder.close()
    except BaseException as error:
        if path.read_bytes() != before:
            raise ModelChanged from error
        raise
    return _trajectory(path)


def _state(path: Path) -> list[str]:
    folder = path.parent / "run"
    folder.mkdir(exist_ok=True)
    shutil.copy(path, folder / STATE)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        kept = read_state(folder)
    if kept is None:
        assert (folder / f"{STATE}.corrupt").read_bytes() == path.read_bytes()
        raise Refused(str(told[0].message).replace(str(folder / STATE), str(path)))
    return [bits({**kept[0], **{f"scalar {name}": value for name, value in kept[1].items()}})]


_FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-")


def _made(name: str, dtype: str = "full", **options: Any) -> Case:
    """A checkpoint of today, of a subspace of the golden network."""
    model, path = _golden_network(), Path(_FOLDER.name) / f"{name}.safetensors"
    subspace = (LayerKronecker if name == "layer-kronecker" else Subspace)(model, **options)
    subspace.move_to(torch.linspace(-1, 1, subspace.coordinates.numel()))
    subspace.save(path, dtype=dtype)
    return Case(path, _checkpoint)


CASES = {
    "checkpoint": Case(GOLDEN / "checkpoint-v2-plain.safetensors", _checkpoint),
    "checkpoint, layer scales": Case(GOLDEN / "checkpoint-v2-said.safetensors", _checkpoint),
    "checkpoint with origin": Case(GOLDEN / "checkpoint-v2-own-origin.safetensors", _checkpoint),
    "checkpoint of layer-kronecker": _made("layer-kronecker", d=12, rank=2),
    "checkpoint of blocks, int8": _made("blocks", "int8", d=12, blocks="layer", layer_scale=True),
    "checkpoint of a basis": _made("basis", projection=load_subspace(GOLDEN / "basis-v2-saved.safetensors").projection),
    "basis": Case(GOLDEN / "basis-v2-saved.safetensors", _basis),
    "ticket": Case(GOLDEN / "ticket-v2.safetensors", _ticket),
    "trajectory": Case(GOLDEN / "trajectory-v2-bfloat16", _trajectory, True),
    "trajectory, resumed": Case(GOLDEN / "trajectory-v2-float32", _resumed, True),
    "state": Case(GOLDEN / "state-v2-subspace.safetensors", _state),
}
FORMER = {
    "checkpoint, format 1": Case(GOLDEN / "checkpoint-v1-plain.safetensors", _checkpoint),
    "basis, format 1": Case(GOLDEN / "basis-v1-saved.safetensors", _basis),
    "ticket, format 1": Case(GOLDEN / "ticket-v1.safetensors", _ticket),
    "trajectory, format 1": Case(GOLDEN / "trajectory-v1-bfloat16", _trajectory, True),
    "state, format 1": Case(GOLDEN / "state-v1-subspace.safetensors", _state),
}
"""Files without a hash of everything, which cannot be told from other ones wherever the shapes fit."""


def outcome(case: Case, mutant: Mutant, path: Path, whole: list[str]) -> str:
    """What reading a damaged file comes to. `whole` is what the good one gives; `path` is written."""
    path.unlink(missing_ok=True)  # ext4 forces the data of a file that is truncated and written to the disk: 3 ms
    path.write_bytes(mutant.content)
    started = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = case.read(path)
    except (ValueError, Refused) as error:
        told = str(error)
        found = REFUSED if str(path) in told and len(told) > len(str(path)) + 30 else UGLY
    except ModelChanged:
        found = CHANGED
    except Exception:
        found = UGLY
    if time.process_time() - started > LIMIT:
        return SLOW
    if isinstance(found, str):
        return found
    if found == whole:
        return SAME
    cut = len(mutant.content) != case.source.stat().st_size
    if case.grows and found == whole[: len(found)] and (cut or len(found) + 1 >= len(whole)):
        return SHORTER
    return SAID if mutant.sealed else WRONG
