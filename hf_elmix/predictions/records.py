"""What a model said of each evaluation row while it trained: one safetensors file for each run.

Tensors of the file, each under the name of its evaluation set and a slash where that has a name (``matched/labels``):
``steps`` (T,) int64, ``epochs`` (T,) float64, ``labels`` (N,) int64, ``p_true`` (T, N) float16, ``right`` (T, N) bool
and ``logits`` (N, C) float32. It is read without PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hf_elmix.errors import UsageError

__all__ = [
    "FILE",
    "THRESHOLD",
    "Predictions",
    "at_one_point",
    "from_bytes",
    "read_predictions",
    "to_bytes",
    "write_predictions",
]

FILE = "predictions.safetensors"
THRESHOLD = 0.2  # of p_y, between wrong rows near the boundary and far from it: the paper's, of 100 classes
TYPES = {
    "steps": np.int64,
    "epochs": np.float64,
    "labels": np.int64,
    "p_true": np.float16,
    "right": np.bool_,
    "logits": np.float32,
}


@dataclass(frozen=True)
class Predictions:
    """Predictions on one evaluation set, rows in its order, at T points of a training, the last of them its end.

    Attributes:
        steps: Completed optimizer steps at each point, ascending, shape (T,).
        epochs: The same in epochs, shape (T,).
        labels: True class ids, shape (N,).
        p_true: Probability of the true label, shape (T, N), in half precision: below 6e-8 it is 0.
        right: Whether the true label had the largest logit, shape (T, N).
        logits: Those of the last point, shape (N, C).
    """

    steps: np.ndarray
    epochs: np.ndarray
    labels: np.ndarray
    p_true: np.ndarray
    right: np.ndarray
    logits: np.ndarray

    def __post_init__(self) -> None:
        for name, kind in TYPES.items():
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=kind))
        points, rows = self.p_true.shape if self.p_true.ndim == 2 else (-1, -1)
        wanted = {"steps": (points,), "epochs": (points,), "labels": (rows,), "right": (points, rows)}
        found = {name: getattr(self, name).shape for name in wanted}
        if found != wanted or self.logits.ndim != 2 or len(self.logits) != rows or points < 1:
            shapes = ", ".join(f"{field.name} {getattr(self, field.name).shape}" for field in fields(self))
            raise ValueError(f"Expected arrays of T points, N rows and C classes, but got {shapes}.")


def at_one_point(logits: np.ndarray, labels: np.ndarray, step: int = 0, epoch: float = 0.0) -> Predictions:
    """Predictions at a single point.

    Args:
        logits: Shape (N, C).
        labels: True class ids, shape (N,).
        step: Completed optimizer steps.
        epoch: The same in epochs.
    """
    sizes = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    p_true = sizes[np.arange(len(labels)), labels] / sizes.sum(axis=1)
    right = logits.argmax(axis=1) == labels
    return Predictions(np.array([step]), np.array([epoch]), labels, p_true[None], right[None], logits)


def to_bytes(sets: Mapping[str, Predictions]) -> bytes:
    """The file of some predictions.

    Args:
        sets: By the name of their evaluation set; ``""`` for the only one.
    """
    return save({_tensor(name, kind): getattr(one, kind) for name, one in sets.items() for kind in TYPES})


def from_bytes(data: bytes, place: str = "the file") -> dict[str, Predictions]:
    """The predictions in a file, by the name of their evaluation set.

    Args:
        data: Its bytes.
        place: What an error calls it.

    Raises:
        UsageError: If it is no such file.
    """
    try:
        tensors = load(data)
        if not tensors:
            raise ValueError("it is empty")
        names = dict.fromkeys(name.rpartition("/")[0] for name in sorted(tensors))
        return {name: Predictions(**{kind: tensors[_tensor(name, kind)] for kind in TYPES}) for name in names}
    except (SafetensorError, KeyError, ValueError) as error:
        raise UsageError(f"Expected {place} to hold predictions, as CohortCallback writes them: {error}") from error


def write_predictions(path: str | os.PathLike[str], sets: Mapping[str, Predictions]) -> None:
    """Write a file whole under a temporary name, then rename it.

    Args:
        path: The file; its folder is made if need be.
        sets: By the name of their evaluation set; ``""`` for the only one.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(to_bytes(sets))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_predictions(path: str | os.PathLike[str]) -> dict[str, Predictions]:
    """The predictions in a file, by the name of their evaluation set (``""`` for the only one).

    Args:
        path: The file, or the folder of a run that holds it.

    Raises:
        UsageError: If it is no such file, or there is none.
    """
    path = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise UsageError(f"Expected a file of predictions, but there is no {str(path)!r}. CohortCallback writes it.")
    return from_bytes(path.read_bytes(), repr(str(path)))


def _tensor(name: str, kind: str) -> str:
    return f"{name}/{kind}" if name else kind
