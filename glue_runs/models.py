"""Pre-trained encoders: tokenizer, and the model with a fresh classifier for a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from huggingface_hub.errors import HfHubHTTPError
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.utils import logging

from glue_runs.protocol import BERT
from glue_runs.tasks import Task
from hf_elmix.errors import UsageError, in_one_line

__all__ = ["load_model", "load_tokenizer"]

T = TypeVar("T")


def load_tokenizer(model_name_or_path: str) -> PreTrainedTokenizerBase:
    """Tokenizer of a model on the Hub or in a folder.

    Raises:
        UsageError: (a ValueError) If it cannot be loaded.
    """
    return _load(AutoTokenizer.from_pretrained, model_name_or_path)


def load_model(model_name_or_path: str, task: Task, seed: int) -> PreTrainedModel:
    """An encoder with a fresh classifier for the task's labels.

    The classifier is drawn while the model is loaded, so the seed is set before: all methods of one seed start from
    the same weights.

    Raises:
        UsageError: (a ValueError) If it cannot be loaded.
    """
    set_seed(seed)
    return _load(
        AutoModelForSequenceClassification.from_pretrained,
        model_name_or_path,
        num_labels=len(task.labels),
        id2label=dict(enumerate(task.labels)),
        label2id={label: index for index, label in enumerate(task.labels)},
        problem_type="single_label_classification",
    )


def _load(load: Callable[..., T], name: str, **kwargs: Any) -> T:
    # A fresh classifier is what is wanted here: no report that it is not pre-trained, nor a bar for each load.
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load(name, **kwargs)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UsageError(
            f"Cannot load the model {name!r}: {in_one_line(error)} Expected a model id such as {BERT!r} or a folder "
            "with a saved model and its tokenizer."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
