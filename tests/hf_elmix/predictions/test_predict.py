from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from hf_elmix.errors import UsageError
from hf_elmix.predictions.predict import predict

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def bert(classes: int = 3) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SMALL, vocab_size=40, num_labels=classes))


def multi() -> BertForSequenceClassification:
    model = bert()
    model.config.problem_type = "multi_label_classification"
    return model


class Net(torch.nn.Module):
    """Requires labels, returns a tuple, and has a part that stays in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = torch.nn.BatchNorm1d(4).eval(), torch.nn.Linear(4, 2)

    def forward(self, pixels, labels, names=None):
        logits = self.head(self.norm(pixels))
        return torch.nn.functional.cross_entropy(logits, labels), logits


def batches(rows: int = 7, size: int = 3) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ids, labels = torch.randint(40, (rows, 5), generator=generator), torch.arange(rows) % 3
    return [{"input_ids": part, "labels": y} for part, y in zip(ids.split(size), labels.split(size), strict=True)]


def test_rows_one_by_one_give_the_same():
    model = bert().train()
    found = predict(model, batches())
    assert model.training
    model.eval()
    for row, one in enumerate(batches(size=1)):
        logits = model(input_ids=one["input_ids"]).logits[0].detach().double()
        p = torch.exp(logits[one["labels"][0]]) / torch.exp(logits).sum()
        assert found.p_true[0, row] == pytest.approx(p.item(), rel=1e-3)  # half precision
        assert found.correct[0, row] == (max(range(3), key=logits.tolist().__getitem__) == one["labels"].item())
        np.testing.assert_allclose(found.logits[row], logits, rtol=1e-5, atol=1e-6)
    assert 0 < found.correct.sum() < 7
    assert found.steps.tolist() == [0]


def test_images():
    model = ViTForImageClassification(ViTConfig(**SMALL, image_size=8, patch_size=4, num_labels=2))
    found = predict(model, [{"pixel_values": torch.rand(2, 3, 8, 8), "labels": torch.tensor([0, 1])}])
    assert found.logits.shape == (2, 2)


def test_a_custom_module_is_left_as_it_was():
    net = Net()
    found = predict(net, [{"pixels": torch.rand(3, 4), "labels": torch.tensor([0, 1, 1]), "names": ["a", "b", "c"]}])
    assert found.logits.shape == (3, 2)
    assert net.training
    assert not net.norm.training


@pytest.mark.parametrize(
    ("model", "batch", "words"),
    [
        (bert, None, "a loader with rows, but it is empty"),
        (bert, {"input_ids": torch.ones(2, 3).long()}, "'labels', but got one with input_ids"),
        (lambda: bert(1), {"input_ids": torch.ones(2, 3).long(), "labels": torch.zeros(2)}, "which is regression"),
        (multi, {"input_ids": torch.ones(2, 3).long(), "labels": torch.zeros(2, 3)}, r"labels \(2, 3\)"),
        (bert, {"input_ids": torch.ones(2, 3).long(), "labels": torch.rand(2, 3)}, r"labels \(2, 3\)"),
        (bert, {"input_ids": torch.ones(2, 3).long(), "labels": torch.tensor([0, 3])}, "from 0 to 2, but got 3"),
    ],
)
def test_rows_without_one_class_are_refused(model, batch, words):
    with pytest.raises(UsageError, match=words):
        predict(model(), [] if batch is None else [batch])
