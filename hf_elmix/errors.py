"""The error for a user's mistake, which a command line can show without a traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["UsageError", "did_you_mean", "how_to_install", "in_one_line", "not_one_of"]

LISTED = 40  # names at most in a message


class UsageError(ValueError):
    """A `ValueError` for a user's mistake: the message says what was expected, what was given and what to type."""


def how_to_install(extra: str) -> str:
    """What to type to add an extra of this package, which no package index has."""
    checkout = Path(__file__).parents[1]
    if (checkout / "pyproject.toml").is_file():
        return f"Type: pip install -e '{checkout}[{extra}]'"
    return f"In a checkout of hf_elmix, type: pip install '.[{extra}]'"


def in_one_line(error: BaseException) -> str:
    """The first lines of another library's error, and of its cause where it says little, as one full sentence.

    Args:
        error: The error.
    """
    lines = [line.strip() for cause in (error, error.__cause__) for line in str(cause or "").splitlines()]
    text = " ".join([line for line in lines if line][:3]) or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint to append to an error message if `word` resembles a known one or consists of some, else nothing."""
    names = {name.lower(): name for name in map(str, known)}
    one = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))  # some names have a comma
    if names and re.fullmatch(f"({one})([, ]+({one}))+", word.lower()):
        return f" Type them as separate words: {' '.join(names[part] for part in re.findall(one, word.lower()))}."
    close = difflib.get_close_matches(word.lower(), names, n=1)
    return f" Did you mean {names[close[0]]!r}?" if close else ""


def not_one_of(what: str, known: Iterable[str], given: Any) -> UsageError:
    """The error for a name that is not in a closed list; it lists the names and suggests a close one.

    Args:
        what: What the name is of, such as a flag.
        known: The names.
        given: The name that was given.
    """
    names = list(map(str, known))
    listed = ", ".join(names[:LISTED]) + (f", … ({len(names)} in all)" if len(names) > LISTED else "")
    hint = did_you_mean(str(given), names)
    return UsageError(f"Expected {what} to be one of {listed or 'none'}, but got {given!r}.{hint}")
