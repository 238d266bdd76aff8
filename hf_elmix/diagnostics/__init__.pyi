from .calibration import (
    calibration_table,
    fit_temperature,
    plot_reliability,
    reliability_table,
    temperature_scaled,
)
from .cohort_plots import plot_ridgeline, plot_sankey
from .escape import EscapeResult, plot_escape
from .gradients import gradient_at_label, gradient_peak, plot_gradients
from .hessian import top_eigenvalues

__all__ = [
    "EscapeResult",
    "calibration_table",
    "fit_temperature",
    "gradient_at_label",
    "gradient_peak",
    "plot_escape",
    "plot_gradients",
    "plot_reliability",
    "plot_ridgeline",
    "plot_sankey",
    "reliability_table",
    "temperature_scaled",
    "top_eigenvalues",
]
