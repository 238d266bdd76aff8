"""The flags of ``glue-runs finetune`` that ``--help`` shows; importing them is fast."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields
from typing import Any

from glue_runs.protocol import ARGUMENTS, BERT, MAX_LENGTH
from glue_runs.tasks import GLUE_TASKS
from hf_elmix.losses.registry import EXAMPLES
from hf_elmix.text.tasks import PADDINGS

__all__ = ["SHOWN", "DataArguments", "ModelArguments", "add_flags", "flag"]

# What `--help` shows of `glue_runs.training_arguments.FinetuneArguments`, with what to type after the flag.
SHOWN: dict[str, dict[str, tuple[str | None, str]]] = {
    "loss": {
        "mixing": ("MIXING", "schedule of the mixed loss: 0-0.5 (the default), 0,0.5, ce, …; none: the stock loss"),
        "loss": ("LOSS", f"any loss, such as {EXAMPLES}"),
        "class_weights": ("WEIGHT", "a factor for each class in the training loss, in order; or: balanced"),
    },
    "training": {
        "output_dir": ("FOLDER", "folder of the model and its scores"),
        "config": ("FILE", "read flags from this JSON or YAML file"),
        "do_train": (None, "train; without any --do flag: train and evaluate"),
        "do_eval": (None, "evaluate"),
        "do_predict": (None, "predict the rows of the test split"),
        "learning_rate": ("RATE", "initial learning rate"),
        "num_train_epochs": ("N", "epochs of training"),
        "per_device_train_batch_size": ("N", "rows in a batch on each device"),
        "per_device_eval_batch_size": ("N", "rows in a batch while evaluating"),
        "gradient_accumulation_steps": ("N", "batches in an optimizer step"),
        "eval_strategy": ("WHEN", "when to evaluate: epoch, steps or no"),
        "logging_steps": ("N", "optimizer steps between logs"),
        "seed": ("N", "seed of fresh weights, the order of rows and dropout"),
        "precision": ("PRECISION", "fp32 (the default), bf16, or auto: bf16 where the machine is faster in it"),
        "report_to": ("TRACKER", "trackers: tensorboard, trackio, wandb, …"),
        "resume_from_checkpoint": ("FOLDER", "continue from a checkpoint; last: the newest of --output_dir"),
        "push_to_hub": (None, "publish the model, with a card"),
        "hub_model_id": ("ID", "Hub id to publish under, such as name/model"),
    },
}
DEFAULTS = {**ARGUMENTS, "eval_strategy": "epoch", "logging_steps": 50, "seed": 42, "gradient_accumulation_steps": 1}


def flag(default: Any, text: str, **more: Any) -> Any:
    """A field of a dataclass that is a flag, with its help, and ``metavar`` or ``choices``."""
    return field(default=default, metadata={"help": text, **more})


@dataclass
class DataArguments:
    """Which rows, and how many."""

    task_name: str | None = flag(None, f"GLUE task: {', '.join(GLUE_TASKS)}", metavar="TASK")
    dataset_name: str | None = flag(None, "dataset id or folder; with --task_name, a copy of GLUE", metavar="DATASET")
    dataset_config_name: str | None = flag(None, "configuration of --dataset_name", metavar="NAME")
    train_file: str | None = flag(None, "CSV, TSV, JSON or Parquet with training rows", metavar="FILE")
    validation_file: str | None = flag(None, "the same with evaluation rows", metavar="FILE")
    test_file: str | None = flag(None, "the same with rows to predict", metavar="FILE")
    text_column_names: str | None = flag(
        None, "one text column, a pair, or three or more to join", metavar="COLUMN[,COLUMN]"
    )
    text_column_delimiter: str | None = flag(
        None, "join all text columns, with this text between them", metavar="TEXT"
    )
    label_column_name: str | None = flag(None, "the column of labels", metavar="COLUMN")
    train_split_name: str | None = flag(None, "split of the dataset to train on", metavar="SPLIT")
    validation_split_name: str | None = flag(None, "split of the dataset to evaluate", metavar="SPLIT")
    test_split_name: str | None = flag(None, "split of the dataset to predict", metavar="SPLIT")
    metric_name: str | None = flag(None, "metric, instead of accuracy (mse for a regression)", metavar="METRIC")
    max_seq_length: int = flag(MAX_LENGTH, "truncate each row to N tokens", metavar="N")
    padding: str = flag(PADDINGS[0], "how to pad batches; free: not at all", choices=PADDINGS)
    pad_to_max_length: bool | None = flag(
        None, "run_glue's name for --padding max_length; false: longest", metavar="BOOL"
    )
    shuffle_train_dataset: bool = flag(False, "shuffle before --max_train_samples; each epoch is shuffled anyway")
    shuffle_seed: int = flag(42, "seed of --shuffle_train_dataset", metavar="N")
    max_train_samples: int | None = flag(None, "keep the first N training rows", metavar="N")
    max_eval_samples: int | None = flag(None, "keep the first N rows of each evaluation split", metavar="N")
    max_predict_samples: int | None = flag(None, "keep the first N rows of each split to predict", metavar="N")

    def __post_init__(self) -> None:
        if self.pad_to_max_length is not None:
            self.padding = "max_length" if self.pad_to_max_length else "longest"

    @property
    def files(self) -> dict[str, str]:
        """The given files by split."""
        given = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return {split: path for split, path in given.items() if path is not None}


@dataclass
class ModelArguments:
    """Which pre-trained encoder."""

    model_name_or_path: str = flag(BERT, "model id or folder", metavar="MODEL")
    model_revision: str | None = flag(None, "branch, tag or commit of the model", metavar="NAME")
    trust_remote_code: bool = flag(False, "run the Python code of the model; read it first")
    ignore_mismatched_sizes: bool = flag(False, "replace a head for another number of labels by a fresh one")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a parser that shows or completes them."""
    _add_group(parser, "loss", SHOWN["loss"])
    for title, kind in {"data": DataArguments, "model": ModelArguments}.items():
        add = parser.add_argument_group(title).add_argument
        for one in fields(kind):
            switch = {"action": "store_true"} if one.default is False else {"default": one.default}
            add(f"--{one.name}", **switch, **one.metadata)
    _add_group(parser, "training", SHOWN["training"])


def _add_group(parser: argparse.ArgumentParser, title: str, flags: dict[str, tuple[str | None, str]]) -> None:
    add = parser.add_argument_group(title).add_argument
    for name, (metavar, text) in flags.items():
        kind: dict[str, Any] = {"metavar": metavar} if metavar else {"action": "store_true"}
        add(f"--{name}", help=text, **kind)
        parser.set_defaults(**{name: DEFAULTS.get(name)})
