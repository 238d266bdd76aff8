from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_elmix import UsageError
from hf_elmix.diagnostics.hessian import LossSurface, constant_losses, top_eigenvalues


def image_rows(count):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, 3, 16, 16, generator=generator, dtype=torch.float64)
    return {"pixel_values": pixels, "labels": torch.arange(count) % 3}


def text_rows(kit, count):
    rows = kit.sequence_rows(count).with_format("torch")[:]
    mask = torch.ones_like(rows["input_ids"])
    mask[0, 6:] = 0
    return {**rows, "attention_mask": mask}


def a_bert(kit):
    return kit.sequence_model(), text_rows(kit, 3)


def a_gpt(kit):
    sizes = {"vocab_size": 60, "n_embd": 16, "n_layer": 1, "n_head": 2, "num_labels": 3, "pad_token_id": 0}
    return GPT2ForSequenceClassification(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)), text_rows(kit, 3)


def a_vit(kit):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=3)), image_rows(3)


def a_resnet(kit):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=3)
    return ResNetForImageClassification(config), image_rows(3)


@pytest.mark.parametrize("kind", [a_bert, a_gpt, a_vit, a_resnet])
def test_products_against_differences_of_gradients(kit, kind):
    """For any classifier: central differences of gradients."""
    model, rows = kind(kit)
    model = model.double().eval()
    surface = LossSurface(model, [rows], constant_losses(["mix:0.3"]))
    direction = torch.randn(len(surface.weights), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with surface.prepared("test", 1, progress=False):
        (slope,) = surface.gradients(torch.ones(3))
        ((product, square),) = surface.hessian_vector_products([direction])
    step, weights = 1e-5, surface.weights

    def gradients(at):
        nn.utils.vector_to_parameters(at, model.parameters())
        p = model(**{name: part for name, part in rows.items() if name != "labels"}).logits.softmax(-1)
        losses = (lambda p: -p.log() + 2.5 * (1 - p))(p[torch.arange(3), rows["labels"]])
        return torch.stack([joined(torch.autograd.grad(one, model.parameters(), retain_graph=True)) for one in losses])

    torch.testing.assert_close(slope, gradients(weights.clone()).mean(0))
    assert square == pytest.approx(float((gradients(weights.clone()) @ direction).square().mean()))
    ahead, behind = (gradients(weights + sign * step * direction).mean(0) for sign in (1, -1))
    torch.testing.assert_close(product, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-5)


def joined(parts):
    return torch.cat([part.flatten() for part in parts])


def test_factors_belong_to_rows_across_batches(whole):
    net, rows = whole.Net(), whole.rows(5)
    surface = LossSurface(net, whole.batches(rows, 2, 2, 1), constant_losses(["ce", "el"]))
    factors = torch.tensor([1.0, -2.0, 3.0, 0.5, -1.0])
    with surface.prepared("test", 1, progress=False):
        found = surface.gradients(factors)
    for one, loss in zip(found, ("ce", "el"), strict=True):
        torch.testing.assert_close(one, factors.double() @ whole.gradients(net, rows, loss) / 5)


def test_a_plain_module_that_returns_logits(whole):
    net = nn.Linear(3, 3, dtype=torch.float64)
    rows = {"input": whole.rows(4)["x"], "labels": torch.tensor([0, 1, 2, 0])}
    surface = LossSurface(net, [rows], constant_losses(["ce"]))
    with surface.prepared("test", 1, progress=False):
        assert surface.rows == 4
        assert surface.means == [pytest.approx(float(nn.functional.cross_entropy(net(rows["input"]), rows["labels"])))]


class LabelsRequired(nn.Module):
    """Cannot be called without labels, and returns its loss first."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, labels):
        logits = self.net(x)["logits"]
        return nn.functional.cross_entropy(logits, labels), logits


def test_a_module_that_requires_labels_gets_them(whole):
    net, rows = whole.Net(), whole.rows(5)
    surface = LossSurface(LabelsRequired(net), [rows], constant_losses(["ce", "el"]))
    with surface.prepared("test", 1, progress=False):
        found = surface.gradients(torch.ones(5))
    for one, loss in zip(found, ("ce", "el"), strict=True):
        torch.testing.assert_close(one, whole.gradients(net, rows, loss).mean(0))


def test_phases_of_schedules_each_once():
    assert [str(loss) for loss in constant_losses(["mix:0-0.5", "el", "0.2", "gce:q=0.5"])] == [
        *(f"mix:{focus}" for focus in (0, 0.1, 0.2, 0.3, 0.4)),
        "el",
        "gce:q=0.5",
    ]


class Fused(nn.Module):
    """Attention that forces a kernel without second derivatives."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            part = (x.float() @ self.weight)[:, None, None].expand(-1, 1, 4, -1)
            return {"logits": nn.functional.scaled_dot_product_attention(part, part, part)[:, 0, 0]}


def run_products(model, loader):
    surface = LossSurface(model, loader, constant_losses(["ce"]))
    with surface.prepared("test", 3, progress=False):
        surface.hessian_vector_products(surface.gradients(torch.ones(surface.rows)))


class Shifting:
    """Batches that differ in each pass."""

    def __init__(self, whole, *sizes):
        self.whole, self.sizes, self.passes = whole, sizes, 0

    def __iter__(self):
        self.passes += 1
        size = self.sizes[min(self.passes, len(self.sizes)) - 1]
        return iter([self.whole.rows(size, seed=self.passes)])


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        (lambda whole: [], "Expected a loader with rows, but it is empty"),
        (lambda whole: iter([whole.rows(3)]), "the loader gave 3 and then 0. Pass a DataLoader"),
        (lambda whole: Shifting(whole, 3, 4), "the loader gave 3 and then 4"),
        (lambda whole: Shifting(whole, 3), "Use no random augmentation"),
        (lambda whole: [{"x": whole.rows(3)["x"]}], "Expected batches with 'labels', but got one with x"),
        (lambda whole: [{**whole.rows(3), "labels": torch.tensor([0, -100, 1])}], "from 0 to 2, but got -100"),
        (lambda whole: [{**whole.rows(3), "labels": torch.tensor([0, 3, 1])}], "from 0 to 2, but got 3"),
        (lambda whole: [{**whole.rows(3), "labels": torch.tensor([0.0, 1, 1])}], "integer class ids, but got float32"),
        (lambda whole: [{**whole.rows(3), "labels": torch.zeros(3, 2, dtype=torch.long)}], r"labels \(3, 2\)"),
    ],
)
def test_refused_rows(whole, loader, said):
    net = whole.Net()
    net.train()
    state = torch.get_rng_state()
    with pytest.raises(UsageError, match=said):
        run_products(net, loader(whole))
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)


def test_refused_models(whole, kit):
    with pytest.raises(UsageError, match="num_labels=1, which is regression"):
        run_products(kit.sequence_model(num_labels=1), [])
    with pytest.raises(UsageError, match=r"torch.bfloat16 on cpu: .* Call model.float\(\)"):
        run_products(whole.Net().bfloat16(), [])
    with pytest.raises(UsageError, match=r"model.requires_grad_\(True\)"):
        run_products(whole.Net().requires_grad_(False), [])
    with pytest.raises(UsageError, match="Fused has no second derivatives.*attn_implementation='eager'"):
        run_products(Fused(), [whole.rows(3)])
    with pytest.raises(UsageError, match=r"logits of shape \(N, C\)"):
        run_products(kit.token_model(), [kit.token_collator([kit.token_rows(1)[0]])])


@pytest.mark.parametrize("loss", ["ce", "el", "mix:0.3"])
def test_top_eigenvalues_against_the_whole_hessian(whole, loss):
    net, rows = whole.Net(), whole.rows(15)
    exact = torch.linalg.eigvalsh(whole.hessian(net, rows, loss)).flip(0)
    found = top_eigenvalues(net, whole.batches(rows, 10, 5), loss, 3)
    for one, value in zip(found, exact[:3].tolist(), strict=True):
        assert one.value == pytest.approx(value, abs=2 * one.error + 1e-9)
        assert one.error <= 1e-3 * exact[0]


def test_the_error_covers_values_that_have_not_converged(whole):
    net, rows = whole.Net(), whole.rows(15)
    exact = torch.linalg.eigvalsh(whole.hessian(net, rows, "ce"))
    found = top_eigenvalues(net, [rows], "ce", 2, steps=4)
    for one in found:
        nearest = float((exact - one.value).abs().min())
        assert 1e-4 < nearest <= one.error


class LeastSquares(nn.Module):
    """A linear model of three outputs: with squared errors, each eigenvalue of E[xx'] is there three times."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 3))

    def forward(self, x):
        return {"logits": x.float() @ self.weight}


def squares(logits, labels):
    return (logits - nn.functional.one_hot(labels, logits.shape[-1])).square().sum(-1) / 2


def test_a_quadratic_whose_eigenvalues_are_known(whole):
    """In single precision; multiple eigenvalues are found once, so there is no fourth."""
    rows = whole.rows(40)
    exact = torch.linalg.eigvalsh(rows["x"].T @ rows["x"] / 40).flip(0).tolist()
    found = top_eigenvalues(LeastSquares(), [rows], squares, 5)
    assert [one.value for one in found] == pytest.approx(exact, rel=1e-5)


def test_lanczos_stops_when_it_has_converged(whole):
    passes = []

    class Counted(list):
        def __iter__(self):
            passes.append(1)
            return super().__iter__()

    top_eigenvalues(whole.Net(), Counted([whole.rows(10)]), "ce", 1, steps=28)
    assert len(passes) < 20


def test_a_flat_surface(whole):
    net = whole.Net()
    flat = top_eigenvalues(net, [whole.rows(5)], lambda logits, labels: 0 * logits.sum(-1), 1)
    assert [one.value for one in flat] == [0]


def test_refused_eigenvalue_arguments(whole):
    with pytest.raises(UsageError, match="Expected one loss, but 'mix:0,0.5' has several phases: mix:0, el"):
        top_eigenvalues(whole.Net(), [whole.rows(3)], "mix:0,0.5")
    with pytest.raises(UsageError, match="count to be from 1 to steps=30, but got 31"):
        top_eigenvalues(whole.Net(), [whole.rows(3)], "ce", 31)
