"""Record the predictions of a model while a Trainer evaluates it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import BatchSamplerShard
from accelerate.utils import gather
from torch import Tensor, nn
from torch.utils.data import BatchSampler, SequentialSampler
from torch.utils.hooks import RemovableHandle
from transformers import TrainingArguments

from hf_elmix.errors import UsageError
from hf_elmix.predictions.records import check_class_labels
from hf_elmix.training.model_support import labels_for, logits_of

__all__ = ["Recorder"]

LABELS = ("labels", "label", "label_ids")  # columns from which the Trainer's collators take labels
CHUNK = 64  # rows that are collated at a time to get their labels
CACHED_SETS = 8  # evaluation sets whose collated labels are kept

_Batch = tuple[Tensor, Tensor | None] | str  # logits (n, C) and labels (n,), or a description of other outputs


class Recorder:
    """Records the logits and labels of each row during a Trainer's evaluations, without changing them.

    The Trainer does not pass the outputs of the model to its callbacks. So a forward hook keeps the latest output in
    evaluation mode, and `record_batch`, called after each evaluation batch, takes it. The output of any other forward
    pass, such as one in a user's callback, is overwritten by the next batch.
    """

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._hook: RemovableHandle | None = None
        self._label_names: tuple[str, ...] = LABELS
        self._latest: _Batch = "nothing"
        self._loader: Any = None
        self._batches: list[_Batch] = []
        self._collated: deque[tuple[Any, np.ndarray]] = deque(maxlen=CACHED_SETS)

    def attach(self, model: nn.Module, args: TrainingArguments) -> None:
        """Observe a model instead of the previous one.

        Args:
            model: The model that the Trainer passes to its callbacks.
            args: The arguments of the Trainer, which may name other label inputs.
        """
        self._label_names = (*(args.label_names or ()), *LABELS)
        if model is not self._model:
            if self._hook is not None:
                self._hook.remove()
            self._model, self._hook = model, model.register_forward_hook(self._keep_latest, with_kwargs=True)

    def _keep_latest(self, model: nn.Module, inputs: Any, named: dict[str, Any], outputs: Any) -> None:
        """Keep the logits and labels of a forward pass, or describe other outputs, which may be large."""
        if model.training:
            return
        labels = next((named[name] for name in self._label_names if named.get(name) is not None), None)
        try:
            logits = logits_of(outputs)
        except (UsageError, LookupError, TypeError):
            self._latest = f"{type(outputs).__name__} without logits"
            return
        if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            self._latest = f"logits of shape {shape}"
            return
        labels = None if labels is None else labels_for(logits, labels.detach(), shift=False)
        if labels is not None and labels.shape != logits.shape[:1]:
            self._latest = f"labels of shape {tuple(labels.shape)}"
        else:
            self._latest = logits.detach(), labels

    def record_batch(self, loader: Any) -> None:
        """Record the latest output as the next batch of an evaluation.

        Args:
            loader: The loader of the evaluation; a new one starts a new evaluation.
        """
        if loader is not self._loader:
            self._loader, self._batches = loader, []
        self._batches.append(self._latest)
        self._latest = "nothing"

    def discard(self) -> None:
        """Discard the recorded batches."""
        self._loader, self._batches = None, []

    def collect(self, main: bool) -> tuple[np.ndarray, np.ndarray] | None:
        """Gather the recorded batches, in the order of the dataset. All processes must call this.

        Args:
            main: Whether this process needs the result.

        Returns:
            Logits (N, C) in float32 and class ids (N,); None unless `main`.

        Raises:
            UsageError: If the batches do not hold class logits and class ids of all rows in order.
        """
        loader, recorded = self._loader, self._batches
        self.discard()
        batches = [batch for batch in recorded if not isinstance(batch, str)]
        if len(batches) < len(recorded) or not batches:
            other = next((batch for batch in recorded if isinstance(batch, str)), "nothing")
            raise UsageError(
                f"Expected logits (rows, classes) of two classes or more and a class id for each row, but got {other}."
            )
        classes = {logits.shape[1] for logits, _ in batches}
        if len(classes) > 1:
            raise UsageError(f"Expected logits of the same classes in all batches, but got {sorted(classes)}.")
        _check_order(loader)
        if len(batches) != len(loader):  # a loader with persistent workers is reused after an interrupted evaluation
            raise UsageError(f"Expected {len(loader)} batches of the evaluation, but recorded {len(batches)}.")
        sizes, rows = [len(logits) for logits, _ in batches], len(loader.dataset)
        logits = _gathered([logits.float() for logits, _ in batches], sizes)[:rows]
        given = [labels for _, labels in batches if labels is not None]
        labels = _gathered(given, sizes)[:rows] if len(given) == len(batches) else None
        if not main:
            return None
        if len(logits) < rows:
            raise UsageError(
                f"Expected each of the {rows} evaluation rows, but recorded {len(logits)}. Do not set "
                "dataloader_drop_last, and run several GPUs with torchrun, so that each has its own process."
            )
        ids = self._dataset_labels(loader) if labels is None else labels.cpu().numpy()
        ids = ids[:, 0] if ids.shape[1:] == (1,) else ids
        check_class_labels(ids, logits.shape)
        return logits.cpu().numpy(), ids

    def _dataset_labels(self, loader: Any) -> np.ndarray:
        """Read labels that the model does not receive: a column of class ids if there is one, else collated labels."""
        dataset, columns = loader.dataset, getattr(loader.dataset, "column_names", None) or ()
        column = next((name for name in self._label_names if name in columns), None)
        labels = np.empty(0) if column is None else np.asarray(dataset.with_format(None)[column][:])
        if labels.dtype.kind in "iu":
            return labels
        for known, labels in self._collated:
            if known is dataset:
                return labels
        chunks = [range(len(dataset))[start : start + CHUNK] for start in range(0, len(dataset), CHUNK)]
        with _preserved_random_state():
            parts = [loader.collate_fn([dataset[row] for row in chunk]) for chunk in chunks]
        name = next((name for name in self._label_names if name in parts[0]), None)
        if name is None:
            raise UsageError(f"Expected labels in the evaluation rows, but they only have {', '.join(parts[0])}.")
        labels = np.concatenate([np.asarray(part[name]) for part in parts])
        self._collated.append((dataset, labels))
        return labels


def _check_order(loader: Any) -> None:
    """Refuse an evaluation whose rows may be in another order than those of the dataset."""
    sampler: Any = getattr(loader, "batch_sampler", None)
    while type(sampler) in (BatchSampler, BatchSamplerShard):
        sampler = sampler.sampler if type(sampler) is BatchSampler else sampler.batch_sampler
    if type(sampler) is not SequentialSampler or not getattr(loader, "in_order", True):
        sized = hasattr(getattr(loader, "dataset", None), "__len__")
        raise UsageError(
            "Expected evaluation rows in the order of the dataset, but they come from "
            f"{type(sampler).__name__ if sized else 'a stream'}. Use a dataset with a length, and set neither "
            "train_sampling_strategy='group_by_length' nor dataloader_in_order=False."
        )


def _gathered(parts: list[Tensor], sizes: list[int]) -> Tensor:
    """Gather the batches of all processes in the order of the rows, followed by the padding of the last batches.

    Processes take turns, one batch each, and their batches have equal sizes.
    """
    local = torch.cat(parts)
    everyone = gather(local.contiguous()).view(-1, *local.shape)
    return torch.cat([step.flatten(0, 1) for step in everyone.split(sizes, dim=1)])


@contextmanager
def _preserved_random_state() -> Iterator[None]:
    """Restore all random states afterwards, since a dataset or collator may draw and training depends on them."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002, the global one
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
