"""Arguments checked against the annotations of whoever takes them, in the words of whoever typed them.

``@checked`` on a public function refuses what its annotations do not allow, before anything is done, and gives numbers
of NumPy on as Python's own. Ranges are the function's business; `at_least`, `within` and `one_of` say them.
"""

import dataclasses
import difflib
import functools
import inspect
import math
import os
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from subspaces.errors.annotations import NO, Kinds, kinds_of, take
from subspaces.errors.names import shown, unknown_name

F = TypeVar("F", bound=Callable[..., Any])
_MOST = 2**63  # integers are below it, since torch and files hold no larger ones
_SEEDS = 2**64
_FEW = 12  # so many names are written out
_OWN = ("self", "cls")  # given by Python


def checked(function: F) -> F:
    """The function, or the dataclass, which refuses arguments that its annotations do not allow.

    What is not annotated, or with what cannot be tested (a TypeVar, a Protocol), is given on as it is. Integers must
    be below 2⁶³ in size, arguments whose name has "seed" in it from 0 to 2⁶⁴ − 1, numbers not NaN.

    Cost: about 10 µs a call.

    Raises:
        TypeError: another type than the annotation allows; an argument that does not exist, is missing or came twice.
        ValueError: a text that is none of those a ``Literal`` lists, NaN, an integer out of range.
    """
    if isinstance(function, type):
        cls: Any = function
        cls.__init__ = checked(cls.__init__)
        return cls
    about = functools.cache(lambda: _About.of(function))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        known = about()
        try:
            bound = known.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(known.told(args, kwargs)) from error
        values = bound.arguments
        for name, kinds in known.kinds.items():
            if name in values:
                values[name] = conform(name, values[name], kinds, known.name)
        return function(*bound.args, **bound.kwargs)

    return call  # type: ignore[return-value]


def check_fields(part: Any, words: Mapping[str, str] = types.MappingProxyType({}), owner: str = "") -> None:
    """Check the fields of a dataclass against their annotations; NumPy numbers and lists become Python's and tuples.

    Args:
        part: to be called in ``__post_init__``; frozen or not.
        words: field → what the user calls it, where that is another word.
        owner: what the user made, where that is not the part itself.
    """
    for name, kinds in _fields(type(part)):
        value = getattr(part, name)
        fitting = conform(words.get(name, name), value, kinds, owner or type(part).__name__)
        if fitting is not value:
            object.__setattr__(part, name, fitting)


@functools.cache
def _fields(cls: type) -> list[tuple[str, Kinds]]:
    return [(f.name, kinds) for f in dataclasses.fields(cls) if (kinds := kinds_of(f.type)) is not None]


# ---- ranges


def at_least(bound: int | float, **values: Any) -> None:
    """Refuse numbers below a bound; None passes.

    Raises:
        ValueError: by the name under which the value is given.
    """
    for name, value in values.items():
        if value is not None and not value >= bound:
            raise ValueError(f"`{name}` must be at least {bound}; got {shown(value)}. Give {bound} or more.")


def within(name: str, value: Any, low: int | float, high: int | float, *, ends: str = "[]", advice: str = "") -> None:
    """Refuse a number outside an interval, whose `ends` are closed or open, such as ``"[)"``; None passes.

    Raises:
        ValueError: the interval, the value and what to do.
    """
    if value is None:
        return
    left = value >= low if ends[0] == "[" else value > low
    right = value <= high if ends[1] == "]" else value < high
    if not (left and right):
        open_end = high == math.inf
        told = f"finite and {'at least' if ends[0] == '[' else 'above'} {low:g}" if open_end else ""
        told = told or f"in {ends[0]}{low:,g}, {high:,g}{ends[1]}"
        raise ValueError(f"`{name}` must be {told}; got {shown(value)}. {advice or 'Choose one in this range.'}")


def one_of(known: Iterable[str], **values: Any) -> None:
    """Refuse texts that are not among the known ones; None passes.

    Raises:
        ValueError: with the nearest known one.
    """
    for name, value in values.items():
        if value is not None and value not in (names := list(known)):
            raise unknown_name(name, value, names)


# ---- what is wrong


class _About(NamedTuple):
    """What is known of a function."""

    name: str
    signature: inspect.Signature
    kinds: dict[str, Kinds]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "_About":
        signature = inspect.signature(function)
        single = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        kinds = {p.name: found for p in single if (found := kinds_of(p.annotation)) is not None}
        return cls(function.__qualname__.removesuffix(".__init__"), signature, kinds)

    def told(self, args: tuple, kwargs: dict[str, Any]) -> str:
        """Why the arguments cannot be bound: one that does not exist, came twice, or is missing."""
        parameters = [p for p in self.signature.parameters.values() if p.name not in _OWN]
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        placed = [p.name for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
        given = len(args) - any(name in _OWN for name in self.signature.parameters)
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            for name in kwargs:
                if name not in names:
                    return no_argument(name, kwargs[name], self.name, names)
        if given > len(placed):
            return (
                f"`{self.name}` must have at most {len(placed)} arguments without a name; got {given}. Name the others."
            )
        for name in placed[:given]:
            if name in kwargs:
                return f"`{name}` must be given once; got it by its place and by its name. Remove one."
        missing = [p.name for p in parameters if p.default is p.empty and p.name in names]
        missing = [name for name in missing if name not in kwargs and name not in placed[:given]]
        return f"`{missing[0]}` must be given to {self.name}; got nothing. See help({self.name})."


def no_argument(name: str, value: Any, owner: str, known: Iterable[str], what: str = "argument") -> str:
    """The message for an argument that does not exist."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    few = f"{', '.join(names[:_FEW])}{', …' if len(names) > _FEW else ''}" or "none"
    hint = f"Did you mean `{near[0]}`?" if near else f"It has {few}."
    return f"`{name}` must be left out; got {shown(value)}, but {owner} has no such {what}. {hint}"


def conform(name: str, value: Any, kinds: Kinds, owner: str) -> Any:
    """The value as it is given on.

    Raises:
        TypeError, ValueError: it is none of the kinds.
    """
    fitting = take(value, kinds)
    if fitting is not NO:
        if any(kind.told == "a path" for kind in kinds):
            check_path(name, fitting)
        return _in_range(name, fitting)
    choices = [choice for kind in kinds for choice in kind.choices]
    if isinstance(value, str) and choices:
        raise unknown_name(name, value, choices)
    wanted = dict.fromkeys(kind.told for kind in kinds if kind.told != "None")
    if "a number" in wanted:
        wanted.pop("an integer", None)
    told = " or ".join(wanted)
    raise TypeError(f"`{name}` must be {told}; got {shown(value)}. {_advice(name, value, told, owner)}")


def check_path(name: str, value: Any) -> None:
    """Refuse a path that no system can have: an empty one, or one with a NUL character. Lists are looked through."""
    for one in value if isinstance(value, list | tuple) else (value,):
        if isinstance(one, str | os.PathLike) and (not (text := os.fspath(one)) or "\0" in text):
            raise ValueError(f"`{name}` must be a path; got {shown(one)}. Give the name of a file or folder.")


def check_folder(name: str, value: str | os.PathLike | None) -> None:
    """Refuse a folder to write into that is a file; one that is not there is made later.

    Raises:
        ValueError: the path is there and no folder.
    """
    if value is None:
        return
    path = os.path.abspath(os.fspath(value))
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        where = "a file" if path == os.path.abspath(os.fspath(value)) else f"and {path} is a file"
        raise ValueError(f"`{name}` must be a folder; got {shown(os.fspath(value))}, {where}. Give another name.")


def _in_range(name: str, value: Any) -> Any:
    for one in value if isinstance(value, tuple | list) else (value,):
        if type(one) is int and "seed" in name and not 0 <= one < _SEEDS:
            raise ValueError(f"`{name}` must be between 0 and 2**64 - 1; got {shown(one)}. Choose one in this range.")
        if type(one) is int and "seed" not in name and not -_MOST <= one < _MOST:
            raise ValueError(f"`{name}` must be below 2**63 in size; got {shown(one)}. Choose a smaller one.")
        if isinstance(one, float) and math.isnan(one):
            raise ValueError(f"`{name}` must be a number; got nan. See where it was computed.")
    return value


def _advice(name: str, value: Any, told: str, owner: str) -> str:
    """What to do about a value of another type."""
    numeric = "an integer" in told or "a number" in told
    if isinstance(value, bool) and numeric:
        return f"Write {name}={int(value)} if that is meant."
    if isinstance(value, str) and numeric and _is_number(value):
        return f"Write it without quotes: {name}={value.strip()}."
    if isinstance(value, float) and "an integer" in told:
        return f"Write {name}={round(value)}." if math.isfinite(value) else f"Give a number such as {name}=10."
    if "True or False" in told:
        return f"Write {name}=True or {name}=False."
    if isinstance(value, type) and hasattr(value, "forward"):
        return f"Make one first: {value.__name__}(…)."
    if "a torch.dtype" in told and isinstance(value, str):
        return f"Write torch.{value.removeprefix('torch.')}."
    if ("a tensor" in told and isinstance(value, list | tuple | float | int)) or hasattr(value, "__array__"):
        return "Make one: torch.as_tensor(…)."
    if "a list" in told and hasattr(value, "parameters"):
        return "Give its parameters()."
    if "a list" in told or "a pair" in told:
        listed = isinstance(value, list | tuple | set | dict) or hasattr(value, "__next__")
        return "Check its entries." if listed else f"Put it in a list: {name}=[…]."
    return f"See help({owner})."


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False
