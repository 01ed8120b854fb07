"""The recipe of a layer-wise Kronecker subspace: which layers are factored, and how their factors are made."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subspaces.errors import unknown_name
from subspaces.layout import digest_of
from subspaces.projections import make_projection, part_seed
from subspaces.subspace.layer_kronecker.linear import KroneckerLinear, factor_, unfactor_

Rank = int | Sequence[int | None]
FACTORS = ("hadamard", "orthonormal")
BALANCES = ("size", "core")


def make_recipe(
    model: nn.Module, chosen: list[str], rank: Rank, factors: str, balance: str, seed: int
) -> dict[str, Any]:
    """What rebuilds the factors, as JSON values."""
    pair = (rank, rank) if isinstance(rank, int) else tuple(rank)
    if len(pair) != 2 or not all(r is None or (type(r) is int and r >= 1) for r in pair):
        raise ValueError(
            f"`rank` must be a positive integer or a pair (r_out, r_in) of them, None for a whole side; got {rank!r}."
        )
    if factors not in FACTORS:
        raise unknown_name("factors", factors, FACTORS)
    if balance not in BALANCES:
        raise unknown_name("balance", balance, BALANCES)
    layers = _wide_layers(model, chosen, pair)
    if not layers:
        raise ValueError(
            f"`rank` must make the core of a linear layer at most half of its weight (convolutions, shared weights and "
            f"subclasses of Linear keep theirs); got {rank!r}, and {type(model).__name__} has no such layer. "
            f"Lower `rank`, or take another projection, such as hadamard."
        )
    return {"layers": layers, "rank": list(pair), "factors": factors, "balance": balance, "seed": seed}


def recipe_in(form: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The recipe in the form of a file.

    Raises:
        ValueError: it is none that `make_recipe` makes.
    """
    recipe = {name: form.get(name) for name in ("layers", "rank", "factors", "balance", "seed")}
    layers: Any = recipe["layers"]
    rank: Any = recipe["rank"]
    sound = isinstance(layers, list) and all(isinstance(n, str) for n in layers) and len({*layers}) == len(layers) > 0
    sound = sound and isinstance(rank, list) and len(rank) == 2
    sound = sound and all(r is None or (type(r) is int and r >= 1) for r in rank)
    sound = sound and recipe["factors"] in FACTORS and recipe["balance"] in BALANCES
    if not sound or type(recipe["seed"]) is not int or not isinstance(form.get("weights"), str):
        raise ValueError(f"`path` must hold the recipe of its factors; got {str(path)!r}, whose form is {form!r}.")
    return recipe


def _wide_layers(model: nn.Module, chosen: list[str], rank: Sequence[int | None]) -> list[str]:
    """Layers whose core has at most half the entries of the weight: others would gain nothing."""
    owners: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    wanted = set(chosen)
    return [
        name
        for name, module in sorted(model.named_modules())
        if type(module) is nn.Linear
        and joined(name, "weight") in wanted
        and owners[id(module.weight)] == 1
        and 2 * math.prod(core_shape(module.weight.shape, rank)) <= module.weight.numel()
    ]


def core_shape(weight: Sequence[int], rank: Sequence[int | None]) -> tuple[int, int]:
    """(r_out, r_in) of a layer: a side without a rank, or no longer than it, is kept whole."""
    out, into = (side if r is None else min(r, side) for side, r in zip(weight, rank, strict=True))
    return out, into


def joined(module: str, leaf: str) -> str:
    """The name of a tensor of a module; "" is the model itself."""
    return f"{module}.{leaf}" if module else leaf


def core_of(name: str, recipe: dict[str, Any]) -> str:
    """The name of the tensor that moves in place of a native one."""
    module, _, leaf = name.rpartition(".")
    if leaf != "weight" or module not in recipe["layers"]:
        return name
    return joined(module, "core")


def rows_of(model: nn.Module, chosen: list[str], recipe: dict[str, Any]) -> int:
    """D', the numbers that move: entries of cores and of the other chosen tensors of a plain model."""
    named = dict(model.named_parameters(remove_duplicate=False))
    factored = {joined(name, "weight") for name in recipe["layers"]}
    shapes = [core_shape(named[n].shape, recipe["rank"]) if n in factored else named[n].shape for n in chosen]
    return sum(math.prod(shape) for shape in shapes)


def factors_of(
    weight: Tensor, recipe: dict[str, Any], name: str
) -> tuple[Float[Tensor, "out r"] | None, Float[Tensor, "in s"] | None]:
    """B and A of a layer, None for a side that is kept whole; every layer has two streams of seeds of its own."""
    index = recipe["layers"].index(name)
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    left, right = (
        make_projection(recipe["factors"], r, n, part_seed(recipe["seed"], 2 * index + side)).to_dense(dtype)
        if r < n
        else None
        for side, (r, n) in enumerate(zip(core_shape(weight.shape, recipe["rank"]), weight.shape, strict=True))
    )
    return left, right


def factor_all_(model: nn.Module, recipe: dict[str, Any]) -> None:
    """Factor the layers of a recipe in place."""
    for name in recipe["layers"]:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        left, right = factors_of(layer.weight, recipe, name)
        core = math.prod(core_shape(layer.weight.shape, recipe["rank"]))
        gain = math.sqrt(layer.weight.numel() / core) if recipe["balance"] == "size" else 1.0
        factor_(layer, left, right, gain)


def unfactor_all_of_(model: nn.Module, recipe: dict[str, Any]) -> None:
    """Make the layers of a recipe plain again; those that were not factored yet, or are not there, stay as they are."""
    modules = dict(model.named_modules())
    for name in recipe["layers"]:
        if isinstance(layer := modules.get(name), nn.Linear):
            unfactor_(layer)


def linears_of(model: nn.Module, recipe: dict[str, Any], path: str | Path) -> dict[str, nn.Linear]:
    """The layers of a recipe in a plain model.

    Raises:
        ValueError: the model has no such layers.
    """
    modules = dict(model.named_modules())
    wrong = [name for name in recipe["layers"] if type(modules.get(name)) is not nn.Linear]
    if wrong:
        raise ValueError(f"`model` must have the linear layers of {str(path)!r}; got none at {', '.join(wrong[:4])}.")
    found = {name: module for name, module in modules.items() if isinstance(module, nn.Linear)}
    return {name: found[name] for name in recipe["layers"]}


def weights_digest(layers: Any, once: Callable[[list[Tensor]], str] = digest_of) -> str:
    """A hash of the exact bits of the frozen weights, by `once`."""
    return once([m.base if isinstance(m, KroneckerLinear) else m.weight for m in layers.values()])
