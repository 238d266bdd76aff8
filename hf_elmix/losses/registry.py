"""The loss registry: from a text such as ``focal:gamma=2,alpha=0.25`` to an object that computes it."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, NoReturn

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.losses.base import ConstantSchedule, FunctionLoss, Loss, Schedule
from hf_elmix.losses.baselines import (
    ComplementEntropy,
    Focal,
    GeneralizedCrossEntropy,
    MaximumProbabilityCrossEntropy,
    MaxMahalanobis,
    MeanAbsoluteError,
    TamedCrossEntropy,
)
from hf_elmix.losses.schedules import REGIMES, Mixed, MixingSchedule, Phase, RescaledSchedule

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EXAMPLES", "LOSS_SETS", "expand_losses", "mixing_of", "parse_loss", "register_loss"]

# The six methods of the paper's Table 4, in its order.
LOSS_SETS: Mapping[str, tuple[str, ...]] = {"table4": ("ce", "0", "0,0.5", "0-0.5", "el", "focal:gamma=2,alpha=0.25")}

LOSSES: Mapping[str, type[Loss]] = {
    loss.name: loss
    for loss in (
        ComplementEntropy,
        MaxMahalanobis,
        Focal,
        GeneralizedCrossEntropy,
        MeanAbsoluteError,
        MaximumProbabilityCrossEntropy,
        TamedCrossEntropy,
    )
}
KNOWN = ("ce", "el", "mix", "ce-rescaled", *LOSSES)
GROUP = "hf_elmix.losses"  # of entry points
EXAMPLES = "mix:0-0.5, focal:gamma=2,alpha=0.25, gce:q=0.7,k=0.5, ce-rescaled:0-0.5"
NAME = re.compile(r"[a-z][a-z0-9_-]*")

_registered: dict[str, Callable[..., Tensor]] = {}


def parse_loss(text: Any) -> Schedule:
    """Read a loss, such as ``ce``, ``mix:0-0.5``, ``focal:gamma=2,alpha=0.25``, ``gce:q=0.7,k=0.5`` or ``tce:a=0.2``.

    Args:
        text: A name, and after a colon its arguments. What `MixingSchedule.parse` reads is the mixed loss, with or
            without ``mix:``. A function of (logits, labels) is a loss too, and so are a `Loss` and a `Schedule`.

    Returns:
        The loss as a schedule, which for most losses is constant. Its `str` reads back to an equal one. Custom
        functions have been tried on two samples.

    Raises:
        UsageError: If there is no such loss, or an argument is wrong.
    """
    if isinstance(text, Schedule):
        return text
    if isinstance(text, Mixed):
        return MixingSchedule((Phase(0, text.alpha, text.beta),))  # type: ignore[arg-type]
    if isinstance(text, Loss):
        return ConstantSchedule(text)
    if callable(text):
        return _custom(getattr(text, "__name__", type(text).__name__), text, {}, "")
    if not isinstance(text, str):
        return MixingSchedule.parse(text)
    name, _, rest = text.strip().partition(":")
    name = name.strip().lower()
    if name in ("ce", "el", "mix") or not NAME.fullmatch(name):
        return MixingSchedule.parse(text)
    if name == "ce-rescaled":
        mixing, _, logit = rest.partition(",logit=")
        return RescaledSchedule(MixingSchedule.parse(mixing), logit or "true")
    if name not in LOSSES:
        function = _registered[name] if name in _registered else _from_entry_point(name, text)
        return _custom(name, function, _numbers(rest, text), text)
    numbers, accepted = _numbers(rest, text), list(inspect.signature(LOSSES[name]).parameters)
    _check_names(numbers, accepted, text)
    try:
        return ConstantSchedule(LOSSES[name](**numbers))
    except UsageError as error:
        raise UsageError(f"Cannot use the loss {text!r}: {error}") from None


def mixing_of(text: str) -> str | None:
    """The mixing of a mixed loss, from its text in a record, or None for any other loss.

    Nothing is looked up: a custom loss may be registered only where it was trained.

    Args:
        text: The `str` of a schedule.
    """
    return text.removeprefix("mix:") if text.partition(":")[0] in ("mix", "ce", "el") else None


def register_loss(name: str, function: Callable[..., Tensor]) -> None:
    """Give a custom loss a name that `parse_loss` reads, in this process.

    A package does this for every process with an entry point of the group ``hf_elmix.losses``.

    Args:
        name: Lower-case letters, digits, hyphens and underscores.
        function: From logits (N, C), labels (N,) and keyword arguments with numbers as defaults, which the text can
            set, to the loss of each sample (N,).

    Raises:
        UsageError: If the name is not of this form, or another function has it.
    """
    if not NAME.fullmatch(name) or name in KNOWN or _registered.get(name, function) is not function:
        raise UsageError(
            f"Expected a name of lower-case letters, digits and hyphens that is not taken, but got {name!r}."
        )
    _registered[name] = function


def expand_losses(names: Iterable[str]) -> list[str]:
    """Texts of losses, with each name of a set (``table4``: the methods of the paper's Table 4) expanded.

    Args:
        names: Texts and names of sets.
    """
    return list(dict.fromkeys(text for name in names for text in LOSS_SETS.get(name.strip().lower(), (name,))))


def _custom(name: str, function: Callable[..., Tensor], given: Mapping[str, float], text: str) -> ConstantSchedule:
    """A custom function as a loss, with the defaults of its arguments that are numbers, tried on two samples."""
    import torch

    parameters = list(inspect.signature(function).parameters.values())[2:]
    own = {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    _check_names(given, own, text)
    arguments = tuple((key, value) for key, value in {**own, **given}.items() if isinstance(value, int | float))
    loss = FunctionLoss(name, function, arguments)
    try:
        loss(torch.zeros(2, 3), torch.tensor([0, 2]))
    except Exception as error:  # a custom function can raise anything
        raise UsageError(f"Cannot use the loss {str(loss)!r}: {in_one_line(error)}") from error
    return ConstantSchedule(loss)


def _check_names(given: Iterable[str], accepted: Iterable[str], text: str) -> None:
    if not set(given) <= set(accepted):
        _refuse(text, f"its arguments are {', '.join(accepted) or 'none'}")


def _numbers(rest: str, text: str) -> dict[str, float]:
    """``gamma=2,alpha=0.25`` as numbers by name."""
    pairs = [part.partition("=")[::2] for part in rest.split(",")] if rest.strip() else []
    try:
        numbers = {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        _refuse(text, "arguments look like gamma=2,alpha=0.25")
    if len(numbers) < len(pairs):
        _refuse(text, "an argument is given twice")
    return numbers


def _from_entry_point(name: str, text: str) -> Callable[..., Tensor]:
    for point in entry_points(group=GROUP, name=name):
        try:
            return point.load()
        except Exception as error:  # whatever that package raises
            raise UsageError(f"Cannot load the loss {name!r} from {point.value}: {in_one_line(error)}") from error
    _refuse(text)


def _refuse(text: str, reason: str = "") -> NoReturn:
    names = [*KNOWN, *_registered, *(point.name for point in entry_points(group=GROUP))]
    name = text.strip().partition(":")[0].lower()
    close = [] if name in names else difflib.get_close_matches(name, [*names, *REGIMES], n=1, cutoff=0.6)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    why = f" ({reason})" if reason else ""
    raise UsageError(
        f"Unknown loss {text!r}{why}. Expected one of {', '.join(names)}, as in {EXAMPLES}.{hint}"
    ) from None
