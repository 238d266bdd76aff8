"""Losses as functions of (logits, labels): the mixed loss, and those that the paper compares it with.

Shapes, in every function: ``logits`` (..., C) of any floating type, ``labels`` (...) of class ids in [0, C) or
``ignore_index``. Half-precision logits are reduced in float32, and the result is then float32. Units: cross entropy is
in nats, 0 or more; the expectation loss is a probability, in [0, 1].
"""

from __future__ import annotations

from hf_elmix.losses.alternatives import (
    OF_CROSS_ENTROPY,
    complement_entropy,
    focal_loss,
    generalized_cross_entropy,
    mae_loss,
    mpce_loss,
    tamed_cross_entropy,
)
from hf_elmix.losses.mixed import cross_entropy, expectation_loss, loss_terms, mix, mixed_loss
from hf_elmix.losses.reduction import Reduction, Reductions, apply_to_counted, divisor, total_of

__all__ = [
    "OF_CROSS_ENTROPY",
    "Reduction",
    "Reductions",
    "apply_to_counted",
    "complement_entropy",
    "cross_entropy",
    "divisor",
    "expectation_loss",
    "focal_loss",
    "generalized_cross_entropy",
    "loss_terms",
    "mae_loss",
    "mix",
    "mixed_loss",
    "mpce_loss",
    "tamed_cross_entropy",
    "total_of",
]
