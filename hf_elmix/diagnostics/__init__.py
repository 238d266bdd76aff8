"""Instruments that show what training does: gradients, cohorts, escaping efficiency, calibration.

Names are imported on first use: some need PyTorch, some what the extra ``report`` brings. Those that are called as
their module is (`escape`) are imported from there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_elmix.diagnostics.escape import EscapeResult, plot_escape
    from hf_elmix.diagnostics.sharpness import top_eigenvalues

__all__ = ["EscapeResult", "plot_escape", "top_eigenvalues"]

_HOMES = {
    "escape": ("EscapeResult", "plot_escape"),
    "sharpness": ("top_eigenvalues",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"hf_elmix.diagnostics.{module}"), name)
    raise AttributeError(f"module 'hf_elmix.diagnostics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
