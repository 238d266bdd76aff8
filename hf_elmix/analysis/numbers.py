"""How a report writes numbers."""

from __future__ import annotations

import pandas as pd

__all__ = ["counted", "first_upper", "gain_text", "interval_text", "number", "p_equals", "pvalue_text"]


def counted(count: int, noun: str) -> str:
    """``1 block``, ``28 blocks``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def first_upper(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def gain_text(value: float, scale: float) -> str:
    """A difference with its sign, or n/a.

    Args:
        value: The difference, in the unit of the scores.
        scale: Factor on it: 100 for percentage points.
    """
    return "n/a" if pd.isna(value) else f"{scale * value:+.2f}".replace("-", "−")


def number(value: float, digits: int = 2) -> str:
    """A number with so many digits after the point, or n/a."""
    return "n/a" if pd.isna(value) else f"{value:.{digits}f}".replace("-", "−")


def interval_text(low: float, high: float, scale: float) -> str:
    """``[low, high]``, each times `scale`; empty where there is no interval."""
    return "" if pd.isna(low) else f"[{number(scale * low)}, {number(scale * high)}]"


def pvalue_text(value: float) -> str:
    """A p-value with three digits, or n/a."""
    return "n/a" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def p_equals(value: float) -> str:
    """``p = 0.012`` or ``p < 0.001``."""
    return f"p {'' if value < 0.001 else '= '}{pvalue_text(value)}"
