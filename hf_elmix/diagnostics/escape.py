"""Escaping efficiency of a checkpoint under several losses: estimates of Tr(H Sigma) (Eqs. 15-19).

H is the Hessian of a loss averaged over rows, and Sigma the covariance of the gradient of a batch of m rows (Eq. 16).
For random signs e_i, z = sum_i e_i (g_i - mean g) / sqrt(N) has the covariance m Sigma, so the mean of z'Hz over draws
is m Tr(H Sigma): a Hutchinson estimate whose probes are gradient noise. All losses share the draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hf_elmix.diagnostics.hessian import LossSurface, constant_losses
from hf_elmix.errors import UsageError
from hf_elmix.losses.base import Loss
from hf_elmix.losses.schedules import Mixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "EscapeResult",
    "Estimate",
    "LossEscape",
    "derived_bound",
    "escape",
    "plot_escape",
    "printed_bound",
    "to_text",
]

TRACE, NOISE, FISHER, CURVATURE = range(4)  # quadratic forms of a probe: centred z'Hz, z'z; uncentred z'Fz, z'Hz


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
    """Estimates for one loss.

    Attributes:
        loss: The loss as text.
        mean: Mean loss of the rows.
        drift: Squared mean gradient over the mean squared gradient of a row: 0 at a stationary point.
        trace: Tr(H Sigma), in units of the loss cubed over those of the weights to the fourth.
        noise: Tr(Sigma).
        difference: `trace` minus that of cross entropy, from the same probes; None for cross entropy.
        ratio: `trace` divided by that of cross entropy, likewise.
        ratio_at_equal_noise: The ratio after scaling the loss so that it has the `noise` of cross entropy:
            ``ratio * (noise of CE / noise) ** 1.5``. It does not depend on the scale of the loss.
        printed_bound: `printed_bound` divided by the batch size; None unless alpha is 1 and beta above 0.
        derived_bound: `derived_bound` divided by the batch size; likewise.
    """

    loss: str
    mean: float
    drift: float
    trace: Estimate
    noise: Estimate
    difference: Estimate | None
    ratio: Estimate | None
    ratio_at_equal_noise: Estimate | None
    printed_bound: Estimate | None
    derived_bound: Estimate | None


@dataclass(frozen=True)
class EscapeResult:
    """Estimates at one checkpoint.

    Attributes:
        losses: One entry per loss, cross entropy and expectation loss first.
        rows: Number of rows.
        weights: Number of weights.
        batch_size: m of Eq. 16.
        probes: Number of probes.
        seed: Seed of the probes.
        max_p: M of Eq. 19: the largest probability of a true label.
    """

    losses: tuple[LossEscape, ...]
    rows: int
    weights: int
    batch_size: int
    probes: int
    seed: int
    max_p: float


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
    """Estimate Tr(H Sigma) of losses at the current weights of a model.

    A probe reads the loader twice. For K losses it takes one forward pass, K backward passes and K Hessian-vector
    products, each of which takes about as long as four gradients. Memory: 4K + 1 vectors as large as the weights, and
    one batch. The size of the loader's batches affects only memory and time. The model is in evaluation mode (no
    dropout), and only its weights with ``requires_grad`` count.

    Args:
        model: Returns class logits (N, C), in float32 or float64.
        loader: Batches are dictionaries of model inputs and ``labels`` (class ids). It is read many times and must
            give the same rows each time, in any order.
        losses: Losses, or their texts (`hf_elmix.parse_loss`); each phase of a schedule counts as one. Cross entropy
            and expectation loss are always included.
        probes: Number of probes, 2 or more. Standard errors fall with its square root.
        batch_size: m of Eq. 16: the batch size of training, not of the loader. The results are proportional to 1/m.
        seed: Seed of the probes.
        progress: Show a progress bar on a terminal.

    Returns:
        The estimates, for `to_text` and `plot_escape`.

    Raises:
        UsageError: If the model, the rows or a loss cannot be used.
    """
    if probes < 2 or batch_size < 1:
        raise UsageError(f"Expected probes >= 2 and batch_size >= 1, but got {probes} and {batch_size}.")
    surface = LossSurface(model, loader, constant_losses(["ce", "el", *losses]))
    generator = torch.Generator().manual_seed(seed)
    with surface.prepared("escape", 3 + 2 * probes, progress):
        draws = [torch.randint(2, (surface.rows,), generator=generator) * 2 - 1 for _ in range(probes)]
        means, samples = _sampled(surface, draws)
    return EscapeResult(
        tuple(_estimates(surface, mean, samples, k, batch_size) for k, mean in enumerate(means)),
        rows=surface.rows,
        weights=len(surface.weights),
        batch_size=batch_size,
        probes=probes,
        seed=seed,
        max_p=surface.max_p,
    )


def printed_bound(beta: float, max_p: float, fisher: float, curvature: float) -> float:
    """Compute the right side of (19) as printed, for batches of one row.

    Args:
        beta: Weight of the expectation loss; that of cross entropy is 1.
        max_p: M, the largest probability of a true label.
        fisher: Tr(F_p F_p).
        curvature: Tr(H_p F_p).
    """
    return (beta**3 + 3 * beta**2 / max_p + beta * (2 / max_p**2 + 1 / max_p)) * (fisher + 2 * curvature)


def derived_bound(beta: float, max_p: float, fisher: float, curvature: float) -> float:
    """Compute the difference in Tr(H Sigma) with 1/p replaced by 1/M throughout; arguments as in `printed_bound`.

    It is a lower bound at a point that is stationary for both losses, if no row's probability of the true label is
    convex along the gradient of another row.
    """
    return (2 * beta / max_p**3 + beta**2 / max_p**2) * fisher + ((1 / max_p + beta) ** 3 - 1 / max_p**3) * curvature


def _sampled(surface: LossSurface, draws: Iterable[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Turn random signs, one per row, into quadratic forms for each loss and batches of one row.

    The probe z of a loss is its gradient noise before centring, as (19) needs it. The mean gradient is subtracted
    afterwards, with the help of its product with the Hessian.

    Returns:
        The mean gradients; and for each draw and loss z'Hz and z'z of centred z, z'Fz and z'Hz of uncentred z, in a
        tensor of shape (draws, losses, 4).
    """
    means = surface.gradients(torch.ones(surface.rows))
    h_means = [product for product, _ in surface.hessian_vector_products(means)]
    root, samples = math.sqrt(surface.rows), []
    for signs in draws:
        shift = float(signs.sum()) / root
        vectors = surface.gradients(root * signs)
        products = surface.hessian_vector_products(vectors)
        forms = []
        for z, (hz, fisher), mean, h_mean in zip(vectors, products, means, h_means, strict=True):
            centred = z - shift * mean
            forms.append((centred @ (hz - shift * h_mean), centred @ centred, fisher, float(z @ hz)))
        samples.append(forms)
    return means, torch.tensor(samples, dtype=torch.float64)


def _estimates(surface: LossSurface, mean: Tensor, samples: Tensor, k: int, batch_size: int) -> LossEscape:
    """Estimates for the k-th loss, from its mean gradient and the samples of all losses."""
    loss, own, ce, el = surface.losses[k], samples[:, k], samples[:, 0], samples[:, 1]
    squared_mean = float(mean @ mean)
    noise = _jackknife(lambda s: s / batch_size, own[:, NOISE])

    def versus_ce(function: Callable[..., Any]) -> Estimate | None:
        return _jackknife(function, own[:, TRACE], ce[:, TRACE], own[:, NOISE], ce[:, NOISE]) if k else None

    def bound(of: Callable[..., float]) -> Estimate | None:
        if not isinstance(loss, Mixed) or loss.alpha != 1 or not loss.beta:
            return None
        beta = float(loss.beta)
        return _jackknife(lambda f, h: of(beta, surface.max_p, f, h) / batch_size, el[:, FISHER], el[:, CURVATURE])

    return LossEscape(
        loss=str(loss),
        mean=surface.means[k],
        drift=squared_mean / (squared_mean + batch_size * noise.value) if squared_mean else 0.0,
        trace=_jackknife(lambda t: t / batch_size, own[:, TRACE]),
        noise=noise,
        difference=versus_ce(lambda t, t_ce, *_: (t - t_ce) / batch_size),
        ratio=versus_ce(lambda t, t_ce, *_: t / t_ce),
        ratio_at_equal_noise=versus_ce(lambda t, t_ce, s, s_ce: t / t_ce * (s_ce / s) ** 1.5),
        printed_bound=bound(printed_bound),
        derived_bound=bound(derived_bound),
    )


def _jackknife(function: Callable[..., Any], *samples: Tensor) -> Estimate:
    """Estimate a function of means over probes; its standard error is found by leaving out one probe at a time."""
    count = len(samples[0])
    without = torch.stack([function(*((one.sum() - one[k]) / (count - 1) for one in samples)) for k in range(count)])
    error = ((without - without.mean()).square().sum() * (count - 1) / count).sqrt()
    return Estimate(float(function(*(one.mean() for one in samples))), float(error))


def to_text(result: EscapeResult) -> str:
    """Format the estimates as a plain table with standard errors, followed by what they mean.

    Args:
        result: From `escape`.
    """
    bounds = ("Eq. 19 bound as printed", "bound as derived")
    rows: list[tuple[str, ...]] = [
        ("loss", "mean", "Tr(HΣ)", "difference from CE", *bounds, "ratio to CE at equal noise", "drift")
    ]
    for one in result.losses:
        estimates = (one.trace, one.difference, one.printed_bound, one.derived_bound, one.ratio_at_equal_noise)
        rows.append((one.loss, f"{one.mean:.4g}", *map(_estimate_text, estimates), f"{one.drift:.1%}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = (
        f"{result.rows} rows, {result.weights} weights, batches of {result.batch_size}, {result.probes} probes, seed "
        f"{result.seed}, M = {result.max_p:.4g}; ± is one standard error.\n"
        "Here, the noise of plain SGD would raise a loss by half the squared learning rate times its Tr(HΣ) per step, "
        "to second order, if its mean gradient is 0 (drift says how far it is from that). This does not tell where "
        "training goes, what Adam does, or which loss is better: a loss scaled by k has k cubed times the Tr(HΣ). The "
        "ratio at equal noise does not depend on that scale."
    )
    return "\n".join((*table, "", notes))


def plot_escape(result: EscapeResult, ax: Axes | None = None) -> Axes:
    """Draw the ratio of Tr(H Sigma) to that of cross entropy for each loss, as it is and at equal noise.

    Error bars extend two standard errors each way. The axis is logarithmic if every value is above 0.

    Args:
        result: From `escape`.
        ax: Axis to draw on; by default the current one.
    """
    import matplotlib.pyplot as plt

    from hf_elmix.plotting import notation, style_of

    ax = ax or plt.gca()
    losses, lowest = result.losses[1:], 1.0
    kinds = (("ratio", "as it is", 3, -0.1), ("ratio_at_equal_noise", "at equal noise", 5, 0.1))
    for name, label, place, shift in kinds:
        estimates, style = [getattr(one, name) for one in losses], style_of(place)
        x, spread = [one.value for one in estimates], [2 * one.error for one in estimates]
        y = [k + shift for k in range(len(losses))]
        ax.errorbar(x, y, xerr=spread, fmt=style.marker, color=style.colour, capsize=3, label=label)
        lowest = min(lowest, *x)
    if lowest > 0:
        ax.set_xscale("log")
    ax.axvline(1, color="grey", linewidth=0.8)
    ax.set_yticks(range(len(losses)), [notation(one.loss) for one in losses])
    ax.invert_yaxis()
    ax.set_xlabel("Tr(HΣ), ratio to cross entropy")
    ax.legend(frameon=False)
    return ax


def _estimate_text(estimate: Estimate | None) -> str:
    """``12.35 ± 0.68``: as many digits as the error has with two."""
    if estimate is None:
        return ""
    value, error = estimate.value, estimate.error
    if not 1e-4 < error < 1e5:
        return f"{value:.3g} ± {error:.2g}"
    places = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{places}f} ± {error:.{places}f}"
