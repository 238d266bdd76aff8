"""What a model says of each row of an evaluation set, seen while a Trainer evaluates it anyway."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.data_loader import BatchSamplerShard
from accelerate.utils import gather
from torch import Tensor, nn
from torch.utils.data import BatchSampler, SequentialSampler
from torch.utils.hooks import RemovableHandle
from transformers import TrainingArguments

from hf_elmix.errors import UsageError
from hf_elmix.training.model_support import labels_for, logits_of

__all__ = ["Watch"]

LABELS = ("labels", "label", "label_ids")  # what the Trainer's collators take labels from
AT_A_TIME = 64  # rows that are read for their labels
SETS = 8  # evaluation sets whose labels are kept where reading them means reading the rows


class _Batch(NamedTuple):
    """What a model said of a batch: logits (n, C), or in words what it gave instead; labels (n,) where it got them."""

    logits: Tensor | str
    labels: Tensor | None


class Watch:
    """Sees what a model says of each row while a Trainer evaluates it, and changes nothing of it.

    A callback is not told what the model returns. So a hook on the model keeps what it returned last while it was in
    evaluation mode, and `note` takes it for a batch of the evaluation. What else is done with the model in between (a
    forward pass of the user's) is overwritten by the next batch.
    """

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._hook: RemovableHandle | None = None
        self._names: tuple[str, ...] = LABELS
        self._last: _Batch | None = None
        self._loader: Any = None
        self._batches: list[_Batch | None] = []
        self._read: deque[tuple[Any, np.ndarray]] = deque(maxlen=SETS)

    def follow(self, model: nn.Module, args: TrainingArguments) -> None:
        """Watch a model, and no longer the one before.

        Args:
            model: As the Trainer hands it to its callbacks.
            args: The Trainer's, which may name other labels.
        """
        self._names = (*(args.label_names or ()), *LABELS)
        if model is not self._model:
            if self._hook is not None:
                self._hook.remove()
            self._model, self._hook = model, model.register_forward_hook(self._see, with_kwargs=True)

    def _see(self, model: nn.Module, inputs: Any, named: dict[str, Any], outputs: Any) -> None:
        if not model.training:
            labels = next((named[name] for name in self._names if named.get(name) is not None), None)
            self._last = _batch(outputs, labels)

    def note(self, loader: Any) -> None:
        """Take what the model returned last for the next batch of an evaluation.

        Args:
            loader: The evaluation's; with another one, another evaluation has begun.
        """
        if loader is not self._loader:
            self._loader, self._batches = loader, []
        self._batches.append(self._last)
        self._last = None

    def drop(self) -> None:
        """Forget the batches that were noted."""
        self._loader, self._batches = None, []

    def take(self, main: bool) -> tuple[np.ndarray, np.ndarray] | None:
        """What the model said of all rows in the order of the dataset; to be called in all processes.

        Args:
            main: Whether this is the process that is to know.

        Returns:
            Logits (N, C) in float32 and class ids (N,); None in all other processes.

        Raises:
            UsageError: If these are no class logits and class ids of the rows in their order.
        """
        loader, noted = self._loader, self._batches
        self.drop()
        batches = _checked(noted)
        _check_order(loader)
        if len(batches) != len(loader):  # a loader whose workers live on is the same one after an interrupt
            raise UsageError(f"Expected {len(loader)} batches of the evaluation, but saw {len(batches)}.")
        sizes, rows = [len(logits) for logits, _ in batches], len(loader.dataset)
        logits = _gathered([logits.float() for logits, _ in batches], sizes)[:rows]
        given = [labels for _, labels in batches if labels is not None]
        labels = _gathered(given, sizes)[:rows] if len(given) == len(batches) else None
        if not main:
            return None
        if len(logits) < rows:
            raise UsageError(
                f"Expected to see each of the {rows} evaluation rows, but saw {len(logits)}. Leave "
                "dataloader_drop_last out, and start several GPUs with torchrun, so that each has a process."
            )
        ids = self._labels_in(loader) if labels is None else labels.cpu().numpy()
        return logits.cpu().numpy(), _class_ids(ids, logits.shape)

    def _labels_in(self, loader: Any) -> np.ndarray:
        """Labels of a dataset, where the model is not given them: of its column, else as the collator makes them."""
        dataset = loader.dataset
        labels = _column(dataset, self._names)
        if labels is None:
            labels = next((labels for known, labels in self._read if known is dataset), None)
        if labels is None:
            labels = _collated(loader, self._names)
            self._read.append((dataset, labels))
        return labels


def _batch(outputs: Any, labels: Any) -> _Batch:
    """What is kept of a batch; nothing large is kept where it is of no use."""
    try:
        logits = logits_of(outputs, labels is not None)
    except (UsageError, LookupError, TypeError):
        return _Batch(f"{type(outputs).__name__} without logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
        return _Batch(f"logits {_shape(logits)}", None)
    if labels is not None:
        labels = labels_for(logits, labels.detach(), shift=False)
    return _Batch(logits.detach(), labels)


def _shape(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"that are a {type(value).__name__}"


def _checked(batches: list[_Batch | None]) -> list[tuple[Tensor, Tensor | None]]:
    """The batches, each with logits of the same classes.

    Raises:
        UsageError: If one has none.
    """
    checked = [(batch.logits, batch.labels) for batch in batches if batch and isinstance(batch.logits, Tensor)]
    if not checked or len(checked) < len(batches):
        found = next((batch.logits for batch in batches if batch and isinstance(batch.logits, str)), "none")
        raise UsageError(f"Expected logits (rows, classes) of two classes or more from the model, but got {found}.")
    classes = {logits.shape[1] for logits, _ in checked}
    if len(classes) > 1:
        raise UsageError(f"Expected logits of the same classes in all batches, but got {sorted(classes)}.")
    odd = next((labels for logits, labels in checked if labels is not None and labels.shape != logits.shape[:1]), None)
    if odd is not None:
        raise UsageError(f"Expected a class id for each row, but got labels {_shape(odd)}.")
    return checked


def _check_order(loader: Any) -> None:
    """Refuse an evaluation whose rows do not come in the order of the dataset, or not always the same.

    Raises:
        UsageError: If they may not.
    """
    sampler: Any = getattr(loader, "batch_sampler", None)
    while type(sampler) in (BatchSampler, BatchSamplerShard):
        sampler = sampler.sampler if type(sampler) is BatchSampler else sampler.batch_sampler
    if type(sampler) is not SequentialSampler or not getattr(loader, "in_order", True):
        what = "a stream" if not hasattr(getattr(loader, "dataset", None), "__len__") else type(sampler).__name__
        raise UsageError(
            f"Expected evaluation rows in the order of the dataset, but they come from {what}. Leave "
            "train_sampling_strategy='group_by_length' and dataloader_in_order=False out, and evaluate a dataset that "
            "has a length."
        )


def _gathered(parts: list[Tensor], sizes: list[int]) -> Tensor:
    """Batches of all processes, in the order of the rows, with those at the end that make the last batches even.

    The rows go round: a batch to the first process, the next to the second. All processes have batches of equal sizes.

    Args:
        parts: This process's batches.
        sizes: How many rows each has.
    """
    mine = torch.cat(parts)
    everyone = gather(mine.contiguous()).view(-1, *mine.shape)
    return torch.cat([step.flatten(0, 1) for step in everyone.split(sizes, dim=1)])


def _column(dataset: Any, names: tuple[str, ...]) -> np.ndarray | None:
    """A column of class ids, where a dataset has one; read without what else is in the rows."""
    name = next((name for name in names if name in (getattr(dataset, "column_names", None) or ())), None)
    labels = np.empty(0) if name is None else np.asarray(dataset.with_format(None)[name][:])
    return labels if labels.dtype.kind in "iu" else None


def _collated(loader: Any, names: tuple[str, ...]) -> np.ndarray:
    """Labels of all rows, as the loader's collator makes them.

    Raises:
        UsageError: If there are none.
    """
    dataset = loader.dataset
    places = [range(len(dataset))[start : start + AT_A_TIME] for start in range(0, len(dataset), AT_A_TIME)]
    with _undrawn():
        parts = [loader.collate_fn([dataset[place] for place in some]) for some in places]
    name = next((name for name in names if name in parts[0]), None)
    if name is None:
        raise UsageError(f"Expected labels in the evaluation rows, but there are only {', '.join(parts[0])}.")
    return np.concatenate([np.asarray(part[name]) for part in parts])


@contextmanager
def _undrawn() -> Iterator[None]:
    """Leave the random numbers as they were, whatever a dataset or a collator draws: training goes on from them."""
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002, theirs
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002


def _class_ids(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Labels of rows with logits of a shape.

    Raises:
        UsageError: If they are no class ids.
    """
    labels = labels.reshape(len(labels)) if labels.shape == (len(labels), 1) else labels
    if labels.dtype.kind not in "iu" or labels.shape != shape[:1]:
        raise UsageError(f"Expected a class id for each of {shape[0]} rows, but got {labels.dtype} {labels.shape}.")
    if len(labels) and not (labels.min() >= 0 and labels.max() < shape[1]):
        wrong = labels[(labels < 0) | (labels >= shape[1])]
        raise UsageError(f"Expected class ids from 0 to {shape[1] - 1} in all rows, but {len(wrong)} have {wrong[0]}.")
    return labels
