"""The mixed loss (Eq. 12), and schedules that change its weights over training."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NoReturn

from hf_elmix.errors import UsageError, did_you_mean
from hf_elmix.losses.base import CrossEntropyFunction, Schedule
from hf_elmix.losses.weights import (
    exact,
    exact_weights,
    focus_of,
    rescaling_factor,
    to_text,
    weights_of_focus,
    weights_to_text,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CROSS_ENTROPY", "REGIMES", "Mixed", "MixingSchedule", "Phase", "RescaledCrossEntropy", "RescaledSchedule"]

# The paper's regimes (section "Scheduling") and the two terms on their own, each as a list of phases.
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

LOGITS = ("true", "other")


@dataclass(frozen=True)
class Mixed(CrossEntropyFunction):
    """The mixed loss ``alpha * CE + beta * EL`` (Eq. 12). Cross entropy is ``Mixed(1, 0)``.

    Raises:
        UsageError: If a weight is negative or both are 0.
    """

    alpha: Fraction
    beta: Fraction
    name: ClassVar[str] = "mix"
    smooths: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, weight in zip(("alpha", "beta"), exact_weights(self.alpha, self.beta), strict=True):
            object.__setattr__(self, name, weight)

    def of_ce(self, ce: Tensor) -> Tensor:  # noqa: D102
        return self.of_terms(ce, -(-ce).expm1())

    def of_terms(self, ce: Tensor, el: Tensor) -> Tensor:
        """The loss of each sample from its cross entropy, possibly smoothed, and its expectation loss."""
        from hf_elmix.losses.mixed import mix

        return mix(ce, el, float(self.alpha), float(self.beta))

    def logged(self) -> dict[str, float]:  # noqa: D102
        alpha, beta = float(self.alpha), float(self.beta)
        return {"alpha": alpha, "beta": beta, "focus": focus_of(alpha, beta)}

    def __str__(self) -> str:
        return str(MixingSchedule((Phase(Fraction(0), self.alpha, self.beta),)))


CROSS_ENTROPY = Mixed(Fraction(1), Fraction(0))


@dataclass(frozen=True)
class RescaledCrossEntropy(CrossEntropyFunction):
    """Cross entropy whose learning rate is multiplied by ``M = V_mixed / V_CE`` of a mixed loss (Eqs. 20-22).

    Attributes:
        alpha: Weight of the cross entropy in the mixed loss.
        beta: Weight of the expectation loss.
        logit: The logit at which the areas V are measured: ``"true"``, that of the true label (i = j), or ``"other"``
            (i ≠ j).
    """

    alpha: Fraction
    beta: Fraction
    logit: str = LOGITS[0]
    name: ClassVar[str] = "ce-rescaled"
    smooths: ClassVar[bool] = True

    def of_ce(self, ce: Tensor) -> Tensor:  # noqa: D102
        return ce

    @property
    def learning_rate_factor(self) -> float:  # noqa: D102
        return float(rescaling_factor(self.alpha, self.beta, true_label=self.logit == "true"))

    def logged(self) -> dict[str, float]:  # noqa: D102
        return {"learning_rate_factor": self.learning_rate_factor}

    def __str__(self) -> str:
        return str(RescaledSchedule(MixingSchedule((Phase(Fraction(0), self.alpha, self.beta),)), self.logit))


@dataclass(frozen=True)
class Phase:
    """A part of training with constant weights.

    Attributes:
        start: Share of training in [0, 1) after which it begins.
        alpha: Weight of the cross entropy.
        beta: Weight of the expectation loss.

    Raises:
        UsageError: If the start is not a number, a weight is negative, or both are 0.
    """

    start: Fraction
    alpha: Fraction
    beta: Fraction

    def __post_init__(self) -> None:
        values = (exact(self.start), *exact_weights(self.alpha, self.beta))
        for name, value in zip(("start", "alpha", "beta"), values, strict=True):
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class MixingSchedule(Schedule[Mixed]):
    """The mixed loss with weights (alpha, beta) that are a step function of training progress.

    Attributes:
        phases: Phases with increasing starts, the first of which is 0.

    Raises:
        UsageError: If the starts do not begin at 0, do not increase, or reach 1.
    """

    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "phases", tuple(self.phases))
        starts = [phase.start for phase in self.phases]
        shown = ", ".join(map(to_text, starts)) or "none"
        if not starts or starts[0] != 0:
            raise UsageError(f"Expected the first phase to start at 0, but got starts {shown}.")
        if any(later <= earlier for earlier, later in zip(starts, starts[1:], strict=False)) or starts[-1] >= 1:
            raise UsageError(f"Expected the starts of the phases to grow and stay below 1, but got {shown}.")

    @classmethod
    def parse(cls, spec: str | numbers.Real | float | MixingSchedule) -> MixingSchedule:
        """Read a schedule from its name or its phases; `str` of the result reads back to an equal schedule.

        Args:
            spec: A name from the paper (``ce``, ``el``, ``0``, ``0,0.5``, ``0-0.5``), or phases separated by spaces:
                ``0@0 0.3@0.5 0.5@0.9``, ``ce@0 0.5@5/6``, ``1:1@0 1:2.5@0.5``, ``0 0.25 0.5`` (equal lengths), with
                or without the prefix ``mix:``. A number is a focus; a schedule is returned unchanged.

        Raises:
            UsageError: If the string is not a schedule; the message says what is accepted.
        """
        if isinstance(spec, MixingSchedule):
            return spec
        if isinstance(spec, numbers.Real):
            spec = to_text(exact(spec))
        if not isinstance(spec, str):
            raise UsageError(f"Expected mixing to be a string or a MixingSchedule, but got {spec!r}.")
        spec = spec.strip().lower().removeprefix("mix:")
        words = REGIMES.get(spec.strip(), spec).split()
        if not words:
            _refuse(spec)
        if len({"@" in word for word in words}) > 1:
            _refuse(spec, "either every phase has a start ('@') or none has")
        pairs = [word.split("@", 1) if "@" in word else [word, f"{k}/{len(words)}"] for k, word in enumerate(words)]
        try:
            return cls(tuple(Phase(exact(start), *_weights(weight)) for weight, start in pairs))
        except ValueError as error:
            _refuse(spec, str(error).rstrip("."))

    @cached_property
    def parts(self) -> tuple[tuple[Fraction, Mixed], ...]:
        """The start and mixed loss of each phase."""
        return tuple((phase.start, Mixed(phase.alpha, phase.beta)) for phase in self.phases)

    def weights(self, step: int, max_steps: int) -> tuple[float, float]:
        """Weights (alpha, beta) of the loss that `at` returns."""
        loss = self.at(step, max_steps)
        return float(loss.alpha), float(loss.beta)

    def trained(self, max_steps: int) -> MixingSchedule:
        """The schedule without the phases into which no step of a training falls."""
        empty = self.empty_parts(max_steps)
        return MixingSchedule(tuple(phase for k, phase in enumerate(self.phases) if k not in empty))

    @cached_property
    def mixing(self) -> str:
        """The shortest string that reads back to this schedule, without ``mix:``."""
        for name in REGIMES:
            if MixingSchedule.parse(name) == self:
                return name
        weights = [weights_to_text(phase.alpha, phase.beta) for phase in self.phases]
        if all(phase.start == Fraction(k, len(weights)) for k, phase in enumerate(self.phases)):
            return " ".join(weights)
        return " ".join(f"{weight}@{to_text(phase.start)}" for weight, phase in zip(weights, self.phases, strict=True))

    def __str__(self) -> str:
        return self.mixing if self.mixing in ("ce", "el") else f"mix:{self.mixing}"


@dataclass(frozen=True)
class RescaledSchedule(Schedule[RescaledCrossEntropy]):
    """`RescaledCrossEntropy` under a schedule of the mixed loss.

    Attributes:
        of: The schedule of the mixed loss.
        logit: ``"true"`` or ``"other"``; any other value raises a UsageError.
    """

    of: MixingSchedule
    logit: str = LOGITS[0]

    def __post_init__(self) -> None:
        if self.logit not in LOGITS:
            raise UsageError(f"Expected logit to be {' or '.join(LOGITS)}, but got {self.logit!r}.")

    @cached_property
    def parts(self) -> tuple[tuple[Fraction, RescaledCrossEntropy], ...]:
        """The start and loss of each phase."""
        return tuple((p.start, RescaledCrossEntropy(p.alpha, p.beta, self.logit)) for p in self.of.phases)

    def __str__(self) -> str:
        return f"ce-rescaled:{self.of.mixing}" + (f",logit={self.logit}" if self.logit != LOGITS[0] else "")


def _weights(word: str) -> tuple[Fraction, Fraction]:
    """The weights of one phase, from a name, a bare pair, or a focus."""
    if word in ("ce", "el"):
        word = REGIMES[word]
    alpha, colon, beta = word.partition(":")
    return (exact(alpha), exact(beta)) if colon else weights_of_focus(exact(alpha))


def _refuse(spec: str, reason: str = "") -> NoReturn:
    why = f" ({reason})" if reason else ""
    raise UsageError(f"Unknown mixing {spec!r}{why}. Expected {GRAMMAR}.{did_you_mean(spec, REGIMES)}") from None
