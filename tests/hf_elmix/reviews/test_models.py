from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from hf_elmix.reviews.models import LSTMClassifier
from hf_elmix.reviews.protocol import ARCHITECTURES


@pytest.mark.parametrize(("layers", "width"), ARCHITECTURES.values())
def test_the_models_have_the_papers_shapes(layers, width):
    model = LSTMClassifier.seeded(0, 30, 5, layers, width)
    # Four gates, each with weights for input and state and PyTorch's two biases.
    lstm = layers * 4 * (2 * width * width + 2 * width)
    assert sum(p.numel() for p in model.parameters()) == 30 * width + lstm + 5 * width + 5


@pytest.mark.parametrize("layers", [1, 2])
def test_logits_and_gradients_are_those_of_a_packed_sequence(layers):
    model = LSTMClassifier.seeded(0, 30, 5, layers, 50)
    lengths = [7, 1, 12, 4]
    rows = pad_sequence([torch.randint(2, 30, (length,)) for length in lengths], batch_first=True)
    packed = pack_padded_sequence(model.embedding(rows), lengths, batch_first=True, enforce_sorted=False)
    _, (states, _) = model.lstm(packed)
    expected = model.classifier(states[-1])
    found = model(rows)["logits"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad((logits * weight).sum(), model.parameters()) for logits in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_padding_changes_nothing():
    model = LSTMClassifier.seeded(0, 30, 5, 1, 50)
    row = torch.tensor([[3, 4, 5]])
    longer = torch.nn.functional.pad(row, (0, 9))
    torch.testing.assert_close(model(longer)["logits"], model(row)["logits"], rtol=0, atol=1e-6)


def test_weights_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    first, again, other = (LSTMClassifier.seeded(seed, 30, 5, 1, 50) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.embedding.weight, again.embedding.weight)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_a_saved_model_is_the_same(tmp_path):
    model = LSTMClassifier.seeded(0, 30, 5, 2, 50)
    model.save_pretrained(tmp_path)
    rows = torch.randint(2, 30, (4, 6))
    assert torch.equal(LSTMClassifier.from_pretrained(tmp_path)(rows)["logits"], model(rows)["logits"])
