"""Instruments that show what training does: gradients, cohorts, escaping efficiency, calibration.

Names are imported on first use: some need PyTorch, some the report's packages.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_elmix.diagnostics.flow import plot_flow, plot_histograms
    from hf_elmix.diagnostics.predictions import Predictions, read_predictions, write_predictions
    from hf_elmix.diagnostics.transitions import share_table, transition_table

__all__ = [
    "Predictions",
    "plot_flow",
    "plot_histograms",
    "read_predictions",
    "share_table",
    "transition_table",
    "write_predictions",
]

_HOMES = {
    "flow": ("plot_flow", "plot_histograms"),
    "predictions": ("Predictions", "read_predictions", "write_predictions"),
    "transitions": ("share_table", "transition_table"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"hf_elmix.diagnostics.{module}"), name)
    raise AttributeError(f"module 'hf_elmix.diagnostics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
