from __future__ import annotations

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from torch import nn
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)
from transformers.loss.loss_utils import LOSS_MAPPING

from hf_elmix import UsageError
from hf_elmix.training.model_support import (
    base_model,
    check_class_logits,
    check_labels_of,
    label_input,
    labels_for,
    logits_of,
    loss_of,
    requires_labels,
    two_classes,
)


def ctc(config):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {"conv_dim": (16,), "conv_kernel": (2,), "conv_stride": (2,), "num_conv_pos_embeddings": 2}
    return Wav2Vec2ForCTC(Wav2Vec2Config(**small, **convolutions, num_conv_pos_embedding_groups=2))


OWN_CTC = pytest.mark.skipif("ForCTC" not in LOSS_MAPPING, reason="this version of transformers does not name it")


@pytest.mark.parametrize("build", [BertForQuestionAnswering, pytest.param(ctc, marks=OWN_CTC)])
def test_models_with_another_known_loss_are_refused_at_construction(kit, build):
    with pytest.raises(UsageError, match="use transformers.Trainer for this model"):
        kit.trainer(model=build(kit.config()), train_dataset=None, eval_dataset=None)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"problem_type": "regression"}, "problem_type='regression'"),
        ({"num_labels": 1}, "num_labels=1"),
    ],
)
def test_regression_heads_are_refused_at_construction(kit, setting, message):
    model = kit.sequence_model()
    for name, value in setting.items():
        setattr(model.config, name, value)
    with pytest.raises(UsageError, match=message):
        kit.trainer(model=model)


@pytest.mark.parametrize("feature", [Value("float32"), Value("float64")])
@pytest.mark.parametrize("column", ["label", "labels"])
def test_declared_float_labels_are_refused_at_construction(kit, feature, column):
    features = Features({"input_ids": List(Value("int64")), column: feature})
    rows = Dataset.from_dict({"input_ids": [[3, 4]] * 4, column: [0.5] * 4}, features=features)
    with pytest.raises(UsageError, match=f"column '{column}' to hold class ids, but it holds float"):
        kit.trainer(train_dataset=rows)
    with pytest.raises(UsageError, match="float"):
        kit.trainer(eval_dataset=rows)
    with pytest.raises(UsageError, match="float"):
        kit.trainer(eval_dataset={"a": kit.sequence_rows(4), "b": rows})


def test_class_labels_token_labels_and_multi_label_targets_are_accepted(kit):
    features = Features(
        {"label": ClassLabel(names=["a", "b"]), "labels": List(Value("int64")), "label_ids": List(Value("float32"))}
    )
    for column in features:
        check_labels_of(Dataset.from_dict({column: []}, features=Features({column: features[column]})), nn.Module())
    check_labels_of([{"labels": 0.5}], nn.Module())  # declares no features, so nothing is read
    check_labels_of(None, nn.Module())


@pytest.mark.parametrize(("labels", "bad"), [([0, 1, -100], None), ([0, 5, 1], 5), ([-1, 0], -1)])
def test_labels_that_a_classifier_does_not_have(kit, labels, bad):
    model = kit.sequence_model()
    model.config.num_labels = 2
    if bad is None:
        check_labels_of(Dataset.from_dict({"labels": labels}), model)
        return
    with pytest.raises(UsageError, match=f"labels from 0 to 1, since .* has 2 classes, but got {bad}"):
        check_labels_of(Dataset.from_dict({"labels": labels}), model)


@pytest.mark.parametrize("at", [0, 11], ids=["first batch", "last batch"])
def test_a_label_outside_is_named_when_rows_are_not_a_dataset(kit, at):
    rows = [dict(row) for row in kit.sequence_rows(12)]
    rows[at]["labels"] = 5
    with pytest.raises(UsageError, match="labels from 0 to 2, since .* but got 5"):
        kit.train(train_dataset=rows, per_device_train_batch_size=2)


def test_no_row_is_read(kit):
    read: list[dict] = []
    rows = kit.sequence_rows(8).with_transform(lambda batch: read.append(batch) or batch)
    kit.trainer(train_dataset=rows, eval_dataset=rows, remove_unused_columns=False)
    assert read == []
    assert rows[0]
    assert len(read) == 1  # so that reading a row would have been noticed


@pytest.mark.parametrize("build", [BertForMaskedLM, "sequence_model", "token_model"])
def test_heads_with_class_logits_are_accepted(kit, build):
    model = getattr(kit, build)() if isinstance(build, str) else build(kit.config())
    check_class_logits(model)


def test_the_label_input():
    assert label_input([]) == label_input(["labels", "next_sentence_label"]) == "labels"
    assert label_input(["my_label"]) == "my_label"
    with pytest.raises(UsageError, match=r"start_positions, end_positions.*TrainingArguments\(label_names="):
        label_input(["start_positions", "end_positions"])


def test_requires_labels():
    class Without(nn.Module):
        def forward(self, x): ...

    class Optional(nn.Module):
        def forward(self, x, labels=None): ...

    class Required(nn.Module):
        def forward(self, x, labels): ...

    assert [requires_labels(kind()) for kind in (Without, Optional, Required)] == [False, False, True]


def test_base_model_is_under_peft(kit):
    peft = pytest.importorskip("peft")
    model = kit.sequence_model()
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=2))
    assert base_model(wrapped) is model
    assert base_model(torch.nn.Identity()).__class__ is torch.nn.Identity
    model.config.problem_type = "regression"
    with pytest.raises(UsageError, match="BertForSequenceClassification has problem_type='regression'"):
        kit.trainer(model=wrapped)


def test_logits_and_loss_are_found_in_whatever_a_model_returns():
    logits, loss, more = torch.zeros(2, 3), torch.tensor(1.0), torch.ones(2, 4)
    for outputs in (logits, (logits, more), [None, logits], {"logits": logits, "more": more}, {"scores": logits}):
        assert logits_of(outputs) is logits
        assert loss_of(outputs) is None
    for outputs in ((loss, logits, more), {"loss": loss, "lm_logits": logits, "more": more}):
        assert logits_of(outputs) is logits
        assert loss_of(outputs) is loss
    for several in ({"scores": logits, "more": more}, {"a_logits": logits, "b_logits": more}):
        with pytest.raises(UsageError, match=f"'logits', but it returned only {', '.join(several)}"):
            logits_of(several)


def test_labels_are_aligned_with_the_logits():
    labels = torch.tensor([[5, 6, 7], [-100, 8, 9]])
    assert labels_for(torch.zeros(2, 3, 10), labels, shift=False) is labels
    assert labels_for(torch.zeros(2, 3, 10), labels, shift=True).tolist() == [[6, 7, -100], [8, 9, -100]]
    assert labels_for(torch.zeros(2, 10), labels[:, :1], shift=False).tolist() == [5, -100]  # a column of their own
    longer = torch.zeros(2, 5, 10)
    assert labels_for(longer, labels, shift=False, prefix=True)[0].tolist() == [-100, -100, 5, 6, 7]
    assert labels_for(longer, labels, shift=True, prefix=True)[0].tolist() == [-100, 5, 6, 7, -100]
    assert labels_for(longer, labels, shift=False) is labels


def test_multi_label_targets_become_two_classes():
    logits, targets = torch.randn(4, 3, dtype=torch.float64), torch.tensor([[0.0, 1.0, 1.0]] * 4)
    losses = nn.functional.cross_entropy(*(part.flatten(0, 1) for part in two_classes(logits, targets)))
    torch.testing.assert_close(losses, nn.BCEWithLogitsLoss()(logits, targets.double()))
    with pytest.raises(UsageError, match="0 or 1"):
        two_classes(logits, targets * 0.5)
