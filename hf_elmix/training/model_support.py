"""What a loss must know about a model: whether it returns class logits, and what else it needs labels for.

Except in `base_model`, `model` is a model without a PEFT wrapper.
"""

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

# Losses that are one cross entropy over `logits` (..., C).
CLASS_LOSSES = (ForCausalLMLoss, ForMaskedLMLoss, ForSequenceClassificationLoss, ForTokenClassification)
REFUSED_PROBLEMS = ("regression", "multi_label_classification")
USE_TRAINER = "The loss needs the probability p_y of one true class: use transformers.Trainer for this model."


def base_model(model: nn.Module) -> nn.Module:
    """The model without a PEFT wrapper, which hides the class and the signature."""
    get_base_model: Callable[[], nn.Module] | None = getattr(model, "get_base_model", None)
    return model if get_base_model is None else get_base_model()


def check_class_logits(model: nn.Module, label_names: list[str]) -> None:
    """Refuse a model that does not return class logits.

    A model that does not declare its outputs (a plain `nn.Module`) is accepted; it is expected to return
    ``{"logits": ...}`` or a tuple that starts with them.

    Args:
        model: The model.
        label_names: Names of the label inputs, as the Trainer infers them.

    Raises:
        UsageError: If the head is for regression or multi-label classification, or returns no class logits.
    """
    name, config, loss = type(model).__name__, getattr(model, "config", None), _loss_function(model)
    problem = getattr(config, "problem_type", None)
    if problem in REFUSED_PROBLEMS:
        raise UsageError(f"{name} has problem_type={problem!r}. {USE_TRAINER}")
    if loss is ForSequenceClassificationLoss and getattr(config, "num_labels", None) == 1:
        raise UsageError(f"{name} has num_labels=1, which is regression. {USE_TRAINER}")
    fields = {field.name for kind in _output_classes(model) for field in dataclasses.fields(kind)}
    if (fields and "logits" not in fields) or (loss is not None and loss not in CLASS_LOSSES):
        raise UsageError(f"{name} returns no class logits (its outputs: {', '.join(sorted(fields))}). {USE_TRAINER}")
    if label_names and "labels" not in label_names:
        raise UsageError(f"Expected the label input of {name} to be 'labels', but it is {label_names}. {USE_TRAINER}")


def check_labels_of(dataset: Any, model: nn.Module) -> None:
    """Refuse a dataset, or a dictionary of them, whose label column has floats (regression, multi-label).

    Only the declared features are read, never a row, because reading a row could draw from a random transform.

    Args:
        dataset: The dataset as passed to the Trainer, or None.
        model: The model, for the message.

    Raises:
        UsageError: If the declared labels are floats.
    """
    if isinstance(dataset, dict):
        for part in dataset.values():
            check_labels_of(part, model)
    features: Any = getattr(dataset, "features", None)
    features = features if isinstance(features, Mapping) else {}  # a dataset may call its inputs so
    column = next((name for name in ("labels", "label", "label_ids") if name in features), "")
    feature: Any = features.get(column)
    while hasattr(feature, "feature"):  # the elements of a list
        feature = feature.feature
    kind = str(getattr(feature, "dtype", ""))
    if "float" in kind:
        raise UsageError(
            f"Expected the column {column!r} to hold class ids, but it holds {kind}: regression or multi-label "
            f"targets for {type(model).__name__}. {USE_TRAINER}"
        )


def number_of_labels(model: nn.Module) -> int | None:
    """Number of classes of a sequence (or image, audio) or token classifier, or None for any other head."""
    if _loss_function(model) not in (ForSequenceClassificationLoss, ForTokenClassification):
        return None  # even the config of a language model has num_labels
    return getattr(getattr(model, "config", None), "num_labels", None)


def predicts_next_token(model: nn.Module) -> bool:
    """Whether logits at one position predict the label of the next, as in a decoder-only language model.

    Classes such as `GPT2LMHeadModel` declare no loss type; their output class decides.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    if getattr(model, "loss_type", None) is None:
        return any(kind.__name__.startswith("CausalLMOutput") for kind in _output_classes(model))
    return _loss_function(model) is ForCausalLMLoss


def makes_decoder_inputs(model: nn.Module) -> bool:
    """Whether this is an encoder-decoder that makes its decoder inputs from labels (sequence classifiers do not)."""
    encoder_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    classifies = any("SequenceClassifier" in kind.__name__ for kind in _output_classes(model))
    return encoder_decoder and not classifies


def requires_labels(model: nn.Module) -> bool:
    """Whether `forward` cannot be called without labels."""
    labels = inspect.signature(model.forward).parameters.get("labels")
    return labels is not None and labels.default is inspect.Parameter.empty


def logits_of(outputs: Any, labels_passed: bool = False) -> Tensor:
    """The logits (..., C) among the outputs of a model.

    Args:
        outputs: A mapping with ``logits``, a tuple that starts with them (after any loss), or the logits themselves.
        labels_passed: Whether the model was given labels, so that a tuple starts with its loss.

    Raises:
        UsageError: If there are no logits.
    """
    if not isinstance(outputs, Mapping):
        return outputs[1] if labels_passed else without_loss(outputs)[0]
    if outputs.get("logits") is None:
        raise UsageError(f"Expected the model to return 'logits', but it returned only {', '.join(outputs)}.")
    return outputs["logits"]


def without_loss(outputs: Any) -> tuple[Any, ...]:
    """The outputs of a model that was given no labels, as a tuple that starts with the logits."""
    if isinstance(outputs, Tensor):
        return (outputs,)
    return tuple(outputs[1:] if outputs[0] is None else outputs)


def labels_for(logits: Tensor, labels: Tensor, shift: bool) -> Tensor:
    """Labels at the positions of the logits that predict them.

    Args:
        logits: Shape (..., C).
        labels: Labels of the batch, shape (...), or (N, 1) for logits (N, C), which are squeezed to (N,).
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


def _output_classes(model: nn.Module) -> list[Any]:
    """The output classes in the annotation of `forward`."""
    try:
        hint = typing.get_type_hints(inspect.unwrap(type(model).forward)).get("return")
    except (NameError, TypeError):
        return []
    kinds = (hint, *typing.get_args(hint))
    return [kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, ModelOutput)]
