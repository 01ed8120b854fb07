"""Classes of projections from outside the library: what is asked of one, and by what files name it."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from subspaces.projections.base import Projection
from subspaces.projections.blocks import Blocks
from subspaces.registry import name_of, path_of, resolve

Allowed = type[Projection] | Iterable[type[Projection]] | Mapping[str, type[Projection]]
_TAKEN = ("basis", "blocks", "layer-kronecker", "lora", "lora-xs")  # other things to files and to `Subspace`
_GIVEN = {"self", "d", "D", "seed", "sizes"}  # what the library gives to a constructor


def accept(thing: Any, name: str, argument: str) -> type[Projection]:
    """The class, with the kind by which files name it; what is no usable projection is refused.

    Raises:
        TypeError: not a subclass of `Projection`, abstract methods left, or options that no file could hold.
        ValueError: a name that stands for something else.
    """
    if name in _TAKEN:
        raise ValueError(f"`name` must be none of {', '.join(_TAKEN)}, which stand for something else; got {name!r}.")
    if not (isinstance(thing, type) and issubclass(thing, Projection)):
        raise TypeError(f"`{argument}` must be a subclass of Projection; got {thing!r}. See docs/extending.md.")
    if inspect.isabstract(thing):
        missing = ", ".join(sorted(thing.__abstractmethods__))
        raise TypeError(f"`{argument}` must define {missing}; got {path_of(thing)} without. See docs/extending.md.")
    own = [n for n, p in inspect.signature(thing).parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    own = [option for option in own if option not in _GIVEN]
    if own and thing.options is Projection.options:
        raise TypeError(
            f"`{argument}` must give {', '.join(own)} in its `options`, so that files can rebuild it; got "
            f"{path_of(thing)} without such a property. See docs/extending.md."
        )
    return adopt(thing, name if ":" not in name else "")


def adopt(projection: Any, name: str = "") -> Any:
    """A projection or a class of them, whose class has the kind by which files name it from now on.

    For classes of the library it is the one that they have; for others the name that they are registered under first,
    or are about to be (`name`), else `module:qualname`.
    """
    if isinstance(projection, Blocks):
        for part in projection.parts:
            adopt(part)
        return projection
    cls: Any = projection if isinstance(projection, type) else type(projection)
    if cls.__module__.partition(".")[0] == "subspaces":
        return projection
    known = name_of("projection", cls)
    kind = name if name and known == path_of(cls) else known
    if cls.__dict__.get("kind") != kind:
        cls.kind = kind
    return projection


def named_in_file(kind: str, allow: Allowed = ()) -> type[Projection]:
    """The class that a file names: one of `allow`, a registered one, or one whose module is imported.

    Raises:
        ValueError: none of these; the message names the module and what to do.
    """
    for name, cls in allow.items() if isinstance(allow, Mapping) else _by_name(allow):
        if kind == name or kind.rpartition(":")[2] == name:
            return accept(cls, "", "allow")
    try:
        return resolve("projection", kind, trusted=False, advice="pass its class as `allow`")
    except TypeError as error:  # a file that names something else
        raise ValueError(str(error)) from error


def _by_name(allow: Any) -> Iterator[tuple[str, Any]]:
    for cls in [allow] if isinstance(allow, type) else allow:
        yield accept(cls, "", "allow").kind, cls
        yield cls.__qualname__, cls  # also where its module has moved since
