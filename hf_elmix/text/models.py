"""Pre-trained encoders: tokenizer, and the model with a fresh classifier for a task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.utils import logging

from glue_runs.protocol import BERT
from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.hub import client as hub
from hf_elmix.hub.client import HTTPError, ModelSource
from hf_elmix.text.tasks import TextTask

__all__ = ["find_model", "load_config", "load_model", "load_tokenizer", "load_trained"]

T = TypeVar("T")


def find_model(name: str | ModelSource, revision: str | None = None, *, code: bool = False) -> ModelSource:
    """A model on the Hub or in a folder, pinned: from here on, no run asks the Hub which state of it to take.

    Args:
        name: Model id or folder, or one that has been found.
        revision: Branch, tag or commit on the Hub; left out, its main branch.
        code: Run Python code that the model brings along.

    Raises:
        UsageError: If there is none.
    """
    if isinstance(name, ModelSource):
        return name
    return _explained(name, lambda: hub.find_model(name, revision, code=code))


def load_tokenizer(model: str | ModelSource) -> PreTrainedTokenizerBase:
    """Tokenizer of a model.

    Args:
        model: A model that `find_model` has found, or the name of one.

    Raises:
        UsageError: If it cannot be loaded.
    """
    source = find_model(model)
    return _explained(source.name, lambda: _load(AutoTokenizer.from_pretrained, source))


def load_config(model: str | ModelSource) -> PreTrainedConfig:
    """Configuration of a model.

    Args:
        model: A model that `find_model` has found, or the name of one.

    Raises:
        UsageError: If it cannot be loaded.
    """
    source = find_model(model)
    return _explained(source.name, lambda: _load(AutoConfig.from_pretrained, source))


def load_model(
    model: str | ModelSource, task: TextTask, seed: int, *, ignore_mismatched_sizes: bool = False
) -> PreTrainedModel:
    """An encoder with a fresh classifier for the task's labels, or a regression head.

    The head is drawn while the model is loaded, so the seed is set before: all methods of one seed start from the same
    weights. A head of the right size that the model has already is kept.

    Args:
        model: A model that `find_model` has found, or the name of one.
        task: The task.
        seed: Seed of the head, and of everything that is drawn afterwards.
        ignore_mismatched_sizes: Draw a fresh head where the model has one for another number of labels.

    Raises:
        UsageError: If it cannot be loaded.
    """
    source = find_model(model)

    def load() -> PreTrainedModel:
        source.folder()  # What it takes to fetch the files must not come between the seed and the draw.
        set_seed(seed)
        kind = AutoModelForSequenceClassification
        try:
            return _load(kind.from_pretrained, source, ignore_mismatched_sizes=ignore_mismatched_sizes, **_head(task))
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            text = f"its head is for another number of labels than {len(task.labels) or 1}; --ignore_mismatched_sizes "
            raise ValueError(f"{text}draws a fresh one") from None

    return _explained(source.name, load)


def load_trained(model: str | ModelSource) -> PreTrainedModel:
    """A model with the classifier that it was trained with.

    Args:
        model: A model that `find_model` has found, or the name of one.

    Raises:
        UsageError: If it cannot be loaded, or lacks weights, such as those of a classifier.
    """
    source = find_model(model)

    def load() -> PreTrainedModel:
        kind = AutoModelForSequenceClassification
        network, found = _load(partial(kind.from_pretrained, output_loading_info=True), source)
        if found["missing_keys"]:
            missing = ", ".join(sorted(found["missing_keys"])[:3])
            raise ValueError(f"it was never trained as a classifier: it has no {missing}.")
        return network

    return _explained(source.name, load)


def _head(task: TextTask) -> dict[str, Any]:
    """What the configuration of a model says of its head."""
    if task.regression:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "num_labels": len(task.labels),
        "id2label": dict(enumerate(task.labels)),
        "label2id": {label: index for index, label in enumerate(task.labels)},
        "problem_type": "single_label_classification",
    }


def _load(load: Callable[..., T], source: ModelSource, **kwargs: Any) -> T:
    """Load from the files on this machine, under the name that was given: a path into a cache says nothing."""
    # Left open, a model that brings code along would make transformers ask on the terminal whether to run it.
    loaded: Any = load(source.folder(), trust_remote_code=source.code, **kwargs)
    if source.revision is not None:
        named = loaded[0] if isinstance(loaded, tuple) else loaded
        named.name_or_path = source.name
        if hasattr(named, "config"):
            named.config._name_or_path = source.name
    return loaded


def _explained(name: str, call: Callable[[], T]) -> T:
    # A fresh classifier is what is wanted here: no report that it is not pre-trained, nor a bar for each load.
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return call()
    except (OSError, ValueError, SafetensorError, HfHubHTTPError, HTTPError) as error:
        raise UsageError(
            f"Cannot load the model {name!r}: {in_one_line(error)} Expected a model id such as {BERT!r} or a folder "
            "with a saved model and its tokenizer."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
