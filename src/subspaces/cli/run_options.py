"""The options that make a `Run`: the words of `WORDS`, grouped by the parts of the run."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, get_type_hints

import tyro

from subspaces.runs.run import WORDS, Run
from subspaces.runs.settings import Compute, DataSettings, OptimizerSettings, Recording, Seeds, SubspaceSettings
from subspaces.text_words import TextOptions, with_options

PARTS: dict[str, type] = {
    "subspace": SubspaceSettings,
    "optimizer": OptimizerSettings,
    "data": DataSettings,
    "seeds": Seeds,
    "record": Recording,
    "compute": Compute,
}


TASK = (
    "Your own task, or function run(d, seed) as an Objective: file.py:object, or module:object of the current folder "
    "or an installed package. Or a published task by its name (`subspaces list tasks`), or DATASET@module:factory, "
    "your own model on bundled images. Or texts: mrpc, rte, sst2 or text-FILE."
)
"""What the help says of the argument."""
TEXT = tuple(f.name for f in dataclasses.fields(TextOptions))
"""Options of tasks of texts, which become part of the task's name: ``mrpc --layers 3`` is ``mrpc,layers=3``."""
COMMON = (
    "projection", "only", "exclude", "subspace", "optimizer", "lr", "l2", "schedule", "batch_size", "epochs", "subset",
    "validation", "seed_split", "eval_every", "device", "threads", "space", "model",
)  # fmt: skip
"""Words that the help of the commands which search shows; all of them are in that of `train`."""


def run_options(
    renamed: Mapping[str, str] | None = None, hidden: Collection[str] = (), shown: Collection[str] = (*WORDS, *TEXT)
) -> Callable[..., Run]:
    """A function whose arguments are the options of a run, for ``tyro.conf.arg(constructor=…)``.

    Args:
        renamed: word → name of its option, where another option of the command has the word's own.
        hidden: words that are no options, since the command sets them.
        shown: words that are options; for a help that tells only these.
    """
    groups = [_group(part, renamed or {}, hidden, shown) for part in PARTS]
    texts = _texts(shown)

    def make(
        task: Any, subspace: Any, optimizer: Any, data: Any, seeds: Any, record: Any, compute: Any, texts: Any
    ) -> Run:
        given = (subspace, optimizer, data, seeds, record, compute)
        task = with_options(task, **vars(texts))
        return Run(task, *(part(**vars(values)) for part, values in zip(PARTS.values(), given, strict=True)))

    make.__annotations__["task"] = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK", help=TASK)]
    for name, group in zip((*PARTS, "texts"), (*groups, texts), strict=True):
        make.__annotations__[name] = Annotated[group, tyro.conf.OmitArgPrefixes]
    make.__defaults__ = (*(group() for group in groups), texts())
    return make


def _group(part: str, renamed: Mapping[str, str], hidden: Collection[str], shown: Collection[str]) -> type:
    """The class of a part with the words as the names of its options; its docstrings stay their help."""
    words = {name: word for word, (home, name) in WORDS.items() if home == part}
    fields = []
    for f in dataclasses.fields(PARTS[part]):
        word = words[f.name]
        marks: list[Any] = [tyro.conf.arg(name=renamed.get(word, word))]
        if word not in shown:
            marks.append(tyro.conf.Suppress)
        if word in hidden:
            # a name that no other option has: `--burn-in` may be the search's own
            marks = [tyro.conf.arg(name=f"run-{word}"), tyro.conf.Fixed, tyro.conf.Suppress]
        fields.append((f.name, Annotated[(f.type, *marks)], dataclasses.field(default=f.default)))
    namespace = {"__doc__": PARTS[part].__doc__}
    return dataclasses.make_dataclass(
        PARTS[part].__name__, fields, bases=(PARTS[part],), frozen=True, namespace=namespace
    )


def _texts(shown: Collection[str]) -> type:
    """The options of tasks of texts; without a value those of the task's name stand."""
    hints = get_type_hints(TextOptions)
    fields = []
    for name in TEXT:
        hint = hints[name] | None
        hint = hint if name in shown else Annotated[hint, tyro.conf.Suppress]
        fields.append((name, hint, dataclasses.field(default=None)))
    unchecked = {"__post_init__": lambda self: None, "__doc__": ""}
    return dataclasses.make_dataclass("TextSettings", fields, bases=(TextOptions,), frozen=True, namespace=unchecked)
