"""Programs of several commands: one-line errors, suggestions after typing errors, exit codes."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import inspect
import io
import os
import re
import shlex
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from hf_elmix import __version__
from hf_elmix.cli.help import SHELLS, AllHelp, Help, completion, sort_groups
from hf_elmix.errors import UsageError, did_you_mean, how_to_install, in_one_line, not_one_of
from hf_elmix.interrupt import EXIT_INTERRUPTED, interruptible
from hf_elmix.machine import prepare_process
from hf_elmix.terminal import printable

__all__ = [
    "EXIT_FAILED",
    "Command",
    "OneLineParser",
    "check_folder",
    "check_installed",
    "make_parser",
    "name_of_flag",
    "run_program",
    "whole_number",
]

EXIT_FAILED, EXIT_USAGE = 1, 2
NO_PATH = (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)  # what the system says of a path that leads nowhere
FORMAT_WARNING = warnings.formatwarning

HELP = {"-h", "--help", "--help_all"}
NUMBERS = {"int": "a whole number", "float": "a number"}
WRONG_NUMBER = re.compile(r"argument (--\w+)\S*: invalid (int|float) value: ")
SHOW_TRACEBACK = "HF_ELMIX_TRACEBACK"


@dataclass(frozen=True)
class Command:
    """A command of a program.

    Attributes:
        run: Runs the command on the parsed arguments and returns the exit code. Its docstring is the command's help.
            Heavy imports belong in its body, so that help and errors appear at once. The arguments include ``typed``
            (the command line), ``parser`` and ``rest`` (arguments that the parser does not know).
        add_arguments: Adds the command's arguments to a parser.
        more: Adds the flags that `run` finds in ``rest``, for ``--help_all`` and completion; without it, unknown
            arguments are errors.
        raw: Whether `run` parses all words by itself, as ``rest``; the parser only serves help and completion.
        extra: The extra of this package that the command needs.
        interrupted: Advice after Ctrl-C.
    """

    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    more: Callable[[argparse.ArgumentParser], None] | None = None
    raw: bool = False
    extra: str = "glue"
    interrupted: str = ""


Commands = Mapping[str, "Command | Commands"]  # by name; a mapping in place of a command is a group of commands


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line and suggest what may have been meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """See argparse. Words that no file name or record can hold are refused."""
        for word in args or ():
            try:
                word.encode()
            except UnicodeEncodeError:
                raise UsageError(
                    f"Expected arguments in UTF-8, but got {word!r}. Rename the file or folder."
                ) from None
            if "\0" in word:
                raise UsageError(f"Expected text, but got {word!r}. Leave out the character \\0.")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise the message as a `UsageError`."""
        message = WRONG_NUMBER.sub(lambda found: f"Expected {found[1]} to be {NUMBERS[found[2]]}, but got ", message)
        raise UsageError(f"{message}. See {self.prog} --help.")

    @property
    def flags(self) -> list[str]:
        """All flags that the parser knows."""
        return list(self._option_string_actions)

    def refuse(self, word: str, words: Sequence[str], others: Iterable[str] = ()) -> NoReturn:
        """Raise a `UsageError` about an unknown argument.

        Args:
            word: The argument.
            words: The command line: the argument may have been meant as a value of the flag before it.
            others: Other flags, one of which it may have been meant as.
        """
        flag = next((given for given in reversed(words[: words.index(word)]) if given.startswith("--")), "")
        action = self._option_string_actions.get(flag)
        if action is None or word.startswith("-"):
            hint = did_you_mean(word.split("=")[0], [*others, *self.flags])
        elif action.nargs == 0:
            hint = f" {flag} takes no value."
        else:
            hint = f" {flag} takes one value, {action.metavar or action.dest.upper()}."
        raise UsageError(f"Unknown argument {word!r}.{hint} See {self.prog} --help.")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name = "/".join(action.option_strings[:1]) or action.metavar or action.dest
            raise not_one_of(str(name), action.choices, value)


def make_parser(prog: str, description: str, commands: Commands) -> OneLineParser:
    """Return the parser of a program (see `run_program`)."""
    parser = OneLineParser(prog=prog, description=description, allow_abbrev=False)
    add = parser.add_argument
    add("--version", action="version", version=f"%(prog)s {__version__}", help="show the version and exit")
    add("--completion", choices=SHELLS, action=_Completion, help="print a shell completion script")
    _add_commands(parser, commands)
    sort_groups(parser)
    return parser


def _add_commands(parser: argparse.ArgumentParser, commands: Commands) -> None:
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name, command in commands.items():
        if not isinstance(command, Command):
            about = f"Compare losses on {', '.join(command)}"
            _add_commands(subparsers.add_parser(name, allow_abbrev=False, help=about, description=about), command)
            continue
        about = inspect.cleandoc(command.run.__doc__ or "")
        shown: dict[str, Any] = {"help": about.partition("\n")[0].rstrip("."), "description": about}
        sub = subparsers.add_parser(name, allow_abbrev=False, formatter_class=Help, **shown)
        if command.more is not None:
            sub.add_argument("--help_all", nargs=0, action=AllHelp, help="show all flags of the Trainer, too")
        sub.set_defaults(command=command, parser=sub, more=command.more)
        command.add_arguments(sub)
        sort_groups(sub)


class _Completion(argparse.Action):
    """``--completion``: a script for a shell, made from all parsers."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, *_: Any) -> None:
        print(completion(parser, values))
        parser.exit()


def run_program(prog: str, description: str, commands: Commands, argv: Sequence[str] | None) -> int:
    """Run the command that a command line names; an error is printed in one line.

    Args:
        prog: Name of the program.
        description: What the program does.
        commands: Its commands by name; in place of one, there may be further commands, whose names follow it.
        argv: The words after the program's name; by default those of this process.

    Returns:
        The command's exit code; 2 after a user's mistake, 1 after an error of the system, 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or pipe that may not know all characters
            stream.reconfigure(errors="backslashreplace")
    prepare_process()
    words = list(sys.argv[1:] if argv is None else argv)
    warnings.formatwarning = partial(_format_warning, prog)
    command = _named(words, commands)
    try:
        with interruptible():
            if command is not None and command.raw and not HELP & {*words}:
                return command.run(argparse.Namespace(rest=words[1:]))
            parser = make_parser(prog, description, commands)
            if words and words[0].startswith("-") and words[0].partition("=")[0] not in parser.flags:
                parser.refuse(words[0], words)
            args, rest = parser.parse_known_args(words)
            if rest and (args.command.more is None or not rest[0].startswith("-")):
                args.parser.refuse(rest[0], words)
            args.rest, args.typed = rest, shlex.join([prog, *words])
            code = args.command.run(args)
            sys.stdout.flush()
            return code
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return EXIT_FAILED
        message, code = _last_words(error, prog, command or Command)
        if code == EXIT_INTERRUPTED:
            print(file=sys.stderr)  # past the ^C
    print(printable(message), file=sys.stderr)
    return code


def _nobody_reads() -> bool:
    """Whether what reads the output has ended, such as ``head``; the rest of the output is then discarded."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends
        return True
    return False


def _named(words: Sequence[str], commands: Commands) -> Command | None:
    """The command that the first words name, or None."""
    found: Command | Commands | None = commands
    for word in words:
        if isinstance(found, Mapping):
            found = found.get(word)
    return found if isinstance(found, Command) else None


def _last_words(error: BaseException, prog: str, command: Command | type[Command]) -> tuple[str, int]:
    """The line and the exit code with which a program ends after an error; a bug of this project is raised again."""
    if isinstance(error, UsageError):
        return f"{prog}: {error}", EXIT_USAGE
    if isinstance(error, ModuleNotFoundError):
        extra = "ray" if error.name == "ray" else command.extra
        return f"{prog}: {error}. {how_to_install(extra)}", EXIT_USAGE
    if isinstance(error, KeyboardInterrupt):
        return f"{prog}: stopped. {command.interrupted}".rstrip(), EXIT_INTERRUPTED
    if isinstance(error, OSError):  # such as a full disk or a missing permission: the system's message is clear
        return f"{prog}: {error}", EXIT_USAGE if error.errno in NO_PATH else EXIT_FAILED
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    ours = (__name__, getattr(command, "run", run_program).__module__)
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    if package in {name.partition(".")[0] for name in ours} or os.environ.get(SHOW_TRACEBACK):
        raise error
    text = f"{type(error).__name__}: {in_one_line(error)} (Set {SHOW_TRACEBACK}=1 to see where.)"
    return f"{prog}: {text}", EXIT_FAILED


def check_installed(packages: Iterable[str]) -> None:
    """Refuse packages that are not installed, with a `UsageError`."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"Expected {name} to be installed. Type: pip install {name}")


def check_folder(folder: str, flag: str = "--output_dir") -> None:
    """Refuse a folder in which no file can be written; nothing is created.

    Args:
        folder: The folder, which need not exist.
        flag: The flag that names it.

    Raises:
        UsageError: If it is a URL or a file, or cannot be created or written to.
    """
    if not folder.strip():
        raise UsageError(f"Expected {flag} to be a folder, but got {folder!r}.")
    if "://" in folder:
        raise UsageError(f"Expected {flag} to be a folder on this machine, but got the URL {folder!r}.")
    try:
        place = Path(folder).expanduser()
        str(place.resolve()).encode()
        while not _exists(place):
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{str(place)!r} is a file")
        with tempfile.TemporaryFile(dir=place):
            pass
    except (OSError, ValueError, RuntimeError) as error:  # not UTF-8; the home folder of an unknown user
        reason = getattr(error, "strerror", None) or in_one_line(error)
        raise UsageError(
            f"Expected {flag} to be a folder that can be written to, but got {folder!r}: {reason.rstrip('.')}."
        ) from error


def _exists(path: Path) -> bool:
    """Whether a path exists; an error other than that it does not, such as a name that is too long, is raised."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def _format_warning(prog: str, message: Warning | str, category: type[Warning], filename: str, *place: Any) -> str:
    """A warning of this project in one line, like an error; those of others as Python shows them."""
    ours = {"hf_elmix", prog.replace("-", "_")} & set(Path(filename).parts)
    return f"{prog}: {message}\n" if ours else FORMAT_WARNING(message, category, filename, *place)


def name_of_flag(word: str) -> str:
    """Return the name of a flag: ``max_steps`` for ``--max-steps=3``."""
    return word.removeprefix("--").split("=")[0].replace("-", "_")


def whole_number(least: int, most: int | None = None, *, word: str | None = None) -> Callable[[str], int | str]:
    """Return an argparse type for whole numbers in a range, or a word in place of one."""

    def number(text: str) -> int | str:
        if text == word:
            return text
        if not text.removeprefix("-").isdigit() or int(text) < least or (most is not None and int(text) > most):
            end = "or more" if most is None else f"to {most}"
            other = f", or {word}" if word else ""
            raise argparse.ArgumentTypeError(f"expected a whole number, {least} {end}{other}, but got {text!r}")
        return int(text)

    return number
