from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from hf_elmix import MixedLossTrainer
from hf_elmix.training.whole_evaluation import with_whole_evaluation

# Rows of different lengths, whose label is what the model below predicts.
ROWS = Dataset.from_list([{"input_ids": [k % 3] * (1 + k * 4 % 9), "labels": k % 3} for k in range(11)])


class First(torch.nn.Module):
    """Predicts the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, input_ids, labels=None):
        logits = self.scale * torch.nn.functional.one_hot(input_ids[:, 0], 3).float()
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}


def padded(rows):
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    return {
        "input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def trainer_of(kind, folder, **given):
    batches = {"per_device_eval_batch_size": 4, "per_device_train_batch_size": 4, "use_cpu": True, "report_to": "none"}
    args = TrainingArguments(str(folder), **{**batches, **given})
    return kind(First(), args, data_collator=padded, train_dataset=ROWS, eval_dataset=ROWS)


@pytest.mark.parametrize("kind", [Trainer, MixedLossTrainer])
@pytest.mark.parametrize(
    "given",
    [
        {"dataloader_drop_last": True},
        {"train_sampling_strategy": "group_by_length"},
        {"dataloader_in_order": False, "dataloader_num_workers": 2},
        {"dataloader_drop_last": True, "dataloader_persistent_workers": True, "dataloader_num_workers": 1},
    ],
    ids=str,
)
def test_every_row_is_predicted_in_order(tmp_path, kind, given):
    trainer = trainer_of(with_whole_evaluation(kind), tmp_path, **given)
    for rows in (ROWS, ROWS.select([10, 2, 7])):
        output = trainer.predict(rows)
        assert output.predictions.argmax(-1).tolist() == rows["labels"][:] == output.label_ids.tolist()
    trainer.compute_metrics = lambda output: {"rows": len(output.label_ids), "first": int(output.label_ids[1])}
    scores = trainer.evaluate()
    assert (scores["eval_rows"], scores["eval_first"]) == (11, 1)
    # A batch with one row less than the others, all of the same loss.
    assert scores["eval_loss"] == pytest.approx(-np.log(np.exp(3) / (np.exp(3) + 2)), abs=1e-5)


def test_training_keeps_its_arguments(tmp_path):
    given = {"dataloader_drop_last": True, "train_sampling_strategy": "group_by_length"}
    trainer = trainer_of(with_whole_evaluation(Trainer), tmp_path, **given)
    before = [batch["labels"].tolist() for batch in trainer_of(Trainer, tmp_path, **given).get_train_dataloader()]
    trainer.get_eval_dataloader()
    torch.manual_seed(42)
    assert len(trainer.get_train_dataloader()) == len(before) == 2  # of three, the last of which has three rows
    assert {name: getattr(trainer.args, name) for name in given} == given
    assert type(trainer).__name__ == "Trainer"
