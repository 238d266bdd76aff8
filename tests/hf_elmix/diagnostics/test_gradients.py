from __future__ import annotations

import runpy
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_elmix import diagnostics
from hf_elmix.diagnostics import gradients
from hf_elmix.diagnostics.gradients import gradient_at_label, gradient_peak, plot_gradients
from hf_elmix.errors import UsageError
from hf_elmix.losses import registry
from hf_elmix.losses.registry import parse_loss, register_loss
from hf_elmix.losses.schedules import MixingSchedule

P = np.array([1e-6, 0.01, 0.2, 0.37, 0.49, 0.51, 0.8, 0.99, 1 - 1e-6])
REST = 1 - P

# The gradient of a loss f(p) is f'(p) p (1 - p), by hand.
CLOSED = {
    "ce": REST,
    "el": P * REST,
    "mix:0.3": REST * (1 + 2.5 * P),
    "focal:gamma=2,alpha=0.25": 0.25 * REST**2 * (REST - 2 * P * np.log(P)),
    "focal:gamma=0.5": REST**0.5 * (REST - 0.5 * P * np.log(P)),
    "mae": 2 * P * REST,
    "gce:q=0.7": P**0.7 * REST,
    "gce:q=0.7,k=0.5": np.where(P > 0.5, P**0.7 * REST, 0),
    "tce:a=0.2": REST / (1 - np.log(P)) ** 0.2,
    "mpce": np.where(P < 0.5, REST * (1 - 2 * P - 2 * P * np.log(P)), 0),  # max p is 1 - p there
    "ce-rescaled:0.4": (1 + 5 / 3) * REST,
    "ce-rescaled:0.4,logit=other": (1 + 5 / 2) * REST,
}


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


def squared(logits: torch.Tensor, labels: torch.Tensor, power: float = 2.0) -> torch.Tensor:
    return F.cross_entropy(logits, labels, reduction="none") ** power


def curves(ax: Axes) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """Probabilities and sizes that are drawn under each name, and which of them has the marker."""
    return {line.get_label(): (*line.get_xydata().T, *line.get_markevery()) for line in ax.get_lines()}


@pytest.mark.parametrize("loss", CLOSED)
def test_the_gradient_is_the_closed_form(loss):
    np.testing.assert_allclose(gradient_at_label(loss, P), CLOSED[loss], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("weights", [(1, 0), (0, 1), (1, 1), (2, 0.5), (0.3, 4.1)])
@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_weights_give_eq_13(weights, classes):
    alpha, beta = weights
    expected = (1 - P) * (alpha + beta * P)
    np.testing.assert_allclose(gradient_at_label(weights, P, classes), expected, rtol=1e-9, atol=1e-13)


def test_probabilities_next_to_0_and_1():
    p = np.array([1e-300, 1 - 2.0**-53])
    np.testing.assert_allclose(gradient_at_label((1, 3), p), [1, 0], atol=1e-15)


@pytest.mark.parametrize("focus", [0.05, 0.1, 0.2, 0.3, 0.4, 0.499, 0.5])
def test_the_peak_is_at_the_focus_of_eq_14(focus):
    beta = 1 / (1 - 2 * focus) if focus < 0.5 else None
    largest = (1 - focus) * (1 + beta * focus) if beta else 0.25
    assert gradient_peak(focus) == pytest.approx((focus, largest), abs=1e-6)


@pytest.mark.parametrize(("weights", "focus"), [((1, 3), 1 / 3), ((2, 2.5), 0.1), ((1, 1), 0), ((3, 1), 0)])
def test_the_peak_of_weights(weights, focus):
    assert gradient_peak(weights)[0] == pytest.approx(focus, abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "peak"), [("gce:q=0.7", 0.7 / 1.7), ("gce:q=0.7,k=0.6", 0.6), ("ce", 0), ("mae", 0.5)]
)
def test_the_peak_of_other_losses(loss, peak):
    assert gradient_peak(loss)[0] == pytest.approx(peak, abs=1e-5)


def test_more_classes_share_the_rest_evenly(monkeypatch):
    seen = []

    def spying(logits, labels):
        seen.append((logits.detach().softmax(-1).numpy(), labels.numpy()))
        return squared(logits, labels)

    p = np.array([[0.1, 0.5, 0.9]])
    gradient = gradient_at_label(spying, p, classes=5)
    probabilities, labels = seen[-1]
    np.testing.assert_allclose(gradient, 2 * -np.log(p) * (1 - p))
    np.testing.assert_allclose(probabilities[:, 0], p[0])
    np.testing.assert_allclose(probabilities[:, 1:], np.repeat((1 - p[0])[:, None] / 4, 4, axis=1))
    assert not labels.any()


def test_mpce_stops_where_the_label_is_the_largest():
    """With five classes the others have (1 - p) / 4 each, so that the label is the largest from p = 1/5 on."""
    assert (gradient_at_label("mpce", [0.15, 0.19], classes=5) > 0).all()
    assert not gradient_at_label("mpce", [0.21, 0.45], classes=5).any()
    assert gradient_at_label("mpce", 0.45) > 0


def test_a_schedule_is_taken_as_it_starts():
    assert gradient_at_label("0-0.5", 0.25) == gradient_at_label(0, 0.25) == pytest.approx(0.75 * 1.25)
    assert gradient_at_label(MixingSchedule.parse("0-0.5"), 0.25) == gradient_at_label(parse_loss("0"), 0.25)


def test_a_registered_loss(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    register_loss("squared", squared)
    np.testing.assert_allclose(gradient_at_label("squared:power=3", P), 3 * np.log(P) ** 2 * REST)


def test_a_size_has_no_sign():
    np.testing.assert_allclose(gradient_at_label(lambda logits, labels: -squared(logits, labels, 1), P), REST)


def test_a_schedule_has_a_curve_for_each_phase(ax):
    plot_gradients(["ce", "0-0.5", 0.3, (1, 1), (2, 1), "ce-rescaled:0,0.5"], ax)
    drawn = curves(ax)
    foci = [f"F = {focus}" for focus in ("0", "0.1", "0.2", "0.3", "0.4", "0.5")]
    rescaled = ["ce-rescaled:0", "ce-rescaled:el"]
    assert list(drawn) == ["CE", *foci, "α = 2, β = 1", *rescaled]  # each once
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(drawn)
    for name, (alpha, beta) in {"CE": (1, 0), "F = 0.3": (1, 2.5), "F = 0.5": (0, 1), "α = 2, β = 1": (2, 1)}.items():
        p, size, marked = drawn[name]
        np.testing.assert_allclose(size, (1 - p) * (alpha + beta * p), rtol=1e-9)
        assert size[marked] == size.max()
        assert (p[0], p[-1]) == pytest.approx((0, 1), abs=1e-5)
    for name, factor in zip(rescaled, (4 / 3, 1 / 3), strict=True):
        p, size, _ = drawn[name]
        np.testing.assert_allclose(size, factor * (1 - p), rtol=1e-9)
    marks = [p[marked] for p, _, marked in map(drawn.get, foci)]
    assert marks == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-5)


def test_curves_are_those_of_the_classes(ax):
    p, size, _ = curves(plot_gradients(["mpce"], ax, classes=10))["mpce"]
    assert size[p < 0.0999].all()
    assert not size[p > 0.1001].any()


def test_the_current_axis_is_drawn_on():
    figure, ax = plt.subplots()
    assert plot_gradients(["ce"]) is ax
    plt.close(figure)


def test_any_name_is_in_the_legend(ax):
    def _hidden(logits, labels):
        return squared(logits, labels)

    (text,) = plot_gradients([_hidden], ax).get_legend().get_texts()
    assert text.get_text().endswith("_hidden")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("mmc", "'mmc:scale=10' is not a function .* distance between features"),
        ("cot", "'cot' is not a function .* alternates two steps"),
        ("focla", "Did you mean 'focal'"),
        ((1, 2, 3), "Expected mixing"),
        ((-1, 2), "Unknown mixing '-1:2'"),
        (0.6, "focus"),
        (lambda logits, labels: (logits.argmax(-1) != labels).double(), "Cannot differentiate the loss '<lambda>'"),
        (lambda logits, labels: torch.ones(len(labels), requires_grad=True), "Cannot differentiate"),
    ],
)
def test_losses_without_such_a_gradient_are_refused(ax, loss, message):
    with pytest.raises(UsageError, match=message):
        gradient_at_label(loss, 0.5)
    with pytest.raises(UsageError, match=message):
        plot_gradients([loss], ax)


@pytest.mark.parametrize("p", [0, 1, -0.5, [0.5, np.nan]])
def test_refused_probabilities(p):
    with pytest.raises(UsageError, match="above 0 and below 1"):
        gradient_at_label("ce", p)


def test_one_class_is_refused():
    with pytest.raises(UsageError, match="two classes or more, but got 1"):
        gradient_peak("ce", classes=1)


def test_the_numbers_need_no_matplotlib(monkeypatch):
    for name in ("matplotlib", "pandas", "scipy", "hf_elmix.analysis.plots"):
        monkeypatch.setitem(sys.modules, name, None)
    assert runpy.run_path(gradients.__file__)["gradient_at_label"]("ce", 0.25) == pytest.approx(0.75)


def test_names_of_the_package():
    assert {getattr(diagnostics, name).__name__ for name in diagnostics.__all__} == set(diagnostics.__all__)
    assert set(diagnostics.__all__) <= set(dir(diagnostics))
    with pytest.raises(AttributeError, match="attribute nothing"):
        _ = diagnostics.nothing
