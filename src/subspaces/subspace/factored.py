"""What the spaces of factored layers share: frozen weights in the origin, and files."""

import functools
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from subspaces import checkpoint
from subspaces.projections import Projection
from subspaces.projections.outside import Allowed
from subspaces.subspace.frozen import FrozenDigest
from subspaces.subspace.subspace import Subspace
from subspaces.subspace.wrappers import inner_model


class Factored(Subspace):
    """A subspace of a model whose layers hold frozen weights and small factors; what is trained is in the factors."""

    _recipe: Any

    @functools.cached_property
    def _digest(self) -> FrozenDigest:
        """Of the frozen weights, made again only when they have changed."""
        return FrozenDigest()

    @property
    def layers(self) -> dict[str, Any]:
        """The factored layers by name."""
        raise NotImplementedError

    @property
    def origin(self) -> dict[str, Tensor]:
        """Factors and other tensors at w = 0, and the frozen weights as `NAME.base`."""
        return {**super().origin, **{_base(name): layer.base.detach() for name, layer in self.layers.items()}}

    def _given_base(self, name: str, given: dict[str, Tensor]) -> Tensor:
        """The frozen weight of a layer among the tensors of an origin, by its own or its native name."""
        native, shape = f"{name}.weight" if name else "weight", self.layers[name].base.shape
        base = given.get(_base(name), given.get(native))
        if base is None or base.shape != shape:
            got = "nothing" if base is None else tuple(base.shape)
            raise ValueError(f"`origin` must have {native!r} of shape {tuple(shape)}; got {got}. Give a state dict.")
        return base

    # ---- files

    @classmethod
    def recipe_of(cls, form: dict[str, Any], path: str | Path) -> Any:
        """What the form of a file says of its factors."""
        raise NotImplementedError

    @classmethod
    def factor_again_(cls, model: nn.Module, recipe: Any, header: dict[str, Any], path: str | Path) -> str:
        """Factor the layers of a plain model as a file has them; a hash of the frozen weights."""
        raise NotImplementedError

    @classmethod
    def unfactor_(cls, model: nn.Module, recipe: Any) -> None:
        """Make these layers plain again; those that were not factored yet stay as they are."""
        raise NotImplementedError

    @classmethod
    def load(
        cls, model: nn.Module, path: str | Path, projection: Projection | None = None, *, allow: Allowed = ()
    ) -> "Factored":
        """Wrap a plain model that stands at θ₀ and set it to the saved point.

        Raises:
            ValueError: a file of another kind of subspace or not whole, another layout, other weights.
        """
        header, tensors = checkpoint.read(path)
        form = header.get("form", {})
        if form.get("kind") != cls.kind:
            raise ValueError(f"`path` must be of the space {cls.kind!r}; got {str(path)!r}. Use Subspace.load.")
        model, recipe = inner_model(model), cls.recipe_of(form, path)
        try:
            weights = cls.factor_again_(model, recipe, header, path)
            stored = any(name.startswith("origin.") for name in tensors)
            if not stored and weights != form["weights"]:
                raise ValueError(checkpoint.other_weights(header, path, model))
            return checkpoint.load(functools.partial(cls._around, recipe), model, path, projection, allow)
        except BaseException:
            cls.unfactor_(model, recipe)
            raise

    @classmethod
    def _around(cls, recipe: Any, model: nn.Module, **options: Any) -> "Factored":
        """A subspace of a model that is factored already."""
        subspace = cls.__new__(cls)
        subspace._recipe = recipe
        Subspace.__init__(subspace, model, **options)
        return subspace


def _base(name: str) -> str:
    return f"{name}.base" if name else "base"
