"""Which tensors of a model form the flat vector θ, in which order, under which names."""

import base64
import fnmatch
import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from subspaces.bounded_json import MEMORY, cost, parse
from subspaces.errors import unknown_name
from subspaces.spread import whole

GROUPINGS = ("layer", "tensor", "type")
COORDINATES = "subspace_coordinates"
"""Name under which the coordinates w of a subspace are a parameter of its model."""
SLOTS = "_subspace_slots"
"""Entry of a module's `__dict__` that holds, by name, its tensors that a subspace moves."""
HOLDER = "_subspace"
"""Entry of the `__dict__` of a model that holds the subspace in which it stands."""


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
        """Rows of each tensor: its real numbers, two for each complex entry."""
        pairs = zip(self.shapes, self.dtypes, strict=True)
        return [int(torch.Size(shape).numel()) * (2 if dtype.startswith("complex") else 1) for shape, dtype in pairs]

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
    def from_json(cls, text: str, memory: int | None = None) -> "Layout":
        """The inverse of `to_json`.

        Args:
            text: what `to_json` gave.
            memory: the most bytes that reading it may take, where nobody has counted them yet.

        Raises:
            ValueError: a text that `to_json` does not write, or one that would take more.
        """
        try:
            rows = [(name, tuple(shape), dtype) for name, shape, dtype in parse(text, memory or cost(text))]
        except (ValueError, TypeError) as error:
            raise ValueError(f"`text` must be a layout as `to_json` writes it; got another ({error}).") from error
        names = [name for name, _, _ in rows]
        sound = all(isinstance(name, str) for name in names) and names == sorted(set(names))
        if not sound or not all(_is_shape(shape) and _is_dtype(dtype) for _, shape, dtype in rows):
            raise ValueError(
                "`text` must be a layout as `to_json` writes it; got names, shapes or dtypes of no tensors."
            )
        return cls(tuple(names), tuple(shape for _, shape, _ in rows), tuple(dtype for _, _, dtype in rows))

    def pack(self) -> str:
        """`to_json` compressed (zlib), as text (base 85 of RFC 1924, without spaces)."""
        return base64.b85encode(zlib.compress(self.to_json().encode(), 9)).decode()

    @classmethod
    def unpack(cls, text: str, tensors: int = 16_000) -> "Layout":
        """The inverse of `pack`.

        Args:
            text: what `pack` gave.
            tensors: as many as are expected at most; what takes more than 1 kB for each, beyond 1 MB, is not unpacked.

        Raises:
            ValueError: a text that `pack` does not write, or one that would be far larger.
        """
        try:
            inflate, limit = zlib.decompressobj(), (1 << 20) + 1024 * tensors
            if len(text) > limit // 4:  # decoding takes ten times its length
                raise ValueError(f"it has {len(text):,} letters, more than {limit // 4:,}")
            raw = inflate.decompress(base64.b85decode(text), limit)
            if not inflate.eof or inflate.unused_data:
                raise ValueError(f"it is cut short, or longer than {limit:,} bytes")
            return cls.from_json(raw.decode(), max(MEMORY, 2048 * tensors))
        except (ValueError, TypeError, AttributeError, zlib.error) as error:
            raise ValueError(f"its layout is damaged ({error})") from error

    def digest(self) -> str:
        """Hash of names, shapes and dtypes: two models with equal digests have the same flat vector."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    def difference(self, other: "Layout") -> str:
        """The first few ways in which another layout differs from this one, in words ("" when it does not)."""
        if self == other:
            return ""
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
    frozen: list[str] = []
    for name, parameter, moved in named_tensors(model):
        if parameter.requires_grad or moved:
            aliases.setdefault(id(parameter), []).append(name)
            tensors[id(parameter)] = parameter
        else:
            frozen.append(name)
    every = [name for names in aliases.values() for name in names]
    wanted, unwanted = _patterns("only", only, every, frozen), _patterns("exclude", exclude, every, frozen)
    chosen = {
        min(names): tensors[key]
        for key, names in aliases.items()
        if (wanted is None or any(map(wanted, names))) and not (unwanted and any(map(unwanted, names)))
    }
    if not chosen:
        raise ValueError(
            "`model` must have a trainable parameter; got none that is selected. "
            "Unfreeze some (requires_grad_(True)) or relax `only` and `exclude`."
        )
    _check_parameters(chosen)
    return dict(sorted(chosen.items()))


def unwrapped(model: nn.Module) -> nn.Module:
    """The module within `torch.compile`, DataParallel and DistributedDataParallel, whose names have no prefix."""
    while True:
        held = vars(model).get("_modules", {})
        if type(model).__name__ == "OptimizedModule" and "_orig_mod" in held:
            model = held["_orig_mod"]
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = held["module"]
        else:
            return model


def settled(model: nn.Module) -> nn.Module:
    """The same model; one that stands in a subspace is at θ₀ + P w afterwards, however w was written."""
    for module in model.modules():
        if (subspace := vars(module).get(HOLDER)) is not None:
            subspace.sync()
    return model


def in_subspace(model: nn.Module) -> bool:
    """Whether the model, or a part of it, stands in a subspace."""
    return any(HOLDER in vars(module) for module in model.modules())


def named_tensors(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Every parameter under every name, but for coordinates, and whether a subspace moves it (it is frozen then)."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        slots = vars(module).get(SLOTS, {})
        for leaf, parameter in module._parameters.items():
            if parameter is not None and leaf != COORDINATES:
                moved = leaf in slots and slots[leaf].parameter is parameter
                yield (f"{prefix}.{leaf}" if prefix else leaf), parameter, moved


def layout_of(parameters: dict[str, nn.Parameter]) -> Layout:
    return Layout(
        tuple(parameters),
        tuple(tuple(p.shape) for p in parameters.values()),
        tuple(str(p.dtype).removeprefix("torch.") for p in parameters.values()),
    )


def _is_shape(shape: tuple) -> bool:
    return all(type(n) is int and n >= 0 for n in shape) and math.prod(shape) < 1 << 48


def _is_dtype(name: object) -> bool:
    return isinstance(name, str) and isinstance(getattr(torch, name, None), torch.dtype)


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor with NaN or infinity; None where all numbers are finite."""
    return next((name for name, tensor in tensors.items() if not bool(torch.isfinite(whole(tensor)).all())), None)


def digest_of(tensors: Iterable[Tensor]) -> str:
    """A hash of the exact bits of tensors, in order; of spread ones (DTensor) every process has to ask."""
    total = hashlib.sha256()
    for tensor in tensors:
        flat = whole(tensor.detach()).reshape(-1).contiguous().cpu()
        total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()[:32]


def _patterns(
    argument: str, given: str | Sequence[str] | None, names: list[str], frozen: list[str]
) -> Callable[[str], bool] | None:
    """Whether a name matches one of the patterns; None without patterns. Linear in the number of names."""
    if given is None or (not given and not isinstance(given, str)):
        return None
    patterns = [given] if isinstance(given, str) else list(given)
    known = set(names)
    plain = {pattern for pattern in patterns if pattern in known}  # names themselves are looked up, not tried in turn
    others = [pattern for pattern in patterns if pattern not in plain]
    for pattern in others:
        match = re.compile(fnmatch.translate(pattern)).match
        if not any(map(match, names)):
            hidden = [name for name in frozen if match(name)]
            way = "call requires_grad_(True) on them first" if argument == "only" else "they are left out without it"
            told = f"which matches frozen ones only ({', '.join(hidden[:2])}): {way}" if hidden else ""
            raise ValueError(
                f"`{argument}` must match a trainable parameter; got {pattern!r}{', ' + told if told else ''}. "
                f"Names look like {', '.join(names[:4])}, …"
            )
    matches = re.compile("|".join(fnmatch.translate(pattern) for pattern in others)).match if others else None
    return lambda name: name in plain or (matches is not None and matches(name) is not None)


def _check_parameters(parameters: dict[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"`model` must be initialised; got the lazy parameter {name!r}. Run one batch first.")
        if not (parameter.is_floating_point() or parameter.is_complex()):
            raise TypeError(f"`model` must have floating or complex parameters; got {name!r} of {parameter.dtype}.")
        if parameter.is_meta:
            raise ValueError(
                f"`model` must have its numbers; got {name!r} on the meta device. Load or initialise the "
                f"model first, and without offloading."
            )
        if parameter.is_inference():
            raise ValueError(
                f"`model` must be made outside torch.inference_mode(), whose tensors cannot be trained; got {name!r}."
            )
        if not parameter.is_leaf:
            raise ValueError(f"`model` must own its parameters; got {name!r}, which is computed from others.")
