"""The paper's GLUE protocol, each value with its source; importing it is fast, as a command line needs."""

from __future__ import annotations

from typing import Any

from glue_runs.tasks import TASKS

__all__ = ["ARGUMENTS", "BERT", "GLUE", "MAX_LENGTH", "MIXINGS", "SEEDS", "TASK_NAMES"]

TASK_NAMES = tuple(TASKS)  # paper: "seven classification tasks"
SEEDS = (0, 1, 2, 3)  # paper: four, "the same random seeds were used for all"; it does not say which
MIXINGS = ("ce", "0", "0,0.5", "0-0.5")  # paper: "Scheduling" and Fig. 2

GLUE = "nyu-mll/glue"  # the paper's benchmark on the Hub
BERT = "google-bert/bert-base-uncased"  # paper: "the BERT architecture"; it does not say which
MAX_LENGTH = 64  # paper

ARGUMENTS: dict[str, Any] = {
    "learning_rate": 2e-5,  # paper
    "num_train_epochs": 6,  # paper
    "per_device_train_batch_size": 32,  # ours: the paper does not say
    "per_device_eval_batch_size": 64,  # no influence on a score
    "lr_scheduler_type": "linear",  # ours: the paper does not say
    "warmup_steps": 0,  # ours: the paper does not say
}
