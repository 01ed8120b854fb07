"""Small adapters side by side: how each is put on a model, what of it is trained, and what its file is.

Every method trains the head (what a model has outside of its base) beside its own numbers and stores it with them.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from subspaces import Subspace

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


@dataclass
class Made:
    """A method on a model.

    Attributes:
        model: to be called.
        own: what is trained besides the head.
        head: the parameters of the head.
        save: writes what a user would keep into a folder.
        rate: from the rate of the method to that of `own`.
    """

    model: nn.Module
    own: list[nn.Parameter]
    head: list[nn.Parameter]
    save: Callable[[Path], Any]
    rate: Callable[[float], float] = float

    @property
    def numbers(self) -> int:
        """Trained numbers besides the head."""
        return sum(p.numel() for p in self.own)

    def bytes(self, folder: Path) -> int:
        """What all its files take."""
        self.save(folder)
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Method:
    """A way to fine-tune.

    Attributes:
        make: (plain model, trained numbers that are asked for, seed) → the method on it.
        first: the middle one of the first three rates that are tried.
        sized: how many numbers it trains can be chosen.
    """

    make: Callable[[nn.Module, int, int], Made]
    first: float
    sized: bool = True


def head_of(model: Any) -> list[str]:
    """Names of the modules that are not of the base model and have parameters."""
    return [n for n, part in model.named_children() if n != model.base_model_prefix and list(part.parameters())]


def linears_of(model: Any) -> list[str]:
    """Names of the linear layers of the base model: what adapters are put on."""
    found = model.base_model.named_modules()
    kinds = ("Linear", "Conv1D")
    return [f"{model.base_model_prefix}.{name}" for name, part in found if type(part).__name__ in kinds]


# ---- ours


def ours(linear_only: bool, first: float, options: Callable[[Any, int], dict[str, Any]] | None = None) -> Method:
    """A subspace of the whole base, or of the weights of its linear layers."""

    def make(model: Any, numbers: int, seed: int) -> Made:
        targets, beside = linears_of(model), head_of(model)
        moved = {f"{name}.weight" for name in targets}
        head = [p for name in beside for p in model.get_submodule(name).parameters()]
        for name, parameter in model.named_parameters():
            within = any(parameter is p for p in head)
            parameter.requires_grad_(within or not linear_only or name in moved)
        more = options(targets, numbers) if options else {}
        outside = [f"{name}.*" for name in beside] or None
        subspace = Subspace(model, numbers, seed=seed, exclude=outside, **more)
        return Made(
            model, [subspace.coordinates], head, lambda folder: subspace.save(folder / "a.safetensors"),
            lambda native: subspace.lr(native, "adam"),
        )  # fmt: skip

    return Method(make, first)


def _core_rank(targets: Sequence[str], numbers: int) -> int:
    """The least rank, from 4 on, at which the cores have a fifth more numbers than are trained."""
    return max(4, math.ceil(math.sqrt(1.2 * numbers / len(targets))))


# ---- PEFT's


def peft(first: float, config: Callable[[Any, dict[str, Any], int, int], Any], sized: bool = True) -> Method:
    """A method of PEFT on the same linear layers, with its own defaults besides the size."""

    def make(model: Any, numbers: int, seed: int) -> Made:
        from peft import get_peft_model

        shared = {"target_modules": linears_of(model), "modules_to_save": head_of(model)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped: Any = get_peft_model(model, config(model, shared, numbers, seed))
        trained = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
        head = [p for name, p in trained.items() if "modules_to_save" in name]
        own = [p for name, p in trained.items() if "modules_to_save" not in name]
        return Made(wrapped, own, head, wrapped.save_pretrained)

    return Method(make, first, sized)


def _unilora(model: Any, shared: dict[str, Any], numbers: int, seed: int) -> Any:
    from peft import UniLoraConfig

    return UniLoraConfig(**shared, theta_d_length=numbers, proj_seed=seed)


def _tinylora(model: Any, shared: dict[str, Any], numbers: int, seed: int) -> Any:
    """u numbers a layer; r so large that the r² entries of a core are no fewer."""
    from peft import TinyLoraConfig

    u = max(1, round(numbers / len(shared["target_modules"])))
    return TinyLoraConfig(**shared, u=u, r=max(2, math.ceil(math.sqrt(u))), projection_seed=seed)


def _vera(model: Any, shared: dict[str, Any], numbers: int, seed: int) -> Any:
    """A layer takes out + r numbers: as many layers, spread evenly, as leave a fifth of the numbers for r."""
    from peft import VeraConfig

    names = shared["target_modules"]
    for count in range(len(names), 0, -1):
        some = [names[round(i * (len(names) - 1) / max(1, count - 1))] for i in range(count)]
        outputs = sum(model.get_submodule(name).out_features for name in some)
        if outputs <= 0.8 * numbers or count == 1:
            rank = max(1, (numbers - outputs) // count)
            return VeraConfig(**{**shared, "target_modules": some}, r=rank, projection_prng_key=seed)
    raise AssertionError("a model without linear layers")


def _fourier(model: Any, shared: dict[str, Any], numbers: int, seed: int) -> Any:
    """Frequencies of each layer; the spectrum starts at zero, as the model itself."""
    from peft import FourierFTConfig

    each = max(1, round(numbers / len(shared["target_modules"])))
    return FourierFTConfig(**shared, n_frequency=each, init_weights=True, random_loc_seed=seed)


def _lora(model: Any, shared: dict[str, Any], numbers: int, seed: int) -> Any:
    from peft import LoraConfig

    names = [name for name in shared["target_modules"] if name.endswith(("query", "value", "q_proj", "v_proj"))]
    return LoraConfig(**{**shared, "target_modules": names or shared["target_modules"]}, r=1, lora_alpha=1)


# ---- some of the tensors as they are


def plain(first: float, chosen: Callable[[str, nn.Module], bool]) -> Method:
    """Direct training of the tensors of the base for which `chosen(name, module)` is true."""

    def make(model: Any, numbers: int, seed: int) -> Made:
        head = [p for name in head_of(model) for p in model.get_submodule(name).parameters()]
        own: dict[str, nn.Parameter] = {}
        for prefix, module in model.base_model.named_modules():
            for leaf, parameter in module.named_parameters(recurse=False):
                parameter.requires_grad_(chosen(leaf, module))
                if parameter.requires_grad:
                    own[f"{prefix}.{leaf}"] = parameter
        kept = {**own, **{f"head.{i}": p for i, p in enumerate(head)}}
        return Made(
            model, list(own.values()), head,
            lambda folder: save_file({n: p.detach().contiguous() for n, p in kept.items()}, folder / "a.safetensors"),
        )  # fmt: skip

    return Method(make, first, False)


def _is_norm_or_bias(leaf: str, module: nn.Module) -> bool:
    return leaf == "bias" or "Norm" in type(module).__name__


METHODS: dict[str, Method] = {
    "head alone": plain(3e-3, lambda leaf, module: False),
    "full fine-tuning": plain(3e-4, lambda leaf, module: True),
    "ours, all": ours(False, 1e-3),
    "ours, all, by type": ours(False, 1e-3, lambda targets, numbers: {"blocks": "type", "allocation": "even"}),
    "ours, all, SAID": ours(False, 1e-3, lambda targets, numbers: {"layer_scale": True, "scale_of": "block"}),
    "ours, lora": ours(True, 3e-3, lambda targets, numbers: {"space": "lora", "rank": 4}),
    "ours, lora-xs": ours(
        True, 1e-3, lambda targets, numbers: {"space": "lora-xs", "rank": _core_rank(targets, numbers)}
    ),
    "ours, layer-kronecker": ours(True, 1e-3, lambda targets, numbers: {"space": "layer-kronecker"}),
    "Uni-LoRA": peft(3e-3, _unilora),
    "TinyLoRA": peft(3e-3, _tinylora),
    "VeRA": peft(3e-3, _vera),
    "FourierFT": peft(3e-2, _fourier),
    "LoRA, r = 1": peft(3e-3, _lora, sized=False),
    "norms and biases": plain(1e-3, _is_norm_or_bias),
}


def optimizer_of(made: Made, rate: float, head_rate: float) -> torch.optim.Optimizer:
    """AdamW without decay, fused: `rate` for the method's own numbers, or for the head where there are no others."""
    groups: list[dict[str, Any]] = [{"params": made.head, "lr": head_rate if made.own else rate}] if made.head else []
    groups += [{"params": made.own, "lr": made.rate(rate)}] if made.own else []
    return torch.optim.AdamW(groups, weight_decay=0, fused=True)
