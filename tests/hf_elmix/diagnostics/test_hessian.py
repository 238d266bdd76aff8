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
from hf_elmix.diagnostics.hessian import Surface, constant_losses


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
    """Of whatever classifies: the gradients a little to both sides, over the distance."""
    model, rows = kind(kit)
    model = model.double().eval()
    surface = Surface(model, [rows], constant_losses(["mix:0.3"]))
    direction = torch.randn(len(surface.weights), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with surface.opened("test", 1, progress=False):
        (slope,) = surface.gradients(torch.ones(3))
        ((product, square),) = surface.products([direction])
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
    surface = Surface(net, whole.batches(rows, 2, 2, 1), constant_losses(["ce", "el"]))
    factors = torch.tensor([1.0, -2.0, 3.0, 0.5, -1.0])
    with surface.opened("test", 1, progress=False):
        found = surface.gradients(factors)
    for one, loss in zip(found, ("ce", "el"), strict=True):
        torch.testing.assert_close(one, factors.double() @ whole.gradients(net, rows, loss) / 5)


def test_a_plain_module_that_returns_logits(whole):
    net = nn.Linear(3, 3, dtype=torch.float64)
    rows = {"input": whole.rows(4)["x"], "labels": torch.tensor([0, 1, 2, 0])}
    surface = Surface(net, [rows], constant_losses(["ce"]))
    with surface.opened("test", 1, progress=False):
        assert surface.rows == 4
        assert surface.means == [pytest.approx(float(nn.functional.cross_entropy(net(rows["input"]), rows["labels"])))]


class Demanding(nn.Module):
    """Cannot be called without labels, and returns its loss first."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, labels):
        logits = self.net(x)["logits"]
        return nn.functional.cross_entropy(logits, labels), logits


def test_a_module_that_demands_labels_gets_them(whole):
    net, rows = whole.Net(), whole.rows(5)
    surface = Surface(Demanding(net), [rows], constant_losses(["ce", "el"]))
    with surface.opened("test", 1, progress=False):
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
    """Attention that insists on a kernel without second derivatives."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            part = (x.float() @ self.weight)[:, None, None].expand(-1, 1, 4, -1)
            return {"logits": nn.functional.scaled_dot_product_attention(part, part, part)[:, 0, 0]}


def probed(model, loader):
    surface = Surface(model, loader, constant_losses(["ce"]))
    with surface.opened("test", 3, progress=False):
        surface.products(surface.gradients(torch.ones(surface.rows)))


class Shifting:
    """Batches that are others in each pass."""

    def __init__(self, whole, *sizes):
        self.whole, self.sizes, self.passes = whole, sizes, 0

    def __iter__(self):
        self.passes += 1
        size = self.sizes[min(self.passes, len(self.sizes)) - 1]
        return iter([self.whole.rows(size, seed=self.passes)])


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        (lambda whole: [], "Expected a loader with rows, but it gave none"),
        (lambda whole: iter([whole.rows(3)]), "it gave 3 and then 0: pass a DataLoader"),
        (lambda whole: Shifting(whole, 3, 4), "it gave 3 and then 4"),
        (lambda whole: Shifting(whole, 3), "no random augmentation"),
        (lambda whole: [{"x": whole.rows(3)["x"]}], "Expected batches with 'labels', but got one with x"),
        (lambda whole: [{**whole.rows(3), "labels": torch.tensor([0, -100, 1])}], "from 0 to 2, but got -100"),
        (lambda whole: [{**whole.rows(3), "labels": torch.tensor([0, 3, 1])}], "from 0 to 2, but got 3"),
        (lambda whole: [{**whole.rows(3), "labels": torch.tensor([0.0, 1, 1])}], "a class id for each row"),
        (lambda whole: [{**whole.rows(3), "labels": torch.zeros(3, 2, dtype=torch.long)}], "a class id for each row"),
    ],
)
def test_rows_that_are_refused(whole, loader, said):
    net = whole.Net()
    net.train()
    state = torch.get_rng_state()
    with pytest.raises(UsageError, match=said):
        probed(net, loader(whole))
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)


def test_models_that_are_refused(whole, kit):
    with pytest.raises(UsageError, match="num_labels=1, which is regression"):
        probed(kit.sequence_model(num_labels=1), [])
    with pytest.raises(UsageError, match=r"torch.bfloat16 on cpu: .* model.float\(\) converts"):
        probed(whole.Net().bfloat16(), [])
    with pytest.raises(UsageError, match=r"model.requires_grad_\(True\)"):
        probed(whole.Net().requires_grad_(False), [])
    with pytest.raises(UsageError, match="Fused has no second derivatives.*attn_implementation='eager'"):
        probed(Fused(), [whole.rows(3)])
    with pytest.raises(UsageError, match=r"logits of shape \(N, C\)"):
        probed(kit.token_model(), [kit.token_collator([kit.token_rows(1)[0]])])
