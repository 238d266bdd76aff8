from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from hf_elmix.plotting import STYLES, legend_rows, method_label, style_of


@pytest.mark.parametrize(
    ("method", "label"),
    [
        ("ce", "CE"),
        ("el", "EL"),
        ("0", "F = 0 (constant)"),
        ("0,0.5", "F = 0,0.5 (switch)"),
        ("0-0.5", "F = 0-0.5 (ramp)"),
        ("0.3", "F = 0.3 (constant)"),
        ("1:2.5@0 0.5@0.5", "1:2.5@0 0.5@0.5"),
        ("ce@0 0.5@0.5", "ce@0 0.5@0.5"),
    ],
)
def test_methods_are_named_in_the_papers_words(method, label):
    assert method_label(method) == label


@pytest.mark.parametrize(
    ("method", "label"),
    [("1", "1"), ("2024-01", "2024-01"), ("0 0.25 0.5", "F = 0 0.25 0.5 (steps)"), ("", ""), ("0.", "0.")],
)
def test_other_names_stay_as_they_are(method, label):
    assert method_label(method) == label


def test_more_methods_than_styles_look_different():
    looks = {(style.colour, str(style.line), style.width) for style in map(style_of, range(24))}
    assert len(looks) == 24
    assert len({style_of(place).marker for place in range(13)}) == 13


def test_the_first_styles_read_in_grey():
    rgb = np.array([to_rgb(style.colour) for style in STYLES[:4]])
    grey = np.sort(rgb @ [0.299, 0.587, 0.114])
    assert np.diff(grey).min() > 0.08
    assert len({style.marker for style in STYLES}) == len(STYLES)


def test_a_legend_has_as_many_columns_as_fit():
    assert legend_rows(["a method with a long name", *(f"method {k}" for k in range(7))]) == 8
    assert legend_rows(["ce", "0", "0,0.5", "el"]) == 2
