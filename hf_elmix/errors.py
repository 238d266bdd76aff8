"""The error for a user's mistake, which a command line can show without a traceback."""

from __future__ import annotations

__all__ = ["UsageError"]


class UsageError(ValueError):
    """Something the user gave cannot be used; the message says what was expected, what came and what to type."""
