from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from transformers import HfArgumentParser, Trainer

from hf_elmix import ComplementTrainer, MixedLossArguments, UsageError
from hf_elmix.training.class_weights import parse_class_weights

WEIGHTS = [0.2, 1.0, 3.0]


class Weighted(Trainer):
    """What users of the stock Trainer write."""

    def compute_loss(self, model, inputs, return_outputs=False, **more):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        smoothing = self.args.label_smoothing_factor
        weight = torch.tensor(WEIGHTS)
        loss = F.cross_entropy(outputs.logits.view(-1, 3), labels.view(-1), weight, label_smoothing=smoothing)
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("rows", ["sequences", "tokens"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [WEIGHTS, torch.tensor(WEIGHTS), tuple(WEIGHTS)], ids=["list", "tensor", "tuple"])
def test_cross_entropy_trains_as_with_pytorchs_weights(kit, difference, logged, rows, smoothing, weights):
    given = lambda: {**(kit.tokens() if rows == "tokens" else {}), "label_smoothing_factor": smoothing}  # noqa: E731
    stock, ours = kit.train(Weighted, **given()), kit.train(mixing="ce", class_weights=weights, **given())
    assert difference(stock, ours) <= 1e-6
    np.testing.assert_allclose(logged(ours, "loss"), logged(stock, "loss"), rtol=1e-5)
    assert difference(ours, kit.train(mixing="ce", **given())) > 1e-4


@pytest.mark.parametrize("loss", ["0-0.5", "focal:gamma=2", "mpce"])
def test_accumulation_equals_the_joined_batch(kit, difference, loss):
    given = {"loss": loss, "class_weights": WEIGHTS, "train_dataset": kit.sequence_rows(24)}
    split = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}
    several = kit.train(model=kit.sequence_model(dropout=0), **given, **split)
    joined = kit.train(model=kit.sequence_model(dropout=0), **given, per_device_train_batch_size=12)
    assert difference(several, joined) <= 2e-6


@pytest.mark.parametrize("loss", ["0.3", "focal:gamma=2,alpha=1", "mpce"])
def test_the_loss_of_each_row_is_weighted(kit, logged, loss):
    rows = kit.sequence_rows(16)
    model = kit.sequence_model(dropout=0)
    p = model(torch.tensor(rows["input_ids"])).logits.softmax(-1)
    labels = torch.tensor(rows["labels"])
    p_y, weight = p.gather(-1, labels[:, None])[:, 0], torch.tensor(WEIGHTS)[labels]
    each = {"0.3": -p_y.log() + 2.5 * (1 - p_y), "mpce": -(p.max(-1).values - p_y) * p_y.log()}
    expected = each.get(loss, -((1 - p_y) ** 2) * p_y.log())
    ours = kit.train(model=model, loss=loss, class_weights=WEIGHTS, train_dataset=rows, max_steps=1,
                     per_device_train_batch_size=16)  # fmt: skip
    assert logged(ours, "loss") == [pytest.approx(((expected * weight).sum() / weight.sum()).item(), rel=1e-5)]


def test_eval_loss_is_not_weighted(kit):
    assert kit.trainer(class_weights=WEIGHTS).evaluate()["eval_loss"] == kit.trainer().evaluate()["eval_loss"]


@pytest.mark.parametrize("rows", ["sequences", "list", "tokens"])
def test_balanced_weights_are_scikit_learns(kit, rows):
    data = kit.token_rows(30) if rows == "tokens" else kit.sequence_rows(31)
    labels = np.concatenate([np.atleast_1d(label) for label in data["labels"]])
    labels = labels[labels != -100]
    given = {**(kit.tokens() if rows == "tokens" else {}), "train_dataset": list(data) if rows == "list" else data}
    weights = kit.trainer(class_weights="balanced", **given).class_weights
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=labels), rtol=1e-6)


def test_balanced_weights_read_no_transform_and_give_absent_classes_1(kit):
    rows = kit.sequence_rows(8).map(lambda row: {"labels": 2 * (row["labels"] // 2)})
    read = []
    weights = parse_class_weights("balanced", rows.with_transform(lambda batch: read.append(1) or batch), "labels", 3)
    assert weights[1] == 1
    assert read == []


def test_from_a_command_line(kit, tmp_path):
    for words, expected in ((["balanced"], ["balanced"]), (["0.2", "1", "3"], WEIGHTS)):
        given = ["--output_dir", str(tmp_path), "--class_weights", *words]
        (args,) = HfArgumentParser(MixedLossArguments).parse_args_into_dataclasses(given)
        weights = parse_class_weights(args.class_weights, kit.sequence_rows(9), "labels", 3)
        torch.testing.assert_close(weights, parse_class_weights(expected, kit.sequence_rows(9), "labels", 3))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("even", "'balanced' or a number for each class, 0 or more and one above, but got even"),
        ([1.0, 2.0], "Expected 3 class_weights, one for each class, but got 2"),
        ([1.0, -1.0, 1.0], "0 or more and one above"),
        ([1.0, float("nan"), 1.0], "0 or more and one above"),
        ([0, 0, 0], "0 or more and one above"),
    ],
)
def test_other_weights_are_refused(kit, weights, message):
    with pytest.raises(UsageError, match=message):
        kit.trainer(class_weights=weights)


def test_balanced_needs_rows_to_count(kit):
    with pytest.raises(UsageError, match="Expected a train_dataset with a length"):
        kit.trainer(class_weights="balanced", train_dataset=None)
    with pytest.raises(UsageError, match="to have 'labels', but they have input_ids"):
        kit.trainer(class_weights="balanced", train_dataset=kit.sequence_rows(8).remove_columns("labels"))


def test_complement_training_takes_none(kit):
    with pytest.raises(UsageError, match="Class weights cannot be applied to the loss 'cot'"):
        kit.trainer(ComplementTrainer, class_weights=WEIGHTS)
