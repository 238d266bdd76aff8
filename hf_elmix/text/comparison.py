"""A text task for a comparison: methods are compared on validation rows, and a test set is only scored at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from datasets import DatasetDict

from hf_elmix.columns import find_label, listed
from hf_elmix.comparison.split import TEST, TRAIN, VALIDATION, counted_rows, on_validation, resampled, with_validation
from hf_elmix.errors import UsageError
from hf_elmix.study.spec import Task
from hf_elmix.text.custom import custom_task
from hf_elmix.text.labels import for_model
from hf_elmix.text.models import find_model, load_config
from hf_elmix.text.study import text_task
from hf_elmix.text.tasks import MAX_LENGTH

__all__ = ["comparison_task", "usual_arguments"]

MODEL = "sentence-transformers/paraphrase-MiniLM-L3-v2"  # 17 M parameters: a run on some thousand rows takes minutes

# Learning rate by the least width of the model: that of BERT's authors, and for the small ones what trains on 1,000
# rows of SST-2 and CoLA, where the rates of larger models leave them close to where they began.
RATES = {768: 2e-5, 256: 1e-4, 0: 5e-4}
ARGUMENTS: dict[str, Any] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
}


def usual_arguments(model: str | None = None) -> dict[str, Any]:
    """The training arguments of a comparison that nobody gives; everything else is the Trainer's default.

    Args:
        model: See `comparison_task`.

    Raises:
        UsageError: If there is no such model.
    """
    width = getattr(load_config(find_model(MODEL if model is None else model)), "hidden_size", max(RATES))
    return {"learning_rate": RATES[max(least for least in RATES if least <= width)], **ARGUMENTS}


def comparison_task(
    rows: DatasetDict,
    name: str,
    model: str | None = None,
    *,
    origin: Mapping[str, Any],
    text_columns: str | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
    epoch: str = "last",
    resample: bool = False,
    compiled: bool = False,
) -> tuple[Task, str]:
    """Make the task of a comparison from rows of text, and describe it in one line.

    Args:
        rows: The splits ``train`` and, if there are any, ``validation`` and ``test`` (see `named_splits`).
        name: What to call the task.
        model: Model id or folder; by default a small encoder.
        origin: See `text_task`.
        text_columns: See `custom_task`.
        label_column: See `custom_task`.
        max_length: Tokens to which a row is truncated.
        epoch: Which evaluation counts, ``last`` or ``best``.
        resample: Divide training and validation rows anew for each seed.
        compiled: See `text_task`.

    Raises:
        UsageError: If the rows or the model cannot be used, or the label is a number.
    """
    model = MODEL if model is None else model
    scored = (VALIDATION, *((TEST,) if TEST in rows else ()))
    task, used = custom_task(
        rows, name, splits=scored, test_splits=(), text_columns=text_columns, label_column=label_column
    )
    if task.regression:
        raise UsageError(f"Expected classes as labels of {name}, but got numbers. Write text or whole numbers.")
    source = find_model(model)
    task, used = for_model(load_config(source), task, used, trains=True)
    divided = with_validation(used)
    made = text_task(task, divided, source, origin=origin, max_length=max_length or MAX_LENGTH, compiled=compiled)
    made = replace(made, select=on_validation(task.metrics[0], epoch, divided))
    read = {find_label(rows[TRAIN], label_column, name), *" + ".join(task.columns).split(" + ")}
    rest = [column for column in rows[TRAIN].column_names if column not in read]
    unused = f" (not used: {listed(rest)})" * bool(rest)
    about = (
        f"{name}: text from {' and '.join(task.columns)}{unused}; "
        f"{counted_rows(divided, VALIDATION not in used, resample)}; label: {listed(task.labels)}; model {model}; "
        f"score: {task.metrics[0]}, {epoch} epoch"
    )
    return resampled(made) if resample else made, about
