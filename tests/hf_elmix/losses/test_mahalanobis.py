from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from hf_elmix.losses import center_logits, max_mahalanobis_centers, mmc_loss
from hf_elmix.losses.mahalanobis import _simplex

SIZES = [(2, 1), (2, 2), (2, 768), (3, 2), (3, 3), (3, 64), (10, 9), (10, 10), (77, 96), (200, 199)]


def recursion(classes: int) -> np.ndarray:
    """The centres as Pang et al. 2018 construct them, class by class and coordinate by coordinate."""
    centers = np.zeros((classes, classes))
    centers[0, 0] = 1
    for i in range(1, classes):
        for j in range(i):
            centers[i, j] = -(1 / (classes - 1) + centers[i] @ centers[j]) / centers[j, j]
        if i < classes - 1:  # the last has only rounding errors left
            centers[i, i] = np.sqrt(1 - centers[i] @ centers[i])
    assert np.allclose(centers[:, -1], 0)
    return centers[:, :-1]


def corners(classes: int) -> np.ndarray:
    """The same simplex by another construction: unit vectors minus their mean."""
    centers = np.eye(classes) - 1 / classes
    return centers / np.linalg.norm(centers[0])


def batch(*shape: int, classes: int = 5, dim: int = 8, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(sum(shape) + dim)
    features = 3 * torch.randn(*shape, dim, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(classes, shape, generator=generator)
    if shape:
        labels[torch.rand(shape, generator=generator) < 0.3] = -100
    return features.requires_grad_(), labels, max_mahalanobis_centers(classes, dim, 4.0, dtype=torch.float64)


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 77])
def test_the_simplex_is_the_papers_recursion(classes):
    np.testing.assert_allclose(_simplex(classes).numpy(), recursion(classes), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("classes", "dim"), SIZES)
@pytest.mark.parametrize("scale", [10.0, 0.3])
def test_centers_are_as_far_apart_as_possible(classes, dim, scale):
    centers = max_mahalanobis_centers(classes, dim, scale, dtype=torch.float64).numpy()
    assert centers.shape == (classes, dim)
    unit = corners(classes)
    np.testing.assert_allclose(centers @ centers.T, scale**2 * unit @ unit.T, rtol=0, atol=1e-12 * scale**2)
    np.testing.assert_allclose(np.linalg.norm(centers, axis=1), scale, rtol=1e-12)
    cosines = centers @ centers.T / scale**2
    np.testing.assert_allclose(cosines[~np.eye(classes, dtype=bool)], -1 / (classes - 1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(centers.sum(0), 0, atol=1e-11 * scale)


@pytest.mark.parametrize(("classes", "dim"), [size for size in SIZES if size[1] >= size[0]])
def test_every_class_can_be_reached_after_a_relu(classes, dim):
    centers = max_mahalanobis_centers(classes, dim, dtype=torch.float64)
    closest = centers.relu()  # the non-negative features with the smallest loss
    assert center_logits(closest, centers).argmax(-1).tolist() == list(range(classes))


def test_in_the_papers_coordinates_a_relu_makes_a_class_unreachable():
    features = 5 * torch.rand(1000, 2, dtype=torch.float64)  # the reason for the rotation
    assert center_logits(features, _simplex(3)).argmax(-1).unique().tolist() == [0, 1]


@pytest.mark.parametrize("classes", [2, 3])
def test_centers_can_be_reached_after_a_tanh(classes):
    assert max_mahalanobis_centers(classes, 768).abs().max() < 0.75


def test_centers_are_the_same_every_time_of_any_type():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    centers = max_mahalanobis_centers(4, 6)
    assert torch.equal(torch.get_rng_state(), before)
    assert centers.dtype == torch.float32
    exact = max_mahalanobis_centers(4, 6, 10, dtype=torch.float64, device="cpu")
    assert torch.equal(exact.float(), centers)
    assert torch.equal(max_mahalanobis_centers(4, 6, dtype=torch.bfloat16), exact.bfloat16())
    assert max_mahalanobis_centers(4, 6, device="meta").device.type == "meta"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 5), "two classes or more, but got 1"),
        ((4, 2), "3 features or more, for 4 centres equally far apart, but got 2"),
        ((4, 3, 0.0), "scale to be a number above 0, but got 0.0"),
        ((4, 3, -1.0), "scale"),
        ((4, 3, float("inf")), "scale"),
        ((4, 3, float("nan")), "scale"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        max_mahalanobis_centers(*arguments)


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 2), ()])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_definition(shape, weighted):
    features, labels, centers = batch(*shape)
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.1], dtype=torch.float64) if weighted else None
    z, y, mu = features.detach().numpy().reshape(-1, 8), labels.numpy().reshape(-1), centers.numpy()
    losses, counts = np.zeros(len(y)), np.zeros(len(y))
    for i, label in enumerate(y):
        if label != -100:
            counts[i] = weight[label] if weighted else 1
            losses[i] = counts[i] * sum((z[i, k] - mu[label, k]) ** 2 for k in range(8)) / 2
    expected = {"none": losses.reshape(shape), "sum": losses.sum(), "mean": losses.sum() / counts.sum()}
    for reduction, value in expected.items():
        result = mmc_loss(features, labels, centers, reduction=reduction, weight=weight)
        np.testing.assert_allclose(result.detach().numpy(), value, rtol=1e-12, atol=1e-12)
    by_number = mmc_loss(features, labels, centers, weight=weight, num_items=7)
    np.testing.assert_allclose(by_number.detach().numpy(), losses.sum() / 7, rtol=1e-12)


def test_gradient_leads_to_the_center_of_the_label():
    features, labels, centers = batch(9)
    (gradient,) = torch.autograd.grad(mmc_loss(features, labels, centers, reduction="sum"), features)
    expected = (features.detach() - centers[labels.clamp(min=0)]) * labels.ne(-100)[:, None]
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
    assert labels.eq(-100).any()
    assert torch.equal(gradient[labels.eq(-100)], torch.zeros(labels.eq(-100).sum(), 8, dtype=torch.float64))


def test_first_and_second_derivatives():
    features, labels, centers = batch(6)
    assert gradcheck(lambda z: mmc_loss(z, labels, centers), features)
    assert gradcheck(lambda z: center_logits(z, centers), features)
    assert gradgradcheck(lambda z: mmc_loss(z, labels, centers), features)


def test_logits_are_minus_half_the_squared_distances():
    features, labels, centers = batch(3, 4)
    z, mu = features.detach().numpy(), centers.numpy()
    expected = -((z[..., None, :] - mu) ** 2).sum(-1) / 2
    np.testing.assert_allclose(center_logits(features, centers).detach().numpy(), expected, rtol=1e-12)
    other = torch.randn(4, 8, dtype=torch.float64)  # centres of any lengths
    expected = -((z[..., None, :] - other.numpy()) ** 2).sum(-1) / 2
    np.testing.assert_allclose(center_logits(features, other).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [10.0, 1000.0])
def test_small_distances_are_exact_for_large_centers(scale):
    centers = max_mahalanobis_centers(3, 64, scale)
    features = centers + 1e-3 * scale * torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    exact = (features.double() - centers.double()).square().sum(-1) / 2
    loss = mmc_loss(features, torch.arange(3), centers, reduction="none")
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_also_under_autocast(dtype):
    features, labels, centers = batch(64, dtype=dtype)
    expected = mmc_loss(features.float(), labels, centers.float())
    with torch.autocast("cpu", dtype=dtype):
        inside = mmc_loss(features.float(), labels, centers.float())
    loss = mmc_loss(features, labels, centers.float())
    for result in (loss, inside):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, expected, rtol=0, atol=0)
    assert torch.autograd.grad(loss, features)[0].dtype == dtype


def test_a_mean_over_no_labels_is_0_with_zero_gradient():
    features, _, centers = batch(4)
    loss = mmc_loss(features, torch.full((4,), -100), centers)
    assert loss.item() == 0
    assert torch.equal(torch.autograd.grad(loss, features)[0], torch.zeros(4, 8, dtype=torch.float64))
    ignored = mmc_loss(features, torch.full((4,), 2), centers, ignore_index=2, reduction="none")
    assert ignored.tolist() == [0] * 4


@pytest.mark.parametrize(
    ("features", "labels", "centers", "message"),
    [
        ((4, 8), (5,), (3, 8), r"features \(4, 8\) and labels \(5,\)"),
        ((4, 8), (4, 1), (3, 8), r"features \(4, 8\) and labels \(4, 1\)"),
        ((4, 8), (4,), (3, 7), r"features \(4, 8\) and centers \(3, 7\)"),
        ((4, 8), (4,), (8,), r"features \(4, 8\) and centers \(8,\)"),
        ((), (), (3, 8), r"features \(\) and centers \(3, 8\)"),
    ],
)
def test_shapes_that_do_not_match_are_refused(features, labels, centers, message):
    with pytest.raises(ValueError, match=message):
        mmc_loss(torch.zeros(features), torch.zeros(labels, dtype=torch.long), torch.zeros(centers))


def test_weights_and_labels_are_checked_as_everywhere():
    features, labels, centers = batch(4)
    with pytest.raises(ValueError, match="one entry for each of the 5 classes"):
        mmc_loss(features, labels, centers, weight=torch.ones(8))
    with pytest.raises(TypeError, match="integer class ids"):
        mmc_loss(features, labels.double(), centers)
