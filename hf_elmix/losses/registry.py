"""One spelling for every loss: from a text such as ``focal:gamma=2,alpha=0.25`` to an object that computes it.

PyTorch is imported when a loss is first checked, so that whoever only names losses does without.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, NoReturn

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.losses.base import (
    LOGITS,
    CenterLoss,
    ComplementLoss,
    FunctionLoss,
    LibraryLoss,
    Loss,
    MixedLoss,
    RescaledCrossEntropy,
)
from hf_elmix.losses.schedules import REGIMES, MixingSchedule

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EXAMPLES", "LOSS_SETS", "expand_losses", "mixing_of", "parse_loss", "register_loss"]

# The six methods of the paper's Table 4, in its order.
LOSS_SETS: Mapping[str, tuple[str, ...]] = {"table4": ("ce", "0", "0,0.5", "0-0.5", "el", "focal:gamma=2,alpha=0.25")}

# Functions of `hf_elmix.losses` by the name they have here.
FUNCTIONS = {
    "focal": "focal_loss",
    "gce": "generalized_cross_entropy",
    "mae": "mae_loss",
    "mpce": "mpce_loss",
    "tce": "tamed_cross_entropy",
}
GROUP = "hf_elmix.losses"  # of entry points
EXAMPLES = "mix:0-0.5, focal:gamma=2,alpha=0.25, gce:q=0.7,k=0.5, ce-rescaled:0-0.5"
NAME = re.compile(r"[a-z][a-z0-9_-]*")

_registered: dict[str, Callable[..., Tensor]] = {}


def parse_loss(text: Any) -> Loss:
    """Read a loss, such as ``ce``, ``mix:0-0.5``, ``focal:gamma=2,alpha=0.25``, ``gce:q=0.7,k=0.5`` or ``tce:a=0.2``.

    Args:
        text: A name, and after a colon its arguments. What `MixingSchedule.parse` reads is the mixed loss, with or
            without ``mix:``. A function of (logits, labels) is a loss too, and a loss is returned as it is.

    Returns:
        The loss. It has been tried on two samples, so that a mistake shows here.

    Raises:
        UsageError: If there is no such loss, or an argument is wrong.
    """
    if isinstance(text, Loss):
        return text
    if callable(text):
        return _tried(FunctionLoss(getattr(text, "__name__", type(text).__name__), text, _arguments(text, {}, "")))
    if not isinstance(text, str):
        return MixedLoss(MixingSchedule.parse(text))
    name, _, rest = text.strip().partition(":")
    name = name.strip().lower()
    if name in ("ce", "el") or not NAME.fullmatch(name):
        return MixedLoss(MixingSchedule.parse(text))
    return _named(name, rest, text)


def mixing_of(text: str) -> str | None:
    """The mixing of a mixed loss, from the text it has in records, or None for any other loss.

    Nothing is looked up: a loss of a user's own has a name that may be known where it trained alone.

    Args:
        text: What ``str()`` of a loss gave.
    """
    return text.removeprefix("mix:") if text.partition(":")[0] in ("mix", "ce", "el") else None


def register_loss(name: str, function: Callable[..., Tensor]) -> None:
    """Give a loss of your own a name, for `parse_loss` in this process.

    A package does that for every process with an entry point of the group ``hf_elmix.losses``.

    Args:
        name: Lower-case letters, digits, hyphens and underscores.
        function: From logits (N, C), labels (N,) and keyword arguments with numbers as defaults, which the text can
            set, to the loss of each sample (N,).

    Raises:
        UsageError: If the name is taken by another function, or is none.
    """
    if not NAME.fullmatch(name) or name in _known() or _registered.get(name, function) is not function:
        raise UsageError(
            f"Expected a name of lower-case letters, digits and hyphens that is not taken, but got {name!r}."
        )
    _registered[name] = function


def expand_losses(names: Iterable[str]) -> list[str]:
    """Texts of losses, with the names of sets (``table4``: the methods of the paper's Table 4) replaced by them.

    Args:
        names: Texts and names of sets.
    """
    return list(dict.fromkeys(text for name in names for text in LOSS_SETS.get(name.strip().lower(), (name,))))


def _named(name: str, rest: str, text: str) -> Loss:
    if name == "mix":
        return MixedLoss(MixingSchedule.parse(rest))
    if name == "ce-rescaled":
        return _rescaled(rest, text)
    if name == "cot":
        if rest:
            _refuse(text, "it has no arguments")
        return ComplementLoss()
    if name == "mmc":
        return _centers(_numbers(rest, text), text)
    if name in FUNCTIONS:
        function = getattr(import_module("hf_elmix.losses"), FUNCTIONS[name])
        return _tried(LibraryLoss(name, function, _arguments(function, _numbers(rest, text), text)))
    function = _registered[name] if name in _registered else _from_entry_point(name, text)
    return _tried(FunctionLoss(name, function, _arguments(function, _numbers(rest, text), text)))


def _rescaled(rest: str, text: str) -> RescaledCrossEntropy:
    mixing, _, logit = rest.partition(",logit=")
    if (logit or LOGITS[0]) not in LOGITS:
        _refuse(text, f"logit is {' or '.join(LOGITS)}")
    return RescaledCrossEntropy(MixingSchedule.parse(mixing), logit or LOGITS[0])


def _centers(given: Mapping[str, float], text: str) -> CenterLoss:
    loss = CenterLoss(**given) if set(given) <= {"scale"} else _refuse(text, "its argument is scale")
    if not 0 < loss.scale < math.inf:
        _refuse(text, "scale is above 0")
    return loss


def _numbers(rest: str, text: str) -> dict[str, float]:
    """``gamma=2,alpha=0.25`` as numbers by name."""
    pairs = [part.partition("=")[::2] for part in rest.split(",")] if rest.strip() else []
    try:
        numbers = {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        _refuse(text, "arguments look like gamma=2,alpha=0.25")
    if len(numbers) < len(pairs):
        _refuse(text, "an argument is there twice")
    return numbers


def _arguments(function: Callable[..., Any], given: Mapping[str, float], text: str) -> tuple[tuple[str, float], ...]:
    """All arguments of a loss that are numbers: those given, and the defaults of the others."""
    parameters = list(inspect.signature(function).parameters.values())[2:]
    own = {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    unknown = [name for name in given if name not in own]
    if unknown:
        _refuse(text, f"its arguments are {', '.join(own) or 'none'}")
    values = {**own, **given}
    return tuple((name, value) for name, value in values.items() if isinstance(value, int | float))


def _from_entry_point(name: str, text: str) -> Callable[..., Tensor]:
    for point in entry_points(group=GROUP, name=name):
        try:
            return point.load()
        except Exception as error:  # whatever that package raises
            raise UsageError(f"Cannot load the loss {name!r} from {point.value}: {in_one_line(error)}") from error
    _refuse(text)


def _tried(loss: FunctionLoss) -> FunctionLoss:
    """The loss, if it can be computed for two samples of three classes."""
    import torch

    try:
        loss.per_sample(torch.zeros(2, 3), torch.tensor([0, 2]))
    except Exception as error:  # a function of the user's can raise anything
        raise UsageError(f"Cannot use the loss {str(loss)!r}: {in_one_line(error)}") from error
    return loss


def _known() -> list[str]:
    return ["ce", "el", "mix", "ce-rescaled", "cot", "mmc", *FUNCTIONS]


def _refuse(text: str, reason: str = "") -> NoReturn:
    others = [*_registered, *(point.name for point in entry_points(group=GROUP))]
    names = [*_known(), *others]
    name = text.strip().partition(":")[0].lower()
    close = [] if name in names else difflib.get_close_matches(name, [*names, *REGIMES], n=1, cutoff=0.6)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    why = f" ({reason})" if reason else ""
    raise UsageError(
        f"Unknown loss {text!r}{why}. Expected one of {', '.join(names)}, as in {EXAMPLES}.{hint}"
    ) from None
