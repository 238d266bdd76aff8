from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_elmix.losses import (
    complement_entropy,
    cross_entropy,
    expectation_loss,
    focal_loss,
    generalized_cross_entropy,
    mae_loss,
    mpce_loss,
    tamed_cross_entropy,
)

# Each loss with its arguments, and its definition for one sample: p is all probabilities, y the label.
PLAIN = {
    "focal": (focal_loss, {"gamma": 2.0, "alpha": 0.25}, lambda p, y: -0.25 * (1 - p[y]) ** 2 * math.log(p[y])),
    "focal, a low power": (focal_loss, {"gamma": 0.5, "alpha": 1}, lambda p, y: -((1 - p[y]) ** 0.5) * math.log(p[y])),
    "mae": (mae_loss, {}, lambda p, y: np.abs(np.eye(len(p))[y] - p).sum()),
    "gce": (generalized_cross_entropy, {"q": 0.7}, lambda p, y: (1 - p[y] ** 0.7) / 0.7),
    "gce, truncated": (
        generalized_cross_entropy,
        {"q": 0.7, "k": 0.5},
        lambda p, y: (1 - max(p[y], 0.5) ** 0.7) / 0.7,
    ),
    "tce": (tamed_cross_entropy, {"a": 0.2}, lambda p, y: ((1 - math.log(p[y])) ** 0.8 - 1) / 0.8),
    "tce, a above 1": (tamed_cross_entropy, {"a": 2.0}, lambda p, y: ((1 - math.log(p[y])) ** -1 - 1) / -1),
    "mpce": (mpce_loss, {}, lambda p, y: -(p.max() - p[y]) * math.log(p[y])),
    "cot": (
        complement_entropy,
        {},
        lambda p, y: -sum(s * math.log(s) for s in np.delete(p, y) / (1 - p[y])) / (len(p) - 1),
    ),
}
ALL = pytest.mark.parametrize("name", PLAIN)


def batch(*shape: int, classes: int = 5, dtype: torch.dtype = torch.float64, ignored: bool = True):
    generator = torch.Generator().manual_seed(sum(shape) + classes)
    logits = 3 * torch.randn(*shape, classes, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(classes, shape, generator=generator)
    if ignored:
        labels[torch.rand(shape, generator=generator) < 0.3] = -100
    return logits.requires_grad_(), labels


def plain(name: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sample by sample, from the definition."""
    rows, ids = logits.detach().double().numpy().reshape(-1, logits.shape[-1]), labels.numpy().reshape(-1)
    p = np.exp(rows - rows.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    values = [0.0 if y == -100 else PLAIN[name][2](p[i], y) for i, y in enumerate(ids)]
    return torch.tensor(values, dtype=torch.float64).reshape(labels.shape)


@ALL
@pytest.mark.parametrize("shape", [(7,), (3, 4), ()])
def test_equals_the_definition(name, shape):
    (function, arguments, _), (logits, labels) = PLAIN[name], batch(*shape, ignored=bool(shape))
    expected = plain(name, logits, labels)
    got = function(logits, labels, reduction="none", **arguments)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    count = labels.ne(-100).sum()
    torch.testing.assert_close(function(logits, labels, **arguments), expected.sum() / count, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(
        function(logits, labels, num_items=11, **arguments), expected.sum() / 11, rtol=1e-11, atol=1e-12
    )


@ALL
def test_class_weights_are_pytorchs(name):
    (function, arguments, _), (logits, labels) = PLAIN[name], batch(30)
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.1], dtype=torch.float64)
    each = plain(name, logits, labels) * weight[labels.clamp(0)]
    count = weight[labels[labels >= 0]].sum()
    torch.testing.assert_close(function(logits, labels, weight=weight, **arguments), each.sum() / count)


@ALL
def test_the_gradient_is_that_of_the_definition(name):
    """By central differences of the plain values, in float64."""
    (function, arguments, _), (logits, labels) = PLAIN[name], batch(6, classes=4)
    (got,) = torch.autograd.grad(function(logits, labels, reduction="sum", **arguments), logits)
    expected, step = torch.zeros_like(logits), 1e-6
    for place in np.ndindex(*logits.shape):
        high, low = logits.detach().clone(), logits.detach().clone()
        high[place] += step
        low[place] -= step
        expected[place] = (plain(name, high, labels) - plain(name, low, labels)).sum() / (2 * step)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)
    assert torch.autograd.gradcheck(lambda q: function(q, labels, reduction="none", **arguments), (logits,))


@ALL
def test_ignored_labels_have_no_loss_and_no_gradient(name):
    (function, arguments, _), (logits, _) = PLAIN[name], batch(4)
    labels = torch.full((4,), -100)
    loss = function(logits, labels, **arguments)
    assert loss == 0
    assert torch.autograd.grad(loss, logits)[0].eq(0).all()


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_reduced_in_float32(name, dtype):
    (function, arguments, _), (logits, labels) = PLAIN[name], batch(64, dtype=dtype)
    loss = function(logits, labels, **arguments)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, function(logits.float(), labels, **arguments), rtol=1e-6, atol=1e-6)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_stay_finite(name, dtype):
    function, arguments, _ = PLAIN[name]
    logits = torch.tensor([[1e4, -1e4, 0, 5], [-1e4, 1e4, 0, 1], [0.0, 0, 0, 0], [-1e4, -1e4, -1e4, 1e4]], dtype=dtype)
    logits.requires_grad_()
    loss = function(logits, torch.tensor([0, 0, 1, 3]), reduction="none", **arguments)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert (loss >= 0).all()


@pytest.mark.parametrize("gamma", [0.5, 1, 1.5, 2, 3])
def test_curvature_of_focal_loss_is_finite_where_the_label_is_certain(gamma):
    logits = torch.tensor([[1e4, 0.0], [0.5, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0, -100]), gamma=gamma)
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    assert torch.autograd.grad(gradient.sum(), logits)[0].isfinite().all()


def test_limits():
    logits, labels = batch(40)
    ce, el = cross_entropy(logits, labels, reduction="none"), expectation_loss(logits, labels, reduction="none")
    for function, arguments, limit in (
        (focal_loss, {"gamma": 0}, ce),
        (generalized_cross_entropy, {"q": 0}, ce),
        (generalized_cross_entropy, {"q": 1e-9}, ce),
        (generalized_cross_entropy, {"q": 1}, el),
        (tamed_cross_entropy, {"a": 0}, ce),
        (tamed_cross_entropy, {"a": 1e-9}, ce),
        (tamed_cross_entropy, {"a": 1}, torch.log1p(ce)),
        (tamed_cross_entropy, {"a": 1 - 1e-9}, torch.log1p(ce)),
        (mae_loss, {}, 2 * el),
    ):
        loss = function(logits, labels, reduction="none", **arguments)
        torch.testing.assert_close(loss, limit, rtol=1e-7, atol=1e-9)


def test_truncation_removes_the_gradient_of_improbable_labels():
    logits = torch.tensor([[3.0, 0.0], [0.0, 3.0]], requires_grad=True)
    loss = generalized_cross_entropy(logits, torch.tensor([0, 0]), q=0.7, k=0.5, reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient[0].ne(0).all()
    assert gradient[1].eq(0).all()
    assert loss[1].item() == pytest.approx((1 - 0.5**0.7) / 0.7)


def test_mpce_is_0_where_the_prediction_is_correct():
    logits = torch.tensor([[2.0, 1.9, -1], [1.9, 2.0, -1]], requires_grad=True)
    loss = mpce_loss(logits, torch.tensor([0, 0]), reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss[0] == 0
    assert gradient[0].abs().max() < 1e-6
    assert loss[1] > 0


def test_complement_entropy_is_largest_if_the_incorrect_classes_are_even():
    logits, labels = torch.tensor([[0.3, -1, -1, -1], [0.3, 9, -9, -9]]), torch.tensor([0, 0])
    even, one = complement_entropy(logits, labels, reduction="none").tolist()
    assert even == pytest.approx(math.log(3) / 3)
    assert one == pytest.approx(0, abs=1e-5)
    with pytest.raises(ValueError, match="three classes or more, but got 2"):
        complement_entropy(torch.zeros(1, 2), torch.tensor([0]))


def test_a_class_with_a_logit_of_minus_infinity_is_left_out():
    logits = torch.tensor([[0.0, 1.0, 2.0, -math.inf]], requires_grad=True)
    (gradient,) = torch.autograd.grad(complement_entropy(logits, torch.tensor([0])), logits)
    expected = complement_entropy(logits[:, :3], torch.tensor([0])) * 2 / 3  # of C - 1 classes
    torch.testing.assert_close(complement_entropy(logits, torch.tensor([0])), expected)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (focal_loss, {"gamma": -1}, "gamma to be 0 or more and alpha above 0, but got gamma=-1"),
        (focal_loss, {"alpha": 0}, "alpha=0"),
        (focal_loss, {"gamma": math.nan}, "gamma=nan"),
        (focal_loss, {"gamma": math.inf}, "gamma=inf"),
        (generalized_cross_entropy, {"q": 1.5}, r"q to be in \[0, 1\], but got 1.5"),
        (generalized_cross_entropy, {"k": 1.0}, r"k to be in \(0, 1\), but got 1.0"),
        (tamed_cross_entropy, {"a": -0.1}, "a to be 0 or more, but got -0.1"),
        (mae_loss, {"reduction": "avg"}, "'mean', 'sum' or 'none', but got 'avg'"),
        (mpce_loss, {"reduction": "sum", "num_items": 3}, "num_items divides a mean"),
    ],
)
def test_arguments_out_of_range_are_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*batch(4), **arguments)


def test_labels_that_are_not_class_ids_are_refused():
    with pytest.raises(TypeError, match="integer class ids"):
        focal_loss(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="logits of shape"):
        focal_loss(torch.zeros(2, 3), torch.tensor([0]))
