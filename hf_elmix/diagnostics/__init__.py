"""Instruments that show what training does: gradients, cohorts, escaping efficiency, calibration.

Names are imported on first use: some need PyTorch, some what the extra ``report`` brings. Those that are called as
their module is (`predict`, `escape`) are imported from there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_elmix.diagnostics.calibration import (
        calibration_table,
        fit_temperature,
        plot_reliability,
        reliability_table,
        temperature_scaled,
    )
    from hf_elmix.diagnostics.cohorts import CohortCallback
    from hf_elmix.diagnostics.escape import EscapeResult, plot_escape
    from hf_elmix.diagnostics.flow import plot_flow, plot_histograms
    from hf_elmix.diagnostics.gradients import gradient_at_label, gradient_peak, plot_gradients
    from hf_elmix.diagnostics.predictions import Predictions, read_predictions, write_predictions
    from hf_elmix.diagnostics.sharpness import top_eigenvalues
    from hf_elmix.diagnostics.transitions import share_table, transition_table

__all__ = [
    "CohortCallback",
    "EscapeResult",
    "Predictions",
    "calibration_table",
    "fit_temperature",
    "gradient_at_label",
    "gradient_peak",
    "plot_escape",
    "plot_flow",
    "plot_gradients",
    "plot_histograms",
    "plot_reliability",
    "read_predictions",
    "reliability_table",
    "share_table",
    "temperature_scaled",
    "top_eigenvalues",
    "transition_table",
    "write_predictions",
]

_HOMES = {
    "calibration": (
        "calibration_table",
        "fit_temperature",
        "plot_reliability",
        "reliability_table",
        "temperature_scaled",
    ),
    "cohorts": ("CohortCallback",),
    "escape": ("EscapeResult", "plot_escape"),
    "flow": ("plot_flow", "plot_histograms"),
    "gradients": ("gradient_at_label", "gradient_peak", "plot_gradients"),
    "predictions": ("Predictions", "read_predictions", "write_predictions"),
    "sharpness": ("top_eigenvalues",),
    "transitions": ("share_table", "transition_table"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"hf_elmix.diagnostics.{module}"), name)
    raise AttributeError(f"module 'hf_elmix.diagnostics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
