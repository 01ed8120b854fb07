"""What PEFT is told of an adapter of d numbers."""

from dataclasses import dataclass, field

from peft.config import PeftConfig

from subspaces.errors import unknown_name
from subspaces.integrations.peft.register import peft_type
from subspaces.projections import PROJECTIONS

_SPACES = ("lora", "lora-xs")
_BIASES = ("none", "all", "subspace_only")


@dataclass
class SubspaceConfig(PeftConfig):
    """An adapter whose layers all hang from one vector of d numbers, which is what is trained and saved.

    Attributes:
        d: numbers that are trained; at most those in all factors.
        r: rank of the layers.
        space: "lora" (A and B move) or "lora-xs" (cores between singular vectors of the weights); see
            `subspaces.Subspace`.
        projection: kind of P.
        seed: of P and of A.
        scale: c in W₀ + c·B A; None as in `subspaces.Subspace`.
        target_modules, exclude_modules, modules_to_save, layers_to_transform, layers_pattern, fan_in_fan_out, bias: as
            in PEFT's own configurations. `bias` is "none", "all" or "subspace_only".
        init_weights: start at w = 0, the model itself; False draws w (for tests).
    """

    d: int = field(default=1000, metadata={"help": "Numbers that are trained."})
    r: int = field(default=4, metadata={"help": "Rank of the layers."})
    space: str = field(default="lora", metadata={"help": "'lora' or 'lora-xs'."})
    projection: str = field(default="hadamard", metadata={"help": "Kind of the map from the numbers to the factors."})
    seed: int = field(default=0, metadata={"help": "Of the map and of A."})
    scale: float | None = field(default=None, metadata={"help": "Factor of the change of a weight."})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names or a pattern of the layers, or 'all-linear'; None: by architecture."}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Names or a pattern to leave out."})
    fan_in_fan_out: bool = field(default=False, metadata={"help": "Looked up from the layer; here for PEFT."})
    bias: str = field(default="none", metadata={"help": "'none', 'all' or 'subspace_only'."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained as they are."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Numbers of layers."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers."})
    init_weights: bool = field(default=True, metadata={"help": "Start at zero; False draws w."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type()
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)  # type: ignore[assignment]
        for name in ("d", "r"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be a positive integer; got {getattr(self, name)!r}.")
        for name, known in (("space", _SPACES), ("bias", _BIASES), ("projection", PROJECTIONS)):
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        if isinstance(self.target_modules, str) and (self.layers_to_transform or self.layers_pattern) is not None:
            raise ValueError("`layers_to_transform` and `layers_pattern` must go with a list of `target_modules`.")
