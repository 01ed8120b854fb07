"""The command line. Each command is a dataclass, whose fields are its options, and a function of it; see COMMANDS."""

import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import tyro
from rich.console import Console
from rich.markup import escape

from subspaces.cli import commands, options

__all__ = ["COMMANDS", "Command", "main"]


class Command(NamedTuple):
    """A dataclass of options and the function that carries it out, which returns the exit status."""

    options: type
    run: Callable[[Any], int]


COMMANDS: dict[str, Command] = {
    "train": Command(options.Train, commands.run_train),
    "extract": Command(options.Extract, commands.run_extract),
    "dimension": Command(options.Dimension, commands.run_dimension),
    "transition": Command(options.Transition, commands.run_transition),
    "compare": Command(options.Compare, commands.run_compare),
    "report": Command(options.Report, commands.run_report),
    "reproduce": Command(options.Reproduce, commands.run_reproduce),
    "list": Command(options.List, commands.run_list),
}


def main(arguments: list[str] | None = None) -> None:
    """The program ``subspaces``: choose a command, carry it out, end with its status.

    Mistakes end with status 2 and one message (with a traceback if SUBSPACES_DEBUG is set), Ctrl-C with status 130.
    """
    from subspaces.cli.warnings import plain_warnings

    plain_warnings()
    try:
        chosen = tyro.extras.subcommand_cli_from_dict(
            {name: command.options for name, command in COMMANDS.items()},
            prog="subspaces",
            description="Train, measure and ship neural networks in a few dimensions.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        status = next(command.run for command in COMMANDS.values() if command.options is type(chosen))(chosen)
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt.args[0] if interrupt.args else 'interrupted; the same command goes on'}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        if os.environ.get("SUBSPACES_DEBUG"):
            raise
        text = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else error
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/bold red] {escape(str(text))}", soft_wrap=True)
        sys.exit(2)
    sys.exit(status)
