"""What can be chosen of a text task, and the name that says it: ``mrpc,layers=3,tokens=64``.

Apart from the tasks themselves, since a command line must know these words before it loads torch.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal

from subspaces.errors import at_least, checked, one_of, shown

GLUE_TASKS = ("mrpc", "rte", "sst2")
"""Text tasks that have a name of their own."""
OWN = "text-"
"""What the name of a task over a file or folder of texts begins with."""


@checked
@dataclass(frozen=True)
class TextOptions:
    """The model of a text task, how long its texts are, and what is read of a table.

    Raises:
        ValueError: a value out of range, or one that a name cannot hold.
    """

    model: str = "minilm"
    """minilm, a folder, a package or hub name."""
    layers: int | None = None
    """First layers that are kept; all without it."""
    tokens: int | None = None
    """Tokens of a text or pair, at most; 128 without it."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """Pretrained ones (default), or random ones of the same architecture."""
    text: tuple[str, ...] = ()
    """Column of the texts, or two of pairs."""
    target: str | None = None
    """Column of the labels; without any, next tokens are predicted."""
    score: str | None = None
    """Such as f1 or mcc; accuracy or perplexity without it."""

    def __post_init__(self) -> None:
        one_of(("pretrained", "random"), weights=self.weights)
        at_least(1, layers=self.layers)
        at_least(2, tokens=self.tokens)
        if len(self.text) > 2:
            raise ValueError(f"`text` must be one column, or two for pairs of texts; got {len(self.text)}.")
        for name, value in self.named().items():
            if not value or _SPLIT.search(f"{value},") or (name == "text" and any("+" in c for c in self.text)):
                raise ValueError(
                    f"`{name}` must not be empty, nor hold ',{name}=' or a '+'; got {shown(value)}. Rename it."
                )

    def named(self) -> dict[str, str]:
        """The options that differ from their defaults, as they are written."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        found = {name: value for name, value in found.items() if value != _DEFAULTS[name]}
        return {name: "+".join(value) if isinstance(value, tuple) else str(value) for name, value in found.items()}


_DEFAULTS: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(TextOptions)}
OPTIONS = tuple(_DEFAULTS)
"""Names of the options, in the order in which a name has them."""
_SPLIT = re.compile(rf",(?=(?:{'|'.join(OPTIONS)})=)")


def split(name: str) -> tuple[str, dict[str, Any]]:
    """A task's name without its options, and these.

    Raises:
        ValueError: an option that stands twice, or a number that is none.

    Example:
        >>> split("mrpc,layers=3,tokens=64")
        ('mrpc', {'layers': 3, 'tokens': 64})
    """
    base, *parts = _SPLIT.split(name)
    found: dict[str, Any] = {}
    for option, _, value in (part.partition("=") for part in parts):
        if option in found:
            raise ValueError(f"`{option}` must be given once; got it twice in {shown(name)}. Remove one of them.")
        found[option] = _value(option, value)
    return base, found


def _value(option: str, text: str) -> Any:
    if option == "text":
        return tuple(text.split("+"))
    if option not in ("layers", "tokens"):
        return text
    if not text.isdecimal():
        raise ValueError(f"`{option}` must be an integer; got {text!r}. Such as {option}=64.")
    return int(text)


def written(base: str, options: TextOptions) -> str:
    """The one name of a task with these options.

    Example:
        >>> written("mrpc", TextOptions(tokens=64, layers=3))
        'mrpc,layers=3,tokens=64'
    """
    return ",".join([base, *(f"{name}={value}" for name, value in options.named().items())])


def is_text_task(name: str) -> bool:
    """Whether a name is one of a task of texts, with options or without."""
    base, _, _ = name.partition(",")
    return base in GLUE_TASKS or (base.startswith(OWN) and base != OWN)


def with_options(task: str, **options: Any) -> str:
    """The one name of a task with further options; those that are None are left out.

    Raises:
        ValueError: options with a task that is none of texts, or one that the name has already.

    Example:
        >>> with_options("mrpc", model="minilm", layers=3)
        'mrpc,layers=3'
    """
    given = {name: value for name, value in options.items() if value is not None}
    base, known = split(task)
    if not is_text_task(task):
        if given:
            raise ValueError(refused_options(given, base))
        return task
    if both := [name for name in OPTIONS if name in known and name in given]:
        raise ValueError(f"`{both[0]}` must be given once; got it in {shown(task)}, too. Remove one of them.")
    return written(base, TextOptions(**known, **given))


def refused_options(options: dict[str, Any], base: str) -> str:
    """What to say of options of texts with the task `base`, which is none of texts."""
    option = next(iter(options))
    return (
        f"`{option}` must go with a task of texts ({', '.join(GLUE_TASKS)} or text-FILE); got {shown(options[option])} "
        f"with {base!r}. Leave it out."
    )
