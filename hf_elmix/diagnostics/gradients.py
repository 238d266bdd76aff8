"""Which samples a loss works on: the size of its gradient over the probability of the true label (Fig. 1).

The gradient is that in the logit of the true label, and comes from differentiating the loss itself in float64. For the
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
from hf_elmix.losses.baselines import ComplementEntropy, MaxMahalanobis
from hf_elmix.losses.registry import mixing_of, parse_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = ["AnyLoss", "gradient_at_label", "gradient_peak", "plot_gradients"]

AnyLoss = Loss | Schedule | Callable[..., torch.Tensor] | tuple[float, float] | float | str
"""What `parse_loss` reads, or the weights (alpha, beta) of a mixed loss."""

RANGE = 12.0  # of the log odds of the true label: they are even, so that curves are drawn finely near 0 and 1
POINTS = 601
NO_GRADIENT = {
    MaxMahalanobis: "it is a distance of features, and its prediction the nearest centre",
    ComplementEntropy: "it is a procedure of two steps, and its own acts on the other labels",
}


def gradient_at_label(loss: AnyLoss, p: ArrayLike, classes: int = 2) -> np.ndarray:
    """Size of the gradient in the logit of the true label, ``|dL / dq_y|``, where that label has the probability `p`.

    It is multiplied by the factor on the learning rate, if the loss has one, as that is what a step is made of.

    Args:
        loss: Text such as ``"focal:gamma=2"``, a focus, weights (alpha, beta), or anything else that `parse_loss`
            reads. One that changes over training is taken as in its first phase.
        p: Probabilities of the true label, in (0, 1), of any shape.
        classes: C, 2 or more. The rest of the probability is spread evenly over the other classes, which matters to
            losses that look at more than the probability of the true label.

    Returns:
        The shape of `p`, in float64.

    Raises:
        UsageError: If the loss has no such gradient, or an argument is outside its range.
    """
    now, p = _schedule(loss).at(0, 1), np.asarray(p, dtype=np.float64)
    if not ((p > 0) & (p < 1)).all():
        raise UsageError(f"Expected probabilities above 0 and below 1, as a softmax has them, but got {p}.")
    if classes < 2:
        raise UsageError(f"Expected two classes or more, but got {classes}.")
    logit = np.log(p) - np.log1p(-p) + math.log(classes - 1)
    return _gradient(now, logit.reshape(-1), classes).reshape(p.shape)


def gradient_peak(loss: AnyLoss, classes: int = 2) -> tuple[float, float]:
    """Where the gradient of `gradient_at_label` is largest, the focus of any loss, and how large it is there.

    Args:
        loss: As there.
        classes: As there.

    Returns:
        Probability of the true label and size. Probabilities from 6e-6 to 1 - 6e-6 are looked at, so that a gradient
        which grows towards 0, as that of cross entropy, has its peak at 6e-6.

    Raises:
        UsageError: If the loss has no such gradient, or an argument is outside its range.
    """
    p = _probabilities()
    for _ in range(3):  # each time on a finer grid around the largest
        size = gradient_at_label(loss, p, classes)
        top = int(size.argmax())
        peak = float(p[top]), float(size[top])
        p = np.linspace(p[max(top - 1, 0)], p[min(top + 1, POINTS - 1)], POINTS)
    return peak


def plot_gradients(losses: Iterable[AnyLoss], ax: Axes | None = None, *, classes: int = 2) -> Axes:
    """Draw the gradients of losses at the true label (Fig. 1), with a marker where each is largest: its focus.

    Args:
        losses: As in `gradient_at_label`. One that changes over training has a curve for each of its phases. Curves
            that are the same are drawn once.
        ax: Where to draw; the current axis if left out.
        classes: As in `gradient_at_label`.

    Returns:
        The axis.

    Raises:
        UsageError: If a loss has no such gradient, or an argument is outside its range.
    """
    import matplotlib.pyplot as plt

    from hf_elmix.plotting import drawn_name, finished, style_of

    ax = plt.gca() if ax is None else ax
    for place, phase in enumerate(dict.fromkeys(phase for loss in losses for phase in _schedule(loss).losses)):
        style, peak = style_of(place), gradient_peak(phase, classes)[0]
        p = np.sort(np.append(_probabilities(), peak))
        look: dict[str, Any] = {"color": style.colour, "ls": style.line, "lw": 1.6, "label": drawn_name(_label(phase))}
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
                f"The loss {str(schedule)!r} has no gradient at the true label that its probability decides: "
                f"{reason}. Leave it out."
            )
    return schedule


def _label(loss: Loss) -> str:
    """What a curve is called: the focus of a mixed loss, or its weights where they are not those of a focus."""
    mixing = mixing_of(str(loss))
    if mixing is None or mixing == "ce":
        return str(loss)
    alpha, colon, beta = mixing.partition(":")
    return f"α = {alpha}, β = {beta}" if colon else f"F = {mixing.replace('el', '0.5')}"


def _probabilities() -> np.ndarray:
    return 1 / (1 + np.exp(-np.linspace(-RANGE, RANGE, POINTS)))


def _gradient(loss: Loss, logit: np.ndarray, classes: int) -> np.ndarray:
    """Of each sample in the logit of its label, which is the first; the other logits are 0."""
    logits = torch.zeros(len(logit), classes, dtype=torch.float64)
    logits[:, 0] = torch.from_numpy(logit)
    logits.requires_grad_()
    try:
        total = loss(logits, torch.zeros(len(logit), dtype=torch.long), reduction="sum")
        (gradient,) = torch.autograd.grad(total, logits)
    except Exception as error:  # a function of the user's can raise anything, or give what has no gradient
        raise UsageError(f"Cannot differentiate the loss {str(loss)!r}: {in_one_line(error)}") from error
    return gradient[:, 0].abs().numpy() * loss.learning_rate_factor
