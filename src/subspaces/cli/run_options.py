"""The options that make a `Run`: the words of `WORDS`, grouped by the parts of the run."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

import tyro

from subspaces.runs.run import WORDS, Run
from subspaces.runs.settings import Compute, DataSettings, OptimizerSettings, Recording, Seeds, SubspaceSettings

PARTS: dict[str, type] = {
    "subspace": SubspaceSettings,
    "optimizer": OptimizerSettings,
    "data": DataSettings,
    "seeds": Seeds,
    "record": Recording,
    "compute": Compute,
}


def run_options(renamed: Mapping[str, str] | None = None, hidden: Collection[str] = ()) -> Callable[..., Run]:
    """A function whose arguments are the options of a run, for ``tyro.conf.arg(constructor=…)``.

    Args:
        renamed: word → name of its option, where another option of the command has the word's own.
        hidden: words that are no options, since the command sets them.
    """
    groups = [_group(part, renamed or {}, hidden) for part in PARTS]

    def make(task: Any, subspace: Any, optimizer: Any, data: Any, seeds: Any, record: Any, compute: Any) -> Run:
        """A run.

        Args:
            task: Name of the task; `subspaces list tasks` shows them.
        """
        given = (subspace, optimizer, data, seeds, record, compute)
        return Run(task, *(part(**vars(values)) for part, values in zip(PARTS.values(), given, strict=True)))

    make.__annotations__["task"] = tyro.conf.Positional[str]
    for name, group in zip(PARTS, groups, strict=True):
        make.__annotations__[name] = Annotated[group, tyro.conf.OmitArgPrefixes]
    make.__defaults__ = tuple(group() for group in groups)
    return make


def _group(part: str, renamed: Mapping[str, str], hidden: Collection[str]) -> type:
    """The class of a part with the words as the names of its options; its docstrings stay their help."""
    words = {name: word for word, (home, name) in WORDS.items() if home == part}
    fields = []
    for f in dataclasses.fields(PARTS[part]):
        word = words[f.name]
        marks: list[Any] = [tyro.conf.arg(name=renamed.get(word, word))]
        if word in hidden:
            # a name that no other option has: `--burn-in` may be the search's own
            marks = [tyro.conf.arg(name=f"run-{word}"), tyro.conf.Fixed, tyro.conf.Suppress]
        fields.append((f.name, Annotated[(f.type, *marks)], dataclasses.field(default=f.default)))
    namespace = {"__doc__": PARTS[part].__doc__}
    return dataclasses.make_dataclass(
        PARTS[part].__name__, fields, bases=(PARTS[part],), frozen=True, namespace=namespace
    )
