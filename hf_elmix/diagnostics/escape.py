"""The escaping efficiency of a checkpoint under several losses: estimates of Tr(H Sigma) (Eqs. 15-19).

H is the Hessian of a loss averaged over rows, and Sigma the covariance of the gradient of a batch (Eq. 16). For random
signs e_i, z = sum_i e_i (g_i - mean g) / sqrt(N) has the covariance m Sigma, so that the mean of z'Hz over draws is
m Tr(H Sigma): a Hutchinson estimate with probes that are gradient noise themselves. All losses share the draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hf_elmix.diagnostics.hessian import Surface, constant_losses
from hf_elmix.errors import UsageError
from hf_elmix.losses.base import Loss
from hf_elmix.losses.schedules import Mixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "EscapeResult",
    "Estimate",
    "LossEscape",
    "escape",
    "plot_escape",
    "printed_bound",
    "to_text",
    "worked_bound",
]

TRACE, NOISE, SQUARE, CURVE = range(4)  # what each probe says of each loss


@dataclass(frozen=True)
class Estimate:
    """A mean over probes.

    Attributes:
        value: The mean.
        error: Its standard error, by the jackknife.
    """

    value: float
    error: float


@dataclass(frozen=True)
class LossEscape:
    """What was estimated for one loss.

    Attributes:
        loss: Its spelling.
        mean: Its mean over the rows.
        drift: Share of the squared mean gradient in the mean squared gradient of a row: 0 at a stationary point.
        trace: Tr(H Sigma), in units of the loss cubed over those of the weights to the fourth.
        noise: Tr(Sigma).
        difference: `trace` minus that of cross entropy, from the same probes; None for cross entropy.
        ratio: `trace` over that of cross entropy, likewise.
        relative: The same after this loss was multiplied by the constant that gives it the `noise` of cross entropy:
            ``ratio * (noise of CE / noise) ** 1.5``, which the scale of a loss does not change.
        printed: The right side of (19) over the batch size; None unless alpha is 1 and beta above 0.
        worked: The bound that the derivation gives instead (see `worked_bound`), over the batch size; likewise.
    """

    loss: str
    mean: float
    drift: float
    trace: Estimate
    noise: Estimate
    difference: Estimate | None
    ratio: Estimate | None
    relative: Estimate | None
    printed: Estimate | None
    worked: Estimate | None


@dataclass(frozen=True)
class EscapeResult:
    """Estimates at one checkpoint.

    Attributes:
        losses: For each loss, cross entropy and expectation loss first.
        rows: Over how many rows.
        weights: In how many weights.
        batch_size: m of Eq. 16.
        probes: How many were drawn.
        seed: From which seed.
        top: M of Eq. 19: the largest probability of a true label.
    """

    losses: tuple[LossEscape, ...]
    rows: int
    weights: int
    batch_size: int
    probes: int
    seed: int
    top: float


def escape(
    model: nn.Module,
    loader: Iterable[Mapping[str, Any]],
    losses: Iterable[str | Loss] = ("ce", "el", "mix:0.3"),
    *,
    probes: int = 16,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> EscapeResult:
    """Estimate Tr(H Sigma) for losses at the weights that a model has.

    A probe reads the loader twice; K losses cost it one forward pass, K backward passes and K products with a Hessian,
    each of about four gradients' time. Held are 4K + 1 vectors as large as the weights, and what one batch needs. The
    batches of the loader change nothing but memory and time. The model is in evaluation mode meanwhile (no dropout),
    and only its weights with ``requires_grad`` count.

    Args:
        model: Any that gives class logits (N, C), in float32 or float64.
        loader: Batches are dictionaries of what the model takes, and ``labels`` (class ids). It is read many times:
            in any order of rows, but always the same.
        losses: Spellings (`hf_elmix.parse_loss`), or losses; of a schedule, each phase counts as one. Cross entropy
            and expectation loss are measured in any case.
        probes: How many, 2 or more. Standard errors fall with their square root.
        batch_size: m of Eq. 16: that of the training, whatever the loader's. The results are proportional to 1/m.
        seed: Of the probes.
        progress: Show a bar, on a terminal.

    Returns:
        The estimates; `to_text` and `plot_escape` show them.

    Raises:
        UsageError: If the model, the rows or a loss cannot be used.
    """
    if probes < 2 or batch_size < 1:
        raise UsageError(f"Expected 2 probes and a batch_size of 1, or more, but got {probes} and {batch_size}.")
    surface = Surface(model, loader, constant_losses(["ce", "el", *losses]))
    generator = torch.Generator().manual_seed(seed)
    with surface.opened("escape", 3 + 2 * probes, progress):
        probe = _Probe(surface)
        drawn = [torch.randint(2, (surface.rows,), generator=generator) * 2 - 1 for _ in range(probes)]
        samples = torch.stack([probe(signs) for signs in drawn])
    return EscapeResult(
        losses=tuple(
            _estimates(surface, samples, probe.means, place, batch_size) for place in range(samples.shape[1])
        ),
        rows=surface.rows,
        weights=len(surface.weights),
        batch_size=batch_size,
        probes=probes,
        seed=seed,
        top=surface.top,
    )


def printed_bound(beta: float, top: float, square: float, curve: float) -> float:
    """The right side of (19), as it is printed: for batches of one row.

    Args:
        beta: Weight of the expectation loss; that of cross entropy is 1.
        top: M, the largest probability of a true label.
        square: Tr(F_p F_p).
        curve: Tr(H_p F_p).
    """
    return (beta**3 + 3 * beta**2 / top + beta * (2 / top**2 + 1 / top)) * (square + 2 * curve)


def worked_bound(beta: float, top: float, square: float, curve: float) -> float:
    """What is left of the difference in Tr(H Sigma) when 1/p is replaced by 1/M throughout, for batches of one row.

    It is a lower bound at a point that is stationary for both losses, if the true label's probability in no row is
    convex along the gradient of another.

    Args:
        beta: As for `printed_bound`, like the rest.
        top: M.
        square: Tr(F_p F_p).
        curve: Tr(H_p F_p).
    """
    return (2 * beta / top**3 + beta**2 / top**2) * square + ((1 / top + beta) ** 3 - 1 / top**3) * curve


class _Probe:
    """A draw of signs, one for each row, to an estimate of what is wanted of each loss, for batches of one row.

    The probe of a loss is the noise of its gradients before their mean is taken out, as (19) wants it; what the mean
    adds to each quadratic form is known, once the product of the Hessian with it is.
    """

    def __init__(self, surface: Surface) -> None:
        self.surface = surface
        self.means = surface.gradients(torch.ones(surface.rows))
        self._bent = [bent for bent, _ in surface.products(self.means)]

    def __call__(self, signs: Tensor) -> Tensor:
        """Of each loss z'Hz and z'z, z without the mean, and z'Fz and z'Hz with it; shape (losses, 4)."""
        root = math.sqrt(self.surface.rows)
        shift = float(signs.sum()) / root
        kicks = self.surface.gradients(root * signs)
        products = self.surface.products(kicks)
        found = []
        for kick, (bent, square), mean, mean_bent in zip(kicks, products, self.means, self._bent, strict=True):
            centred, curve = kick - shift * mean, float(kick @ bent)
            found.append((centred @ (bent - shift * mean_bent), centred @ centred, square, curve))
        return torch.tensor(found, dtype=torch.float64)


def _estimates(surface: Surface, samples: Tensor, means: Sequence[Tensor], place: int, batch_size: int) -> LossEscape:
    """Of one loss, from the samples (probes, losses, 4) for batches of one row."""
    loss, own, ce, el = surface.losses[place], samples[:, place], samples[:, 0], samples[:, 1]
    square = float(means[place] @ means[place])
    noise = _estimate(lambda s: s / batch_size, own[:, NOISE])

    def beside(function: Callable[..., Any]) -> Estimate | None:
        samples = (own[:, TRACE], ce[:, TRACE], own[:, NOISE], ce[:, NOISE])
        return _estimate(function, *samples) if place else None

    def bound(of: Callable[..., float]) -> Estimate | None:
        if not isinstance(loss, Mixed) or loss.alpha != 1 or not loss.beta:
            return None
        beta = float(loss.beta)
        return _estimate(lambda f, h: of(beta, surface.top, f, h) / batch_size, el[:, SQUARE], el[:, CURVE])

    return LossEscape(
        loss=str(loss),
        mean=surface.means[place],
        drift=square / (square + batch_size * noise.value) if square else 0.0,
        trace=_estimate(lambda t: t / batch_size, own[:, TRACE]),
        noise=noise,
        difference=beside(lambda t, c, *_: (t - c) / batch_size),
        ratio=beside(lambda t, c, *_: t / c),
        relative=beside(lambda t, c, s, n: t / c * (n / s) ** 1.5),
        printed=bound(printed_bound),
        worked=bound(worked_bound),
    )


def _estimate(function: Callable[..., Any], *samples: Tensor) -> Estimate:
    """A function of means over probes, and its standard error by leaving out one probe at a time."""
    count = len(samples[0])
    without = torch.stack([function(*((one.sum() - one[k]) / (count - 1) for one in samples)) for k in range(count)])
    error = ((without - without.mean()).square().sum() * (count - 1) / count).sqrt()
    return Estimate(float(function(*(one.mean() for one in samples))), float(error))


def to_text(result: EscapeResult) -> str:
    """A plain table of the estimates, each with its standard error, and what they show and do not.

    Args:
        result: From `escape`.
    """
    head = ("loss", "mean", "Tr(H Sigma)", "minus CE", "(19)", "(19) worked out", "over CE at its noise", "drift")
    rows: list[tuple[str, ...]] = [head]
    for one in result.losses:
        estimates = (one.trace, one.difference, one.printed, one.worked, one.relative)
        rows.append((one.loss, f"{one.mean:.4g}", *map(_shown, estimates), f"{one.drift:.1%}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join((*table, "", _about(result)))


def plot_escape(result: EscapeResult, ax: Axes | None = None) -> Axes:
    """Draw Tr(H Sigma) of each loss over that of cross entropy, as it is and at the same noise.

    Bars are two standard errors each way. The axis is logarithmic if every value is above 0.

    Args:
        result: From `escape`.
        ax: Where to draw; the current axis if left out.
    """
    import matplotlib.pyplot as plt

    from hf_elmix.plotting import method_label, style_of

    ax = ax or plt.gca()
    losses, lowest = result.losses[1:], 1.0
    for name, label, place, shift in (("ratio", "as it is", 3, -0.1), ("relative", "at the same noise", 5, 0.1)):
        found, style = [getattr(one, name) for one in losses], style_of(place)
        across, spread = [one.value for one in found], [2 * one.error for one in found]
        where = [one + shift for one in range(len(losses))]
        ax.errorbar(across, where, xerr=spread, fmt=style.marker, color=style.colour, capsize=3, label=label)
        lowest = min(lowest, *across)
    if lowest > 0:
        ax.set_xscale("log")
    ax.axvline(1, color="grey", linewidth=0.8)
    ax.set_yticks(range(len(losses)), [method_label(one.loss) for one in losses])
    ax.invert_yaxis()
    ax.set_xlabel("Tr(HΣ) over that of cross entropy")
    ax.legend(frameon=False)
    return ax


def _shown(estimate: Estimate | None) -> str:
    """With two digits of the error."""
    if estimate is None:
        return ""
    value, error = estimate.value, estimate.error
    if not 1e-4 < error < 1e5:
        return f"{value:.3g} ± {error:.2g}"
    places = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{places}f} ± {error:.{places}f}"


def _about(result: EscapeResult) -> str:
    return (
        f"{result.rows} rows, {result.weights} weights, batches of {result.batch_size}, {result.probes} probes from "
        f"seed {result.seed}, M = {result.top:.4g}; ± is one standard error.\n"
        "It shows how fast the noise of plain SGD would raise this loss here: by half the squared learning rate "
        "times Tr(H Sigma) a step, to second order, where the mean gradient is 0 (drift says how far from that). It "
        "does not show where training goes, what Adam does, or which loss is better: a loss k times as large has k "
        "cubed times the value, which the column at CE's noise is free of."
    )
