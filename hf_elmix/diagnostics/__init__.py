"""Instruments that show what training does: gradients, cohorts, escaping efficiency, calibration.

Names are imported on first use: some of them need PyTorch, others what the extra ``report`` brings.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_elmix.diagnostics.gradients import gradient_at_label, gradient_peak, plot_gradients
    from hf_elmix.diagnostics.predictions import Predictions, read_predictions, write_predictions

__all__ = [
    "Predictions",
    "gradient_at_label",
    "gradient_peak",
    "plot_gradients",
    "read_predictions",
    "write_predictions",
]

_HOMES = {
    "gradients": ("gradient_at_label", "gradient_peak", "plot_gradients"),
    "predictions": ("Predictions", "read_predictions", "write_predictions"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"hf_elmix.diagnostics.{module}"), name)
    raise AttributeError(f"module 'hf_elmix.diagnostics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
