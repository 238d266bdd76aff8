"""Numbers as a report writes them."""

from __future__ import annotations

from typing import Any

import pandas as pd

__all__ = [
    "counted",
    "difference_text",
    "first_upper",
    "gain_text",
    "interval_text",
    "number",
    "p_equals",
    "pvalue_text",
]


def counted(count: int, noun: str) -> str:
    """``1 block``, ``28 blocks``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def first_upper(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def number(value: float, digits: int = 2) -> str:
    """A number with the given digits after the point, or n/a."""
    return "n/a" if pd.isna(value) else f"{value:.{digits}f}".replace("-", "−")


def gain_text(value: float, scale: float, digits: int = 2) -> str:
    """A difference with its sign, times `scale` (100 for percentage points), or n/a."""
    return "n/a" if pd.isna(value) else f"{scale * value:+.{digits}f}".replace("-", "−")


def interval_text(low: float, high: float, scale: float, digits: int = 2) -> str:
    """``[low, high]``, each times `scale`; empty if there is no interval."""
    return "" if pd.isna(low) else f"[{number(scale * low, digits)}, {number(scale * high, digits)}]"


def difference_text(row: Any, scale: float, digits: int = 2, *, unit: str = "") -> str:
    """``+0.42 [0.10, 0.74]``: the ``difference`` of a row of `compare`, with its interval if there is one."""
    interval = interval_text(row.low, row.high, scale, digits)
    return f"{gain_text(row.difference, scale, digits)}{unit} {interval}".rstrip()


def pvalue_text(value: float) -> str:
    """A p-value with three digits, or n/a."""
    return "n/a" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def p_equals(value: float) -> str:
    """``p = 0.012`` or ``p < 0.001``."""
    return f"p {'' if value < 0.001 else '= '}{pvalue_text(value)}"
