"""Which tensors of a model form the flat vector θ, in which order, under which names."""

import fnmatch
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from subspaces.errors import unknown_name

GROUPINGS = ("layer", "tensor", "type")


@dataclass(frozen=True)
class Layout:
    """The tensors of the flat vector θ, sorted by name; a shared tensor stands once, under its smallest name.

    Sorting makes the vector independent of the order in which a model happens to register its layers.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @property
    def sizes(self) -> list[int]:
        return [int(torch.Size(shape).numel()) for shape in self.shapes]

    @property
    def starts(self) -> list[int]:
        """First row of each tensor."""
        starts, row = [], 0
        for size in self.sizes:
            starts.append(row)
            row += size
        return starts

    @property
    def D(self) -> int:
        return sum(self.sizes)

    def to_json(self) -> str:
        return json.dumps(list(zip(self.names, self.shapes, self.dtypes, strict=True)), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        rows = json.loads(text)
        return cls(
            tuple(name for name, _, _ in rows),
            tuple(tuple(shape) for _, shape, _ in rows),
            tuple(dtype for _, _, dtype in rows),
        )

    def digest(self) -> str:
        """Hash of names, shapes and dtypes: two models with equal digests have the same flat vector."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    def difference(self, other: "Layout") -> str:
        """The first few ways in which another layout differs from this one, in words ("" when it does not)."""
        mine = {n: (s, t) for n, s, t in zip(self.names, self.shapes, self.dtypes, strict=True)}
        theirs = {n: (s, t) for n, s, t in zip(other.names, other.shapes, other.dtypes, strict=True)}
        told = [f"{name} {mine[name]} is missing" for name in mine if name not in theirs]
        told += [f"{name} {theirs[name]} is extra" for name in theirs if name not in mine]
        both = [name for name in mine if name in theirs and mine[name] != theirs[name]]
        told += [f"{name} is {theirs[name]} instead of {mine[name]}" for name in both]
        return "; ".join(told[:4]) + (f"; and {len(told) - 4} more" if len(told) > 4 else "")

    def groups(self, by: str) -> dict[str, list[tuple[int, int]]]:
        """Stretches of rows that belong together: by `layer` (module), `tensor`, or `type` (weight, bias, …)."""
        if by not in GROUPINGS:
            raise unknown_name("blocks", by, GROUPINGS)
        found: dict[str, list[tuple[int, int]]] = {}
        for name, start, size in zip(self.names, self.starts, self.sizes, strict=True):
            module, _, leaf = name.rpartition(".")
            key = {"layer": module, "tensor": name, "type": leaf}[by]
            found.setdefault(key, []).append((start, start + size))
        return found


def select(
    model: nn.Module, only: str | Sequence[str] | None = None, exclude: str | Sequence[str] | None = None
) -> dict[str, nn.Parameter]:
    """The trainable tensors of a model by name pattern (`fnmatch`: `*.bias`, `encoder.*`), sorted by name.

    Raises:
        ValueError: a pattern that matches nothing, or nothing left to train.
    """
    aliases: dict[int, list[str]] = {}
    tensors: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            aliases.setdefault(id(parameter), []).append(name)
            tensors[id(parameter)] = parameter
    every = [name for names in aliases.values() for name in names]
    wanted, unwanted = _patterns("only", only, every), _patterns("exclude", exclude, every)
    chosen = {
        min(names): tensors[key]
        for key, names in aliases.items()
        if (not wanted or any(_matches(n, wanted) for n in names)) and not any(_matches(n, unwanted) for n in names)
    }
    if not chosen:
        raise ValueError(
            "`model` must have a trainable parameter; got none that is selected. "
            "Unfreeze some (requires_grad_(True)) or relax `only` and `exclude`."
        )
    _check(chosen)
    return dict(sorted(chosen.items()))


def layout_of(parameters: dict[str, nn.Parameter]) -> Layout:
    return Layout(
        tuple(parameters),
        tuple(tuple(p.shape) for p in parameters.values()),
        tuple(str(p.dtype).removeprefix("torch.") for p in parameters.values()),
    )


def digest_of(tensors: Sequence[Tensor]) -> str:
    """A hash of the exact bits of tensors, in order."""
    total = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().reshape(-1).contiguous().cpu()
        total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()[:32]


def _patterns(argument: str, given: str | Sequence[str] | None, names: list[str]) -> list[str]:
    patterns = [given] if isinstance(given, str) else list(given or ())
    for pattern in patterns:
        if not any(_matches(name, [pattern]) for name in names):
            raise ValueError(
                f"`{argument}` must match a trainable parameter; got {pattern!r}. "
                f"Names look like {', '.join(names[:4])}, …"
            )
    return patterns


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _check(parameters: dict[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"`model` must be initialised; got the lazy parameter {name!r}. Run one batch first.")
        if not parameter.is_floating_point():
            raise TypeError(f"`model` must have real floating parameters; got {name!r} of {parameter.dtype}.")
        if not parameter.is_leaf:
            raise ValueError(f"`model` must own its parameters; got {name!r}, which is computed from others.")
