"""What a loss must know about a model and its outputs; `own_loss` finds out the rest by trying the model.

Except in `base_model`, `model` is a model without a PEFT wrapper.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.loss.loss_utils import (
    LOSS_MAPPING,
    ForCausalLMLoss,
    ForMaskedLMLoss,
    ForSequenceClassificationLoss,
    ForTokenClassification,
)

from hf_elmix.errors import UsageError

__all__ = [
    "accepts",
    "base_model",
    "check_class_logits",
    "check_label_ids",
    "check_labels_of",
    "fits",
    "label_input",
    "labels_for",
    "logits_of",
    "loss_of",
    "number_of_labels",
    "requires_labels",
    "router_loss",
    "two_classes",
    "without_loss",
]

# Losses that are one cross entropy over `logits` (..., C).
CLASS_LOSSES = (ForCausalLMLoss, ForMaskedLMLoss, ForSequenceClassificationLoss, ForTokenClassification)
USE_TRAINER = "The loss needs the probability p_y of a true class: use transformers.Trainer for this model."


def base_model(model: nn.Module) -> nn.Module:
    """The model without a PEFT wrapper, which hides the class and the signature."""
    get_base_model: Callable[[], nn.Module] | None = getattr(model, "get_base_model", None)
    return model if get_base_model is None else get_base_model()


def check_class_logits(model: nn.Module) -> None:
    """Refuse a model whose class or configuration says that it does not predict classes.

    Raises:
        UsageError: If it is for regression, or its loss is known to be another than one cross entropy.
    """
    name, config, loss = type(model).__name__, getattr(model, "config", None), _loss_function(model)
    if getattr(config, "problem_type", None) == "regression":
        raise UsageError(f"{name} has problem_type='regression'. {USE_TRAINER}")
    if loss is ForSequenceClassificationLoss and getattr(config, "num_labels", None) == 1:
        raise UsageError(f"{name} has num_labels=1, which is regression. {USE_TRAINER}")
    if loss is not None and loss not in CLASS_LOSSES:
        raise UsageError(f"{name} returns no class logits (its loss is {loss.__name__}). {USE_TRAINER}")


def label_input(names: list[str]) -> str:
    """The name of the labels among the label inputs that the Trainer found.

    Raises:
        UsageError: If there are several and none is ``labels``.
    """
    if len(names) > 1 and "labels" not in names:
        raise UsageError(
            f"Expected one label input, but got {', '.join(names)}. {USE_TRAINER} If only one of them holds class "
            "ids, name it: TrainingArguments(label_names=[...])."
        )
    return names[0] if len(names) == 1 else "labels"


def check_labels_of(dataset: Any, model: nn.Module) -> None:
    """Refuse a dataset, or a dictionary of them, whose labels are floats (regression) or classes that do not exist.

    No other column is read, because reading a row could draw from a random transform.

    Args:
        dataset: The dataset as passed to the Trainer, or None.
        model: The model, for the message.

    Raises:
        UsageError: If there are such labels.
    """
    if isinstance(dataset, dict):
        for part in dataset.values():
            check_labels_of(part, model)
    features: Any = getattr(dataset, "features", None)
    features = features if isinstance(features, Mapping) else {}  # a dataset may call its inputs so
    column = next((name for name in ("labels", "label", "label_ids") if name in features), "")
    feature: Any = features.get(column)
    if hasattr(feature, "feature"):  # a list of floats: 0 or 1 for each class
        return
    kind = str(getattr(feature, "dtype", ""))
    if "float" in kind:
        raise UsageError(
            f"Expected the column {column!r} to hold class ids, but it holds {kind}: regression targets for "
            f"{type(model).__name__}. {USE_TRAINER}"
        )
    if "int" in kind and hasattr(dataset, "__len__"):
        check_label_ids(torch.as_tensor(dataset.with_format("torch", columns=[column])[:][column]), model)


def check_label_ids(labels: Tensor, model: nn.Module) -> None:
    """Refuse class ids that a classifier does not have, which a GPU would report as an assertion without a number.

    Args:
        labels: Class ids of any shape; -100 is ignored.
        model: The model; any but a sequence or token classifier takes all of them.

    Raises:
        UsageError: If there are such ids.
    """
    classes = number_of_labels(model)
    if classes is None or labels.is_floating_point():
        return
    outside = labels[(labels != -100) & ((labels < 0) | (labels >= classes))]
    if len(outside):
        raise UsageError(
            f"Expected labels from 0 to {classes - 1}, since {type(model).__name__} has {classes} classes, but got "
            f"{int(outside[0])}. Correct the label, or load the model with another num_labels."
        )


def number_of_labels(model: nn.Module) -> int | None:
    """Number of classes of a sequence (or image, audio) or token classifier, or None for any other head."""
    if _loss_function(model) not in (ForSequenceClassificationLoss, ForTokenClassification):
        return None  # even the config of a language model has num_labels
    return getattr(getattr(model, "config", None), "num_labels", None)


def accepts(model: nn.Module, name: str) -> bool:
    """Whether `forward` takes an argument of this name."""
    parameters = inspect.signature(base_model(model).forward).parameters
    return name in parameters or any(part.kind is part.VAR_KEYWORD for part in parameters.values())


def requires_labels(model: nn.Module) -> bool:
    """Whether `forward` cannot be called without labels."""
    labels = inspect.signature(model.forward).parameters.get("labels")
    return labels is not None and labels.default is inspect.Parameter.empty


def logits_of(outputs: Any) -> Tensor:
    """The logits (..., C) among the outputs of a model.

    Args:
        outputs: The logits, a tuple that starts with them (after any loss), or a mapping with ``logits``, or with a
            single name that ends so, or with nothing but them and a loss.

    Raises:
        UsageError: If there are no logits.
    """
    if not isinstance(outputs, Mapping):
        return without_loss(outputs)[0]
    if isinstance(logits := outputs.get("logits"), Tensor):
        return logits
    given = [name for name, value in outputs.items() if name != "loss" and value is not None]
    for names in ([name for name in given if name.endswith("logits")], given):
        if len(names) == 1 and isinstance(outputs.get(names[0]), Tensor):
            return outputs[names[0]]
    raise UsageError(
        f"Expected the model to return 'logits', but it returned only {', '.join(outputs)}. {USE_TRAINER}"
    )


def loss_of(outputs: Any) -> Tensor | None:
    """The loss among the outputs of a model, if there is one."""
    if isinstance(outputs, Mapping):
        loss = outputs.get("loss")
    else:
        loss = outputs if isinstance(outputs, Tensor) else outputs[0]
    return loss if isinstance(loss, Tensor) and loss.dim() < 2 else None


def without_loss(outputs: Any) -> tuple[Any, ...]:
    """The outputs of a model as a tuple that starts with the logits."""
    if isinstance(outputs, Tensor):
        return (outputs,)
    return tuple(outputs[1:] if outputs[0] is None or loss_of(outputs) is not None else outputs)


def router_loss(model: nn.Module, outputs: Any) -> Tensor | float:
    """The load-balancing loss of a mixture of experts, which a model adds to its loss only if it is given labels."""
    loss = outputs.get("aux_loss") if isinstance(outputs, Mapping) else None
    if loss is None:
        return 0.0
    config: Any = getattr(base_model(model), "config", None)
    parts = (config, config.get_text_config()) if hasattr(config, "get_text_config") else (config,)
    names = ("router_aux_loss_coef", "aux_loss_coef")
    found = [value for part in parts for name in names if (value := getattr(part, name, None)) is not None]
    return found[0] * loss if found else 0.0


def labels_for(logits: Tensor, labels: Tensor, shift: bool, prefix: bool = False, skip_first: bool = False) -> Tensor:
    """Labels at the positions of the logits that predict them.

    Args:
        logits: Shape (..., C).
        labels: Labels of the batch, shape (...), or (N, 1) for logits (N, C), which are squeezed to (N,).
        shift: Whether logits at one position predict the label of the next.
        prefix: Whether the first positions of longer logits (virtual tokens, an image) have no labels.
        skip_first: Whether the label of the position after these is left out, as if nothing predicted it.

    Returns:
        Shape (...).
    """
    if labels.dim() == logits.dim() and labels.shape[-1] == 1:
        labels = labels.squeeze(-1)
    if labels.dim() < 2 or labels.dim() == logits.dim() or not (shift or prefix):
        return labels
    if skip_first:
        labels = torch.cat((torch.full_like(labels[..., :1], -100), labels[..., 1:]), -1)
    first = max(logits.shape[-2] - labels.shape[-1], 0) if prefix else 0
    return F.pad(labels, (first - shift, shift), value=-100)  # -1 drops the first label


def fits(logits: Tensor, labels: Tensor) -> bool:
    """Whether there is a label for each row of logits (..., C), or for each logit (multi-label)."""
    return labels.shape == logits.shape[:-1] or (labels.is_floating_point() and labels.shape == logits.shape)


def two_classes(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Multi-label targets as two-class problems; class ids are returned unchanged.

    The sigmoid of a logit z is the softmax of (0, z), so that cross entropy is that of ``BCEWithLogitsLoss``.

    Args:
        logits: Shape (..., C).
        labels: Shape (...), class ids; or (..., C), floats that are 0 or 1, or -100 where ignored.

    Returns:
        Logits (..., C, 2) and class ids (..., C).

    Raises:
        UsageError: If there are other targets.
    """
    if not labels.is_floating_point() or labels.shape != logits.shape:
        return logits, labels
    if not ((labels == 0) | (labels == 1) | (labels == -100)).all():
        raise UsageError(f"Expected multi-label targets that are 0 or 1, but got {labels.tolist()}. {USE_TRAINER}")
    return torch.stack((torch.zeros_like(logits), logits), -1), labels.long()


def _loss_function(model: nn.Module) -> Any:
    return LOSS_MAPPING.get(getattr(model, "loss_type", None) or "")
