from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from hf_elmix.losses.weights import focus_of, focus_to_weights, rescaling_factor


@pytest.mark.parametrize(
    ("focus", "weights"),
    [(0, (1, 1)), (0.1, (1, 1.25)), (0.2, (1, 5 / 3)), (0.3, (1, 2.5)), (0.4, (1, 5)), (0.5, (0, 1)), ("1/3", (1, 3))],
)
def test_focus_to_weights_is_equation_14_exactly(focus, weights):
    assert focus_to_weights(focus) == weights


@pytest.mark.parametrize("focus", [-0.1, 0.51, float("nan"), float("inf"), "half", True])
def test_focus_outside_its_range_is_refused(focus):
    with pytest.raises(ValueError, match="Expected a"):
        focus_to_weights(focus)


@pytest.mark.parametrize(("weights", "focus"), [((1, 0), 0), ((2, 1), 0), ((1, 1), 0), ((1, 2), 0.25), ((0, 3), 0.5)])
def test_focus_of_any_weights(weights, focus):
    assert focus_of(*weights) == focus


@pytest.mark.parametrize(("alpha", "beta"), [(1, 0), (0, 1), (1, 1), (1, 5)])
def test_the_factor_is_the_ratio_of_areas_under_the_gradient(alpha, beta):
    """Eqs. 20-22 by the midpoint rule."""
    p = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    true = ((alpha + beta * p) * (1 - p)).mean() / 0.5
    other = ((alpha + beta * p)[:, None] * p).mean() / 0.5
    assert float(rescaling_factor(alpha, beta)) == pytest.approx(true.item(), rel=1e-6)
    assert float(rescaling_factor(alpha, beta, true_label=False)) == pytest.approx(other.item(), rel=1e-6)
    assert rescaling_factor(1, Fraction(5, 3)) == Fraction(14, 9)
