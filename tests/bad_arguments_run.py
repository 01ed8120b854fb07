"""Runs every case of the tables of bad arguments in one process without checks of types by tests, and prints outcomes.

    python tests/bad_arguments_run.py api | cli

Each case has fresh objects, which are made when it names them, in an empty folder. The outcome says what was raised or
printed, and what was changed by it: models, subspaces, files, torch's random state.
"""

import contextlib
import io
import json
import os
import shlex
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

import subspaces as ss
from subspaces import checkpoint
from subspaces.curvature import operators, spectrum
from subspaces.datasets import forms
from subspaces.dimension import measure as dimension_measure
from subspaces.dimension import result as dimension_result
from subspaces.learned import bases, tickets
from subspaces.runs import extract as extraction
from subspaces.runs import store
from subspaces.subspace.root import HOLDER
from subspaces.tasks import losses, metrics, readers, scores
from subspaces.transition import measure as transition_measure
from subspaces.transition import rule as transition_rule

D = 67  # of the network below


class Net(nn.Sequential):
    """Four inputs, three classes."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


class Odd:
    """An object whose repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def loop(d, seed):
    """A loop of one's own."""
    return 0.5


NAMES = {
    "ss": ss, "torch": torch, "np": np, "nn": nn, "nan": float("nan"), "inf": float("inf"), "checkpoint": checkpoint,
    **{name: getattr(ss, name) for name in ("optim", "learned", "tasks", "datasets", "models", "projections")},
    **{name: getattr(ss, name) for name in ("register", "resolve")},
    "Hessian": operators.Hessian, "spectral_density": spectrum.spectral_density, "lanczos": spectrum.lanczos,
    "hessian_subspace": bases.hessian_subspace, "iterative_magnitude_tickets": tickets.iterative_magnitude_tickets,
    "get_loss": losses.get_loss, "get_score": scores.get_score, "accuracy": metrics.accuracy, "r2": metrics.r2,
    "as_data": forms.as_data, "read_examples": readers.read_examples, "run_once": store.run_once,
    "extract": extraction.extract, "Rule": dimension_result.Rule, "TransitionRule": transition_rule.TransitionRule,
    "measure_dimension": dimension_measure.measure_dimension,
    "measure_transition": transition_measure.measure_transition, "Net": Net, "Odd": Odd, "loop": loop,
}  # fmt: skip
"""What the cases of the API are written with."""
MAKERS = {
    "m": lambda o: Net(),
    "m2": lambda o: Net(),
    "other": lambda o: nn.Linear(2, 2),
    "state": lambda o: Net().state_dict(),
    "s": lambda o: ss.Subspace(Net(), d=5),
    "x": lambda o: torch.randn(40, 4, generator=torch.Generator().manual_seed(1)),
    "y": lambda o: torch.arange(40) % 3,
    "p": lambda o: ss.make_projection("hadamard", 5, D),
    "w": lambda o: torch.zeros(5),
    "samples": lambda o: torch.randn(6, 20, generator=torch.Generator().manual_seed(2)),
    "rec": lambda o: ss.TrajectoryRecorder(Net(), every=1),
    "task": lambda o: ss.Task("own", Net, (o["x"], o["y"])),
    "file": lambda o: _saved(),
    "taken": lambda o: _taken(),
}
"""Name → what makes it, from the objects of the case."""


def _saved() -> str:
    ss.Subspace(Net(), d=5).save("saved.safetensors")
    return "saved.safetensors"


def _taken() -> str:
    Path("taken").write_text("a file")
    return "taken"


class Objects(dict):
    """The names of a case; those of `MAKERS` are made when they are asked for, under one seed."""

    def __missing__(self, name: str):
        if name not in MAKERS:
            raise KeyError(name)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self[name] = MAKERS[name](self)
        return self[name]


def state_of(objects: Objects) -> dict[str, object]:
    """What a refusal must leave as it was."""
    found: dict[str, object] = {"files": sorted((str(p), p.stat().st_size) for p in Path().rglob("*"))}
    found["random"] = torch.get_rng_state().tolist()
    for name in MAKERS.keys() & objects.keys():
        thing = objects[name]
        model = thing.model if isinstance(thing, ss.Subspace) else thing
        if isinstance(model, nn.Module):
            bits = {key: value.tolist() for key, value in model.state_dict().items()}
            flags = [(key, q.requires_grad, q.grad is None) for key, q in model.named_parameters()]
            kinds = [(type(one), one.training, HOLDER in vars(one)) for one in model.modules()]
            found[name] = repr((bits, flags, kinds))
    return found


def run_api(code: str, names: dict) -> dict[str, object]:
    """The outcome of one expression."""
    objects = Objects(names)
    needed = compile(code, "case", "eval").co_names
    for name in [name for name in MAKERS if name in needed or f"{{{name}}}" in code]:
        objects[name]
    before = state_of(objects)
    outcome: dict[str, object] = {"raised": "", "message": "", "changed": []}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            eval(code, objects)
        except BaseException as error:
            outcome |= {"raised": type(error).__name__, "message": str(error)}
    after = state_of(objects)
    outcome["changed"] = [name for name in before if before[name] != after[name]]
    outcome["warned"] = [str(one.message) for one in told]
    return outcome


def run_cli(words: list[str]) -> dict[str, object]:
    """The outcome of one command line, in this process."""
    from subspaces.cli import main

    out, err = io.StringIO(), io.StringIO()
    outcome: dict[str, object] = {"status": None, "raised": ""}
    before = state_of(Objects())
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as error:
            outcome["status"] = error.code
        except BaseException as error:
            outcome["raised"] = type(error).__name__
    after = state_of(Objects())
    told = " ".join(err.getvalue().replace("│", " ").split())
    return outcome | {"out": out.getvalue(), "err": told, "changed": [n for n in before if before[n] != after[n]]}


def enter(folder: Path) -> None:
    """Into an empty folder."""
    folder.mkdir()
    os.chdir(folder)


def main() -> None:
    """All cases of one kind, as JSON: a list of outcomes."""
    sys.path.insert(0, str(Path(__file__).parent))
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory() as root:
        if sys.argv[1] == "cli":
            from bad_arguments_cli import CASES, FILES

            for number, (line, _) in enumerate(case for cases in CASES.values() for case in cases):
                enter(Path(root, str(number)))
                for name in [name for name in FILES if name in line]:
                    Path(name).write_text(FILES[name])
                found.append(run_cli(shlex.split(line)))
        else:
            import bad_arguments_api
            import bad_arguments_measuring
            import bad_arguments_tasks
            import bad_arguments_training

            modules = (bad_arguments_api, bad_arguments_training, bad_arguments_tasks, bad_arguments_measuring)
            codes = [code for module in modules for cases in module.CASES.values() for code, _ in cases]
            for number, code in enumerate([*codes, *bad_arguments_tasks.FINE]):
                enter(Path(root, str(number)))
                found.append(run_api(code, NAMES))
        os.chdir("/")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
