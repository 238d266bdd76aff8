"""Instruments that show what training does: gradients, cohorts, escaping efficiency, calibration.

Names are imported on first use, so that reading what was recorded needs no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_elmix.diagnostics.cohorts import CohortCallback
    from hf_elmix.diagnostics.predictions import Predictions, read_predictions, write_predictions

__all__ = ["CohortCallback", "Predictions", "read_predictions", "write_predictions"]

_HOMES = {
    "cohorts": ("CohortCallback",),
    "predictions": ("Predictions", "read_predictions", "write_predictions"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"hf_elmix.diagnostics.{module}"), name)
    raise AttributeError(f"module 'hf_elmix.diagnostics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
