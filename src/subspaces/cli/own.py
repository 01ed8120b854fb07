"""What the commands about a person's own task do."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from subspaces.cli.options import Check, New
from subspaces.errors import shown
from subspaces.files import atomic_write
from subspaces.screen import Screen, console

_SIGNS = {"ok": ("✓", "green"), "look": ("!", "yellow"), "wrong": ("✗", "red")}


def run_new(options: New) -> int:
    """``subspaces new``."""
    if not options.file.name or not str(options.file).isprintable() or set(str(options.file)) & set("\\\"'"):
        raise ValueError(
            f"`file` must be the name of a new file, without quotes and backslashes; got {shown(str(options.file))}. "
            "Such as own_task.py."
        )
    file = options.file.with_suffix(".py")
    template = Path(__file__).with_name("own_task.py").read_text(encoding="utf-8")
    try:
        if file.exists() or file.is_symlink():
            raise FileExistsError
        if not file.parent.is_dir():
            raise FileNotFoundError
        atomic_write(file, template.replace("own_task.py", file.as_posix()).encode(errors="surrogateescape"))
    except FileExistsError as error:
        raise ValueError(f"`file` must be a new one; {file} is there already. Give another name.") from error
    except FileNotFoundError as error:
        raise ValueError(f"`file` must be in a folder that is there; got {file}. Make {file.parent} first.") from error
    print(json.dumps({"file": str(file), "task": f"{file.as_posix()}:task"}) if options.json else file)
    if not options.json:
        console().print(
            f"Put your own model, data, loss and score into it. Next: subspaces check {file.as_posix()}:task",
            soft_wrap=True,
        )
    return 0


def run_check(options: Check) -> int:
    """``subspaces check``."""
    from subspaces.dimension.check import check

    lines = []
    with console().status("looking at the task") if console().is_terminal else contextlib.nullcontext():
        for line in check(options.config, level=options.level, workers=options.workers):
            lines.append(line)
            if not options.json:
                print_line(line)
    wrong = any(line.verdict == "wrong" for line in lines)
    if options.json:
        print(json.dumps({"wrong": wrong, "lines": [dataclasses.asdict(line) for line in lines]}))
    return int(wrong)


def print_line(line: Any) -> None:
    """A line of the table, as soon as it is known: a coloured sign in a terminal, a word elsewhere."""
    screen = Screen(width=160)
    sign, colour = _SIGNS[line.verdict]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style=colour, no_wrap=True, width=1 if screen.is_terminal else 5)
    table.add_column(style="dim", no_wrap=True, width=9)
    table.add_column()
    table.add_row(sign if screen.is_terminal else line.verdict, line.what, line.text)
    screen.print(table)
