"""What the command lines have in common: a user's mistake is one line on standard error, and exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from hf_elmix.errors import UsageError

__all__ = ["EXIT_FAILED", "OneLineParser", "exit_code"]

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, where argparse would show all flags first."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print.

        Args:
            message: What is wrong.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{message}. See {self.prog} --help.")


def exit_code(prog: str, command: Callable[[], int], *, extra: str, stopped: str = "") -> int:
    """Run a command and say in one line what ended it before its time.

    Args:
        prog: Name of the program, which the line starts with.
        command: What is run; returns its exit code.
        extra: The extra of this package that the command needs, for when a module is missing.
        stopped: What to know after Ctrl-C.

    Returns:
        The command's exit code; 2 after a mistake of the user's, 1 after an error of the system, 130 after Ctrl-C.
    """
    try:
        return command()
    except UsageError as error:
        return _said(f"{prog}: {error}", EXIT_USAGE)
    except ModuleNotFoundError as error:
        name = "ray" if error.name == "ray" else extra
        return _said(f"{prog}: {error}. It comes with: pip install 'hf-elmix[{name}]'", EXIT_USAGE)
    except OSError as error:  # a disk that is full, a folder that is not ours: its own words say it
        return _said(f"{prog}: {error}", EXIT_FAILED)
    except KeyboardInterrupt:
        return _said(f"\n{prog}: stopped. {stopped}".rstrip(), EXIT_INTERRUPTED)


def _said(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code
