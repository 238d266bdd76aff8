"""The weights (alpha, beta) of the mixed loss and the focus that they give, in exact arithmetic.

Numbers are fractions (`fractions.Fraction`), so that a phase starts at the exact step for any number of steps.
"""

from __future__ import annotations

import numbers
import re
from decimal import Context, Decimal
from fractions import Fraction

from hf_elmix.errors import UsageError

__all__ = [
    "Number",
    "exact",
    "exact_weights",
    "focus_of",
    "focus_to_weights",
    "rescaling_factor",
    "to_text",
    "weights_of_focus",
    "weights_to_text",
]

Number = numbers.Real | float | str

HALF = Fraction(1, 2)

# A plain decimal or fraction, of limited length because an exact '1e999999999' would fill the memory.
DIGITS = 40
EXACT = Context(prec=2 * DIGITS)
NUMBER = re.compile(rf"\d{{1,{DIGITS}}}(\.\d{{1,{DIGITS}}})?(/0*[1-9]\d{{0,{DIGITS}}})?|\.\d{{1,{DIGITS}}}")


def focus_to_weights(focus: Number) -> tuple[float, float]:
    """Weights (alpha, beta) whose gradient is largest where the true label has probability `focus` (Eq. 14).

    Args:
        focus: F in [0, 0.5]. A float is read as the decimal it prints as, so 0.4 gives exactly (1, 5).

    Returns:
        ``(1, 1 / (1 - 2F))`` for F < 0.5, and ``(0, 1)`` for F = 0.5.

    Raises:
        UsageError: If `focus` is not a number in [0, 0.5].
    """
    alpha, beta = weights_of_focus(exact(focus))
    return float(alpha), float(beta)


def focus_of(alpha: float, beta: float) -> float:
    """Probability of the true label at which the gradient of the mixed loss is largest, in [0, 0.5].

    It is ``(1 - alpha / beta) / 2``, the inverse of Eq. 14, or 0 if that is negative, because the gradient then only
    falls as the probability of the true label grows.
    """
    return max(0.0, (1 - alpha / beta) / 2) if beta else 0.0


def rescaling_factor(alpha: Number, beta: Number, *, true_label: bool = True) -> Fraction:
    """``M = V_mixed / V_CE``, the ratio of the areas under the gradients of the mixed loss and CE (Eqs. 20-22).

    V is the area under the gradient (Eq. 13) at the logit of the true label (`true_label`; i = j, over p_y in [0, 1]),
    which gives M = α + β/3, or at another logit (i ≠ j, over p_y and p_j in [0, 1]²), which gives M = α + β/2. V_CE is
    ½ in both cases. A UsageError is raised if a weight is not a number.
    """
    return exact(alpha) + exact(beta) / (3 if true_label else 2)


def exact(number: Number) -> Fraction:
    """A number, or a string such as ``0.25`` or ``1/3``, as a fraction; a float is read as the decimal it prints as.

    Raises:
        UsageError: If it is anything else, or negative and not a fraction.
    """
    if isinstance(number, Fraction):
        return number
    plain = isinstance(number, numbers.Real) and not isinstance(number, bool)
    text = format(Decimal(str(number)), "f") if plain else str(number)
    if not NUMBER.fullmatch(text):
        raise UsageError(f"Expected a number such as 0.25 or 1/3, but got {text!r}.")
    numerator, _, denominator = text.partition("/")
    return Fraction(numerator) / Fraction(denominator or "1")


def exact_weights(alpha: Number, beta: Number) -> tuple[Fraction, Fraction]:
    """Both weights as fractions; a UsageError is raised if one is negative or both are 0."""
    alpha, beta = exact(alpha), exact(beta)
    if alpha < 0 or beta < 0 or alpha == beta == 0:
        raise UsageError(
            "Expected the weights of a phase to be 0 or more and not both 0, but got "
            f"alpha = {to_text(alpha)}, beta = {to_text(beta)}."
        )
    return alpha, beta


def weights_of_focus(focus: Fraction) -> tuple[Fraction, Fraction]:
    """`focus_to_weights` in fractions."""
    if not 0 <= focus <= HALF:
        raise UsageError(f"Expected a focus in [0, 0.5], but got {to_text(focus)}.")
    return (Fraction(0), Fraction(1)) if focus == HALF else (Fraction(1), 1 / (1 - 2 * focus))


def to_text(number: Fraction) -> str:
    """A string that `exact` reads back: a decimal if it terminates, else a fraction."""
    for places in range(DIGITS):
        scaled = number * 10**places
        if scaled.denominator == 1:
            return format(Decimal(scaled.numerator).scaleb(-places, EXACT), "f")
    return str(number)


def weights_to_text(alpha: Fraction, beta: Fraction) -> str:
    """The focus if the weights are those of Eq. 14 and its string is no longer, else the pair ``alpha:beta``."""
    pair = f"{to_text(alpha)}:{to_text(beta)}"
    if beta:
        focus = (1 - alpha / beta) / 2
        if focus >= 0 and weights_of_focus(focus) == (alpha, beta):
            text = to_text(focus)
            return text if "/" not in text or len(text) <= len(pair) else pair
    return pair
