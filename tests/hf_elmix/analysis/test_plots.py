from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hf_elmix.analysis.plots import method_label, plot_profile
from hf_elmix.analysis.profile import performance_profile

SCORES = pd.DataFrame(
    {
        "ce": [0.5, 0.5, 0.25, 0.9],
        "0": [1.0, 0.5, 0.5, 0.8],
        "0-0.5": [0.75, np.nan, 0.5, 0.85],
        "0.3": [0.7, 0.1, 0.5, 1],
    }
)


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


@pytest.fixture
def current_figure() -> Iterator[Figure]:
    figure = plt.figure()
    yield figure
    plt.close(figure)


def lines_of(ax: Axes) -> dict[str, Line2D]:
    return {line.get_label(): line for line in ax.get_lines()}


def drawn_at(line: Line2D, tau: float) -> float:
    """Height of the drawn line at tau, read from its vertices; at a jump the upper end, which holds up to there."""
    x, y = line.get_path().vertices.T
    return float(max(y[x == tau]) if (x == tau).any() else np.interp(tau, x, y))


@pytest.mark.parametrize(
    ("method", "label"),
    [
        ("ce", "CE"),
        ("el", "EL"),
        ("0", "F = 0"),
        ("0,0.5", "F = 0,0.5"),
        ("0-0.5", "F = 0-0.5"),
        ("0.3", "F = 0.3"),
        ("1:2.5@0 0.5@0.5", "1:2.5@0 0.5@0.5"),
        ("ce@0 0.5@0.5", "ce@0 0.5@0.5"),
    ],
)
def test_methods_are_named_in_the_papers_words(method, label):
    assert method_label(method) == label


def test_the_given_axis_is_drawn_on_and_returned(ax):
    assert plot_profile(performance_profile(SCORES), ax) is ax
    assert len(ax.get_lines()) == 4


def test_without_an_axis_the_current_one_is_taken(current_figure):
    ax = current_figure.subplots()
    assert plot_profile(performance_profile(SCORES)) is ax


def test_a_given_axis_needs_no_pyplot_figure(ax):
    before = plt.get_fignums()
    plot_profile(performance_profile(SCORES), ax)
    assert plt.get_fignums() == before


def test_the_lines_are_the_profile_at_its_thresholds_and_between_them(ax):
    profile = performance_profile(SCORES)
    lines = lines_of(plot_profile(profile, ax))
    taus = profile.index.to_numpy()
    between = (taus[1:] + taus[:-1]) / 2
    for k, method in enumerate(SCORES):
        line = lines[method_label(method)]
        assert [drawn_at(line, tau) for tau in taus] == profile[method].tolist()
        expected = performance_profile(SCORES, between)[method]
        assert [drawn_at(line, tau) for tau in between] == expected.tolist()
        assert list(lines)[k] == method_label(method)


@pytest.mark.parametrize(
    "scores", [pd.DataFrame({"ce": [0.5, 0.25]}), pd.DataFrame({"ce": [0.5, 0.5], "0": [0.5, 0.5]}), SCORES]
)
def test_every_method_has_a_line_that_can_be_seen(ax, scores):
    # A method that is always best is a flat line at 1, also where every method is and the profile has one threshold.
    left, right = plot_profile(performance_profile(scores), ax).get_xlim()
    for line in ax.get_lines():
        x = line.get_xdata()
        assert min(x) <= left < max(x) == 1 < right


def test_nothing_is_drawn_left_of_thresholds_that_were_given(ax):
    # At 0.95 the share of ce is 1, at 1 it is a half: a flat line to the left of 1 would be wrong.
    scores = pd.DataFrame({"ce": [0.96, 0.5], "0": [1.0, 0.4]})
    for line in plot_profile(performance_profile(scores, [0.98, 1.0]), ax).get_lines():
        assert min(line.get_xdata()) == 0.98
    assert ax.get_xlim()[0] == 0.98


def test_thresholds_end_at_one_and_the_axis_holds_every_value(ax):
    profile = performance_profile(SCORES)
    plot_profile(profile, ax)
    left, right = ax.get_xlim()
    low, high = ax.get_ylim()
    assert left <= profile.index[0]
    assert right > 1
    assert low <= 0
    assert high > 1


def test_the_legend_and_the_labels_say_what_is_drawn(ax):
    plot_profile(performance_profile(SCORES), ax, experiments=4)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["CE", "F = 0", "F = 0-0.5", "F = 0.3"]
    assert ax.get_title() == "Performance profile over 4 experiments"
    assert "τ" in ax.get_xlabel()
    assert "share of experiments" in ax.get_ylabel()


def test_the_title_does_without_the_number_of_experiments(ax):
    assert plot_profile(performance_profile(SCORES), ax).get_title() == "Performance profile"


def test_methods_differ_in_colour_and_in_style_and_none_hides_another(ax):
    scores = pd.DataFrame({str(k): [k / 8, 1.0] for k in range(1, 7)})
    lines = plot_profile(performance_profile(scores), ax).get_lines()
    assert len({line.get_color() for line in lines}) == 6
    assert len({(line.get_linestyle(), line.get_linewidth()) for line in lines}) == 6
    widths = [line.get_linewidth() for line in lines[:4]]  # the paper's four regimes often coincide
    assert widths == sorted(set(widths), reverse=True)


def test_more_methods_than_styles_can_be_drawn(ax):
    scores = pd.DataFrame({f"0.{k:02}": [k / 8, 1.0] for k in range(1, 9)})
    assert len(plot_profile(performance_profile(scores), ax).get_lines()) == 8
