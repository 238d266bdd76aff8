from __future__ import annotations

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle

from hf_elmix.diagnostics.cohort_plots import COLOURS, draw_ridgeline, draw_sankey, plot_ridgeline, plot_sankey
from hf_elmix.predictions.cohorts import COHORTS, flow_table, histogram_table

FLOW = pd.DataFrame([[60, 2, 3], [8, 5, 2], [1, 0, 19]], COHORTS, COHORTS)


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


def parts(ax: Axes, kind: type) -> list:
    return [patch for patch in ax.patches if isinstance(patch, kind)]


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_bars_are_as_high_as_their_cohorts(ax):
    bars = parts(draw_sankey(FLOW, ax), Rectangle)
    assert [bar.get_height() for bar in bars] == pytest.approx([0.65, 0.15, 0.2, 0.69, 0.07, 0.24])
    for side in (bars[:3], bars[3:]):
        for upper, lower in zip(side, side[1:], strict=False):
            assert lower.get_y() + lower.get_height() < upper.get_y()
        assert side[-1].get_y() == pytest.approx(0)


def test_bands_are_as_thick_as_their_flows_and_fill_their_bars(ax):
    draw_sankey(FLOW, ax)
    bands = parts(ax, PathPatch)
    flows = [(before, after) for before, after in np.ndindex(3, 3) if FLOW.iloc[before, after]]
    assert len(bands) == len(flows) == 8
    ends: dict[int, list[tuple[float, float]]] = {}  # of the bands at each bar, upper and lower
    for band, (before, after) in zip(bands, flows, strict=True):
        corners = band.get_path().vertices
        for top, bottom, bar in ((0, 7, before), (3, 4, 3 + after)):
            assert corners[top, 1] - corners[bottom, 1] == pytest.approx(FLOW.iloc[before, after] / 100)
            ends.setdefault(bar, []).append((corners[top, 1], corners[bottom, 1]))
        assert band.get_facecolor()[:3] == pytest.approx(to_rgb(COLOURS[COHORTS[before]]))
    for place, bar in enumerate(parts(ax, Rectangle)):
        edges = [bar.get_y() + bar.get_height(), *(edge for band in ends[place] for edge in band), bar.get_y()]
        assert edges[::2] == pytest.approx(edges[1::2])  # each starts where the previous one ends


def test_labels_have_counts_and_shares(ax):
    draw_sankey(FLOW, ax, names=("epoch 7", "epoch 9"), threshold=0.3)
    assert texts(ax) == [
        "epoch 7",
        "correct\n65 (65.0 %)\n60 (92.3 %) end correct",
        "near (p > 0.3)\n15 (15.0 %)\n8 (53.3 %) end correct",
        "far (p ≤ 0.3)\n20 (20.0 %)\n1 (5.0 %) end correct",
        "epoch 9",
        "correct\n69 (69.0 %)",
        "near (p > 0.3)\n7 (7.0 %)",
        "far (p ≤ 0.3)\n24 (24.0 %)",
    ]


def test_colours_are_distinguished_in_greyscale():
    greys = sorted(np.dot(to_rgb(colour), [0.2126, 0.7152, 0.0722]) for colour in COLOURS.values())
    assert min(np.diff(greys)) > 0.05


@pytest.mark.parametrize(
    "flow", [[[9, 0, 1], [0, 0, 0], [0, 0, 0]], np.zeros((3, 3), int), [[0, 0, 0]] * 2 + [[0, 0, 1]]]
)
def test_labels_of_empty_cohorts_do_not_overlap(flow):
    figure = Figure(figsize=(4.7, 3.3), layout="constrained")
    ax = figure.subplots()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_sankey(pd.DataFrame(flow, COHORTS, COHORTS), ax)
        figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not [1 for k, one in enumerate(boxes) for other in boxes[:k] if one.overlaps(other)]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y0 >= figure.bbox.y0 for box in boxes)


def test_predictions_are_drawn_as_their_table(ax, predictions):
    seen = predictions(100, points=9)
    drawn = plot_sankey(seen, ax)
    assert drawn is ax
    expected = texts(draw_sankey(flow_table(seen), Figure().subplots(), names=("epoch 7", "epoch 9")))
    assert texts(ax) == expected
    assert texts(plot_sankey(seen, Figure().subplots(), start=2, threshold=0.3))[0] == "epoch 2"


def test_ridges_are_square_roots_of_shares(ax, predictions):
    table = histogram_table(predictions(100, points=3))
    draw_ridgeline(table, ax)
    outlines = [patch for patch in ax.patches if not patch.get_fill()]
    tallest = np.sqrt(table.to_numpy().max() / 100)
    for row, patch in enumerate(outlines):
        values, _, baseline = patch.get_data()
        assert baseline == row
        np.testing.assert_allclose(values - row, 0.92 * np.sqrt(table.iloc[row] / 100) / tallest)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "2", "3"]


def test_ten_of_many_points_are_drawn_including_the_ends(ax, predictions):
    plot_ridgeline(predictions(20, points=90), ax)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert len(labels) == 10
    assert (labels[0], labels[-1]) == ("1", "90")


def test_a_histogram_of_no_rows(ax):
    draw_ridgeline(pd.DataFrame(np.zeros((1, 4)), [1.0], np.arange(4) / 4), ax)
    assert all((stairs.get_data().values == 0).all() for stairs in ax.patches)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1"]


def test_the_current_axis_is_the_default(predictions):
    figure = plt.figure()
    assert plot_sankey(predictions(9, points=2)).figure is figure
    assert plot_ridgeline(predictions(9, points=2)).figure is figure
    plt.close(figure)
