"""What a model does with labels, found by trying it: its own loss is compared with the cross entropy of its logits.

Names and annotations say too little: some language models shift labels and others do not, some losses have class
weights, margins or further terms, and some models make other inputs from labels. A model that is given labels returns
its loss and its logits from one forward pass, so one batch shows all of this, whatever the dropout.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from hf_elmix.errors import UsageError
from hf_elmix.losses.mixed import loss_terms
from hf_elmix.training.model_support import (
    USE_TRAINER,
    accepts,
    base_model,
    check_label_ids,
    fits,
    labels_for,
    logits_of,
    loss_of,
    router_loss,
    two_classes,
)

__all__ = ["LabelUse", "try_labels"]

ABSENT = (AttributeError, KeyError, TypeError, ValueError)  # what a model raises that cannot do without labels
COPIES = ("ToCopyBackward0", "ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "AliasBackward0")
EXACT = 1e-4  # relative; float32 needs 1e-6, more with many labels


@dataclass(frozen=True)
class LabelUse:
    """What a model does with labels.

    Attributes:
        needed: Whether its logits depend on them, so that they cannot be withheld.
        shifted: Whether its logits at one position predict the label of the next.
        prefixed: Whether its logits begin with positions that have no labels.
        skips_first: Whether it leaves out the first label of each row, although such positions precede it.
    """

    needed: bool = False
    shifted: bool = False
    prefixed: bool = False
    skips_first: bool = False

    def align(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Labels at the positions of the logits that predict them."""
        return labels_for(logits, labels, self.shifted, self.prefixed, self.skips_first)


@dataclass(frozen=True)
class _Own:
    """The loss of a model that was given labels, its logits (..., C), and its gradient in them, if known."""

    loss: Tensor
    logits: Tensor
    gradient: Tensor | None
    router: Tensor | float

    @property
    def rounding(self) -> float:
        tensors = [part for part in (self.loss, self.logits, self.gradient) if part is not None]
        return _rounding(*tensors)

    def distance(self, labels: Tensor, weight: Tensor | None) -> tuple[float, float]:
        """How far this is from the mean cross entropy of labels (...), in units of rounding; and that mean."""
        with torch.enable_grad():
            logits = self.logits.float().requires_grad_()
            ce, _, batch = loss_terms(*two_classes(logits, labels), weight=weight)
            mean = ce.sum() / batch.counts.sum()
            gradient = torch.autograd.grad(mean, logits)[0]
        ours = (mean + self.router).item()
        distance = abs(self.loss.item() - ours) / (1 + abs(ours))
        if self.gradient is not None:
            scale = gradient.norm() + batch.counts.count_nonzero() ** -0.5  # the latter is that of an untrained model
            distance = max(distance, ((self.gradient.float() - gradient).norm() / scale).item())
        return distance / self.rounding, ours


def try_labels(
    model: nn.Module,
    inputs: Mapping[str, Any],
    labels: Tensor,
    name: str = "labels",
    *,
    weight: Tensor | None = None,
    gradients: bool = True,
    replace: bool = False,
) -> LabelUse | None:
    """Find out what a model does with labels: run it on a batch with them and without, and leave it as it was.

    Args:
        model: The model, possibly wrapped, on the device of the batch.
        inputs: The batch without its labels.
        labels: The labels.
        name: Name of the labels in `forward`.
        weight: Class weights, shape (C,), that its loss may have.
        gradients: Compare gradients too. Values alone hide class weights and smoothing while the model is untrained.
        replace: Accept a model with another loss; its labels are then taken to be aligned as fits this loss best.

    Returns:
        None if the batch cannot tell, because all labels are ignored.

    Raises:
        UsageError: If its own loss is not the mean cross entropy of its logits, or labels do not fit the logits.
    """
    if labels.is_floating_point() and labels.dim() < 2:
        raise UsageError(f"Expected class ids, but got labels in {labels.dtype}, as for regression. {USE_TRAINER}")
    check_label_ids(labels, base_model(model))
    if not accepts(model, name):
        return LabelUse()
    with _undisturbed(model), torch.set_grad_enabled(gradients):
        given = model(**inputs, **{name: labels})
    loss = loss_of(given)
    logits: Tensor | None = None
    gradient: Tensor | None = None
    absent: UsageError | None = None
    try:
        logits = logits_of(given)
        gradient = None if loss is None else _gradient(loss, logits)
        logits = logits.detach()
    except UsageError as error:  # a fused kernel returns the loss only
        absent = error
    router = router_loss(model, given)
    router = router.detach() if isinstance(router, Tensor) else router
    loss = None if loss is None else loss.detach().mean()
    del given  # and its graph, before another forward pass takes as much memory
    withheld = None
    with _undisturbed(model), torch.set_grad_enabled(gradients), suppress(*ABSENT):  # hooks may rely on gradients
        withheld = logits_of(model(**inputs)).detach()
    logits = withheld if logits is None else logits
    if logits is None or (absent is not None and loss is None):
        raise absent or AssertionError("there are logits")
    needed = withheld is None or not _close(withheld, logits)
    if loss is None:
        return LabelUse(needed)
    own = _Own(loss, logits, gradient, router)
    return _compared(own, labels, inputs.get("shift_labels"), needed, weight, "" if replace else _name(model))


def _compared(
    own: _Own, labels: Tensor, shifted: Tensor | None, needed: bool, weight: Tensor | None, name: str
) -> LabelUse | None:
    """The use of labels that explains a loss; a loss that none explains is refused, unless `name` is empty."""
    found: list[tuple[float, float, LabelUse]] = []
    for shift, skip in ((False, False), (True, False), (True, True)):
        use = LabelUse(needed, shift, prefixed=labels.dim() > 1, skips_first=skip)
        aligned = shifted if shift and shifted is not None else use.align(own.logits, labels)
        if fits(own.logits, aligned) and aligned.ne(-100).any() and own.loss.isfinite():
            weights = (None,) if weight is None else (None, weight)
            distance, ours = min(own.distance(aligned, each) for each in weights)
            found.append((distance, ours, use))
    if not found:
        if not fits(own.logits, labels_for(own.logits, labels, False)):
            raise UsageError(
                f"Expected one label for each row of logits (..., C), but {name or 'the model'} returns logits "
                f"{tuple(own.logits.shape)} for labels {tuple(labels.shape)}. Use transformers.Trainer for this model."
            )
        return None
    distance, ours, use = min(found, key=lambda each: each[0])
    if distance > 1 and name:
        same = " (for now: their gradients differ)" if abs(own.loss.item() - ours) <= EXACT * (1 + abs(ours)) else ""
        raise UsageError(
            f"Expected the loss of {name} to be the cross entropy of its logits, which is {ours:.6g} on the first "
            f"batch, but got {own.loss.item():.6g}{same}. To train on its own loss, use transformers.Trainer; to "
            "replace it, add replace_loss=True."
        )
    return use


def _name(model: nn.Module) -> str:
    return type(base_model(model)).__name__


def _gradient(loss: Tensor, logits: Tensor) -> Tensor | None:
    """The gradient of a loss in logits, in their shape, or None if they are not what it was computed from."""
    if not (loss.requires_grad and logits.requires_grad):
        return None
    edge = get_gradient_edge(logits)
    while True:
        (gradient,) = torch.autograd.grad(loss.mean(), edge, allow_unused=True, retain_graph=True)
        if gradient is not None:
            return gradient.reshape(logits.shape)
        # Under mixed precision a copy is returned, and some models return a view.
        if edge.node.name() not in COPIES or edge.node.next_functions[0][0] is None:
            return None
        edge = GradientEdge(*edge.node.next_functions[0])


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    largest = other.detach().nan_to_num(0, 0, 0).abs().max().item()  # a model that diverged at once gives nan
    allowed = _rounding(one, other) * largest
    return torch.allclose(one.detach(), other.detach(), rtol=0, atol=allowed, equal_nan=True)


def _rounding(*tensors: Tensor) -> float:
    """Relative differences up to this are rounding."""
    return max(EXACT, 4 * max(torch.finfo(tensor.dtype).eps for tensor in tensors))


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Restore random numbers, and give the model copies of its buffers, such as the statistics of normalisation."""
    buffers = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    for module, parts in buffers:
        module._buffers.update({name: None if part is None else part.clone() for name, part in parts.items()})
    devices = {part.device for part in model.parameters() if part.device.type not in ("cpu", "meta")}
    kind = next(iter(devices)).type if devices else "cuda"
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002, models draw from it
    try:
        with torch.random.fork_rng(sorted({device.index or 0 for device in devices}), device_type=kind):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for module, parts in buffers:
            module._buffers.clear()
            module._buffers.update(parts)
