"""The loss registry: turns a string such as ``focal:gamma=2,alpha=0.25`` into an object that computes the loss."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NoReturn

from hf_elmix.errors import UsageError, did_you_mean, in_one_line
from hf_elmix.losses.base import ConstantSchedule, FunctionLoss, Loss, Schedule
from hf_elmix.losses.baselines import BASELINES
from hf_elmix.losses.schedules import REGIMES, Mixed, MixingSchedule, Phase, RescaledCrossEntropy, RescaledSchedule

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DEFAULT_MIXING",
    "EXAMPLES",
    "LOSS_SETS",
    "choose_loss",
    "expand_losses",
    "mixing_of",
    "parse_loss",
    "register_loss",
]

DEFAULT_MIXING = "0-0.5"

# The six methods of the paper's Table 4, in its order.
LOSS_SETS: Mapping[str, tuple[str, ...]] = {"table4": ("ce", "0", "0,0.5", "0-0.5", "el", "focal:gamma=2,alpha=0.25")}

BASELINE_BY_NAME = {loss.name: loss for loss in BASELINES}
KNOWN = ("ce", "el", "mix", "ce-rescaled", *BASELINE_BY_NAME)
GROUP = "hf_elmix.losses"  # of entry points
EXAMPLES = "mix:0-0.5, focal:gamma=2,alpha=0.25, gce:q=0.7,k=0.5, ce-rescaled:0-0.5"
NAME = re.compile(r"[a-z][a-z0-9_-]*")
MOST_CLASSES = 1000  # for which a custom function is tried

_registered: dict[str, Callable[..., Tensor]] = {}


def parse_loss(spec: Any) -> Schedule:
    """Read a loss, such as ``ce``, ``mix:0-0.5``, ``focal:gamma=2,alpha=0.25``, ``gce:q=0.7,k=0.5`` or ``tce:a=0.2``.

    Args:
        spec: A name, with any arguments after a colon; anything that `MixingSchedule.parse` reads, for the mixed loss;
            a function of (logits, labels); a `Loss` or a `Schedule`.

    Returns:
        The loss as a schedule, constant for most losses. Its `str` reads back to an equal one. A custom function has
        been tried on two samples.

    Raises:
        UsageError: If the loss does not exist, or an argument is invalid.
    """
    if isinstance(spec, Schedule):
        return spec
    if isinstance(spec, Loss):
        return _constant(spec)
    if callable(spec):
        return _custom(getattr(spec, "__name__", type(spec).__name__), spec, "", "")
    if not isinstance(spec, str):
        return MixingSchedule.parse(spec)
    name, _, rest = spec.strip().partition(":")
    name = name.strip().lower()
    if name in ("ce", "el", "mix") or not NAME.fullmatch(name):
        return MixingSchedule.parse(spec)
    if name == "ce-rescaled":
        mixing, _, logit = rest.partition(",logit=")
        return RescaledSchedule(MixingSchedule.parse(mixing), logit or "true")
    if name not in BASELINE_BY_NAME:
        return _custom(name, _registered.get(name) or _from_entry_point(name, spec), rest, spec)
    arguments = _arguments(rest, inspect.signature(BASELINE_BY_NAME[name]).parameters, spec)
    try:
        return ConstantSchedule(BASELINE_BY_NAME[name](**arguments))
    except UsageError as error:
        raise UsageError(f"Cannot use the loss {spec!r}: {error}") from None


def mixing_of(spec: str) -> str | None:
    """The mixing of a mixed loss, from the `str` of its schedule, or None for any other loss.

    The string is not parsed, because a custom loss may be registered only where it was trained.
    """
    return spec.removeprefix("mix:") if spec.partition(":")[0] in ("mix", "ce", "el") else None


def choose_loss(mixing: Any, loss: Any) -> Schedule:
    """The loss that one of the arguments `mixing` and `loss` names; ``mix:0-0.5`` if both are None.

    Raises:
        UsageError: If the loss does not exist, or both are given and differ.
    """
    if loss is None:
        return MixingSchedule.parse(DEFAULT_MIXING if mixing is None else mixing)
    chosen = parse_loss(loss)
    if mixing is not None and chosen != MixingSchedule.parse(mixing):
        raise UsageError(f"Expected mixing or loss, but got mixing {mixing!r} and loss {loss!r}. Leave one out.")
    return chosen


def _constant(loss: Loss) -> Schedule:
    """One loss throughout, as the schedule that its string reads back to."""
    if isinstance(loss, Mixed | RescaledCrossEntropy):
        mixing = MixingSchedule((Phase(Fraction(0), loss.alpha, loss.beta),))
        return mixing if isinstance(loss, Mixed) else RescaledSchedule(mixing, loss.logit)
    return ConstantSchedule(loss)


def register_loss(name: str, function: Callable[..., Tensor]) -> None:
    """Register a custom loss for `parse_loss`, in this process.

    A package registers a loss in every process with an entry point in the group ``hf_elmix.losses``.

    Args:
        name: Lower-case letters, digits, hyphens and underscores.
        function: A function of logits (N, C), labels (N,) and keyword arguments that returns the loss of each sample,
            shape (N,). The string can set the arguments that have a number as default.

    Raises:
        UsageError: If the name is invalid or already taken.
    """
    if not NAME.fullmatch(name) or name in KNOWN or _registered.get(name, function) is not function:
        raise UsageError(
            f"Expected a name of lower-case letters, digits and hyphens that is not taken, but got {name!r}."
        )
    _registered[name] = function


def expand_losses(names: Iterable[str]) -> list[str]:
    """Loss strings without duplicates, with ``table4`` replaced by the methods of the paper's Table 4."""
    return list(dict.fromkeys(spec for name in names for spec in LOSS_SETS.get(name.strip().lower(), (name,))))


def _custom(name: str, function: Callable[..., Tensor], rest: str, spec: str) -> ConstantSchedule:
    """A custom function as a loss, tried on two samples; arguments that are not given have their default."""
    parameters = list(inspect.signature(function).parameters.values())[2:]
    defaults = {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    arguments = {**defaults, **_arguments(rest, defaults, spec)}
    numbers = tuple((key, value) for key, value in arguments.items() if isinstance(value, int | float))
    loss = FunctionLoss(name, function, numbers)
    _try(loss)
    return ConstantSchedule(loss)


def _try(loss: FunctionLoss) -> None:
    """Call a loss on two samples; a function with weights of classes, say, works for one number of classes only."""
    import torch

    errors = []
    for classes in (3, 2, *range(4, MOST_CLASSES + 1)):
        try:
            loss(torch.zeros(2, classes), torch.tensor([0, classes - 1]))
            return
        except Exception as error:  # a custom function can raise anything
            errors.append(error)
    raise UsageError(f"Cannot use the loss {str(loss)!r}: {in_one_line(errors[0])}") from errors[0]


def _arguments(rest: str, accepted: Iterable[str], spec: str) -> dict[str, float]:
    """Numbers by name, from ``gamma=2,alpha=0.25``."""
    pairs = [part.partition("=")[::2] for part in rest.split(",")] if rest.strip() else []
    try:
        numbers = {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        _refuse(spec, "arguments look like gamma=2,alpha=0.25")
    if len(numbers) < len(pairs):
        _refuse(spec, "an argument is given twice")
    if not set(numbers) <= set(accepted):
        _refuse(spec, f"its arguments are {', '.join(accepted) or 'none'}")
    return numbers


def _entry_points() -> Any:
    """The losses of other packages; looking for them loads much, which the losses here need not wait for."""
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _from_entry_point(name: str, spec: str) -> Callable[..., Tensor]:
    for point in _entry_points():
        if point.name != name:
            continue
        try:
            return point.load()
        except Exception as error:  # the package can raise anything
            raise UsageError(f"Cannot load the loss {name!r} from {point.value}: {in_one_line(error)}") from error
    _refuse(spec)


def _refuse(spec: str, reason: str = "") -> NoReturn:
    names = [*KNOWN, *_registered, *(point.name for point in _entry_points())]
    name = spec.strip().partition(":")[0].lower()
    hint = "" if name in names else did_you_mean(name, [*names, *REGIMES])
    why = f" ({reason})" if reason else ""
    raise UsageError(
        f"Unknown loss {spec!r}{why}. Expected a schedule of the mixed loss, such as "
        f"{', '.join(map(repr, REGIMES))}, or one of {', '.join(names)}, as in {EXAMPLES}.{hint}"
    ) from None
