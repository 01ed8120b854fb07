"""Mistakes in the words of whoever typed the command: `--d` for d, and one line for whatever the parser says."""

import dataclasses
import difflib
import re
from collections.abc import Collection, Sequence
from typing import get_type_hints

import tyro

from subspaces.cli.run_options import TEXT
from subspaces.errors import unknown_name
from subspaces.runs.run import WORDS
from subspaces.tasks.text import is_text_task

EXAMPLES = {
    "new": "subspaces new task own_task.py",
    "check": "subspaces check own_task.py:task",
    "dimension": "subspaces dimension digits-fc --quick",
    "transition": "subspaces transition digits-fc",
    "train": "subspaces train digits-fc --d 100",
    "extract": "subspaces extract runs/digits-fc-0123456789ab",
    "report": "subspaces report runs/digits-fc-dimension",
    "compare": "subspaces compare runs/a runs/b",
    "list": "subspaces list tasks",
    "reproduce": "subspaces reproduce li2018-toy --smoke",
}
"""A whole command of each kind, told where something is missing."""
_ALIASES = {
    "folders": "DIRS", "folder": "--out", "root": "--out", "path": "SOURCE", "model": "TASK", "dataset": "TASK",
}  # fmt: skip
"""Names of arguments of functions behind the commands → what is typed for them, where the command has that."""


_PLACED = tyro.conf.Positional[int].__metadata__[0]  # type: ignore[attr-defined]
"""What marks an argument that is known by its place."""


def typed_names(options: type, hidden: Collection[str] = ()) -> dict[str, str]:
    """What errors call each argument → what is typed on the command line: `--batch-size`, or TASK for a place.

    Args:
        options: the dataclass of the command.
        hidden: words of a run that are no options of it.
    """
    found = {}
    for name, hint in get_type_hints(options, include_extras=True).items():
        if name == "config":
            found |= {word: _option(word) for word in WORDS if word not in ("task", *hidden)} | {"task": "TASK"}
            found |= {name: _option(name) for name in TEXT}
        elif name == "rule":
            found |= {f.name: _option(f.name) for f in dataclasses.fields(get_type_hints(options)[name])}
        else:
            found[name] = name.upper() if _PLACED in getattr(hint, "__metadata__", ()) else _option(name)
    known = set(found.values())
    return found | {name: typed for name, typed in _ALIASES.items() if typed in known and name not in found}


def without_texts(names: dict[str, str], words: Sequence[str]) -> dict[str, str]:
    """`typed_names` without the options of tasks of texts where neither these nor such a task were typed."""
    if any(is_text_task(word) for word in words):
        return names
    given = {word.partition("=")[0] for word in words}
    kept = {name: typed for name, typed in names.items() if name not in TEXT or typed in given}
    return {name: typed for name, typed in _ALIASES.items() if typed in kept.values() and name in TEXT} | kept


def _shared(first: str, second: str) -> int:
    """Letters that two words have in common at their beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def as_typed(text: str, command: str, names: dict[str, str]) -> str:
    """A message with every argument as it is typed."""
    if command == "dimension" and text.startswith("`start` must go with `subspace`"):
        text = text.replace("`start`", "`--run-start`", 1)  # `--start` is that of the search
    own, file, keys = text.partition(".toml: ")  # behind it stand keys of a file, which are as they are written
    told = re.sub(r"`([a-zA-Z_]\w*)`", lambda match: f"`{names.get(match[1], match[1])}`", own) + file + keys
    return re.sub(r"See help\([\w.]+\)\.", f"See subspaces {command} --help.", told)


def unknown_command(word: str, commands: Collection[str]) -> ValueError:
    """The message for a command that does not exist."""
    return unknown_name("command", word, commands)


def repeated(words: Sequence[str], names: dict[str, str]) -> str | None:
    """The message for an option that was given twice, and for words that are empty; None where all is well."""
    seen: dict[str, str] = {}
    for i, word in enumerate(words):
        name, _, value = word.partition("=")
        if word == "":
            before = words[i - 1] if i and words[i - 1].startswith("--") else _placed(names, i)
            return f"`{before}` must not be empty; got ''. Leave it out, or give it a value."
        if not word.startswith("--") or len(word) == 2:
            continue
        name = name.replace("_", "-")
        value = value or next(iter(words[i + 1 : i + 2]), "")
        if name in seen:
            return f"`{name}` must be given once; got {seen[name]} and {value}. Remove one of them."
        seen[name] = value
    return None


def from_parser(text: str, command: str, words: Sequence[str], names: dict[str, str]) -> str:
    """One line for what the parser printed about words that it could not take.

    Args:
        text: the whole of it, with its frames.
        command: of which.
        words: that were typed after it.
        names: `typed_names` of it.
    """
    lines = [line.strip(" │╭╮╰╯─-━═|") for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    plain = " ".join(line for line in lines if line)
    if found := re.search(r"Error parsing (\S+): (.*?)(?: Argument helptext:| For full helptext|$)", plain):
        return found[2] if "` must " in found[2] else _not_of_its_type(found[1].rstrip(":"), words, plain, command)
    if found := re.search(r"invalid choice '(.*?)' for argument '(\S+?)'\. Expected one of \((.*?)\)", plain):
        known = [name for name in re.findall(r"'([^']*)'", found[3]) if name != "None"]
        return str(unknown_name(names.get(found[2], found[2]), found[1], known))
    if found := re.search(r"Unrecognized (?:or misplaced )?options: (.*)", plain):
        return _not_an_option(found[1], words, command, names)
    if found := re.search(r"Missing value for argument '(\S+?)'", plain):
        return f"`{found[1].split('/')[0]}` must have a value; got none. See subspaces {command} --help."
    if "Missing from" in plain:
        given = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
        return (
            f"`{_placed(names, given)}` must be given; got {' '.join(words) or 'nothing'}. Such as: {EXAMPLES[command]}"
        )
    return plain


def _placed(names: dict[str, str], index: int) -> str:
    """The argument in a place, counted from 0; the last one if there are not so many."""
    placed = list(dict.fromkeys(name for name in names.values() if name.isupper()))
    return placed[min(index, len(placed) - 1)]


def _not_of_its_type(option: str, words: Sequence[str], plain: str, command: str) -> str:
    """The value of an option that is no number."""
    after = next((i for i, word in enumerate(words) if word.partition("=")[0].replace("_", "-") == option), None)
    value = ""
    if after is not None:
        value = words[after].partition("=")[2] or " ".join(words[after + 1 : after + 2])
    if not value:
        value = next(iter(re.findall(r"'([^']*)'", plain)), "")
    usage = re.search(rf"{re.escape(option)} (\S+)", plain.partition("Argument helptext:")[2])
    metavar = usage[1] if usage else plain
    told = "a number" if "FLOAT" in metavar else "an integer" if "INT" in metavar else "True or False"
    told = told if not metavar.startswith("[") else f"{told}s".replace("an integers", "integers")
    return f"`{option}` must be {told}; got {value!r}. See subspaces {command} --help."


def _not_an_option(told: str, words: Sequence[str], command: str, names: dict[str, str]) -> str:
    """An option that the command does not have, or a word too many."""
    known = sorted({name for name in names.values() if name.startswith("--")})
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    strange = next((word for word in given if word.replace("_", "-") not in known and word != "--help"), None)
    if strange is None:
        word = re.split(r"[ ,]", told)[0]
        return f"`{word}` must be left out; got {' '.join(words)}. Such as: {EXAMPLES[command]}"
    near = difflib.get_close_matches(strange, known, n=3, cutoff=0.5)
    near.sort(key=lambda option: _shared(option, strange), reverse=True)
    hint = f"Did you mean {near[0]}?" if near else f"See subspaces {command} --help."
    return f"`{strange}` must be left out; got it with subspaces {command}, which has no such option. {hint}"
