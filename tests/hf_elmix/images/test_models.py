"""The architectures of the paper: sizes, stems, dropout, seeds."""

from __future__ import annotations

import pytest
import torch

from hf_elmix.errors import UsageError
from hf_elmix.images.models import ImageClassifier
from hf_elmix.images.recipes import ARCHITECTURES

# Parameters in millions: He et al. (2016), Table 6, for CIFAR-10; and torchvision's documentation, for ImageNet.
CIFAR = {"resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66, "resnet110": 1.7}
IMAGENET = {
    **{"resnet18": 11.7, "resnet34": 21.8, "resnet50": 25.6, "resnet101": 44.5},
    **{"resnext50": 25.0, "resnext101": 88.8, "shufflenetv2": 2.3},
}


def millions(*arguments) -> float:
    with torch.device("meta"):
        return sum(weight.numel() for weight in ImageClassifier(*arguments).parameters()) / 1e6


def test_networks_have_the_published_numbers_of_parameters():
    assert {name: round(millions(10, name), 2) for name in CIFAR} == pytest.approx(CIFAR, rel=0.03)
    assert {name: millions(1000, name, False) for name in IMAGENET} == pytest.approx(IMAGENET, rel=0.01)


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_small_images_keep_their_size_to_the_first_stage(model):
    """As for CIFAR: three reductions by two at most, so that 32 x 32 pixels leave 4 x 4, or 8 x 8 after two."""
    with torch.device("meta"):
        network = ImageClassifier(7, model).network
        seen = []
        network.features.final_pool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
        assert network.eval()(torch.empty(2, 3, 32, 32)).shape == (2, 7)
        assert network(torch.empty(2, 3, 40, 24)).shape == (2, 7)
    assert seen[0] in (4, 8)


def test_weights_follow_from_the_seed():
    one, same, other = (ImageClassifier.seeded(seed, 3, "resnet18") for seed in (0, 0, 1))
    pairs = [list(model.state_dict().values()) for model in (one, same, other)]
    assert all(torch.equal(a, b) for a, b in zip(pairs[0], pairs[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(pairs[0], pairs[2], strict=True))


def test_dropout_is_before_the_last_layer_and_only_in_training():
    model = ImageClassifier.seeded(0, 3, "resnet20", True, 0.5)
    pixels = torch.randn(8, 3, 16, 16)
    model.train()
    assert not torch.equal(model(pixels)["logits"], model(pixels)["logits"])
    model.eval()
    assert torch.equal(model(pixels)["logits"], model(pixels)["logits"])


def test_a_saved_model_comes_back(tmp_path):
    model = ImageClassifier.seeded(0, 3, "preresnet18", True, 0.2).eval()
    model.save_pretrained(tmp_path)
    again = ImageClassifier.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(pixels)["logits"], again(pixels)["logits"])


def test_an_unknown_architecture_is_refused():
    with pytest.raises(UsageError, match="Did you mean 'resnet20'"):
        ImageClassifier(3, "resnet-20")
