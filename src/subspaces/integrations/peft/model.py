"""A model whose layers have adapters that hang from one vector of d numbers each."""

from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, load_peft_weights
from torch import Tensor, nn

from subspaces.integrations.peft.layer import SubspaceLayer
from subspaces.projections import make_projection
from subspaces.subspace.low_rank.recipe import Recipe

_KEY = "base_model.subspace_w"


class SubspaceModel(BaseTuner):
    """PEFT's tuner: the layers that a `SubspaceConfig` names, and w of every adapter.

    The rows of P are those of the layers in the order of their names, so that a file does not depend on the order in
    which a model registers them.
    """

    prefix: str = "subspace_"
    uses_shared_state: bool = True
    tuner_layer_cls = SubspaceLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **options: Any) -> None:
        """Put an adapter into the layers, and tie its factors to w."""
        config: Any = self.peft_config[adapter_name]
        self._make_w(config, adapter_name)
        super().inject_adapter(model, adapter_name, *args, **options)
        self._tie(config, adapter_name)

    def _pre_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        self._make_w(config, adapter_name)

    def _make_w(self, config: Any, adapter: str) -> None:
        if "subspace_w" not in self._modules:
            self.subspace_w = nn.ParameterDict()
        if adapter not in self.subspace_w:
            w = torch.zeros(config.d) if config.init_weights else torch.randn(config.d)
            self.subspace_w[adapter] = nn.Parameter(w)

    def _tie(self, config: Any, adapter: str) -> None:
        modules = sorted(self.model.named_modules(), key=lambda item: item[0])
        layers = [layer for _, layer in modules if isinstance(layer, SubspaceLayer) and adapter in layer.recipes]
        if not layers:  # PEFT itself says so, or takes it
            return
        rows = sum(layer.rows(adapter) for layer in layers)
        if config.d > rows:
            raise ValueError(f"`d` must be at most {rows}, the numbers in all factors; got {config.d}. Raise `r`.")
        with torch.device("cpu"):
            projection, start = make_projection(config.projection, config.d, rows, config.seed), 0
        for layer in layers:
            layer.tie(adapter, projection, start)
            start += layer.rows(adapter)
        device = layers[0].get_base_layer().weight.device
        w: Any = self.subspace_w[adapter]
        if "meta" not in (device.type, w.device.type):
            w.data = w.data.to(device)
        w.requires_grad_(adapter in self.active_adapters and not config.inference_mode)

    def _create_and_replace(
        self, config: Any, adapter_name: str, target: Any, target_name: str, parent: Any, current_key: str, **_: Any
    ) -> None:
        recipe = Recipe(config.space, config.r, config.scale, config.seed)
        if isinstance(target, SubspaceLayer):
            target.add(adapter_name, recipe)
            target.set_adapter(self.active_adapters)
            return
        made = SubspaceLayer(target, current_key, self.subspace_w)
        made.add(adapter_name, recipe)
        made.set_adapter(self.active_adapters)
        if adapter_name not in self.active_adapters:
            made.requires_grad_(False)
        self._replace_module(parent, target_name, made, target)

    # ---- files

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: Any,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: Any,
    ) -> dict[str, Tensor]:
        """w alone, and biases where they are trained: the layers only point to it."""
        key = f"{_KEY}.{adapter_name}"
        return {key: state_dict[key], **cls._get_learnable_bias_state_dict(model, state_dict, config)}

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return {f"{_KEY}.{adapter_name}" if key == _KEY else key: value for key, value in state_dict.items()}


def hotswap(model: Any, folder: str | Path, adapter_name: str = "default") -> None:
    """Go to the numbers of another adapter of the same configuration, in place: d numbers are copied.

    PEFT's own `hotswap_adapter` is for LoRA only: it reads scales and ranks of LoRA layers.

    Args:
        model: a `PeftModel` with an adapter of this method, also compiled.
        folder: what `save_pretrained` wrote.
        adapter_name: of the adapter that takes the numbers.

    Raises:
        ValueError: another configuration, or more than w in the folder.
    """
    from subspaces.integrations.peft.config import SubspaceConfig

    plain: Any = getattr(model, "_orig_mod", model)
    own, other = plain.peft_config[adapter_name].to_dict(), SubspaceConfig.from_pretrained(str(folder)).to_dict()
    kept = (
        "d",
        "r",
        "space",
        "projection",
        "seed",
        "scale",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
    )
    if wrong := [name for name in kept if own[name] != other[name]]:
        name = wrong[0]
        raise ValueError(
            f"`folder` must hold an adapter of {name} = {own[name]!r}; got {other[name]!r} in {str(folder)!r}."
        )
    tensors = load_peft_weights(str(folder), device="cpu")
    if tensors.keys() != {_KEY}:
        raise ValueError(f"`folder` must hold w alone to be swapped; got {sorted(tensors)} in {str(folder)!r}.")
    with torch.no_grad():
        plain.base_model.subspace_w[adapter_name].copy_(tensors[_KEY])
