"""The command line. Each command is a dataclass, whose fields are its options, and a function of it; see COMMANDS."""

import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import tyro
from rich.console import Console
from rich.markup import escape

from subspaces.cli import commands, options, own
from subspaces.errors import Terminated

__all__ = ["COMMANDS", "Command", "main"]


class Command(NamedTuple):
    """A dataclass of options and the function that carries it out, which returns the exit status."""

    options: type
    run: Callable[[Any], int]
    brief: bool = False
    """Whether its help tells only the settings of runs that are often used."""

    @property
    def help(self) -> type:
        """The options that its help tells."""
        return options.brief(self.options) if self.brief else self.options


COMMANDS: dict[str, Command] = {
    "new": Command(options.New, own.run_new),
    "check": Command(options.Check, own.run_check, brief=True),
    "dimension": Command(options.Dimension, commands.run_dimension, brief=True),
    "transition": Command(options.Transition, commands.run_transition, brief=True),
    "train": Command(options.Train, commands.run_train),
    "extract": Command(options.Extract, commands.run_extract),
    "report": Command(options.Report, commands.run_report),
    "compare": Command(options.Compare, commands.run_compare),
    "list": Command(options.List, commands.run_list),
    "reproduce": Command(options.Reproduce, commands.run_reproduce),
}
"""In the order of `--help`: from a task of one's own to the published ones."""

ABOUT = """Train, measure and ship neural networks in a few dimensions.

Bring your own model, data or loop:
  subspaces new task                        a commented template, own_task.py
  subspaces check own_task.py:task          does it train, and what will a measurement cost?
  subspaces dimension own_task.py:task      its intrinsic dimension, with an interval and a report

A TASK is an object of yours, file.py:object or module:object, or a published one: subspaces dimension mnist-lenet."""


def main(arguments: list[str] | None = None) -> None:
    """The program ``subspaces``: choose a command, carry it out, end with its status.

    Mistakes end with status 2 and one message (with a traceback if SUBSPACES_DEBUG is set), Ctrl-C with status 130,
    SIGTERM with 143; both say what is kept.
    """
    from subspaces.cli.surroundings import sound
    from subspaces.cli.warnings import plain_warnings

    plain_warnings()
    sound()
    arguments = sys.argv[1:] if arguments is None else arguments
    helping = not {"-h", "--help"}.isdisjoint(arguments)
    try:
        chosen = tyro.extras.subcommand_cli_from_dict(
            {name: command.help if helping else command.options for name, command in COMMANDS.items()},
            prog="subspaces",
            description=ABOUT,
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        status = next(command.run for command in COMMANDS.values() if command.options is type(chosen))(chosen)
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt.args[0] if interrupt.args else 'interrupted; the same command goes on'}", file=sys.stderr)
        sys.exit(143 if isinstance(interrupt, Terminated) else 130)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        if os.environ.get("SUBSPACES_DEBUG"):
            raise
        text = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else error
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/bold red] {escape(str(text))}", soft_wrap=True)
        sys.exit(2)
    sys.exit(status)
