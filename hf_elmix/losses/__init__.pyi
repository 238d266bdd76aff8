from .baselines import (
    OF_CROSS_ENTROPY,
    complement_entropy,
    focal_loss,
    generalized_cross_entropy,
    mae_loss,
    mpce_loss,
    tamed_cross_entropy,
)
from .mahalanobis import center_logits, max_mahalanobis_centers, mmc_loss
from .mixed import cross_entropy, expectation_loss, loss_terms, mix, mixed_loss
from .reduction import Reduction, Reductions, apply_to_counted, divisor, logit_of_label, total_of

__all__ = [
    "OF_CROSS_ENTROPY",
    "Reduction",
    "Reductions",
    "apply_to_counted",
    "center_logits",
    "complement_entropy",
    "cross_entropy",
    "divisor",
    "expectation_loss",
    "focal_loss",
    "generalized_cross_entropy",
    "logit_of_label",
    "loss_terms",
    "mae_loss",
    "max_mahalanobis_centers",
    "mix",
    "mixed_loss",
    "mmc_loss",
    "mpce_loss",
    "tamed_cross_entropy",
    "total_of",
]
