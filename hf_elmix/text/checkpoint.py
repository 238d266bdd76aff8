"""A trained classifier and its rows, which diagnostics examine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from torch import nn
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PreTrainedConfig

from hf_elmix.errors import UsageError
from hf_elmix.study.spec import RunRecord
from hf_elmix.study.store import MODEL, RECORD, read_record
from hf_elmix.text.custom import custom_task, find_splits
from hf_elmix.text.files import read_files
from hf_elmix.text.labels import for_model, model_classes
from hf_elmix.text.limits import tokens_for
from hf_elmix.text.models import check_model, find_model, load_config, load_tokenizer, load_trained
from hf_elmix.text.rows import digest, first_rows, load_task, read_dataset
from hf_elmix.text.tasks import MAX_LENGTH, TextTask

__all__ = ["Checkpoint", "Rows", "open_checkpoint"]

FILE = "rows"  # name of the only split of a file


@dataclass(frozen=True)
class Rows:
    """Which rows to examine; by default those of the run, or what the columns and splits of the dataset suggest.

    Attributes:
        dataset_name: Dataset id or folder.
        dataset_config_name: Its configuration.
        file: CSV, TSV, JSON or Parquet file with rows.
        split: Split of the dataset; by default the first evaluation split.
        text_column_names: The text column, or the two of a pair with a comma between them; more are joined.
        text_column_delimiter: Between joined columns.
        label_column_name: The column of labels.
        max_seq_length: Tokens to which a row is truncated.
        max_samples: Keep the first N rows.
    """

    dataset_name: str | None = None
    dataset_config_name: str | None = None
    file: str | None = None
    split: str | None = None
    text_column_names: str | None = None
    text_column_delimiter: str | None = None
    label_column_name: str | None = None
    max_seq_length: int | None = None
    max_samples: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A classifier and its rows.

    Attributes:
        model: The classifier in single precision, on the GPU if there is one.
        loader: Batches of its inputs with ``labels``, padded to their longest row.
        about: A description of both in one line.
        batch_size: Rows in a training step of the run; 32 for a model that is not a run.
    """

    model: nn.Module
    loader: DataLoader
    about: str
    batch_size: int


def open_checkpoint(target: str, wanted: Rows, *, batch_size: int) -> Checkpoint:
    """Load a classifier and rows for it.

    Args:
        target: The folder of a run with its model, or a model's id or folder.
        wanted: Which rows; by default those of a run on which its score was measured.
        batch_size: Rows in a batch.

    Raises:
        UsageError: If model or rows cannot be used, or the run's rows have changed since.
    """
    if batch_size < 1:
        raise UsageError(f"Expected --batch_size to be 1 or more, but got {batch_size}.")
    record = _record_in(Path(target))
    named = _read_named(wanted) if record is None or wanted.dataset_name or wanted.file else None
    source = find_model(target if record is None else str(Path(target, MODEL)))
    config, tokenizer = load_config(source), load_tokenizer(source)
    if named is not None:
        task, split, rows = _task_of(*named, wanted, config)
    elif record is not None:
        task, split, rows = _rows_of_run(wanted, record)
    task, rows = for_model(config, task, rows, trains=False)
    if task.regression:
        raise UsageError(f"Expected a classifier, but {source.name!r} predicts numbers.")
    settings = {} if record is None else record.settings
    length = settings.get("max_length", MAX_LENGTH) if wanted.max_seq_length is None else wanted.max_seq_length
    tokens = tokens_for(source, tokenizer, task, rows, length)[0][split]
    model, collator = load_trained(source), DataCollatorWithPadding(tokenizer)
    check_model(model, DatasetDict({split: tokens}), collator)
    # Arguments that a study does not set have the Trainer's defaults.
    arguments = {"per_device_train_batch_size": 32} if record is None else settings.get("arguments", {})
    return Checkpoint(
        # In half precision, second derivatives and probabilities near 1 would have no correct digits.
        model.float().to("cuda" if torch.cuda.is_available() else "cpu"),
        DataLoader(tokens, batch_size, collate_fn=collator),
        f"{target}: {len(tokens)} rows of {task.name} ({split}); text from {' and '.join(task.columns)}; "
        f"classes: {', '.join(f'{index} {name}' for index, name in enumerate(task.labels))}",
        arguments.get("per_device_train_batch_size", 8) * arguments.get("gradient_accumulation_steps", 1),
    )


def _record_in(folder: Path) -> RunRecord | None:
    """The record in the folder of a run, which must have kept its model; None for another folder."""
    try:
        record = read_record(folder / RECORD)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not (folder / MODEL).is_dir() or (folder / MODEL).is_symlink():
        raise UsageError(f"{record.key} has kept no model. Keep it with --keep models, or name a model and rows.")
    return record


def _rows_of_run(wanted: Rows, record: RunRecord) -> tuple[TextTask, str, DatasetDict]:
    """The rows of a run: its task, the split and the rows."""
    settings = record.settings
    if not {"text", "dataset"} <= settings.keys():
        raise UsageError(
            f"The record of {record.key} does not say where its rows are. Name them with --file or --dataset_name."
        )
    task = TextTask.from_settings(settings["text"])
    scored_on = record.select and record.select.scored_on
    scored = next((name for name in task.splits if name.removeprefix("validation_") == scored_on), task.splits[0])
    split = wanted.split or scored
    limits: dict[str, Any] = {name: settings.get(name) for name in ("max_train_samples", "max_eval_samples")}
    rows = load_task(task, settings["dataset"], splits=(split,), **limits)
    found = digest(rows[split], task)
    trained_on = settings.get("rows")
    if isinstance(trained_on, dict) and trained_on.get(split, found) != found:
        raise UsageError(
            f"The rows of {task.name} in {settings['dataset']!r} have changed since {record.key} was trained. Name "
            "the rows you want with --dataset_name or --file."
        )
    return task, split, DatasetDict({split: first_rows(rows, split, wanted.max_samples, task.name)})


def _read_named(wanted: Rows) -> tuple[str, str, DatasetDict]:
    """What to call the rows that the user named, the split, and all splits."""
    if wanted.file:
        if wanted.dataset_name or wanted.split:
            other = "dataset_name" if wanted.dataset_name else "split"
            raise UsageError(f"Expected one of --{other} and --file: a file is a dataset with one split.")
        if wanted.dataset_config_name:
            raise UsageError("--dataset_config_name needs --dataset_name: a file has no configurations. Leave it out.")
        return Path(wanted.file).stem, FILE, read_files({FILE: wanted.file})
    if wanted.dataset_name:
        rows = read_dataset(wanted.dataset_name, wanted.dataset_config_name)
        name = wanted.dataset_config_name or Path(wanted.dataset_name).expanduser().resolve().stem
        (split, *_) = find_splits(rows, wanted.split)
        first_rows(rows, split, None, name, "Name one of them with --split.")
        return name, split, rows
    raise UsageError("Expected rows to examine: --dataset_name or --file.")


def _task_of(
    name: str, split: str, rows: DatasetDict, wanted: Rows, config: PreTrainedConfig
) -> tuple[TextTask, str, DatasetDict]:
    """The task that follows from the columns of rows, the split and the rows."""
    task, rows = custom_task(
        rows,
        name,
        splits=(split,),
        limits={split: wanted.max_samples},
        text_columns=wanted.text_column_names,
        text_delimiter=wanted.text_column_delimiter,
        label_column=wanted.label_column_name,
        labels=model_classes(config),
    )
    return task, split, rows
