"""The command line. Each command is a dataclass, whose fields are its options, and a function of it; see COMMANDS."""

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import tyro
from rich.text import Text

import subspaces
from subspaces.cli import commands, options, own, told
from subspaces.errors import Terminated
from subspaces.screen import Screen

__all__ = ["COMMANDS", "Command", "main"]


class Command(NamedTuple):
    """A dataclass of options and the function that carries it out, which returns the exit status."""

    options: type
    run: Callable[[Any], int]
    hidden: tuple[str, ...] = ()
    """Words of a run that are no options of it."""
    brief: bool = False
    """Whether its help tells only the settings of runs that are often used."""

    @property
    def help(self) -> type:
        """The options that its help tells."""
        return options.brief(self.options) if self.brief else self.options


COMMANDS: dict[str, Command] = {
    "new": Command(options.New, own.run_new),
    "check": Command(options.Check, own.run_check, options.HIDDEN_IN_CHECK, brief=True),
    "dimension": Command(options.Dimension, commands.run_dimension, brief=True),
    "transition": Command(options.Transition, commands.run_transition, options.HIDDEN_IN_TRANSITION, brief=True),
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

    Status 0: done; 1: it failed, or found something wrong; 2: what was typed cannot be done; 130: Ctrl-C; 143: SIGTERM.
    Whatever goes wrong is told in one message on stderr, and what is kept; with SUBSPACES_DEBUG set a mistake has its
    traceback.
    """
    from subspaces.cli.surroundings import sound
    from subspaces.cli.warnings import plain_warnings

    with plain_warnings(), sound():
        status = _status(sys.argv[1:] if arguments is None else arguments)
    sys.exit(status)


def _status(words: list[str]) -> int:
    """The status of a command; what went wrong with it is told here."""
    try:
        status = _carry_out(words)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        _say(f"\n{interrupt.args[0] if interrupt.args else 'interrupted; the same command goes on'}")
        status = 143 if isinstance(interrupt, Terminated) else 130
    except BrokenPipeError:  # `| head` has read enough
        _forget_stdout()
        status = 1
    except Exception as error:
        if os.environ.get("SUBSPACES_DEBUG"):
            raise
        text, status = _told(error)
        _say(f"error: {_as_typed(text, words)}")
    return status


def _carry_out(words: list[str]) -> int:
    """The status of the command that the words are."""
    if words[:1] in (["--version"], ["-V"]):
        print(f"subspaces {subspaces.__version__}")
        return 0
    helping = not {"-h", "--help"}.isdisjoint(words)
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        raise told.unknown_command(words[0], COMMANDS)
    if words[:1] and words[0] in COMMANDS and not helping and (mistake := told.repeated(words[1:], _names(words[0]))):
        raise ValueError(mistake)
    chosen = _parsed(words, helping)
    return next(command.run for command in COMMANDS.values() if command.options is type(chosen))(chosen)


def _parsed(words: list[str], helping: bool) -> Any:
    """The options of a command; what the parser cannot take is told in one line."""
    wide, printed = os.environ.get("COLUMNS"), io.StringIO()
    try:
        with contextlib.nullcontext() if helping else contextlib.redirect_stderr(printed):
            if not helping:
                os.environ["COLUMNS"] = "100000"  # no line of it is broken
            if words[:1] and words[0] in COMMANDS:
                command = COMMANDS[words[0]]
                kind: Any = command.help if helping else command.options
                config = (tyro.conf.FlagCreatePairsOff,)
                return tyro.cli(kind, prog=f"subspaces {words[0]}", args=words[1:], config=config)
            return tyro.extras.subcommand_cli_from_dict(
                {name: command.help if helping else command.options for name, command in COMMANDS.items()},
                prog="subspaces",
                description=ABOUT,
                args=words,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as ended:
        if not printed.getvalue() or words[:1] == [] or words[0] not in COMMANDS:
            raise ValueError(NONE.format(" ".join(words) or "nothing")) if ended.code else ended  # noqa: B904
        text = told.from_parser(printed.getvalue(), words[0], words[1:], _names(words[0]))
        raise ValueError(text) from None
    finally:
        if not helping:
            os.environ.pop("COLUMNS")
            os.environ.update({} if wide is None else {"COLUMNS": wide})


NONE = "`COMMAND` must be given first; got {}. See subspaces --help."


def _names(command: str) -> dict[str, str]:
    return told.typed_names(COMMANDS[command].options, COMMANDS[command].hidden)


def _as_typed(text: str, words: list[str]) -> str:
    if not words or words[0] not in COMMANDS:
        return text
    return told.as_typed(text, words[0], told.without_texts(_names(words[0]), words[1:]))


def _told(error: Exception) -> tuple[str, int]:
    """The message and the status: 2 for what was typed, 1 for what failed."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}", 2 if "` must " in error.strerror else 1
    if isinstance(error, ValueError | TypeError | RuntimeError | OSError) and str(error):
        usage = isinstance(error, ValueError | TypeError) or "` must " in str(error)
        return str(error), 2 if usage else 1
    from subspaces.tasks.source import own_line

    name = type(error).__name__
    return f"{name}: {error} ({own_line(error)}). SUBSPACES_DEBUG=1 shows how it came to that.", 1


def _say(text: str) -> None:
    """A message on stderr, if there is one."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            Screen(error=True).print(_styled(text), soft_wrap=True)


def _styled(text: str) -> Text:
    styled = Text(text)
    if text.startswith("error:"):
        styled.stylize("bold red", 0, len("error:"))
    return styled


def _forget_stdout() -> None:
    """Nobody reads any more; Python would try once more at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
