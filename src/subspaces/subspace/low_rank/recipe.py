"""Which layers of a model move in few directions, and what their factors are: a function of a few integers and W₀."""

import glob
import hashlib
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subspaces.projections import make_projection
from subspaces.subspace.frozen import FrozenDigest
from subspaces.subspace.low_rank.kinds import factor_, kind_of, matrix_of, new_factors, unfactor_
from subspaces.subspace.low_rank.layers import LowRankKept, LowRankLayer, dequantised
from subspaces.subspace.low_rank.leading import leading_vectors


@dataclass(frozen=True)
class Recipe:
    """What rebuilds the factors, besides W₀."""

    kind: str
    rank: int
    scale: float | None
    seed: int

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"`rank` must be a positive integer; got {self.rank!r}.")
        if self.scale is not None and not (isinstance(self.scale, int | float) and 0 < self.scale < float("inf")):
            raise ValueError(f"`scale` must be a positive number, or None to follow the sizes; got {self.scale!r}.")

    @property
    def cores(self) -> bool:
        """Whether factors are frozen around a trained core."""
        return self.kind == "lora-xs"

    def trained(self, rows: int, columns: int) -> int:
        """Numbers that move in place of a weight."""
        rank = min(self.rank, rows, columns)
        return rank * rank if self.cores else rank * (rows + columns)

    def leaves(self) -> tuple[str, ...]:
        """Names of the factors that move."""
        return ("core",) if self.cores else ("left", "right")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, form: dict[str, Any], path: str | Path) -> "Recipe":
        """The recipe in the form of a file.

        Raises:
            ValueError: it is none that `to_dict` makes.
        """
        try:
            if type(form["seed"]) is not int or form["seed"] < 0 or not isinstance(form["weights"], str):
                raise ValueError("its seed or its hash of the weights is none")
            return cls(form["kind"], form["rank"], form["scale"], form["seed"])
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(
                f"`path` must hold the recipe of its factors; got {str(path)!r}, whose form is {form!r} ({error})."
            ) from error


def owners_of(model: nn.Module) -> dict[int, list[tuple[str, nn.Module, str]]]:
    """For each parameter under which names of which modules it stands."""
    found: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for prefix, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                found.setdefault(id(parameter), []).append((prefix, module, leaf))
    return found


def layers_to_factor(
    model: nn.Module, chosen: dict[str, nn.Parameter], in_bytes: set[str], recipe: Recipe
) -> list[str]:
    """Names of the modules to be factored, of shared weights the first one of each.

    Of chosen weights those whose factors have at most half of their numbers; and the layers held in bytes, since
    nothing else can move them.
    """
    wanted, found = {id(p) for p in chosen.values()}, []
    for key, owners in owners_of(model).items():
        kinds = [kind_of(module) if leaf == "weight" else None for _, module, leaf in owners]
        if None in kinds or len({kind.zero_side for kind in kinds if kind is not None}) != 1:
            continue
        kind, weight = kinds[0], owners[0][1]._parameters["weight"]
        assert kind is not None
        assert weight is not None
        if issubclass(kind, LowRankKept):
            found += [owners[0][0]] if owners[0][0] in in_bytes and len(owners) == 1 else []
        elif key in wanted:
            rows, columns = matrix_of(weight)
            small = 2 * recipe.trained(rows, columns) <= rows * columns and recipe.rank <= min(rows, columns)
            found += [min(prefix for prefix, _, _ in owners)] if small else []
    return sorted(found)


def factor_all_(model: nn.Module, names: Iterable[str], recipe: Recipe) -> None:
    """Factor layers in place, and those that share their weights with them.

    Raises:
        ValueError: a name that is none of a layer which can be factored.
    """
    modules, owners = dict(model.named_modules()), owners_of(model)
    for name in names:
        module = modules.get(name)
        weight = None if module is None else module._parameters.get("weight")
        kind = None if module is None or weight is None else kind_of(module)
        if kind is None or weight is None:
            raise ValueError(f"`model` must have a layer that can be factored at {name!r}; got none.")
        factors = factors_of(module, recipe, name)
        bytes_only = issubclass(kind, LowRankKept)
        dtype = weight.dtype if weight.dtype.is_floating_point and not bytes_only else _compute_dtype(model, weight)
        made = new_factors(weight, factors[0].shape[1], factors, recipe.cores, weight.device, dtype)
        scale = scale_of(recipe, *_sides(module, weight))
        for _, owner, _ in owners[id(weight)]:
            other = kind_of(owner)
            assert other is not None
            factor_(owner, other, *made, scale)


def _compute_dtype(model: nn.Module, weight: Any) -> torch.dtype:
    """In which a layer of bytes computes: what its weight says, or that of the other tensors."""
    if weight.dtype.is_floating_point:
        return weight.dtype
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _sides(module: Any, weight: Tensor) -> tuple[int, int]:
    """Rows and columns, also of a weight that is packed."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    return matrix_of(weight)


def scale_of(recipe: Recipe, rows: int, columns: int) -> float:
    """c: as given; by default 1 for LoRA, and for cores √(rows·columns)/r, so that all weights move alike."""
    if recipe.scale is not None:
        return float(recipe.scale)
    return (rows * columns) ** 0.5 / min(recipe.rank, rows, columns) if recipe.cores else 1.0


def factors_of(module: Any, recipe: Recipe, name: str) -> tuple[Tensor, Tensor]:
    """L and R of a layer: singular vectors of W₀; or zeros and signs of a seed that its name gives."""
    kind = type(module) if isinstance(module, LowRankLayer) else kind_of(module)
    assert kind is not None
    held: Any = module._parameters.get("base", module._parameters.get("weight"))
    rows, columns = _sides(module, held)
    rank = min(recipe.rank, rows, columns)
    if recipe.cores:
        kept = issubclass(kind, LowRankKept)
        matrix = dequantised(module) if kept else held.detach().reshape(rows, columns)
        left, right = leading_vectors(matrix, rank)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            left[module.padding_idx] = 0  # ordinary training never moves this row
        return left.float(), right.T.float().contiguous()
    seed = int.from_bytes(hashlib.sha256(f"{recipe.seed} {name}".encode()).digest()[:8], "little")
    if kind.zero_side == "left":
        return torch.zeros(rows, rank), _random_signs(rank, columns, seed).T
    return _random_signs(rank, rows, seed), torch.zeros(rank, columns)


def _random_signs(rank: int, n: int, seed: int) -> Tensor:
    """±2^−k (n × r) near 1/√n: columns of length 0.7 to 1.4, and the same numbers in every dtype, whatever is cast."""
    dense = make_projection("dense", rank, n, seed, entries="rademacher").to_dense(torch.float32)
    return dense.sign() * 2.0 ** -round(math.log2(n) / 2)


def unfactor_all_(model: nn.Module) -> None:
    """Make every low-rank layer plain again; the weights stay as they stand."""
    for module in list(model.modules()):
        unfactor_(module)


def layers_of(model: nn.Module) -> dict[str, LowRankLayer]:
    """The low-rank layers by name, those that share their factors each once."""
    found: dict[int, tuple[str, LowRankLayer]] = {}
    for name, module in sorted(model.named_modules()):
        if isinstance(module, LowRankLayer):
            with torch.no_grad():
                found.setdefault(id(module._parameters["right"]), (name, module))
    return dict(found.values())


def weights_digest(layers: dict[str, LowRankLayer], once: FrozenDigest | None = None) -> str:
    """A hash of the exact bits of the frozen weights, by name; of those held in bytes, of their numbers."""
    ordered: list[Any] = [layers[name] for name in sorted(layers)]
    if any(isinstance(layer, LowRankKept) for layer in ordered):
        held = [layer._parameters.get("base", layer._parameters.get("weight")) for layer in ordered]
        return (once or FrozenDigest())(held, (layer.base for layer in ordered))
    return (once or FrozenDigest())([layer.base for layer in ordered])


def names_in(names: Iterable[str], recipe: Recipe) -> list[str]:
    """The layers that a layout tells of, by the factors in it."""
    leaf = recipe.leaves()[-1]
    return [name.removesuffix(leaf).rstrip(".") for name in names if name.rpartition(".")[2] == leaf]


def joined(module: str, leaf: str) -> str:
    """The name of a tensor of a module; "" is the model itself."""
    return f"{module}.{leaf}" if module else leaf


def moved_names(chosen: dict[str, nn.Parameter], model: nn.Module, recipe: Recipe) -> list[str]:
    """Patterns of the tensors that move, in a model whose layers are factored."""
    inside = {id(layer._parameters.get("base")) for layer in layers_of(model).values()}
    names = [name for name, parameter in chosen.items() if id(parameter) not in inside]
    names += [joined(name, leaf) for name in layers_of(model) for leaf in recipe.leaves()]
    return [glob.escape(name) for name in names]
