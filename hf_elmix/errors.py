"""The error for a user's mistake, which a command line can show without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["UsageError", "did_you_mean", "in_one_line"]


class UsageError(ValueError):
    """A `ValueError` for a user's mistake: the message says what was expected, what was given and what to type."""


def in_one_line(error: BaseException) -> str:
    """The first lines of another library's error, and of its cause where it says little, as one full sentence.

    Args:
        error: The error.
    """
    lines = [line.strip() for cause in (error, error.__cause__) for line in str(cause or "").splitlines()]
    text = " ".join([line for line in lines if line][:3]) or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to append to an error message if `word` resembles a known one, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
