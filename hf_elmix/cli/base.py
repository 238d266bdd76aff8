"""Programs of several commands: one-line errors, suggestions after typing errors, exit codes."""

from __future__ import annotations

import argparse
import inspect
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from hf_elmix.errors import UsageError, did_you_mean
from hf_elmix.terminal import printable

__all__ = ["EXIT_FAILED", "Command", "OneLineParser", "make_parser", "name_of_flag", "run_program", "whole_number"]

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
FORMAT_WARNING = warnings.formatwarning


@dataclass(frozen=True)
class Command:
    """A command of a program.

    Attributes:
        run: Runs the command on the parsed arguments and returns the exit code. Its docstring is the command's help.
            Heavy imports belong in its body, so that help and errors appear at once. The arguments include ``typed``
            (the command line) and ``rest`` (arguments that the parser does not know).
        add_arguments: Adds the command's arguments to a parser; None if the command parses ``rest`` by itself.
        extra: The extra of this package that the command needs.
        interrupted: Advice after Ctrl-C.
        takes_rest: Whether `run` handles ``rest``; otherwise unknown arguments are errors.
    """

    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None
    extra: str = "glue"
    interrupted: str = ""
    takes_rest: bool = False


class _Help(argparse.HelpFormatter):
    """Help that keeps the paragraphs of a description and ends each argument with its default."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(_Help, self)._fill_text(part, width, indent) for part in text.split("\n\n"))

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if "default:" in text or isinstance(default, bool | None) or default in ([], argparse.SUPPRESS):
            return text
        return f"{text} (default: {' '.join(map(str, default)) if isinstance(default, list | tuple) else default})"


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line and suggest what may have been meant."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as a `UsageError`."""
        raise UsageError(f"{message}. See {self.prog} --help.")

    def refuse(self, word: str) -> NoReturn:
        """Raise a `UsageError` about an unknown argument."""
        hint = did_you_mean(word.split("=")[0], self._option_string_actions)
        raise UsageError(f"Unknown argument {word!r}.{hint} See {self.prog} --help.")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name = "/".join(action.option_strings) or action.metavar or action.dest
            choices = list(map(str, action.choices))
            hint = did_you_mean(str(value), choices)
            raise UsageError(f"Expected {name} to be one of {', '.join(choices)}, but got {value!r}.{hint}")


def make_parser(prog: str, description: str, commands: Mapping[str, Command]) -> OneLineParser:
    """Return the parser of a program (see `run_program`)."""
    parser = OneLineParser(prog=prog, description=description)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in commands.items():
        about = inspect.cleandoc(command.run.__doc__ or "")
        shown: dict[str, Any] = {"help": about.partition("\n")[0].rstrip("."), "description": about}
        sub = subparsers.add_parser(name, allow_abbrev=False, formatter_class=_Help, **shown)
        sub.set_defaults(command=command, parser=sub)
        if command.add_arguments is not None:
            command.add_arguments(sub)
    return parser


def run_program(prog: str, description: str, commands: Mapping[str, Command], argv: Sequence[str] | None) -> int:
    """Run the command that a command line names; an error is printed in one line.

    Args:
        prog: Name of the program.
        description: What the program does.
        commands: Its commands by name.
        argv: The words after the program's name; by default those of this process.

    Returns:
        The command's exit code; 2 after a user's mistake, 1 after an error of the system, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    warnings.formatwarning = partial(_format_warning, prog)
    command = commands.get(words[0]) if words else None
    try:
        if command is not None and command.add_arguments is None:
            return command.run(argparse.Namespace(rest=words[1:]))
        args, rest = make_parser(prog, description, commands).parse_known_args(words)
        if rest and not args.command.takes_rest:
            args.parser.refuse(rest[0])
        args.rest, args.typed = rest, shlex.join([prog, *words])
        return args.command.run(args)
    except UsageError as error:
        message, code = f"{prog}: {error}", EXIT_USAGE
    except ModuleNotFoundError as error:
        extra = "ray" if error.name == "ray" else (command or Command).extra
        message, code = f"{prog}: {error}. Type: pip install 'hf-elmix[{extra}]'", EXIT_USAGE
    except OSError as error:  # such as a full disk or a missing permission: the system's message is clear
        message, code = f"{prog}: {error}", EXIT_FAILED
    except KeyboardInterrupt:
        message, code = f"{prog}: stopped. {(command or Command).interrupted}".rstrip(), EXIT_INTERRUPTED
        print(file=sys.stderr)  # past the ^C
    print(printable(message), file=sys.stderr)
    return code


def _format_warning(prog: str, message: Warning | str, category: type[Warning], filename: str, *place: Any) -> str:
    """A warning of this project in one line, like an error; those of others as Python shows them."""
    ours = {"hf_elmix", prog.replace("-", "_")} & set(Path(filename).parts)
    return f"{prog}: {message}\n" if ours else FORMAT_WARNING(message, category, filename, *place)


def name_of_flag(word: str) -> str:
    """Return the name of a flag: ``max_steps`` for ``--max-steps=3``."""
    return word.removeprefix("--").split("=")[0].replace("-", "_")


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return an argparse type for whole numbers in a range."""

    def number(text: str) -> int:
        if not text.removeprefix("-").isdigit() or int(text) < least or (most is not None and int(text) > most):
            end = "or more" if most is None else f"to {most}"
            raise argparse.ArgumentTypeError(f"expected a whole number, {least} {end}, but got {text!r}")
        return int(text)

    return number
