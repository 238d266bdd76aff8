from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_elmix.losses import cross_entropy, expectation_loss, loss_terms, mixed_loss
from hf_elmix.losses.weights import focus_of, focus_to_weights

WEIGHTS = [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 5.0), (0.3, 2.0)]


def batch(*shape: int, classes: int = 5, dtype: torch.dtype = torch.float64, ignored: bool = True):
    generator = torch.Generator().manual_seed(sum(shape) + classes)
    logits = 3 * torch.randn(*shape, classes, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(classes, shape, generator=generator)
    if ignored:
        labels[torch.rand(shape, generator=generator) < 0.3] = -100
    return logits.requires_grad_(), labels


def plain(logits, labels, alpha, beta, weight=None, smoothing=0.0):
    """The definition written out in numpy, sample by sample: Eqs. 1, 9 and 12."""
    q, y = logits.detach().double().numpy().reshape(-1, logits.shape[-1]), labels.numpy().reshape(-1)
    losses, counts = np.zeros(len(y)), np.zeros(len(y))
    w = np.ones(q.shape[1]) if weight is None else weight.double().numpy()
    for i, label in enumerate(y):
        if label == -100:
            continue
        p = np.exp(q[i] - q[i].max())
        p /= p.sum()
        target = np.full(len(p), smoothing / len(p))
        target[label] += 1 - smoothing
        losses[i] = alpha * -(w * target * np.log(p)).sum() + beta * w[label] * (1 - p[label])
        counts[i] = w[label]
    return losses.reshape(labels.shape), counts


@pytest.mark.parametrize(("alpha", "beta"), WEIGHTS)
@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 2), ()])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_equals_the_definition(alpha, beta, shape, weighted, smoothing):
    logits, labels = batch(*shape, ignored=bool(shape))
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.1], dtype=torch.float64) if weighted else None
    expected, counts = plain(logits, labels, alpha, beta, weight, smoothing)
    given_ = {"weight": weight, "label_smoothing": smoothing}
    for reduction, value in (
        ("none", expected),
        ("sum", expected.sum()),
        ("mean", expected.sum() / counts.sum()),
    ):
        result = mixed_loss(logits, labels, alpha, beta, reduction=reduction, **given_)
        np.testing.assert_allclose(result.detach().numpy(), value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_pytorchs(reduction, smoothing, weighted):
    logits, labels = batch(40)
    weight = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) if weighted else None
    given_ = {"reduction": reduction, "label_smoothing": smoothing, "weight": weight}
    ours, theirs = cross_entropy(logits, labels, **given_), F.cross_entropy(logits, labels, **given_)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    ours, theirs = (torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_expectation_loss_is_the_expected_zero_one_loss():
    logits, labels = batch(6, ignored=False)
    p = logits.softmax(-1)
    zero_one = 1 - F.one_hot(labels, 5)
    torch.testing.assert_close(expectation_loss(logits, labels, reduction="none"), (p * zero_one).sum(-1))


@pytest.mark.parametrize(("alpha", "beta"), WEIGHTS)
def test_gradient_is_equation_13(alpha, beta):
    logits, labels = batch(50, ignored=False)
    (gradient,) = torch.autograd.grad(mixed_loss(logits, labels, alpha, beta, reduction="sum"), logits)
    p = logits.detach().softmax(-1)
    p_y = p.gather(-1, labels[:, None])
    true = beta * p_y**2 + p_y * (alpha - beta) - alpha  # both cases as printed in the paper
    other = p * (beta * p_y + alpha)
    expected = torch.where(F.one_hot(labels, 5).bool(), true, other)
    assert (gradient - expected).abs().max() < 1e-12


@pytest.mark.parametrize("focus", [0.0, 0.1, 0.25, 0.4, 0.5])
def test_gradient_at_the_true_label_peaks_at_the_focus(focus):
    p = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    logits = torch.stack((p.log(), (1 - p).log()), dim=-1).requires_grad_()
    loss = mixed_loss(logits, torch.zeros(1000, dtype=torch.long), *focus_to_weights(focus), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, logits)
    assert p[gradient[:, 0].abs().argmax()].item() == pytest.approx(focus, abs=1e-3)
    assert focus_of(*focus_to_weights(focus)) == pytest.approx(focus, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("alpha", "beta"), WEIGHTS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_logits_stay_finite(dtype, alpha, beta, smoothing):
    logits = torch.tensor([[1e4, -1e4, 0], [-1e4, 1e4, 0], [1e4, 1e4, 1e4], [0, 0, 0]], dtype=dtype).requires_grad_()
    loss = mixed_loss(logits, torch.tensor([0, 0, 2, 1]), alpha, beta, label_smoothing=smoothing)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("num_items", [None, 0, torch.tensor(0), torch.tensor(0.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [0, 4])
def test_a_mean_over_no_labels_is_0_with_zero_gradient(rows, smoothing, num_items):
    logits = torch.randn(rows, 3, requires_grad=True)
    labels = torch.full((rows,), -100)
    loss = mixed_loss(logits, labels, 1.0, 1.0, label_smoothing=smoothing, num_items=num_items)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros(rows, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_reduced_in_float32(dtype):
    logits, labels = batch(4096, dtype=dtype)
    loss = mixed_loss(logits, labels, 1.0, 1.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, mixed_loss(logits.float(), labels, 1.0, 1.0), rtol=0, atol=0)
    assert torch.autograd.grad(loss, logits)[0].dtype == dtype


def test_a_logit_of_minus_infinity_excludes_a_class():
    logits = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    loss = mixed_loss(logits, torch.tensor([1]), 1.0, 1.0)
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()
    # Even the true class: the expectation loss alone is then exactly 1, where 0 * CE would be NaN.
    assert mixed_loss(logits, torch.tensor([2]), 0.0, 1.0).item() == 1


def test_num_items_makes_parts_add_up_to_the_whole():
    logits, labels = batch(12)
    whole = mixed_loss(logits, labels, 1.0, 2.5)
    count = labels.ne(-100).sum()
    parts = sum(
        mixed_loss(q, y, 1.0, 2.5, num_items=count) for q, y in zip(logits.split(5), labels.split(5), strict=True)
    )
    torch.testing.assert_close(parts, whole)


def test_other_ignore_index_and_label_types():
    logits, labels = batch(8)
    expected = mixed_loss(logits, labels, 1.0, 1.0)
    torch.testing.assert_close(mixed_loss(logits, labels.where(labels >= 0, 7), 1, 1, ignore_index=7), expected)
    torch.testing.assert_close(mixed_loss(logits, labels.int(), 1, 1), expected)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8), st.data())
@settings(max_examples=200, deadline=None)
def test_bounds(logits, data):
    """0 <= 1 - p_y <= min(1, -log p_y): the inequality under Eq. 11, for any logits and label."""
    label = torch.tensor([data.draw(st.integers(0, len(logits) - 1))])
    ce, el, batch = loss_terms(torch.tensor([logits], dtype=torch.float64), label)
    assert 0 <= el.item() <= min(1, ce.item())
    assert batch.counts.item() == 1


@pytest.mark.parametrize(
    ("logits", "labels", "given_", "message"),
    [
        ((4, 3), torch.zeros(4), {}, "integer class ids, but got torch.float32"),
        ((4, 3), torch.zeros(4, dtype=torch.bool), {}, "torch.bool"),
        ((4, 3), torch.zeros(5, dtype=torch.long), {}, r"logits \(4, 3\) and labels \(5,\)"),
        ((4, 3), torch.zeros(4, 1, dtype=torch.long), {}, r"labels \(4, 1\)"),
        ((4, 3), torch.zeros(4, dtype=torch.long), {"weight": torch.ones(2)}, "each of the 3 classes"),
        ((4, 3), torch.zeros(4, dtype=torch.long), {"label_smoothing": 1.5}, "got 1.5"),
        ((4, 3), torch.zeros(4, dtype=torch.long), {"reduction": "max"}, "got 'max'"),
        ((4, 3), torch.zeros(4, dtype=torch.long), {"reduction": "sum", "num_items": 4}, "not used with reduction"),
        ((4, 3), torch.zeros(4, dtype=torch.long), {"num_items": -3}, "0 or more, but got -3"),
        ((4, 3), torch.zeros(4, dtype=torch.long), {"num_items": float("nan")}, "0 or more, but got nan"),
    ],
)
def test_mistakes_are_refused(logits, labels, given_, message):
    with pytest.raises((TypeError, ValueError), match=message):
        mixed_loss(torch.zeros(logits), labels, 1.0, 1.0, **given_)
