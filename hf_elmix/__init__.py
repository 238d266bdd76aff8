"""The mixed loss of cross entropy and expectation loss, as a drop-in for the Hugging Face Trainer.

    from hf_elmix import MixedLossTrainer  # instead of: from transformers import Trainer

Names are imported on first use, so that reading records and drawing figures needs no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_elmix.arguments import MixedLossArguments
    from hf_elmix.callback import MixingCallback
    from hf_elmix.complement import ComplementTrainer
    from hf_elmix.diagnostics.cohorts import CohortCallback
    from hf_elmix.errors import UsageError
    from hf_elmix.loss_func import mixed_loss_func
    from hf_elmix.losses import cross_entropy, expectation_loss, mixed_loss
    from hf_elmix.schedules import MixingSchedule, focus_to_weights
    from hf_elmix.spelling import parse_loss, register_loss
    from hf_elmix.trainer import MixedLossMixin, MixedLossTrainer

__all__ = [
    "CohortCallback",
    "ComplementTrainer",
    "MixedLossArguments",
    "MixedLossMixin",
    "MixedLossTrainer",
    "MixingCallback",
    "MixingSchedule",
    "UsageError",
    "cross_entropy",
    "expectation_loss",
    "focus_to_weights",
    "mixed_loss",
    "mixed_loss_func",
    "parse_loss",
    "register_loss",
]
__version__ = "0.1.0"

_HOMES = {
    "arguments": ("MixedLossArguments",),
    "callback": ("MixingCallback",),
    "complement": ("ComplementTrainer",),
    "diagnostics.cohorts": ("CohortCallback",),
    "errors": ("UsageError",),
    "loss_func": ("mixed_loss_func",),
    "losses": ("cross_entropy", "expectation_loss", "mixed_loss"),
    "schedules": ("MixingSchedule", "focus_to_weights"),
    "spelling": ("parse_loss", "register_loss"),
    "trainer": ("MixedLossMixin", "MixedLossTrainer"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"hf_elmix.{module}"), name)
    raise AttributeError(f"module 'hf_elmix' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
