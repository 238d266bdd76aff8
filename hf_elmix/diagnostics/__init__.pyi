from .calibration import (
    calibration_table,
    fit_temperature,
    plot_reliability,
    reliability_table,
    temperature_scaled,
)
from .cohort_plots import plot_flow, plot_histograms
from .escape import EscapeResult, plot_escape
from .gradients import gradient_at_label, gradient_peak, plot_gradients
from .sharpness import top_eigenvalues

__all__ = [
    "EscapeResult",
    "calibration_table",
    "fit_temperature",
    "gradient_at_label",
    "gradient_peak",
    "plot_escape",
    "plot_flow",
    "plot_gradients",
    "plot_histograms",
    "plot_reliability",
    "reliability_table",
    "temperature_scaled",
    "top_eigenvalues",
]
