"""Baseline losses from the paper, as classes and as functions of (logits, labels).

Most of them are, like the mixed loss, functions of the cross entropy CE = −log p_y of a sample. A UsageError is raised
for an argument outside its range. The functions also take the keyword arguments of `hf_elmix.losses.Reductions`, raise
the errors of `hf_elmix.losses.mixed_loss`, and treat ignored labels, half precision and extreme logits as it does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Unpack

from hf_elmix.errors import UsageError
from hf_elmix.losses.base import IGNORED, CrossEntropyFunction, Loss

if TYPE_CHECKING:
    from torch import Tensor

    from hf_elmix.losses.reduction import Reductions

__all__ = [
    "BASELINES",
    "Focal",
    "GeneralizedCrossEntropy",
    "MaxMahalanobis",
    "MaximumProbabilityCrossEntropy",
    "MeanAbsoluteError",
    "NegativeComplementEntropy",
    "TamedCrossEntropy",
    "complement_entropy",
    "focal_loss",
    "generalized_cross_entropy",
    "mae_loss",
    "mpce_loss",
    "tamed_cross_entropy",
]


@dataclass(frozen=True)
class Focal(CrossEntropyFunction):
    """Focal loss ``-alpha (1 - p_y)^gamma log p_y`` (Eq. 2; Lin et al. 2017, arXiv:1708.02002).

    With ``gamma=0`` it is `alpha` times cross entropy. The paper uses ``gamma=2, alpha=0.25``.

    Attributes:
        gamma: How strongly samples with a high p_y are down-weighted, 0 or more.
        alpha: A constant factor, above 0.
    """

    gamma: float = 2.0
    alpha: float = 1.0
    name: ClassVar[str] = "focal"

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < math.inf or not 0 < self.alpha < math.inf:
            raise UsageError(
                f"Expected gamma to be 0 or more and alpha above 0, but got gamma={self.gamma}, alpha={self.alpha}."
            )

    def of_ce(self, ce: Tensor) -> Tensor:  # noqa: D102
        wrong = -(-ce).expm1()
        if self.gamma < 2:  # the power's slope or curvature is infinite at p_y = 1, where the loss and its slope are 0
            wrong = wrong.where(wrong > 0, 1)
        return self.alpha * wrong.pow(self.gamma) * ce


@dataclass(frozen=True)
class MeanAbsoluteError(CrossEntropyFunction):
    """Mean absolute error ``|onehot(y) - p|_1 = 2 (1 - p_y)``, twice EL (Eq. 3; Ghosh et al. 2017, 1712.09482)."""

    name: ClassVar[str] = "mae"

    def of_ce(self, ce: Tensor) -> Tensor:  # noqa: D102
        return -2 * (-ce).expm1()


@dataclass(frozen=True)
class GeneralizedCrossEntropy(CrossEntropyFunction):
    """Generalised cross entropy ``L_q = (1 - p_y^q) / q`` (Zhang and Sabuncu 2018, arXiv:1805.07836).

    With ``q=0`` it is cross entropy (the limit); with ``q=1``, expectation loss. With `k`, it is truncated: constant,
    without gradient, where ``p_y <= k``.

    Attributes:
        q: Exponent in [0, 1]; 0.7 in the source.
        k: Probability in (0, 1) at which the loss is truncated; 0.5 in the source. None: not truncated.
    """

    q: float = 0.7
    k: float | None = None
    name: ClassVar[str] = "gce"

    def __post_init__(self) -> None:
        if not 0 <= self.q <= 1:
            raise UsageError(f"Expected q to be in [0, 1], but got {self.q}.")
        if self.k is not None and not 0 < self.k < 1:
            raise UsageError(f"Expected k to be in (0, 1), but got {self.k}.")

    def of_ce(self, ce: Tensor) -> Tensor:  # noqa: D102
        if self.k is not None:
            ce = ce.clamp(max=-math.log(self.k))
        return ce if self.q == 0 else -(-self.q * ce).expm1() / self.q


@dataclass(frozen=True)
class TamedCrossEntropy(CrossEntropyFunction):
    """Tamed cross entropy ``((1 - log p_y)^(1-a) - 1) / (1 - a)`` (Eq. 4; Martinez and Stiefelhagen 2018, 1810.05075).

    With ``a=0`` it is cross entropy; with ``a=1``, the limit ``log(1 - log p_y)``.

    Attributes:
        a: How strongly large losses are reduced, 0 or more.
    """

    a: float = 0.2
    name: ClassVar[str] = "tce"

    def __post_init__(self) -> None:
        if not 0 <= self.a < math.inf:
            raise UsageError(f"Expected a to be 0 or more, but got {self.a}.")

    def of_ce(self, ce: Tensor) -> Tensor:  # noqa: D102
        if self.a == 0:
            return ce
        return ce.log1p() if self.a == 1 else ((1 - self.a) * ce.log1p()).expm1() / (1 - self.a)


@dataclass(frozen=True)
class MaximumProbabilityCrossEntropy(Loss):
    """Maximum-probability cross entropy ``-(max_j p_j - p_y) log p_y`` (Eq. 7; Zhou et al. 2019).

    It is 0, without gradient, wherever the prediction is correct.
    """

    name: ClassVar[str] = "mpce"

    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        log_p = logits.log_softmax(-1)
        log_p_y = _of_label(log_p, labels)
        top = log_p.max(dim=-1).values
        # max p - p_y as a product, so that it is exactly 0 where both are equal, and accurate where they are close.
        return -top.exp() * -(log_p_y - top).expm1() * log_p_y


@dataclass(frozen=True)
class NegativeComplementEntropy(Loss):
    """Negative entropy of the incorrect classes, divided by C - 1 (Eq. 6): minus `complement_entropy`.

    Minimising it maximises the entropy, as `hf_elmix.ComplementTrainer` does.
    """

    name: ClassVar[str] = "cot"

    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Loss.per_sample`.

        Raises:
            ValueError: If there are fewer than three classes.
        """
        classes = logits.shape[-1]
        if classes < 3:
            raise ValueError(
                f"Expected three classes or more, but got {classes}: a single incorrect class always has the whole "
                "remaining probability, and the complement entropy is 0."
            )
        others = logits.scatter(-1, _index(labels), -math.inf)
        log_share = others.log_softmax(-1)
        return (log_share.exp() * log_share.where(log_share.isfinite(), 0)).sum(-1) / (classes - 1)


@dataclass(frozen=True)
class MaxMahalanobis(Loss):
    """The Max-Mahalanobis centre loss (Eq. 5): half the squared distance of the features from the centre of the class.

    It expects logits that are minus this value for each class. The Trainer gives the model a head that returns them:
    `hf_elmix.training.mahalanobis_head.MahalanobisHead`.

    Attributes:
        scale: Length of the centres.
    """

    scale: float = 10.0
    name: ClassVar[str] = "mmc"

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise UsageError(f"Expected scale to be above 0, but got {self.scale}.")

    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        return -_of_label(logits, labels)


def focal_loss(
    logits: Tensor, labels: Tensor, gamma: float = 2.0, alpha: float = 1.0, **reductions: Unpack[Reductions]
) -> Tensor:
    """`Focal` loss of logits (..., C) and labels (...)."""
    return Focal(gamma, alpha)(logits, labels, **reductions)


def mae_loss(logits: Tensor, labels: Tensor, **reductions: Unpack[Reductions]) -> Tensor:
    """`MeanAbsoluteError` of logits (..., C) and labels (...), in [0, 2] without weights."""
    return MeanAbsoluteError()(logits, labels, **reductions)


def generalized_cross_entropy(
    logits: Tensor, labels: Tensor, q: float = 0.7, k: float | None = None, **reductions: Unpack[Reductions]
) -> Tensor:
    """`GeneralizedCrossEntropy` of logits (..., C) and labels (...)."""
    return GeneralizedCrossEntropy(q, k)(logits, labels, **reductions)


def tamed_cross_entropy(logits: Tensor, labels: Tensor, a: float = 0.2, **reductions: Unpack[Reductions]) -> Tensor:
    """`TamedCrossEntropy` of logits (..., C) and labels (...)."""
    return TamedCrossEntropy(a)(logits, labels, **reductions)


def mpce_loss(logits: Tensor, labels: Tensor, **reductions: Unpack[Reductions]) -> Tensor:
    """`MaximumProbabilityCrossEntropy` of logits (..., C) and labels (...)."""
    return MaximumProbabilityCrossEntropy()(logits, labels, **reductions)


def complement_entropy(logits: Tensor, labels: Tensor, **reductions: Unpack[Reductions]) -> Tensor:
    """Entropy of ``p_j / (1 - p_y)`` over the classes j ≠ y, divided by C - 1 (Eq. 6; Chen et al. 2019, 1903.01182).

    Logits have shape (..., C) with three classes or more, labels (...). In nats, from 0 to ``log(C - 1) / (C - 1)``.
    """
    return 0 - NegativeComplementEntropy()(logits, labels, **reductions)  # minus 0 would be -0.0 for ignored labels


def _index(labels: Tensor) -> Tensor:
    """Labels for indexing, shape (N, 1); ignored samples are mapped to class 0."""
    return labels.masked_fill(labels == IGNORED, 0)[:, None]


def _of_label(values: Tensor, labels: Tensor) -> Tensor:
    """The values (N, C) at the labels, shape (N,)."""
    return values.gather(-1, _index(labels)).squeeze(-1)


# The loss registry reads these by name: `hf_elmix.parse_loss`.
BASELINES: tuple[type[Loss], ...] = (
    Focal,
    GeneralizedCrossEntropy,
    MeanAbsoluteError,
    TamedCrossEntropy,
    NegativeComplementEntropy,
    MaxMahalanobis,
    MaximumProbabilityCrossEntropy,
)
