"""What a model's head says about the loss: whether it has class probabilities, and what else it needs labels for."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.loss.loss_utils import (
    LOSS_MAPPING,
    ForCausalLMLoss,
    ForMaskedLMLoss,
    ForSequenceClassificationLoss,
    ForTokenClassification,
)
from transformers.utils import ModelOutput

from hf_elmix.errors import UsageError

__all__ = [
    "base_model",
    "check_class_logits",
    "check_labels_of",
    "labels_for",
    "logits_of",
    "makes_decoder_inputs",
    "number_of_labels",
    "predicts_next_token",
    "requires_labels",
    "without_loss",
]

# The families whose loss is one cross entropy over `logits` (..., C).
CLASS_LOSSES = (ForCausalLMLoss, ForMaskedLMLoss, ForSequenceClassificationLoss, ForTokenClassification)
REFUSED_PROBLEMS = ("regression", "multi_label_classification")
USE_TRAINER = "That takes one probability p_y of a true class; else, use transformers.Trainer for this model."


def base_model(model: nn.Module) -> nn.Module:
    """The model under a PEFT wrapper, which has the class, the config and the signature.

    Args:
        model: A model, wrapped or not.
    """
    get_base_model: Callable[[], nn.Module] | None = getattr(model, "get_base_model", None)
    return model if get_base_model is None else get_base_model()


def check_class_logits(model: nn.Module, label_names: list[str]) -> None:
    """Refuse a model that gives no class logits.

    A model that says nothing of its outputs (a plain `nn.Module`) is taken at its word; it is expected to return
    ``{"logits": ...}`` or a tuple that starts with them.

    Args:
        model: As handed to the Trainer, under any PEFT wrapper.
        label_names: Names of the label inputs, as the Trainer sees them.

    Raises:
        UsageError: If the head is for regression, several labels at once, or no classes at all.
    """
    name, config, loss = type(model).__name__, getattr(model, "config", None), _loss_function(model)
    problem = getattr(config, "problem_type", None)
    if problem in REFUSED_PROBLEMS:
        raise UsageError(f"{name} has problem_type={problem!r}. {USE_TRAINER}")
    if loss is ForSequenceClassificationLoss and getattr(config, "num_labels", None) == 1:
        raise UsageError(f"{name} has num_labels=1, which is regression. {USE_TRAINER}")
    fields = _output_fields(model)
    if (fields and "logits" not in fields) or (loss is not None and loss not in CLASS_LOSSES):
        raise UsageError(f"{name} gives no class logits (its outputs: {', '.join(sorted(fields))}). {USE_TRAINER}")
    if label_names and "labels" not in label_names:
        raise UsageError(f"Expected the label input of {name} to be 'labels', but it is {label_names}. {USE_TRAINER}")


def check_labels_of(dataset: Any, model: nn.Module) -> None:
    """Refuse a dataset whose column of labels is declared to hold floats (regression, several labels at once).

    A dictionary stands for the datasets in it. Only what a dataset declares is read, never a row: reading one could
    draw from a random transform.

    Args:
        dataset: As handed to the Trainer, or None.
        model: The model, for the message.

    Raises:
        UsageError: If the declared labels are floats.
    """
    if isinstance(dataset, dict):
        for part in dataset.values():
            check_labels_of(part, model)
    features = getattr(dataset, "features", None) or {}
    column = next((name for name in ("labels", "label", "label_ids") if name in features), "")
    feature: Any = features.get(column)
    while hasattr(feature, "feature"):  # a list, down to what it is a list of
        feature = feature.feature
    kind = str(getattr(feature, "dtype", ""))
    if "float" in kind:
        raise UsageError(
            f"Expected the column {column!r} to hold class ids, but it holds {kind}: regression or multi-label "
            f"targets for {type(model).__name__}. {USE_TRAINER}"
        )


def number_of_labels(model: nn.Module) -> int | None:
    """The classes of a head for sequences (of any kind) or tokens, or None for any other head.

    Args:
        model: The model, under no wrapper.
    """
    if _loss_function(model) not in (ForSequenceClassificationLoss, ForTokenClassification):
        return None  # every configuration has a number of labels, those of language models too
    return getattr(getattr(model, "config", None), "num_labels", None)


def predicts_next_token(model: nn.Module) -> bool:
    """Whether logits at one position predict the label of the next, as in a decoder-only language model.

    Classes such as `GPT2LMHeadModel` have no loss type of their own; their output class tells.

    Args:
        model: The model, under no wrapper.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    if getattr(model, "loss_type", None) is None:
        return any(kind.__name__.startswith("CausalLMOutput") for kind in _output_classes(model))
    return _loss_function(model) is ForCausalLMLoss


def makes_decoder_inputs(model: nn.Module) -> bool:
    """Whether this is an encoder-decoder for sequences, which makes its decoder inputs from its labels.

    One that classifies whole sequences makes them from its inputs.

    Args:
        model: The model, under no wrapper.
    """
    encoder_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    classifies = any("SequenceClassifier" in kind.__name__ for kind in _output_classes(model))
    return encoder_decoder and not classifies


def requires_labels(model: nn.Module) -> bool:
    """Whether `forward` cannot be called without labels.

    Args:
        model: The model, under no wrapper.
    """
    labels = inspect.signature(model.forward).parameters.get("labels")
    return labels is not None and labels.default is inspect.Parameter.empty


def logits_of(outputs: Any, labels_passed: bool = False) -> Tensor:
    """The logits in what a model returned.

    Args:
        outputs: A mapping with ``logits``, a tuple that starts with them (after a loss, where there is one), or the
            logits themselves.
        labels_passed: Whether the model got labels, so that a tuple starts with its loss.

    Returns:
        Shape (..., C).

    Raises:
        UsageError: If there are none.
    """
    if not isinstance(outputs, Mapping):
        return outputs[1] if labels_passed else without_loss(outputs)[0]
    if outputs.get("logits") is None:
        raise UsageError(f"Expected the model to return 'logits', but it returned only {', '.join(outputs)}.")
    return outputs["logits"]


def without_loss(outputs: Any) -> tuple[Any, ...]:
    """Outputs of a model that got no labels, as a tuple that starts with the logits.

    Args:
        outputs: A tuple, a list or the logits.
    """
    if isinstance(outputs, Tensor):
        return (outputs,)
    return tuple(outputs[1:] if outputs[0] is None else outputs)


def labels_for(logits: Tensor, labels: Tensor, shift: bool) -> Tensor:
    """Labels at the positions of the logits that predict them.

    Args:
        logits: Shape (..., C).
        labels: As they come with the batch: shape (...), or (N, 1) for logits (N, C), which heads take as (N,).
        shift: Whether logits at one position predict the label of the next.

    Returns:
        Shape (...).
    """
    if shift:
        labels = F.pad(labels[..., 1:], (0, 1), value=-100)
    one_column = labels.dim() == logits.dim() and labels.shape[-1] == 1
    return labels.squeeze(-1) if one_column else labels


def _loss_function(model: nn.Module) -> Any:
    return LOSS_MAPPING.get(getattr(model, "loss_type", None) or "")


def _output_fields(model: nn.Module) -> set[str]:
    """Fields of the output class that `forward` is annotated with; none where it is not."""
    return {field.name for kind in _output_classes(model) for field in dataclasses.fields(kind)}


def _output_classes(model: nn.Module) -> list[Any]:
    try:
        hint = typing.get_type_hints(inspect.unwrap(type(model).forward)).get("return")
    except (NameError, TypeError):
        return []
    kinds = (hint, *typing.get_args(hint))
    return [kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, ModelOutput)]
