"""A trained classifier and rows for it: what an instrument looks at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from torch import nn
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PreTrainedConfig, PreTrainedTokenizerBase

from glue_runs.protocol import ARGUMENTS, GLUE, MAX_LENGTH
from glue_runs.tasks import GLUE_TASKS, TASKS
from hf_elmix.errors import UsageError
from hf_elmix.study.spec import RunRecord
from hf_elmix.study.store import MODEL, RECORD
from hf_elmix.text.labels import named_labels, within
from hf_elmix.text.models import find_model, load_config, load_tokenizer, load_trained
from hf_elmix.text.own_files import find_splits, own_task, read_files
from hf_elmix.text.rows import digest, find_task, first_rows, load_task, read_dataset, tokenise
from hf_elmix.text.tasks import TextTask

__all__ = ["Checkpoint", "Rows", "open_checkpoint"]

FILE = "rows"  # what the only split of a file is called


@dataclass(frozen=True)
class Rows:
    """Which rows to look at; what is left out follows from the run, or has the defaults of ``glue-runs finetune``.

    Attributes:
        task_name: A GLUE task.
        dataset_name: Dataset id or folder; with a task, where GLUE lies.
        dataset_config_name: Its configuration.
        file: CSV, TSV, JSON or Parquet with rows.
        split: Of the dataset; left out, the one that is evaluated.
        text_column_names: The text column, or the two of a pair, with a comma between them.
        label_column_name: The column of labels.
        max_seq_length: Tokens a row is cut to.
        max_samples: Keep so many of the first rows.
    """

    task_name: str | None = None
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    file: str | None = None
    split: str | None = None
    text_column_names: str | None = None
    label_column_name: str | None = None
    max_seq_length: int | None = None
    max_samples: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A classifier and its rows.

    Attributes:
        model: On the GPU where there is one.
        loader: Batches of its inputs with ``labels``, padded to their longest row.
        about: What they are, in one line.
        batch_size: Rows in a step of the run's training; the protocol's where it is no run.
    """

    model: nn.Module
    loader: DataLoader
    about: str
    batch_size: int


def open_checkpoint(target: str, wanted: Rows, *, batch_size: int) -> Checkpoint:
    """Load a classifier and rows for it.

    Args:
        target: The folder of a run whose model was kept, or a model's id or folder.
        wanted: Which rows; of a run, those of the split that its score is of, if nothing else is said.
        batch_size: Rows in a batch.

    Raises:
        UsageError: If model or rows cannot be used, or the run's rows have changed since.
    """
    for name, value in (("batch_size", batch_size), ("max_seq_length", wanted.max_seq_length)):
        if value is not None and value < 1:
            raise UsageError(f"Expected --{name} to be 1 or more, but got {value}.")
    record = _record_in(Path(target))
    settings = {} if record is None else record.settings
    source = find_model(target if record is None else _model_of(record, Path(target)))
    config, tokenizer = load_config(source), load_tokenizer(source)
    if tokenizer.pad_token_id is None:
        raise UsageError(f"Expected {source.name!r} to have a padding token. Give its tokenizer and config one.")
    if record is None or _names_rows(wanted):
        task, split, rows = _rows(wanted, config)
    else:
        task, split, rows = _rows_of_run(wanted, record)
    task, rows = within(config, task, rows)
    model: nn.Module = load_trained(source)
    length = wanted.max_seq_length or settings.get("max_length", MAX_LENGTH)
    return Checkpoint(
        # In half precision neither second derivatives nor probabilities near 1 would have digits left.
        model.float().to("cuda" if torch.cuda.is_available() else "cpu"),
        _loader(rows, task, tokenizer, length, batch_size),
        f"{target}: {len(rows[split])} rows of {task.name} ({split}); text from {' and '.join(task.columns)}; "
        f"classes: {', '.join(f'{index} {name}' for index, name in enumerate(task.labels))}",
        _rows_in_a_step(settings.get("arguments", {})),
    )


def _rows_in_a_step(arguments: Mapping[str, Any]) -> int:
    """Of the training arguments of a run on one device."""
    given = {**ARGUMENTS, **arguments}
    return given["per_device_train_batch_size"] * given.get("gradient_accumulation_steps", 1)


def _record_in(folder: Path) -> RunRecord | None:
    """The record of a run's folder; None where there is none, as in a model's."""
    if not (folder / RECORD).is_file():
        return None
    try:
        return RunRecord.from_dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{folder / RECORD} is no record of a run ({error}).") from error


def _model_of(record: RunRecord, folder: Path) -> str:
    if not (folder / MODEL).is_dir():
        raise UsageError(f"{record.key} has kept no model. Keep it with --keep models, or name a model and rows.")
    return str(folder / MODEL)


def _names_rows(wanted: Rows) -> bool:
    return any((wanted.task_name, wanted.dataset_name, wanted.file))


def _rows_of_run(wanted: Rows, record: RunRecord) -> tuple[TextTask, str, DatasetDict]:
    """The rows that a run saw, or as many of them as are wanted."""
    settings = record.settings
    if record.key.task not in TASKS or "dataset" not in settings:
        raise UsageError(f"{record.key} is of a study of its own rows. Name them with --file or --dataset_name.")
    task = TASKS[record.key.task]
    split = wanted.split or task.splits[0]
    limits: dict[str, Any] = {name: settings.get(name) for name in ("max_train_samples", "max_eval_samples")}
    rows = load_task(task, settings["dataset"], splits=(split,), **limits)
    seen: Mapping[str, str] = settings.get("rows", {})
    if split in seen and digest(rows[split], task) != seen[split]:
        raise UsageError(
            f"The rows of {task.name} in {settings['dataset']!r} are no longer those that {record.key} saw. Say which "
            f"rows you want with --dataset_name or --file."
        )
    return task, split, _first(rows, wanted.max_samples)


def _first(rows: DatasetDict, limit: int | None) -> DatasetDict:
    return DatasetDict({split: first_rows(part, limit) for split, part in rows.items()})


def _rows(wanted: Rows, config: PreTrainedConfig) -> tuple[TextTask, str, DatasetDict]:
    """The task, the split and the rows that are named."""
    if wanted.file and (wanted.task_name or wanted.dataset_name or wanted.split):
        other = next(name for name in ("task_name", "dataset_name", "split") if getattr(wanted, name))
        raise UsageError(f"Expected one of --{other} and --file: a file has one split, and is rows of its own.")
    if wanted.task_name is not None:
        task = find_task(wanted.task_name.lower(), GLUE_TASKS)
        split = wanted.split or task.splits[0]
        rows = load_task(task, wanted.dataset_name or GLUE, splits=(split,))
        return task, split, _first(rows, wanted.max_samples)
    if not _names_rows(wanted):
        raise UsageError("Expected rows to look at: --task_name, --dataset_name or --file.")
    given = {FILE: wanted.file} if wanted.file else None
    name = Path(wanted.file or wanted.dataset_name or "").expanduser().resolve().stem
    all_rows = read_files(given) if given else read_dataset(wanted.dataset_name or "", wanted.dataset_config_name)
    split = FILE if given else _split(all_rows, wanted.split, name)
    task, rows = own_task(
        all_rows,
        name,
        splits=(split,),
        test_splits=(),
        limits={split: wanted.max_samples},
        text_columns=tuple(filter(None, (wanted.text_column_names or "").split(","))),
        label_column=wanted.label_column_name,
        labels=named_labels(config),
    )
    return task, split, rows


def _split(rows: DatasetDict, given: str | None, name: str) -> str:
    split = find_splits(rows, given)[0]
    if split not in rows:
        raise UsageError(
            f"Expected {name} to have the split {split!r}, but it has only {', '.join(map(str, rows))}. Name one of "
            "them with --split."
        )
    return split


def _loader(
    rows: DatasetDict, task: TextTask, tokenizer: PreTrainedTokenizerBase, length: int, batch_size: int
) -> DataLoader:
    (tokens,) = tokenise(rows, task, tokenizer, min(length, tokenizer.model_max_length)).values()
    return DataLoader(tokens, batch_size, collate_fn=DataCollatorWithPadding(tokenizer))
