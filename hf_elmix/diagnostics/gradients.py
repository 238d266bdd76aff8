"""Which samples a loss emphasises: the size of its gradient against the probability of the true label (Fig. 1).

The gradient is with respect to the logit of the true label, computed by differentiating the loss in float64. For the
mixed loss it is ``(1 - p)(alpha + beta p)`` (Eq. 13), largest at the focus (Eq. 14).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.losses.base import Loss, Schedule
from hf_elmix.losses.baselines import MaxMahalanobis, NegativeComplementEntropy
from hf_elmix.losses.registry import mixing_of, parse_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = ["AnyLoss", "gradient_at_label", "gradient_peak", "plot_gradients"]

AnyLoss = Loss | Schedule | Callable[..., torch.Tensor] | tuple[float, float] | float | str
"""Anything that `parse_loss` reads, or the weights (alpha, beta) of a mixed loss."""

RANGE = 12.0  # of the log odds of the true label, which are evenly spaced to resolve probabilities near 0 and 1
POINTS = 601
NO_GRADIENT = {
    MaxMahalanobis: "it is a distance between features, and the prediction is the nearest centre",
    NegativeComplementEntropy: "it alternates two steps, and its own step acts on the other labels",
}


def gradient_at_label(loss: AnyLoss, p: ArrayLike, classes: int = 2) -> np.ndarray:
    """Compute ``|dL / dq_y|``, the size of the gradient with respect to the logit of the true label.

    If the loss scales the learning rate, the gradient is scaled too, since an optimizer step uses the product.

    Args:
        loss: Text such as ``"focal:gamma=2"``, a focus, weights (alpha, beta), or anything else that `parse_loss`
            reads. A loss that changes over training is taken as in its first phase.
        p: Probabilities of the true label, in (0, 1), of any shape.
        classes: C, 2 or more. The remaining probability is spread evenly over the other classes, which matters for
            losses that depend on more than the probability of the true label.

    Returns:
        Sizes of the shape of `p`, in float64.

    Raises:
        UsageError: If the loss has no such gradient, or an argument is out of range.
    """
    first, p = _schedule(loss).at(0, 1), np.asarray(p, dtype=np.float64)
    if not ((p > 0) & (p < 1)).all():
        raise UsageError(f"Expected probabilities above 0 and below 1, like those of a softmax, but got {p}.")
    if classes < 2:
        raise UsageError(f"Expected two classes or more, but got {classes}.")
    logits = torch.zeros(p.size, classes, dtype=torch.float64)
    logits[:, 0] = torch.from_numpy((np.log(p) - np.log1p(-p) + math.log(classes - 1)).reshape(-1))
    logits.requires_grad_()
    try:
        total = first(logits, torch.zeros(p.size, dtype=torch.long), reduction="sum")
        (gradient,) = torch.autograd.grad(total, logits)
    except Exception as error:  # a custom function can raise anything, or return a result without a gradient
        raise UsageError(f"Cannot differentiate the loss {str(first)!r}: {in_one_line(error)}") from error
    return (gradient[:, 0].abs().numpy() * first.learning_rate_factor).reshape(p.shape)


def gradient_peak(loss: AnyLoss, classes: int = 2) -> tuple[float, float]:
    """Find the focus of a loss: where the gradient of `gradient_at_label` is largest.

    Args:
        loss: As in `gradient_at_label`.
        classes: As in `gradient_at_label`.

    Returns:
        The probability of the true label and the size of the gradient there. The search covers 6e-6 to 1 - 6e-6, so a
        gradient that grows towards 0, such as that of cross entropy, has its peak at 6e-6.

    Raises:
        UsageError: If the loss has no such gradient, or an argument is out of range.
    """
    p = _probabilities()
    for _ in range(3):  # each time on a finer grid around the peak
        size = gradient_at_label(loss, p, classes)
        top = int(size.argmax())
        peak = float(p[top]), float(size[top])
        p = np.linspace(p[max(top - 1, 0)], p[min(top + 1, POINTS - 1)], POINTS)
    return peak


def plot_gradients(losses: Iterable[AnyLoss], ax: Axes | None = None, *, classes: int = 2) -> Axes:
    """Draw the gradients of losses at the true label (Fig. 1), with a marker at the peak of each: its focus.

    Args:
        losses: As in `gradient_at_label`. A loss that changes over training has a curve for each of its phases. Equal
            curves are drawn once.
        ax: Axis to draw on; by default the current one.
        classes: As in `gradient_at_label`.

    Raises:
        UsageError: If a loss has no such gradient, or an argument is out of range.
    """
    import matplotlib.pyplot as plt

    from hf_elmix.plotting import finished, notation, short_name, style_of

    ax = plt.gca() if ax is None else ax
    for place, phase in enumerate(dict.fromkeys(phase for loss in losses for phase in _schedule(loss).losses)):
        style, peak = style_of(place), gradient_peak(phase, classes)[0]
        p = np.sort(np.append(_probabilities(), peak))
        look: dict[str, Any] = {
            "color": style.colour,
            "ls": style.line,
            "lw": 1.6,
            "label": short_name(notation(_label(phase))),
        }
        marked = [int(np.searchsorted(p, peak))]
        ax.plot(p, gradient_at_label(phase, p, classes), marker=style.marker, markevery=marked, mec="#000000", **look)
    ax.set_xlabel("probability p of the true label")
    ax.set_ylabel("size of the gradient at its logit")
    return finished(ax, legend="below")


def _schedule(loss: AnyLoss) -> Schedule:
    schedule = parse_loss("{}:{}".format(*loss) if isinstance(loss, tuple) and len(loss) == 2 else loss)
    for kind, reason in NO_GRADIENT.items():
        if isinstance(schedule.at(0, 1), kind):
            raise UsageError(
                f"The gradient of the loss {str(schedule)!r} is not a function of the probability of the true label: "
                f"{reason}. Leave it out."
            )
    return schedule


def _label(loss: Loss) -> str:
    """Name a curve by the focus of a mixed loss, or by its weights if they have none."""
    mixing = mixing_of(str(loss))
    if mixing is None or mixing == "ce":
        return str(loss)
    alpha, colon, beta = mixing.partition(":")
    return f"α = {alpha}, β = {beta}" if colon else f"F = {mixing.replace('el', '0.5')}"


def _probabilities() -> np.ndarray:
    return 1 / (1 + np.exp(-np.linspace(-RANGE, RANGE, POINTS)))
