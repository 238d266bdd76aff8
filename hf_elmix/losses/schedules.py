"""Focus values, weights (alpha, beta), and the schedules that move them over training.

All arithmetic on phases and weights is exact (`fractions.Fraction`): a phase starts at the very step it should, for
any number of steps. Nothing here needs PyTorch.
"""

from __future__ import annotations

import difflib
import math
import numbers
import re
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import NoReturn

from hf_elmix.errors import UsageError

__all__ = ["REGIMES", "MixingSchedule", "Phase", "focus_of", "focus_to_weights", "rescaling_factor"]

Number = numbers.Real | float | str

HALF = Fraction(1, 2)

# The paper's regimes (section "Scheduling") and its two single losses, each in the general form.
REGIMES = {
    "ce": "1:0",
    "el": "0:1",
    "0": "0",
    "0,0.5": "0@0 0.5@0.95",
    "0-0.5": "0 0.1 0.2 0.3 0.4 0.5",
}

GRAMMAR = (
    f"one of {', '.join(repr(name) for name in REGIMES)}, or a list of phases such as '0@0 0.3@0.5 0.5@0.9' "
    "(weight@start, the start as a share of training), where a weight is a focus in [0, 0.5], a name ('ce', 'el') "
    "or a bare pair 'alpha:beta'; phases without '@' are of equal length"
)

# A plain decimal or fraction. Bounded, because an exact '1e999999999' would fill the memory.
DIGITS = 40
EXACT = Context(prec=2 * DIGITS)
NUMBER = re.compile(rf"\d{{1,{DIGITS}}}(\.\d{{1,{DIGITS}}})?(/0*[1-9]\d{{0,{DIGITS}}})?|\.\d{{1,{DIGITS}}}")


def focus_to_weights(focus: Number) -> tuple[float, float]:
    """Weights (alpha, beta) whose gradient peaks at probability `focus` of the true label (Eq. 14).

    Args:
        focus: F in [0, 0.5]. A float stands for the decimal it prints as, so that 0.4 gives exactly (1, 5).

    Returns:
        ``(1, 1 / (1 - 2F))`` for F < 0.5, and ``(0, 1)`` for F = 0.5.

    Raises:
        UsageError: If `focus` is no number in [0, 0.5].
    """
    alpha, beta = _exact_weights(_fraction(focus))
    return float(alpha), float(beta)


def focus_of(alpha: float, beta: float) -> float:
    """Probability of the true label at which the gradient of the mixed loss is largest, in [0, 0.5].

    It is ``(1 - alpha / beta) / 2`` (the inverse of Eq. 14) and 0 where that is negative: with more cross entropy than
    expectation loss, and with cross entropy alone, the gradient is largest for the samples that are most wrong.

    Args:
        alpha: Weight of the cross entropy.
        beta: Weight of the expectation loss.
    """
    return max(0.0, (1 - alpha / beta) / 2) if beta else 0.0


def rescaling_factor(alpha: Number, beta: Number, *, true_label: bool = True) -> Fraction:
    """``M = V_mixed / V_CE``: how much larger the mixed loss's gradient is than cross entropy's, by area (Eqs. 20-22).

    The areas are those under the gradient (Eq. 13) at the logit of the true label (i = j, over p_y in [0, 1]; then
    M = α + β/3), or at another logit (i ≠ j, over p_y and p_j in [0, 1]²; then M = α + β/2). V_CE is ½ in both.

    Args:
        alpha: Weight of the cross entropy.
        beta: Weight of the expectation loss.
        true_label: Which of the two readings.

    Raises:
        UsageError: If a weight is no number.
    """
    return _fraction(alpha) + _fraction(beta) / (3 if true_label else 2)


@dataclass(frozen=True)
class Phase:
    """A stretch of training with constant weights.

    Attributes:
        start: Where it starts, as a share of training in [0, 1).
        alpha: Weight of the cross entropy.
        beta: Weight of the expectation loss.

    Raises:
        UsageError: If one of them is no number.
    """

    start: Fraction
    alpha: Fraction
    beta: Fraction

    def __post_init__(self) -> None:
        for name in ("start", "alpha", "beta"):
            object.__setattr__(self, name, _fraction(getattr(self, name)))


@dataclass(frozen=True)
class MixingSchedule:
    """The weights (alpha, beta) of the mixed loss as a step function of training progress.

    Attributes:
        phases: In the order of their starts; the first starts at 0.

    Raises:
        UsageError: If the phases do not make a schedule.
    """

    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "phases", tuple(self.phases))
        starts = [phase.start for phase in self.phases]
        if not starts or starts[0] != 0:
            raise UsageError(f"Expected the first phase to start at 0, but got starts {_listing(starts)}.")
        if any(later <= earlier for earlier, later in zip(starts, starts[1:], strict=False)) or starts[-1] >= 1:
            raise UsageError(
                f"Expected the starts of the phases to grow and stay below 1, but got {_listing(starts)}."
            )
        for phase in self.phases:
            if phase.alpha < 0 or phase.beta < 0 or phase.alpha == phase.beta == 0:
                raise UsageError(
                    "Expected the weights of a phase to be 0 or more and not both 0, but got "
                    f"alpha = {_text(phase.alpha)}, beta = {_text(phase.beta)}."
                )

    @classmethod
    def parse(cls, text: str | numbers.Real | float | MixingSchedule) -> MixingSchedule:
        """Read a schedule from its name or its phases; `str()` of the result reads back to an equal schedule.

        Args:
            text: A name of the paper's (``ce``, ``el``, ``0``, ``0,0.5``, ``0-0.5``), or phases separated by blanks:
                ``0@0 0.3@0.5 0.5@0.9``, ``ce@0 0.5@5/6``, ``1:1@0 1:2.5@0.5``, ``0 0.25 0.5`` (equal lengths). A
                number is a focus; a schedule is returned as it is.

        Returns:
            The schedule.

        Raises:
            UsageError: If the text is no schedule; the message says what is accepted.
        """
        if isinstance(text, MixingSchedule):
            return text
        if isinstance(text, numbers.Real):
            text = _text(_fraction(text))
        if not isinstance(text, str):
            raise UsageError(f"Expected mixing to be a text or a MixingSchedule, but got {text!r}.")
        words = REGIMES.get(text.strip().lower(), text).lower().split()
        if not words:
            _refuse(text)
        placed = ["@" in word for word in words]
        if any(placed) and not all(placed):
            _refuse(text, "either every phase has a start ('@') or none has")
        pairs = [word.split("@", 1) if "@" in word else [word, f"{k}/{len(words)}"] for k, word in enumerate(words)]
        try:
            return cls(tuple(Phase(_fraction(start), *_weights(weight)) for weight, start in pairs))
        except ValueError as error:
            _refuse(text, str(error).rstrip("."))

    def phase_at(self, step: int, max_steps: int) -> Phase:
        """The phase of the optimizer step that follows `step` completed ones out of `max_steps`.

        A phase is entered at the first step with ``step / max_steps >= start``, compared exactly. After the last step
        the last phase stays.

        Args:
            step: Optimizer steps done, 0 or more.
            max_steps: Optimizer steps of the whole training, 1 or more.

        Raises:
            ValueError: If `step` is negative or `max_steps` is not positive.
        """
        if step < 0 or max_steps <= 0:
            raise ValueError(f"Expected step >= 0 and max_steps > 0, but got step={step}, max_steps={max_steps}.")
        return next(phase for phase in reversed(self.phases) if step >= phase.start * max_steps)

    def weights(self, step: int, max_steps: int) -> tuple[float, float]:
        """Weights (alpha, beta) of the optimizer step that follows `step` completed ones; see `phase_at`.

        Args:
            step: Optimizer steps done, 0 or more.
            max_steps: Optimizer steps of the whole training, 1 or more.

        Raises:
            ValueError: If `step` is negative or `max_steps` is not positive.
        """
        phase = self.phase_at(step, max_steps)
        return float(phase.alpha), float(phase.beta)

    def constant_at(self, step: int, max_steps: int) -> MixingSchedule:
        """The schedule that has the weights of one step throughout; see `phase_at`.

        Args:
            step: Optimizer steps done, 0 or more.
            max_steps: Optimizer steps of the whole training, 1 or more.
        """
        phase = self.phase_at(step, max_steps)
        return MixingSchedule((Phase(Fraction(0), phase.alpha, phase.beta),))

    def changes(self, max_steps: int) -> list[int]:
        """Completed optimizer steps after which a phase is entered before training ends, without the first phase.

        Args:
            max_steps: Optimizer steps of the whole training, 1 or more.
        """
        entries = [math.ceil(phase.start * max_steps) for phase in self.phases[1:]]
        return [step for step in entries if step < max_steps]

    def __str__(self) -> str:
        """The shortest text that reads back to this schedule."""
        for name in REGIMES:
            if MixingSchedule.parse(name) == self:
                return name
        weights = [_weights_text(phase) for phase in self.phases]
        if all(phase.start == Fraction(k, len(weights)) for k, phase in enumerate(self.phases)):
            return " ".join(weights)
        return " ".join(f"{text}@{_text(phase.start)}" for text, phase in zip(weights, self.phases, strict=True))


def _exact_weights(focus: Fraction) -> tuple[Fraction, Fraction]:
    if not 0 <= focus <= HALF:
        raise UsageError(f"Expected a focus in [0, 0.5], but got {_text(focus)}.")
    return (Fraction(0), Fraction(1)) if focus == HALF else (Fraction(1), 1 / (1 - 2 * focus))


def _weights(word: str) -> tuple[Fraction, Fraction]:
    """Weights of one phase: a name, a bare pair, or a focus."""
    if word in ("ce", "el"):
        word = REGIMES[word]
    alpha, colon, beta = word.partition(":")
    return (_fraction(alpha), _fraction(beta)) if colon else _exact_weights(_fraction(word))


def _fraction(number: Number) -> Fraction:
    if isinstance(number, Fraction):
        return number
    plain = isinstance(number, numbers.Real) and not isinstance(number, bool)
    text = format(Decimal(str(number)), "f") if plain else str(number)
    if not NUMBER.fullmatch(text):
        raise UsageError(f"Expected a number such as 0.25 or 1/3, but got {text!r}.")
    numerator, _, denominator = text.partition("/")
    return Fraction(numerator) / Fraction(denominator or "1")


def _text(number: Fraction) -> str:
    """A number as it is read back exactly: a decimal where it ends, else a fraction."""
    for places in range(DIGITS):
        scaled = number * 10**places
        if scaled.denominator == 1:
            return format(Decimal(scaled.numerator).scaleb(-places, EXACT), "f")
    return str(number)


def _weights_text(phase: Phase) -> str:
    """A focus where the weights are those of Eq. 14 and it is no longer to read, else a bare pair."""
    pair = f"{_text(phase.alpha)}:{_text(phase.beta)}"
    if phase.beta:
        focus = (1 - phase.alpha / phase.beta) / 2
        if focus >= 0 and _exact_weights(focus) == (phase.alpha, phase.beta):
            text = _text(focus)
            return text if "/" not in text or len(text) <= len(pair) else pair
    return pair


def _listing(numbers: list[Fraction]) -> str:
    return ", ".join(_text(number) for number in numbers) or "none"


def _refuse(text: str, reason: str = "") -> NoReturn:
    close = difflib.get_close_matches(text.strip().lower(), REGIMES, n=1, cutoff=0.6)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    why = f" ({reason})" if reason else ""
    raise UsageError(f"Unknown mixing {text!r}{why}. Expected {GRAMMAR}.{hint}") from None
