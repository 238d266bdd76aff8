from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hf_elmix.analysis.comparison import task_gains
from hf_elmix.analysis.plots import plot_curves, plot_differences, plot_profile, plot_ranks, plot_schedule
from hf_elmix.analysis.profile import performance_profile
from hf_elmix.losses.schedules import REGIMES, MixingSchedule
from hf_elmix.losses.weights import focus_of
from hf_elmix.plotting import method_label, style_of

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
        (label,) = [label for label in lines if label.startswith(method_label(method))]
        line = lines[label]
        assert [drawn_at(line, tau) for tau in taus] == profile[method].tolist()
        expected = performance_profile(SCORES, between)[method]
        assert [drawn_at(line, tau) for tau in between] == expected.tolist()
        assert list(lines)[k] == label


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
    plot_profile(performance_profile(SCORES), ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "CE",
        "F = 0 (constant)",
        "F = 0-0.5 (ramp) (3/4 runs)",
        "F = 0.3 (constant)",
    ]
    assert ax.get_title() == "Performance profile over 4 blocks"
    assert "τ" in ax.get_xlabel()
    assert "share of blocks" in ax.get_ylabel()


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


# Names of any kind.


@pytest.mark.parametrize(
    "name", ["$x^", "_hidden", "a$b$c", "ein sehr langer Name " * 5, "两个", "%s {0} \\frac", "a\nb"]
)
def test_any_name_can_be_drawn_and_is_in_the_legend(ax, name):
    scores = SCORES.rename(columns={"0": name})
    plot_profile(performance_profile(scores), ax)
    assert len(ax.get_legend().get_texts()) == 4
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        ax.figure.savefig(io.BytesIO(), format="svg")


def test_a_legend_of_many_or_long_names_stands_below_and_within_the_figure():
    names = ["a method with a long name", *(f"method {k}" for k in range(7))]
    scores = pd.DataFrame(np.random.default_rng(0).uniform(size=(5, 8)), columns=names)
    figure = Figure(figsize=(4.7, 5.5), layout="constrained")
    ax = plot_profile(performance_profile(scores), figure.subplots())
    figure.draw_without_rendering()
    legend, axis = ax.get_legend().get_window_extent(), ax.xaxis.label.get_window_extent()
    assert legend.y1 <= axis.y0 + 1
    assert legend.y0 >= 0
    assert 0 <= legend.x0 < legend.x1 <= figure.bbox.width
    assert ax.get_window_extent().height > 150


# Bands and notes of the profile.


def test_bands_are_drawn_from_the_low_to_the_high_end(ax):
    profile, taus = performance_profile(SCORES), [0.5, 0.8, 1.0]
    bands = (performance_profile(SCORES, taus) * 0.5, performance_profile(SCORES, taus) * 0.5 + 0.5)
    plot_profile(profile, ax, bands=bands)
    assert len(ax.collections) == 4
    for method, shade in zip(SCORES, ax.collections, strict=True):
        x, y = shade.get_paths()[0].vertices.T
        ends = [band.loc[1.0, method] for band in bands]
        assert [min(y[x == 1]), max(y[x == 1])] == pytest.approx(ends)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert all(name.startswith(method_label(method)) for name, method in zip(names, SCORES, strict=True))


def test_the_figure_says_what_is_done_with_scores_that_are_not_positive(ax):
    assert "not positive" not in plot_profile(performance_profile(SCORES), ax).get_xlabel()
    scores = pd.DataFrame({"ce": [0.0, 0.5], "0": [-0.5, 0.5]})
    label = plot_profile(performance_profile(scores), ax).get_xlabel()
    assert "in 1 block the best score is not positive:\nonly the best method solves it" in label


# Ranks.

RANKS = pd.Series({"ce": 2.5, "0": 2.75, "0-0.5": 1.25})


def test_ranks_stand_at_their_place_the_best_on_top(ax):
    assert plot_ranks(RANKS, [("0-0.5",), ("ce", "0")], ax) is ax
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["F = 0-0.5 (ramp)  1.25", "CE  2.50", "F = 0 (constant)  2.75"]
    assert [text.xy[0] for text in ax.texts] == [1.25, 2.5, 2.75]
    heights = [text.xy[1] for text in ax.texts]
    assert heights == sorted(heights, reverse=True)
    left, right = ax.get_xlim()
    assert left < 1
    assert right > 3
    assert list(ax.get_xticks()) == [1, 2, 3]


def test_a_bar_joins_each_group_of_two_or_more(ax):
    plot_ranks(RANKS, [("0-0.5",), ("ce", "0")], ax)
    bars = [line for line in ax.get_lines() if line.get_linewidth() == 4]
    assert [line.get_xdata() for line in bars] == [pytest.approx([2.47, 2.78])]
    plot_ranks(RANKS, [("0-0.5", "ce"), ("ce", "0")], ax)
    bars = [line.get_ydata()[0] for line in ax.get_lines() if line.get_linewidth() == 4]
    assert len(set(bars[1:])) == 2


def test_names_of_ranks_lie_within_the_figure():
    ranks = pd.Series({"a method with a longish name": 1.0, "ce": 2.0, "0": 3.0})
    figure = Figure(figsize=(4.7, 2), layout="constrained")
    ax = plot_ranks(ranks, [], figure.subplots())
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert min(box.x0 for box in boxes) >= 0


# Differences.


def gains(tasks: int = 2) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([[f"p{k}" for k in range(tasks)], ["0", "el"]], names=["task", "method"])
    middle = np.arange(len(index)) / 100
    return pd.DataFrame({"pairs": 4, "difference": middle, "low": middle - 0.01, "high": middle + 0.02}, index)


def test_differences_have_a_row_for_each_task_and_a_mark_for_each_method(ax):
    table = gains().assign(high=lambda t: t["difference"] + 0.01)
    assert plot_differences(table, "ce", ax) is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == ["p1", "p0"]  # the first on top
    marks = {bars.get_label(): bars.lines[0] for bars in ax.containers}
    assert marks["F = 0 (constant)"].get_xdata().tolist() == pytest.approx([2, 0])
    assert marks["EL"].get_xdata().tolist() == pytest.approx([3, 1])
    (whiskers,) = ax.containers[0].lines[2]
    assert [segment[:, 0].tolist() for segment in whiskers.get_segments()] == [
        pytest.approx([1, 3]),
        pytest.approx([-1, 1]),
    ]
    assert "points above CE" in ax.get_xlabel()


def test_a_difference_without_an_interval_is_a_mark_alone(ax):
    plot_differences(gains().assign(low=np.nan, high=np.nan), "ce", ax)
    (whiskers,) = ax.containers[0].lines[2]
    assert all(np.ptp(segment[:, 0]) == 0 for segment in whiskers.get_segments())


def test_of_many_tasks_those_with_the_largest_differences_are_drawn(ax):
    plot_differences(gains(60), "ce", ax)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"p{k}" for k in range(59, 19, -1)]


def test_a_method_looks_the_same_in_all_figures(ax):
    order = ["0", "ce", "el"]
    plot_differences(gains(), "ce", ax, order=order)
    assert [bars.lines[0].get_color() for bars in ax.containers] == [style_of(0).colour, style_of(2).colour]


# Curves.


def curves() -> pd.DataFrame:
    rows = []
    for method, seed, epoch in itertools.product(["el", "ce"], [0, 1], [1.0, 2.0]):
        numbers = {"score": 0.5 + 0.1 * seed, "loss_ce": epoch, "loss_el": 0.5, "alpha": 1.0, "beta": epoch - 1}
        rows += [("a", method, seed, epoch, quantity, value) for quantity, value in numbers.items()]
    return pd.DataFrame(rows, columns=["task", "method", "seed", "epoch", "quantity", "value"])


def test_means_with_whiskers_to_the_lowest_and_highest(ax):
    assert plot_curves(curves(), "score", ax, order=["ce", "el"], scale=100, whiskers=True) is ax
    first = ax.containers[0]
    assert first.get_label() == "CE"
    assert first.lines[0].get_ydata().tolist() == pytest.approx([55, 55])
    (whiskers,) = first.lines[2]
    assert whiskers.get_segments()[0][:, 1].tolist() == pytest.approx([50, 60])


def test_a_second_quantity_is_dotted(ax):
    order = ["ce", "el", "unseen"]
    assert plot_curves(curves(), "loss_ce", ax, dotted="beta", order=order, drawstyle="steps-pre") is ax
    lines = ax.get_lines()
    assert [line.get_ydata().tolist() for line in lines] == [[1, 2]] * 2 + [[0, 1]] * 2
    assert lines[0].get_linestyle() != lines[2].get_linestyle()
    assert {line.get_drawstyle() for line in lines} == {"steps-pre"}
    assert [line.get_color() for line in lines] == [style_of(0).colour, style_of(1).colour] * 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["CE", "EL"]
    assert ax.get_ylim()[0] == 0


def test_means_are_over_all_runs_and_the_axis_is_labelled(ax):
    rows = curves().assign(task=lambda table: "p" + table["seed"].astype(str))
    label = "a long label that takes more than one line of $5"
    assert plot_curves(rows, "score", ax, order=["unseen", "ce", "el"], scale=100, label=label) is ax
    assert [line.get_ydata().tolist() for line in ax.get_lines()] == [pytest.approx([55, 55])] * 2
    assert [line.get_color() for line in ax.get_lines()] == [style_of(1).colour, style_of(2).colour]
    assert ax.get_ylabel().replace("\n", " ") == label.replace("$", r"\$")
    assert max(map(len, ax.get_ylabel().splitlines())) <= 28
    ax.clear()
    plot_curves(rows, "loss_ce", ax)
    assert ax.get_lines()[0].get_ydata().tolist() == [1, 2]
    assert ax.get_ylabel() == "loss_ce"


# A schedule.


@pytest.mark.parametrize("mixing", [*REGIMES, "ce@0 1:4@5/6 0.5@0.95"])
def test_a_schedule_is_drawn_as_it_is_followed(ax, mixing):
    schedule = MixingSchedule.parse(mixing)
    assert plot_schedule(schedule, ax) is ax
    right = next(other for other in ax.figure.axes if other is not ax)
    alpha, beta, focus = (line for side in (ax, right) for line in side.get_lines() if len(line.get_xdata()))
    for step in range(1000):  # between two steps that are drawn as one line
        percent = (step + 0.5) / 10
        drawn = [np.interp(percent, *line.get_path().vertices.T) for line in (alpha, beta, focus)]
        weights = schedule.weights(2 * step + 1, 2000)
        assert drawn == pytest.approx([*weights, focus_of(*weights)], abs=1e-9)


def test_a_schedule_says_which_line_is_which_and_shows_all_of_each(ax):
    plot_schedule(MixingSchedule.parse("0-0.5"), ax)
    right = next(other for other in ax.figure.axes if other is not ax)
    legend = dict(zip((t.get_text() for t in ax.get_legend().get_texts()), ax.get_legend().get_lines(), strict=True))
    drawn = [line for side in (ax, right) for line in side.get_lines() if len(line.get_xdata())]
    assert list(legend) == ["α (CE)", "β (EL)", "focus F"]
    assert [line.get_color() for line in legend.values()] == [line.get_color() for line in drawn]
    for side, top in ((ax, 5), (right, 0.5)):
        low, high = side.get_ylim()
        assert low < 0 < top < high
    assert "% of the steps" in ax.get_xlabel()
    assert right.get_ylabel() == "focus F"


def test_figures_need_no_axis(current_figure):
    ax = current_figure.subplots()
    assert plot_ranks(RANKS, []) is ax
    assert plot_differences(gains(), "ce") is ax
    assert plot_curves(curves(), "score") is ax
    assert plot_schedule(MixingSchedule.parse("0")) is ax


@pytest.mark.parametrize("task", ["rte", "natural language inference", "m" * 40])
def test_the_legend_beside_long_names_of_tasks_stays_within_the_figure(task):
    scores = pd.DataFrame(
        {
            "ce": [0.5, 0.6, 0.7, 0.9],
            "0": [0.6, 0.6, 0.7, 0.8],
            "el": [0.4, 0.6, 0.5, 0.8],
            "0-0.5": [0.7, 0.6, 0.7, 0.7],
        },
        index=pd.MultiIndex.from_product([[task, "qqp"], [0, 1]], names=["task", "seed"]),
    )
    figure = Figure(figsize=(4.7, 2.4), layout="constrained")
    ax = plot_differences(task_gains(scores, "ce"), "ce", figure.subplots())
    figure.draw_without_rendering()
    legend = ax.get_legend().get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= figure.bbox.width
