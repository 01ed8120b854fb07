"""A subspace written as a plain LoRA adapter, which PEFT and whatever reads its format load without this library."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subspaces import checkpoint, container, files
from subspaces.subspace.layer_kronecker.linear import KroneckerLinear
from subspaces.subspace.low_rank.kinds import matrix_of
from subspaces.subspace.low_rank.layers import LowRankLayer

RANK = 8
"""Of what is not of low rank by itself, where none is asked for."""
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """What was written.

    Attributes:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        error: ‖ΔW − B A‖ / ‖ΔW‖ over all adapted weights; 0 in spaces of low rank.
        layers: names of the adapted layers.
        whole: names of the modules that are stored as they are (norms, small layers).
        bytes: of the file of tensors.
    """

    folder: Path
    error: float
    layers: tuple[str, ...]
    whole: tuple[str, ...]
    bytes: int


@torch.no_grad()
def to_lora(subspace: Any, folder: str | Path, rank: int | None = None) -> Adapter:
    """Write the change from θ₀ to the present point as a LoRA adapter for the model at θ₀.

    A factored layer has its factors (the spaces "lora", "lora-xs" and "layer-kronecker"): exact. In the space of all
    weights each has the best factors of `rank`, by SVD, with the loss that is told. Biases of adapted layers are
    stored as they are; so are whole modules whose other tensors moved (norms, small layers, convolutions with groups,
    dilation or padding that PEFT's layer does not know, and what moved as a whole beside factored layers).

    Args:
        subspace: a `Subspace`.
        folder: to write into; made if it is not there.
        rank: of weights that moved as a whole, ≥ 1; None: 8, and beside factored layers none. These keep theirs.

    Raises:
        ValueError: a model that is one layer, which PEFT cannot adapt; a rank below 1.

    Cost: an SVD of each weight that moved as a whole; that of writing the file otherwise.
    """
    if rank is not None and (type(rank) is not int or rank < 1):
        raise ValueError(f"`rank` must be a positive integer or None; got {rank!r}.")
    subspace.sync()
    parts = _Parts(subspace, RANK if rank is None and subspace.kind is None else rank)
    for name, module in subspace.model.named_modules():
        parts.add(name, module)
    if not parts.ranks:
        raise ValueError(
            f"`subspace` must move a layer that LoRA can adapt; got {type(subspace.model).__name__} without."
        )
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    config = json.dumps(parts.config(subspace.model), indent=2, sort_keys=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in parts.tensors.items()}
    container.write(place / "adapter_model.safetensors", "lora", {"made_by": "subspaces"}, tensors)
    files.atomic_write(place / "adapter_config.json", f"{config}\n".encode())
    error = (parts.missed / parts.total) ** 0.5 if parts.total else 0.0
    size = (place / "adapter_model.safetensors").stat().st_size
    return Adapter(place, error, tuple(parts.ranks), tuple(parts.whole), size)


class _Parts:
    """Collects the tensors of an adapter, module by module."""

    def __init__(self, subspace: Any, rank: int | None):
        self.rank = rank
        self.tensors: dict[str, Tensor] = {}
        self.ranks: dict[str, int] = {}
        self.whole: list[str] = []
        self.transposed = False
        self.missed = self.total = 0.0
        self.origin = subspace.native_origin()
        names = zip(subspace.layout.names, subspace.places, strict=True)
        self.moved = {(id(module), leaf) for _, places in names for module, leaf in places}

    def add(self, name: str, module: nn.Module) -> None:
        leaves = {leaf for leaf in module._parameters if (id(module), leaf) in self.moved}
        if not leaves:
            return
        factors = self._factors(name, module, leaves)
        others = leaves - {"weight", "left", "core", "right"}
        if factors is None or not others <= {"bias"}:
            self.whole.append(self._named(name))
            for leaf in module._parameters:
                if leaf not in ("base", "left", "core", "right") and module._parameters[leaf] is not None:
                    self.tensors[f"{_PREFIX}{name}.{leaf}"] = getattr(module, leaf)
            if "base" in module._parameters:
                self.tensors[f"{_PREFIX}{name}.weight"] = module.weight  # type: ignore[assignment]
            return
        self._store(self._named(name), module, *factors)
        if "bias" in others:
            self.tensors[f"{_PREFIX}{name}.base_layer.bias"] = module.bias  # type: ignore[assignment]

    def _named(self, name: str) -> str:
        if not name:
            raise ValueError(
                "`subspace` must be of a model with layers for PEFT to adapt; got one that is a layer itself."
            )
        return name

    def _factors(self, name: str, module: Any, leaves: set[str]) -> tuple[Tensor, Tensor] | None:
        """ΔW = L R of a layer as a matrix of its first axis by the others; None where LoRA cannot have it."""
        if isinstance(module, LowRankLayer):
            if not _is_plain_convolution(module):
                return None
            left = module.left if module.core is None else module.left @ module.core
            return left * module.scale, module.right
        if isinstance(module, KroneckerLinear):
            if module.right is None:
                return (
                    (module.core, torch.eye(len(module.core.T))) if module.left is None else (module.left, module.core)
                )
            return module.core if module.left is None else module.left @ module.core, module.right
        plain = getattr(type(module), "_plain_class", type(module))
        if self.rank is None or "weight" not in leaves or not _is_adaptable(plain) or not _is_plain_convolution(module):
            return None
        start = self.origin[f"{name}.weight"]
        change = (module.weight.detach().double() - start.double()).view(matrix_of(start))
        if min(change.shape) <= self.rank:
            return None
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        self.missed += float(s[self.rank :].square().sum())
        self.total += float(s.square().sum())
        root = s[: self.rank].sqrt()
        return (u[:, : self.rank] * root).to(start.dtype), (root[:, None] * v[: self.rank]).to(start.dtype)

    def _store(self, name: str, module: Any, left: Tensor, right: Tensor) -> None:
        self.ranks[name] = right.shape[0]
        key = f"{_PREFIX}{name}.lora_"
        kind = getattr(type(module), "_plain_class", type(module))
        kind = getattr(kind, "plain", kind)
        if issubclass(kind, nn.Embedding):
            self.tensors[f"{key}embedding_A"], self.tensors[f"{key}embedding_B"] = left.T, right.T
        elif _is_transposed(kind):
            self.transposed = True
            self.tensors[f"{key}A.weight"], self.tensors[f"{key}B.weight"] = left.T, right.T
        else:
            kernel = module.kernel_size if hasattr(module, "kernel_size") else ()
            shape = (right.shape[0], -1, *kernel)
            self.tensors[f"{key}A.weight"] = right.reshape(shape if kernel else right.shape)
            self.tensors[f"{key}B.weight"] = left.view(*left.shape, *[1] * len(kernel))

    def config(self, model: nn.Module) -> dict[str, Any]:
        """What PEFT reads; B A counts as it is, without a factor."""
        base, top = checkpoint.base_of(model), max(self.ranks.values())
        patterns = {name: rank for name, rank in self.ranks.items() if rank != top}
        return {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": base.get("name"),
            "revision": base.get("revision"),
            "inference_mode": True,
            "r": top,
            "lora_alpha": top,
            "rank_pattern": patterns,
            "alpha_pattern": patterns,
            "lora_dropout": 0.0,
            "init_lora_weights": True,
            "fan_in_fan_out": self.transposed,
            "bias": "lora_only" if any(name.endswith(".base_layer.bias") for name in self.tensors) else "none",
            "target_modules": sorted(self.ranks),
            "modules_to_save": sorted(self.whole) or None,
        }


def _is_adaptable(kind: Any) -> bool:
    return kind in (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d) or _is_transposed(kind)


def _is_transposed(kind: Any) -> bool:
    transformers = sys.modules.get("transformers.pytorch_utils")
    return transformers is not None and issubclass(kind, transformers.Conv1D)


def _is_plain_convolution(module: Any) -> bool:
    """Whether PEFT's layer for a convolution computes as this one does; True for what is none."""
    if not hasattr(module, "kernel_size"):
        return True
    return module.groups == 1 and module.padding_mode == "zeros" and set(module.dilation) == {1}
